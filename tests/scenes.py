"""What the crash tests play in processes of their own, the stage it is played on, and the judge.

The stage is one process that has everything imported, has no thread and no database, and forks an actor for each scene: a real
process with a pid and a start time of its own that can be killed, for a tenth of the price of starting Python again. The
judge reads the raw file with plain sqlite3 and a journal that the actors keep outside the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import json
import os
import random
import selectors
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from handiwork import handiwork
from processes import PATIENCE_SECONDS, PROMPT_SECONDS

from power_agent import ScriptedModel, Sink, SQLiteStore, StatefulAgentLoop, Text, failpoints, files, process
from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock
from power_agent.errors import PowerAgentError
from power_agent.hooks import Hooks
from power_agent.machine import AskModel, Compact, EndTurn, RunCalls, TakeInput, Wait, decide
from power_agent.messages import Call
from power_agent.policy import allow_all
from power_agent.state import SessionState

KILLED = -signal.SIGKILL
ANY_TRACER = 0x59616D61  # PR_SET_PTRACER

# -- the journal -------------------------------------------------------------------------------------------------------


class Journal:
    """Lines that survive their writer: appended outside the store; acknowledgements are synced."""

    def __init__(self, path: Path | str) -> None:
        self._descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def write(self, what: str, **more: Any) -> None:
        os.write(self._descriptor, line_of({"what": what, "who": os.getpid(), **more}))
        if what == "ack":
            os.fsync(self._descriptor)


def line_of(told: Mapping[str, Any]) -> bytes:
    """Return a line of its own: a kill may tear a write where a page of the file ends, and the next line must not go on with the rest."""
    return b"\n" + json.dumps(told).encode() + b"\n"


def lines(path: Path | str, what: str | None = None) -> list[dict[str, Any]]:
    """Return what the journal says. A line that was torn was never told: its writer died before the write returned."""
    found = list[dict[str, Any]]()
    with contextlib.suppress(FileNotFoundError):
        for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if what in {None, line["what"]}]


# -- the judge ---------------------------------------------------------------------------------------------------------


class Raw(NamedTuple):
    """One row of the table of events, with the names that stand for its numbers."""

    pos: int
    session: str
    seq: int
    epoch: int
    at: int
    kind: str
    call: str | None
    body: str | None
    digest: bytes | None
    hash: bytes


def raw(path: Path | str) -> list[Raw]:
    """Read every event in the order of the commits, without a word of the project's code."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        return [
            Raw(*row)
            for row in db.execute(
                """SELECT pos, session.name, seq, event.epoch, at, kind.name, call, body, digest, hash
                FROM event JOIN session ON session.id = event.session JOIN kind ON kind.code = event.kind ORDER BY pos"""
            )
        ]


def judge(path: Path | str) -> list[Raw]:
    """Check the raw file: no gaps, whole chains, one owner per epoch, one outcome per call, heads where the events end."""
    rows = raw(path)
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        heads = db.execute("SELECT name, head, tip, epoch, base, (SELECT name FROM session AS up WHERE up.id = session.parent) FROM session").fetchall()
    assert [row.pos for row in rows] == list(range(1, len(rows) + 1))
    by_place = {(row.session, row.seq): row for row in rows}
    for name, head, tip, epoch, base, parent in heads:
        own = [row for row in rows if row.session == name]
        assert [row.seq for row in own] == list(range(base + 1, head + 1)), name
        assert own[0].kind == "session.opened"
        assert own[0].epoch == 1
        assert (own[-1].hash, own[-1].epoch) == (tip, epoch)
        secret = sha256(b"salt:" + json.loads(own[0].body)["nonce"].encode()).digest() if own[0].body else b""
        previous = _of_lineage(by_place, heads, parent, base).hash if base else b""
        for before, row in itertools.pairwise([None, *own]):
            salt = b"" if row.kind == "session.erased" else sha256(secret + row.seq.to_bytes(8, "big")).digest()[:16]
            digest = row.digest if row.body is None else sha256(salt + row.body.encode()).digest()
            envelope = f"{row.session}\n{row.seq}\n{row.epoch}\n{row.at}\n{row.kind}\n".encode()
            assert row.hash == sha256(previous + envelope + digest).digest(), (name, row.seq)
            previous = row.hash
            assert before is None or row.epoch == before.epoch + (row.kind == "owner.changed"), (name, row.seq)
        outcomes = [row.call for row in own if row.kind in e.TERMINAL]
        assert len(outcomes) == len(set(outcomes)), name
    return rows


