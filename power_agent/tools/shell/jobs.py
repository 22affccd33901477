"""Commands that go on while the model does something else, and while its owner is restarted.

A job lives in a folder of its own under the folder the user gave: its order, who watches over it, its newest output, its end. The
log holds its id; everything else is read from that folder, by whatever process asks. So a job is found again after a restart, or
reported lost when the one who watched over it is gone without a word. Its id follows from the call, and who makes the file
`started` first decides whether it ever begins: after a crash the probe knows.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from power_agent import process
from power_agent.errors import InvalidInput, ToolError
from power_agent.limits import MAX_JOB_OUTPUT_BYTES, MAX_JOB_SECONDS, MAX_SHOWN_BYTES
from power_agent.ports import DidNotHappen, Happened, ProbeAnswer, ToolContext
from power_agent.tools.shell.bash import Bash, how
from power_agent.tools.shell.gathering import text_of
from power_agent.tools.shell.leftovers import bury
from power_agent.tools.shell.running import Ended, order, spawn

MAX_RUNNING = 20
MAX_KEPT = 100
"""Jobs whose folders are kept; the oldest that have ended go first."""
USUAL_SECONDS = 3_600.0
MAX_WAIT_SECONDS = 600.0
LOOK_SECONDS = 0.05
STOP_SECONDS = 5.0
Id = Annotated[str, Field(pattern=r"^j[0-9a-f]{12}$")]


class State(NamedTuple):
    """How a job stands: running, ended, or lost."""

    place: str
    ended: Ended | None = None
    reaper: int = 0


class Jobs:
    """The jobs of one folder."""

    def __init__(self, folder: str | os.PathLike[str], root: str, bash: Bash) -> None:
        self._folder = os.path.realpath(folder)
        self._bash = bash
        if f"{self._folder}/".startswith(f"{root.rstrip('/')}/"):
            raise InvalidInput("The folder of the jobs lies beneath the root, where commands could change it.", hint="Pass one outside, beside the store for example.")
        if process.start_time(os.getpid()) is None:
            raise InvalidInput("Jobs need /proc, to be found again: Linux.", hint="Leave jobs out.")
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    # -- start -----------------------------------------------------------------------------------------------------------

    async def job_start(
        self,
        command: Annotated[str, Field(min_length=1, max_length=100_000)],
        context: ToolContext,
        timeout: Annotated[float, Field(gt=0, le=MAX_JOB_SECONDS)] = USUAL_SECONDS,  # noqa: ASYNC109  the reaper keeps it
        description: Annotated[str, Field(max_length=500)] = "",  # noqa: ARG002  for the person who is asked
    ) -> str:
        """Start a command line that goes on in the background, and return its id at once.

        It begins in the folder in which bash stands. Look at it with job_look, wait for it with job_wait, end it with job_stop.

        Args:
            command: The command line.
            timeout: Seconds after which it is stopped.
            description: What it is for, in a few words, for the person who may be asked.
        """
        if "\0" in command:
            raise ToolError("A command line cannot hold a NUL character.", untouched=True)
        job = _id(context.idempotency_key)
        if self._laid_out(job, {"command": command, "session": context.session, "key": context.idempotency_key, "home": _home(), "seconds": timeout}):
            await self._spawn(job, command, str(context.binds.get("folder") or ""), context.idempotency_key, timeout)
            if not self._begun(job):
                raise ToolError("The job could not be started.", untouched=True)
        return self._told_start(job)

    def _laid_out(self, job: str, known: Mapping[str, Any]) -> bool:
        """Make a job's folder; False when it is there already."""
        self._make_room()
        folder = self._path(job)
        if self._void(job):
            shutil.rmtree(folder)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return False
        with open(f"{folder}/order", "w", encoding="utf-8") as file:
            json.dump(known, file)
        return True

    async def _spawn(self, job: str, line: str, folder: str, key: str, seconds: float) -> None:
        """Start the reaper and wait until it has begun; it goes on without us."""
        command = self._bash.command(line, folder, key, seconds)
        reaper = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with reaper:
            if reaper.stdin is not None:
                reaper.stdin.write(order(command, folder=self._path(job), most=MAX_JOB_OUTPUT_BYTES))
                reaper.stdin.close()
            if reaper.stdout is not None:
                await asyncio.to_thread(reaper.stdout.readline)

    def probe(self, _: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:
        """Tell whether a job was started; if it was not, it never will be by that attempt."""
        job = _id(context.idempotency_key)
        if not os.path.isdir(self._path(job)):
            return DidNotHappen()
        try:
            with open(f"{self._path(job)}/started", "x", encoding="utf-8") as file:
                json.dump({"void": True}, file)
        except FileExistsError:
            return DidNotHappen() if self._void(job) else Happened(self._told_start(job))
        return DidNotHappen()

    def _begun(self, job: str) -> bool:
        return "pid" in _read(f"{self._path(job)}/started")

    def _void(self, job: str) -> bool:
        return bool(_read(f"{self._path(job)}/started").get("void"))

    @staticmethod
    def _told_start(job: str) -> str:
        return f"Started as job {job}."

    def _make_room(self) -> None:
        names = sorted(self._names(), key=lambda name: os.stat(self._path(name)).st_mtime_ns)
        states = {name: self._state(name).place for name in names}
        if sum(place == "running" for place in states.values()) >= MAX_RUNNING:
            raise ToolError(f"{MAX_RUNNING} jobs are running already.", untouched=True)
        for name in [name for name in names if states[name] != "running"][: max(0, len(names) - MAX_KEPT + 1)]:
            shutil.rmtree(self._path(name), ignore_errors=True)

    # -- look, wait, stop ------------------------------------------------------------------------------------------------

    def job_look(self, context: ToolContext, job: Id | None = None, since: int = 0) -> str:
        """Return what a job said and how it stands; without a job, the list of this session's jobs.

        Args:
            job: The id that job_start returned.
            since: The byte to begin at; the last line of the former answer names the next one. A negative number counts from the end.
        """
        if job is None:
            return "\n".join(self._listed(context.session)) or "There are no jobs."
        return self._told(job, since)

    async def job_wait(self, context: ToolContext, job: Id, timeout: Annotated[float, Field(gt=0, le=MAX_WAIT_SECONDS)] = 60.0, since: int = 0) -> str:  # noqa: ASYNC109  of the job, not of us
        """Wait for the end of a job, for a while; return what job_look returns.

        Args:
            job: The id that job_start returned.
            timeout: Seconds to wait.
            since: The byte to begin at, as in job_look.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while self._state(job).place == "running" and loop.time() < end and not context.cancelled:  # noqa: ASYNC110  files of another process tell nobody
            await asyncio.sleep(LOOK_SECONDS)
        return self._told(job, since)

    async def job_stop(self, job: Id, since: int = -2_000) -> str:
        """End a job and everything it started; return the end of what it said.

        Args:
            job: The id that job_start returned.
            since: The byte to begin at, as in job_look.
        """
        state = self._state(job)
        if state.place == "running":
            with contextlib.suppress(OSError):
                os.kill(state.reaper, signal.SIGTERM)
            loop = asyncio.get_running_loop()
            end = loop.time() + STOP_SECONDS
            while self._state(job).place == "running" and loop.time() < end:  # noqa: ASYNC110  the same
                await asyncio.sleep(LOOK_SECONDS)
        if self._state(job).place != "ended":
            dead = await bury(str(_read(f"{self._path(job)}/order").get("key")))
            return f"{self._told(job, since)}\n[{'Nothing of it is running here.' if dead else 'Something of it may still be running.'}]"
        return self._told(job, since)

    # -- what is known ---------------------------------------------------------------------------------------------------

    def _path(self, job: str) -> str:
        return f"{self._folder}/{job}"

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self._folder) if name.startswith("j") and os.path.exists(f"{self._path(name)}/order")]

    def _state(self, job: str) -> State:
        """Return how a job stands; raise `ToolError` for one that is not known."""
        folder = self._path(job)
        known = _read(f"{folder}/order")
        if not known:
            raise ToolError(f"There is no job {job}.", untouched=True)
        started = _read(f"{folder}/started")
        runs = known.get("home") == _home() and bool(started.get("pid")) and process.start_time(started["pid"]) == started["start"]
        ended = _read(f"{folder}/ended")  # after it was seen running: an end between the two looks is not taken for a loss
        if ended:
            return State("ended", Ended(ended["status"], ended["why"], ended["left"]))
        return State("running", reaper=started["pid"]) if runs else State("lost")

    def _listed(self, session: str) -> Iterator[str]:
        for job in sorted(self._names()):
            known = _read(f"{self._path(job)}/order")
            if known.get("session") == session:
                yield f"{job} · {self._stands(job)} · {text_of(str(known['command']).encode(errors='replace'))[:200]!r}"

    def _stands(self, job: str) -> str:
        state = self._state(job)
        if state.ended is not None:
            known = _read(f"{self._path(job)}/order")
            return "stopped" if state.ended.why == "stop" else how(state.ended, float(known["seconds"]))
        return "running" if state.place == "running" else "lost: what watched over it is gone without a word, and nobody knows how it ended"

    def _told(self, job: str, since: int) -> str:
        """Say what a job said from a byte on, and how it stands."""
        stands = self._stands(job)
        pieces = sorted((int(name[4:]), name) for name in os.listdir(self._path(job)) if name.startswith("out-"))
        first = pieces[0][0] if pieces else 0
        total = max([0, *(start + os.stat(f"{self._path(job)}/{name}").st_size for start, name in pieces)])
        wanted = max(0, total + since) if since < 0 else min(since, total)
        at = max(wanted, first)
        raw = b""
        for start, name in pieces:
            with contextlib.suppress(FileNotFoundError), open(f"{self._path(job)}/{name}", "rb") as file:
                if start <= at + len(raw):
                    file.seek(at + len(raw) - start)
                    raw += file.read(MAX_SHOWN_BYTES - len(raw))
        more = total - at - len(raw)
        raw = _whole_characters(raw)
        notes = [stands, f"{first - wanted} bytes before this are gone" if wanted < first else "", f"{more} bytes more" if more > 0 else ""]
        text = text_of(raw)
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}[{' · '.join(filter(None, notes))}]\n[next: since={at + len(raw)}]"


def _id(key: str) -> str:
    return "j" + hashlib.sha256(f"job:{key}".encode()).hexdigest()[:12]


def _home() -> str:
    """Name this start of this machine, and this container of it."""
    return "/".join(process.me().split("/")[:2])


def _read(path: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


def _whole_characters(raw: bytes) -> bytes:
    """Leave half a character at the end for the next look."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(raw)
    half = len(decoder.getstate()[0])
    return raw[:-half] if 0 < half < len(raw) else raw