def _of_lineage(by_place: dict[tuple[str, int], Raw], heads: list[Any], session: str, seq: int) -> Raw:
    """Return an event of a session or of its ancestors."""
    while (session, seq) not in by_place:
        session = next(head[5] for head in heads if head[0] == session)
    return by_place[session, seq]


def unacked(rows: list[Raw], journal: list[dict[str, Any]]) -> list[Raw]:
    """Demand every acknowledged event, by its hash, and return those that nobody was told of."""
    by_place = {(row.session, row.seq): row for row in rows}
    told = {(line["session"], seq): bytes.fromhex(hashed) for line in journal if line["what"] == "ack" for seq, hashed in line["events"]}
    for place, hashed in told.items():
        assert place in by_place, f"acknowledged and lost: {place}"
        assert by_place[place].hash == hashed, f"acknowledged and changed: {place}"
    return [row for row in rows if (row.session, row.seq) not in told]


async def faults(path: Path | str) -> list[str]:
    """Return what the project's own verification finds wrong."""
    async with SQLiteStore(path) as store:
        return [wrong async for wrong in store.verify()]


# -- what is played ----------------------------------------------------------------------------------------------------


class Pen:
    """Writes to the store through sinks, and to the journal: the intent before, what was acknowledged after."""

    def __init__(self, store: SQLiteStore, journal: Journal) -> None:
        self.store = store
        self.journal = journal
        self._heard: list[e.Envelope] = []

    def sink(self) -> Sink:
        """Return a sink of a new owner."""
        return Sink(self.store, SystemClock(), SystemChance(), process.me(), dead=process.proven_dead, hooks=Hooks([self._heard.append]))

    async def keep(self, session: str, kinds: list[str], work: Awaitable[SessionState]) -> SessionState:
        """Let one commit be made between an intent and an acknowledgement."""
        self.journal.write("intent", session=session, kinds=kinds)
        state = await work
        mine = [heard for heard in self._heard if heard.session == session]
        self._heard[:] = [heard for heard in self._heard if heard.session != session]
        self.journal.write("ack", session=session, events=[(heard.seq, heard.hash.hex()) for heard in mine])
        return state

    async def record(self, sink: Sink, state: SessionState, *facts: e.Event, outside: bool = False, release: bool = False) -> SessionState:
        """Record or report facts, in one commit."""
        work = sink.report(state, facts) if outside else sink.record(state, facts, release=release)
        return await self.keep(state.session, [fact.kind for fact in facts], work)

    async def claim(self, sink: Sink, session: str) -> SessionState:
        """Take a session over."""
        return await self.keep(session, ["owner.changed"], sink.claim(session))


def said(text: str) -> tuple[Text]:
    return (Text(text),)


def taken(state: SessionState, text: str) -> list[e.Event]:
    """An input, its turn and the first request, as one commit."""
    return [e.InputReceived(parts=said(text)), e.TurnStarted(turn=state.turns + 1, inputs=(state.seq + 1,)), e.ModelAsked(turn=state.turns + 1, round=1, model="m")]


def answer(text: str, round_: int = 1, attempt: int = 1) -> e.ModelAnswered:
    return e.ModelAnswered(round=round_, attempt=attempt, parts=said(text))


async def story(path: str, journal: str) -> None:
    """Everything that can be kept, once: two turns with calls, an approval from outside, owners, an erasure, a cache, a fork."""
    async with SQLiteStore(path) as store:
        pen = Pen(store, Journal(journal))
        sink, person, heir = pen.sink(), pen.sink(), pen.sink()
        state = await pen.keep("story", ["session.opened"], sink.open(session="story"))
        state = await pen.record(sink, state, *taken(state, "go"))
        one, two = Call("look", id="t1r1c1"), Call("pay", {"cents": 5}, id="t1r1c2")
        state = await pen.record(sink, state, e.ModelAnswered(round=1, parts=(one, two), finish="calls"), e.CallStarted(call=one.id, recovery="rerun"))
        state = await pen.record(sink, state, e.CallApprovalAsked(call=two.id, rule="money", digest="d"))
        state = await pen.record(sink, state, e.CallSucceeded(call=one.id, output=1))
        await pen.record(person, await person.load("story"), e.CallApproved(call=two.id, digest="d", by="ada"), outside=True)
        state = await sink.catch_up(state)
        state = await pen.record(sink, state, e.CallStarted(call=two.id, digest="d"))
        state = await pen.record(sink, state, e.CallSucceeded(call=two.id, output="paid"), e.ModelAsked(turn=1, round=2, model="m"))
        state = await pen.record(sink, state, answer("done", 2), e.TurnEnded(turn=1))
        await sink.snapshot(state)
        state = await pen.record(sink, state, e.ContextCompacted(from_seq=2, to_seq=state.seq, summary="we looked and paid", strategy="test"))
        state = await pen.record(sink, state, *taken(state, "again"))
        state = await pen.record(sink, state, e.ModelFailed(round=1, failure=e.Failure(code="slow", message="slow"), retryable=True, not_before=1))
        state = await pen.record(sink, state, e.ModelAsked(turn=2, round=1, attempt=2, model="m"))
        three, four, five = Call("pay", id="t2r1c1"), Call("look", id="t2r1c2"), Call("look", id="t2r1c3")
        state = await pen.record(sink, state, e.ModelAnswered(round=1, attempt=2, parts=(three, four, five), finish="calls"), e.CallStarted(call=three.id))
        state = await pen.record(sink, state, e.CallAborted(call=five.id, by="ada", reason="enough"))
        state = await pen.record(sink, state, e.CallDoubted(call=three.id, attempt=1, reason="lost"), e.CallDenied(call=four.id, by="rule", reason="no"))
        state = await pen.record(sink, state, e.CallRetried(call=three.id, by="ada"), e.CallStarted(call=three.id, attempt=2))
        state = await pen.record(sink, state, e.CallFailed(call=three.id, attempt=2, failure=e.Failure(code="no", message="no")), e.NoteAdded(text="n", why="w"))
        state = await pen.record(sink, state, e.ModelAsked(turn=2, round=2, model="m"))
        state = await pen.record(sink, state, answer("failed", 2), e.TurnEnded(turn=2))
        await sink.release(state)
        state = await pen.claim(heir, "story")
        state = await pen.record(heir, state, e.SessionConfigured(config=e.Config(model="n")), e.GuardDecided(guard="g", at="end", verdict="changed"))
        gone = await pen.keep("gone", ["session.opened"], sink.open(session="gone"))
        gone = await pen.record(sink, gone, *taken(gone, "a secret"))
        gone = await pen.record(sink, gone, answer("psst"), e.TurnEnded(turn=1))
        gone = await pen.record(sink, gone, e.SessionClosed(reason="over"))
        await pen.keep("gone", ["session.erased"], sink.erase(gone, "the law"))
        await heir.snapshot(state)
        before = await heir.load("story", at=9)
        branch = await pen.keep("branch", ["session.opened"], heir.open(session="branch", parent=e.Parent(relation="fork", session="story", seq=before.seq)))
        branch = await pen.record(heir, branch, *taken(branch, "otherwise"))
        branch = await pen.record(heir, branch, e.CancelAsked(reason="enough", by="ada"), outside=True)
        branch = await pen.record(heir, branch, e.TurnEnded(turn=branch.turns, status="cancelled"))
        branch = await pen.record(heir, branch, e.SessionImported(tip="t"), e.SessionClosed(reason="done"), release=True)
        await pen.record(heir, state, *taken(state, "more"), release=True)
    Journal(journal).write("end")


async def second_life(path: str, journal: str) -> None:
    """What a process does that finds the file after a death: verify, take every session at once, bring it to rest, go on."""
    async with SQLiteStore(path) as store:
        pen = Pen(store, Journal(journal))
        sink = pen.sink()
        wrong = [sentence async for sentence in store.verify()]
        assert not wrong, wrong
        rows = [row for row in await store.sessions() if not row.erased]
        if not rows:
            await pen.keep("late", ["session.opened"], sink.open(session="late"))
            rows = await store.sessions()
        for row in rows:
            begun = time.monotonic()
            state = await pen.claim(sink, row.session)
            assert time.monotonic() - begun < PROMPT_SECONDS, "it waited for a lease of 30 s"
            state = await to_rest(pen, sink, state)
            if state.place == "idle":
                state = await pen.record(sink, state, *taken(state, "are you there?"))
                await to_rest(pen, sink, state)
        wrong = [sentence async for sentence in store.verify()]
        assert not wrong, wrong
    Journal(journal).write("end")


async def to_rest(pen: Pen, sink: Sink, state: SessionState) -> SessionState:
    """Do what the log says comes next until it says: wait."""
    for _ in range(40):
        match decide(state, SystemClock().now()):
            case TakeInput(turn, inputs, continues):
                facts: list[e.Event] = [e.TurnStarted(turn=turn, inputs=inputs, continues=continues)]
            case AskModel(turn, round_, attempt, inputs):
                state = await pen.record(sink, state, e.ModelAsked(turn=turn, round=round_, attempt=attempt, model="m", inputs=inputs))
                facts = [answer("so be it", round_, attempt)]
            case RunCalls(run, doubt, _, abort):
                facts = [e.CallDoubted(call=call, attempt=state.calls[call].attempt, reason="its process died") for call in doubt]
                facts += [e.CallAborted(call=call, by="test", reason="enough") for call in (*run, *abort)]
            case EndTurn(turn, status, reason):
                facts = [e.TurnEnded(turn=turn, status=status, reason=reason)]
            case Wait("person", calls):
                facts = [e.CallAborted(call=call, by="ada", reason="enough") for call in calls]
            case Wait() | Compact():
                return state
        state = await pen.record(sink, state, *facts)
    raise AssertionError(f"{state.session} does not come to rest: {state.place}")


async def opening(path: str, journal: str) -> None:
    """Open a file that may not be there yet, keep one event in it, close it."""
    log = Journal(journal)
    log.write("ready")
    async with SQLiteStore(path) as store:
        log.write("open")
        pen = Pen(store, log)
        name = f"s{os.getpid()}"
        await pen.keep(name, ["session.opened"], pen.sink().open(session=name))
    log.write("end")


async def traced(path: str, journal: str, go: str, scene: str) -> None:
    """Play another scene once a tracer has come."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(ANY_TRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
    Journal(journal).write("waiting")
    while not Path(go).exists():  # noqa: ASYNC240  nothing else runs here
        await asyncio.sleep(0.001)
    await SCENES[scene](path, journal)


async def storm(path: str, journal: str, seed: int) -> None:
    """Write to two sessions at once, for ever."""
    async with SQLiteStore(path) as store:
        pen = Pen(store, Journal(journal))
        await asyncio.gather(*(_stormed(pen, name, random.Random(f"{seed} {name}")) for name in ("left", "right")))


async def _stormed(pen: Pen, name: str, dice: random.Random) -> None:
    sink = pen.sink()
    if await pen.store.find(name) is None:
        state = await pen.keep(name, ["session.opened"], sink.open(session=name))
    else:
        state = await to_rest(pen, sink, await pen.claim(sink, name))
    while True:
        state = await pen.record(sink, state, *taken(state, "x" * dice.choice((1, 100, 5000))))
        call = Call("look", id=f"t{state.turns}r1c1")
        state = await pen.record(sink, state, e.ModelAnswered(round=1, parts=(call,), finish="calls"), e.CallStarted(call=call.id))
        state = await pen.record(sink, state, e.CallSucceeded(call=call.id, output=dice.random()), e.ModelAsked(turn=state.turns, round=2, model="m"))
        state = await pen.record(sink, state, answer("done", 2), e.TurnEnded(turn=state.turns))
        if dice.random() < 0.05:
            await sink.snapshot(state)


# -- owners ------------------------------------------------------------------------------------------------------------


async def owner(path: str, journal: str, session: str, mode: str, lease_seconds: float) -> None:
    """Own a session with a short lease. `record`: keep notes for ever; `block`: stop the event loop for a while; `idle`: hold."""
    log = Journal(journal)
    async with SQLiteStore(path, lease_seconds=lease_seconds) as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me(), dead=lambda _: False)
        state = await sink.claim(session) if await store.find(session) else await sink.open(session=session)
        log.write("owns", epoch=state.epoch, owner=sink.owner)
        if mode == "block":
            time.sleep(lease_seconds * 4)  # noqa: ASYNC251  that is the point
            state = await sink.record(state, [e.NoteAdded(text="still here", why="test")])
            log.write("kept", seq=state.seq, epoch=state.epoch)
        while mode == "record":
            try:
                state = await sink.record(state, [e.NoteAdded(text=f"of epoch {state.epoch}", why="test")])
            except PowerAgentError as error:
                log.write("refused", code=error.code, epoch=state.epoch)
                return
            log.write("kept", seq=state.seq, epoch=state.epoch)
            await asyncio.sleep(0.01)
        if mode == "idle":
            await asyncio.sleep(3600)
    log.write("end")


async def racer(path: str, journal: str, sessions: int, start: float) -> None:
    """Claim session after session, each at a moment that everybody knows."""
    log = Journal(journal)
    async with SQLiteStore(path) as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me())
        for number in range(sessions):
            await asyncio.sleep(max(0.0, start + number * 0.02 - time.time()))
            try:
                state = await sink.claim(f"race-{number}")
            except PowerAgentError as error:
                log.write("lost", session=number, code=error.code)
            else:
                log.write("won", session=number, epoch=state.epoch, owner=sink.owner)
        log.write("done")
        while len(lines(journal, "done")) < 2:
            await asyncio.sleep(0.005)


async def crowd(folder: str, journal: str, rounds: int, start: float, pause: float) -> None:
    """Open one fresh file after the other, each at a moment that everybody knows."""
    for number in range(rounds):
        await asyncio.sleep(max(0.0, start + number * pause - time.time()))
        async with SQLiteStore(f"{folder}/{number}.db") as store:
            sink = Sink(store, SystemClock(), SystemChance(), process.me())
            await sink.open(session=f"s{os.getpid()}")
    Journal(journal).write("end")


async def hands(root: str, path: str, tool: str, arguments: dict[str, Any]) -> None:
    """Let a model make one call of the file tools."""
    async with StatefulAgentLoop(ScriptedModel([[Call(tool, arguments)], "done"]), tools=files(root), store=path, policy=allow_all) as loop:
        await loop.send("go", "s")


SCENES: dict[str, Callable[..., Awaitable[None]]] = {scene.__name__: scene for scene in (story, second_life, opening, traced, storm, owner, racer, crowd, hands, handiwork)}

# -- the stage ---------------------------------------------------------------------------------------------------------


class Actor:
    """A process that plays one scene."""

    def __init__(self, stage: Stage, pid: int, errors: Path) -> None:
        self._stage = stage
        self.pid = pid
        self.errors = errors

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; return 0, 1 or minus the signal that ended it."""
        return self._stage.ended(self.pid, seconds)

    def signal(self, number: int) -> None:
        """Send it a signal; it cannot be anybody else, because the stage reaps nobody before it has been told."""
        os.kill(self.pid, number)

    def alive(self) -> bool:
        """Say whether it still plays."""
        return process.start_time(self.pid) is not None

    def kill(self) -> int:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        return self.wait()

    def ends_well(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Demand that it plays to the end."""
        assert self.wait(seconds) == 0, self.errors.read_text(encoding="utf-8")


class Stage:
    """Starts actors and learns how they end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._endings: dict[int, int] = {}
        self._heard = b""

    def __enter__(self) -> Self:
        house = Path(__file__).resolve().parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(house), str(house.parent)]), "PYTHONWARNINGS": "error"}
        self._process = subprocess.Popen([sys.executable, "-c", "import scenes; scenes.direct()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()  # it kills whoever is left and goes
        self._process.wait(PATIENCE_SECONDS)
        self._process.stdout.close()

    def play(self, scene: str, *cast: Any, failpoint: str | None = None) -> Actor:
        """Let somebody play a scene."""
        errors = self._folder / f"actor-{next(self._numbers)}.txt"
        assert self._process.stdin
        self._process.stdin.write(
            json.dumps({"scene": scene, "cast": [str(one) if isinstance(one, Path) else one for one in cast], "failpoint": failpoint, "errors": str(errors)}).encode() + b"\n"
        )
        self._process.stdin.flush()
        return Actor(self, self._told("started", time.monotonic() + PATIENCE_SECONDS)["pid"], errors)

    def ended(self, pid: int, seconds: float) -> int:
        """Wait for the end of an actor."""
        until = time.monotonic() + seconds
        while pid not in self._endings:
            self._told("ended", until)
        return self._endings[pid]

    def _told(self, what: str, until: float) -> dict[str, Any]:
        while True:
            line = json.loads(self._line(what, until))
            if line["what"] == "ended":
                self._endings[line["pid"]] = line["status"]
            if line["what"] == what:
                return line

    def _line(self, what: str, until: float) -> bytes:
        """Return the next line. What is told at once is heard at once: a second line may be here already, and then nothing more comes."""
        assert self._process.stdout
        while b"\n" not in self._heard:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._process.stdout, selectors.EVENT_READ)
                assert waiting.select(max(0.0, until - time.monotonic())), f"nobody {what} in time"
            chunk = os.read(self._process.stdout.fileno(), 65536)
            assert chunk, f"the stage is gone, and nobody {what}"
            self._heard += chunk
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def direct() -> None:
    """Be the stage: read what to play, fork, tell who ended how."""
    warnings.simplefilter("error")
    _warm_up()
    wakeup, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    actors: set[int] = set()
    with selectors.DefaultSelector() as waiting:
        waiting.register(wakeup, selectors.EVENT_READ)
        waiting.register(0, selectors.EVENT_READ)
        rest = b""
        while True:
            for key, _ in waiting.select():
                text = os.read(key.fd, 65536)
                if key.fd == wakeup:
                    _reap(actors)
                    continue
                if not text:
                    for pid in actors:
                        os.kill(pid, signal.SIGKILL)
                    return
                *orders, rest = (rest + text).split(b"\n")
                for order in orders:
                    pid = _fork(json.loads(order))
                    actors.add(pid)
                    _tell(what="started", pid=pid)


def _tell(**line: Any) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def _reap(actors: set[int]) -> None:
    for pid in tuple(actors):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            actors.remove(pid)
            _tell(what="ended", pid=pid, status=os.waitstatus_to_exitcode(status))


def _warm_up() -> None:
    """Build what is built when first needed: every kind of event's reader and writer. What is there is not looked at by the actors' collectors."""
    for kind in e.EVENTS:
        e._reader(kind)
        e._writer(kind)
    gc.collect()
    gc.freeze()


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it, in the background say
        errors = os.open(order["errors"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for old, new in ((nothing, 0), (errors, 1), (errors, 2)):
            os.dup2(old, new)
        failpoints._ARMED = order["failpoint"]
        asyncio.run(SCENES[order["scene"]](*order["cast"]))
        status = 0
    except BaseException:  # noqa: BLE001  told, not hidden
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def until(truth: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait for something to become true."""
    limit = time.monotonic() + seconds
    while not (found := truth()):
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.002)
    return found


@contextlib.contextmanager
def stage_in(folder: Path) -> Iterator[Stage]:
    """Open a stage for a module's tests."""
    with Stage(folder) as stage:
        yield stage
