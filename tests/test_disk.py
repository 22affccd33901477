"""The disk fails: full, broken, read-only. What was acknowledged is kept, the error has a name, and after a broken write none follows.

Child processes write a story and say "ack" after each fact that was acknowledged. A nursery, a process that has imported
everything, forks them, so that hundreds are cheap. The disk fails for the n-th time of asking, n = 1, 2, 3 … until nothing fails
any more: by RLIMIT_FSIZE, by strace's fault injection, by permissions.
"""
# ruff: noqa: ASYNC240  nobody else waits for the event loop of a test

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_SECONDS

from power_agent import SQLiteStore, Text
from power_agent import events as e
from power_agent.chance import CountedChance
from power_agent.clock import HeldClock, SystemClock
from power_agent.errors import PowerAgentError, StoreError, StoreFailed, StoreFull
from power_agent.sink import Sink

FACTS = 3
STRACE = "apt-get install strace"
NOBODY = 65534

# -- the child ---------------------------------------------------------------------------------------------------------


class Child:
    """Appends facts, says what was acknowledged and how it ended. `acks` is a file that grows line by line."""

    def __init__(self, path: str, durability: Any, acks: int, *, pair: bool = False) -> None:
        self.path = path
        self.durability = durability
        self.acks = acks
        self.write = self.write_two if pair else self.write_one
        self.said: dict[str, Any] = {"acked": [], "error": None, "after": None, "close": None}

    def ack(self, fact: str) -> None:
        os.write(self.acks, f"ack {fact}\n".encode())
        self.said["acked"].append(fact)

    async def live(self) -> dict[str, Any]:
        """Open, write, try once more after an error, close; every error by its code, unknown ones by their type."""
        store = SQLiteStore(self.path, durability=self.durability)
        try:
            await store.__aenter__()
        except BaseException as error:  # noqa: BLE001  what it is, is what we want to know
            return self.said | {"error": _named(error), "at": "open"}
        await self.write(store)
        try:
            await store.__aexit__(None, None, None)
        except BaseException as error:  # noqa: BLE001
            self.said["close"] = _named(error)
        return self.said

    async def write_one(self, store: SQLiteStore) -> None:
        """One session, one fact after the other."""
        sink = Sink(store, SystemClock(), CountedChance(), "child")
        try:
            state = await sink.open(session="s")
            self.ack("open")
            for number in range(FACTS):
                state = await sink.record(state, [_fact(f"{number}")])
                self.ack(f"{number}")
        except BaseException as error:  # noqa: BLE001
            self.said["error"] = _named(error)
            await self.write_again(store, sink)

    async def write_two(self, store: SQLiteStore) -> None:
        """Two sessions side by side, so that a fact waits while the commit before it fails."""
        sink = Sink(store, SystemClock(), CountedChance(), "child")
        await asyncio.gather(self._write_on(sink, "s"), self._write_behind(store, sink))

    async def _write_behind(self, store: SQLiteStore, sink: Sink) -> None:
        writer = store._opened()
        while writer._visit is None or writer._waiting:  # until the first commit is under way: from then on the two take turns
            await asyncio.sleep(0)
        await self._write_on(sink, "t")

    async def _write_on(self, sink: Sink, session: str) -> None:
        try:
            state = await sink.open(session=session)
            self.ack(f"{session}open")
            for number in range(FACTS):
                state = await sink.record(state, [_fact(f"{number}")])
                self.ack(f"{session}{number}")
        except BaseException as error:  # noqa: BLE001
            self.said["error"] = _named(error)

    async def write_again(self, store: SQLiteStore, sink: Sink) -> None:
        """What the same store does with the next write after an error."""
        try:
            if await store.find("s") is None:
                await sink.open(session="s")
            await sink.record(await sink.load("s"), [_fact("after")])
            self.ack("after")
        except BaseException as error:  # noqa: BLE001
            self.said["after"] = _named(error)


def _fact(name: str) -> e.InputReceived:
    return e.InputReceived(parts=(Text(f"fact {name} " * 100),), key=name)


def _named(error: BaseException) -> str:
    return error.code if isinstance(error, PowerAgentError) else f"untyped {type(error).__name__}: {error}"


def _prepared(task: dict[str, Any]) -> None:
    if task.get("checkpoint"):
        from power_agent.store import writer

        writer.COMMITS_PER_CHECKPOINT = task["checkpoint"]
    if "limit" in task:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], resource.RLIM_INFINITY))
    if task.get("uid"):
        os.setgroups([])
        os.setgid(task["uid"])
        os.setuid(task["uid"])
    if task.get("traced"):
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: a strace that is no parent may attach
        _say({"pid": os.getpid()})
        os.read(int(task["go"]), 1)


def _say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _nursery(go: int) -> None:
    """Fork a child for each line of standard input; it answers with one line."""
    with tempfile.TemporaryDirectory() as folder:  # warms everything that is imported late: another user may not reach it
        asyncio.run(Child(f"{folder}/agent.db", "full", os.open(os.devnull, os.O_WRONLY)).live())
    for line in sys.stdin:
        task = json.loads(line) | {"go": go}
        pid = os.fork()
        if pid == 0:
            acks = os.open(task["acks"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
            _prepared(task)
            _say(asyncio.run(Child(task["path"], task["durability"], acks, pair=task.get("pair", False)).live()))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            _say({"status": status})


# -- the parent --------------------------------------------------------------------------------------------------------


class Nursery:
    """The parent's end of the nursery."""

    def __init__(self) -> None:
        there, self._go = os.pipe()
        self._process = subprocess.Popen([sys.executable, __file__, str(there)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[there], text=True)
        os.close(there)

    def close(self) -> None:
        """End it; it ends with its standard input."""
        self._process.communicate(timeout=PATIENCE_SECONDS)
        os.close(self._go)

    def _ask(self, task: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def run(self, path: Path, durability: str = "full", **task: Any) -> dict[str, Any]:
        """Let a child live; return what it said."""
        self._ask({"path": str(path), "acks": f"{path}.acks", "durability": durability, **task})
        return self._answer()

    def traced(self, path: Path, strace: list[str], durability: str = "full", **task: Any) -> tuple[dict[str, Any], str]:
        """Let a child live under strace; return what it said and what strace saw."""
        seen = path.with_suffix(".trace")
        self._ask({"path": str(path), "acks": f"{path}.acks", "durability": durability, "traced": True, **task})
        pid = self._answer()["pid"]
        tracer = subprocess.Popen([*strace, "-qq", "-f", "-o", seen, "-p", str(pid)], stderr=subprocess.PIPE)
        try:
            _wait_for_tracer(pid, tracer)
        finally:  # traced or not, the child must not wait for ever
            os.write(self._go, b"x")
            said = self._answer()
        tracer.communicate(timeout=PATIENCE_SECONDS)
        return said, seen.read_text()


def _wait_for_tracer(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        assert tracer.poll() is None, tracer.communicate()[1]
        assert time.monotonic() < until, "strace did not attach"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


@pytest.fixture(scope="module")
def strace() -> str:
    return needs("strace", STRACE)


async def kept(path: Path) -> list[str]:
    """Open the file in a process without faults: it verifies, and these facts are in it."""
    async with SQLiteStore(path, clock=HeldClock()) as store:
        assert [wrong async for wrong in store.verify()] == []
        if await store.find("s") is None:
            return []
        events = [e.decode(record.kind, record.body or "") for record in await store.read("s")]
        return ["open", *(event.key or "" for event in events if isinstance(event, e.InputReceived))]


ORDER = ["open", *map(str, range(FACTS)), "after"]
TYPED = set(StoreError.all_codes())


async def check(said: dict[str, Any], path: Path) -> None:
    """The promise: nothing acknowledged is lost, nothing is there twice or out of order, every error has a code, no write after a failure."""
    assert "acked" in said, said
    assert {said["error"], said["after"], said["close"]} - TYPED <= {None}, said
    there = await kept(path)
    assert set(said["acked"]) <= set(there), (said, there)
    assert there == sorted(set(there), key=ORDER.index), there
    before = [fact for fact in there if fact != "after"]
    assert before == ORDER[: len(before)], there
    if said["error"] == StoreFailed.code and said.get("at") != "open":
        assert said["after"] == StoreFailed.code, said
        assert "after" not in there


# -- nothing fails -----------------------------------------------------------------------------------------------------


async def test_without_a_fault_everything_is_acknowledged(nursery: Nursery, tmp_path: Path):
    """The measure itself: a child on a sound disk acknowledges all facts, and they are there."""
    path = tmp_path / "agent.db"
    said = nursery.run(path)
    assert said == {"acked": ORDER[:-1], "error": None, "after": None, "close": None}
    assert await kept(path) == ORDER[:-1]
    assert Path(f"{path}.acks").read_text().split() == [word for fact in ORDER[:-1] for word in ("ack", fact)]


@pytest.mark.parametrize(("on_ci", "outcome"), [("1", "Failed"), ("", "Skipped")])
def test_a_missing_program_is_never_passed_over_in_silence(on_ci: str, outcome: str, monkeypatch: pytest.MonkeyPatch):
    """On CI a test that lacks its program fails; elsewhere it is skipped and says what to install."""
    monkeypatch.setenv("CI", on_ci)
    with pytest.raises(BaseException, match="no-such-program is missing") as caught:
        needs("no-such-program", "somehow")
    assert type(caught.value).__name__ == outcome


# -- a full disk -------------------------------------------------------------------------------------------------------


async def test_a_file_that_may_not_grow(nursery: Nursery, tmp_path: Path):
    """RLIMIT_FSIZE stepped up by less than a frame of the log, from nothing until everything fits."""
    points, errors = 0, set()
    for limit in range(0, 4_000_000, 3_500):
        path = tmp_path / f"{limit}.db"
        said = nursery.run(path, limit=limit + 1)
        await check(said, path)
        errors.add(said["error"])
        points += 1
        if said["error"] is None:
            break
    print(f"RLIMIT_FSIZE: {points} limits, errors {sorted(map(str, errors))}")  # noqa: T201  shown by -rP
    assert said["acked"] == ORDER[:-1]
    assert points > 10
    assert len(errors) > 1


# -- the n-th system call ----------------------------------------------------------------------------------------------

LAST = 400


async def fail_each(nursery: Nursery, strace: str, folder: Path, call: str, error: str, delay: int = 0, **task: Any) -> list[dict[str, Any]]:
    """Let the n-th call of the database thread fail, n = 1, 2, 3 … until there is no n-th; return how each child lived."""
    lives: list[dict[str, Any]] = []
    for number in range(1, LAST):
        path = folder / f"{call}-{error}-{number}.db"
        inject = [strace, "-y", "-e", f"trace={call},write", "-e", f"inject={call}:error={error}:delay_enter={delay}:when={number}"]
        said, seen = nursery.traced(path, inject, **task)
        if "INJECTED" not in seen:
            assert said["error"] is None
            return lives
        before, _, after = seen.partition("INJECTED")
        lives.append(said | {"n": number, "path": path, "failed": before.splitlines()[-1], "late": re.findall(r'"ack (\w+)', after)})
    raise AssertionError(f"after {LAST} calls of {call} there were still more")


async def broken(lives: list[dict[str, Any]]) -> list[str]:
    """Check the promise for each life; say where it does not hold."""
    found = []
    for life in lives:
        try:
            await check({name: life[name] for name in ("acked", "error", "after", "close")} | {"at": life.get("at")}, life["path"])
        except AssertionError as wrong:
            found.append(f"n = {life['n']}: {str(wrong).splitlines()[0]}")
    return found


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_the_nth_write_fails(error: str, nursery: Nursery, strace: str, tmp_path: Path):
    """Each pwrite of the database thread once: typed, nothing acknowledged lost; a full disk is told from a broken one."""
    lives = await fail_each(nursery, strace, tmp_path, "pwrite64", error)
    print(f"pwrite64 {error}: {len(lives)} points, errors {told(lives)}")  # noqa: T201
    assert await broken(lives) == []
    assert len(lives) > 30
    named = StoreFailed.code if error == "EIO" else StoreFull.code
    assert [(life["n"], life["error"]) for life in lives if life["error"] not in {None, named} and not in_shared_memory(life)] == []
    assert named in told(lives)


async def test_the_nth_sync_fails(nursery: Nursery, strace: str, tmp_path: Path):
    """Each fdatasync once: StoreFailed, and from the failure on nothing more is acknowledged by this store (I17)."""
    lives = await fail_each(nursery, strace, tmp_path, "fdatasync,fsync", "EIO")
    print(f"fdatasync EIO: {len(lives)} points, errors {told(lives)}")  # noqa: T201
    assert await broken(lives) == []
    assert told(lives) == {StoreFailed.code}
    assert len(lives) > FACTS
    assert went_on(lives) == []


async def test_the_nth_sync_fails_with_checkpoints(nursery: Nursery, strace: str, tmp_path: Path):
    """A sync that fails in a checkpoint counts too; only the fact that was durable before it may still be acknowledged."""
    lives = await fail_each(nursery, strace, tmp_path, "fdatasync,fsync", "EIO", checkpoint=2)
    print(f"fdatasync EIO, checkpoints: {len(lives)} points, errors {told(lives)}")  # noqa: T201
    assert await broken(lives) == []
    assert went_on(lives, 1) == []


async def test_what_waits_behind_a_failed_commit_is_not_kept(nursery: Nursery, strace: str, tmp_path: Path):
    """Two sessions: while the slow sync of one commit fails, the other's fact is in the queue. It is refused, not written."""
    lives = await fail_each(nursery, strace, tmp_path, "fdatasync,fsync", "EIO", delay=50_000, pair=True)
    print(f"fdatasync EIO, two sessions: {len(lives)} points, errors {told(lives)}")  # noqa: T201
    assert len(lives) > FACTS
    assert went_on(lives) == []


@pytest.mark.parametrize(("call", "error"), [("ftruncate", "ENOSPC"), ("openat", "EMFILE"), ("flock", "EIO")])
async def test_the_nth_of_another_call_fails(call: str, error: str, nursery: Nursery, strace: str, tmp_path: Path):
    """Making files longer, opening and locking them: the same promise."""
    lives = await fail_each(nursery, strace, tmp_path, call, error)
    print(f"{call} {error}: {len(lives)} points, errors {told(lives)}")  # noqa: T201
    assert await broken(lives) == []
    assert lives


def in_shared_memory(life: dict[str, Any]) -> bool:
    """Say whether it was the index of the log that could not grow: SQLite has one code for both reasons then."""
    return "-shm>" in life["failed"] and life.get("at") == "open"


def went_on(lives: list[dict[str, Any]], allowed: int = 0) -> list[tuple[int, str, list[str]]]:
    """Return the lives that acknowledged more after the failure than allowed. SQLite itself passes over a failed sync of the directory."""
    return [(life["n"], life["failed"], life["late"]) for life in lives if len(life["late"]) > allowed and re.search(r"\.db(-wal|-journal)?>", life["failed"])]


def told(lives: list[dict[str, Any]]) -> set[str]:
    return {life["error"] for life in lives if life["error"]}


# -- synced before it is acknowledged ----------------------------------------------------------------------------------


def unsynced(seen: str) -> list[str]:
    """Return the acknowledgements in a trace that no finished sync came before, since the acknowledgement before."""
    bare, synced = [], False
    for line in seen.splitlines():
        if re.search(r"\b(fdatasync|fsync)(\(\d+\)| resumed>\)) += 0", line):
            synced = True
        elif found := re.search(r'write\(\d+, "ack (\w+)\\n"', line):
            if not synced:
                bare.append(found[1])
            synced = False
    return bare


@pytest.mark.parametrize(("durability", "bare"), [("full", []), ("normal", ORDER[1:-1])])
async def test_synced_before_it_is_acknowledged(durability: str, bare: list[str], nursery: Nursery, strace: str, tmp_path: Path):
    """At "full" a sync returns before each acknowledgement is given. At "normal" it does not, and this very test sees that."""
    said, seen = nursery.traced(tmp_path / "agent.db", [strace, "-e", "trace=fdatasync,fsync,write"], durability)
    assert said["acked"] == ORDER[:-1]
    assert seen.count('"ack ') == len(ORDER) - 1
    assert [fact for fact in unsynced(seen) if fact != "open"] == bare


# -- read-only ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that another user can reach; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory(prefix="power-agent-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _stranger(*paths: Path) -> dict[str, Any]:
    """Make a child that may not do everything: another user when we are root, which no mode stops; else ourselves."""
    if os.geteuid() != 0:
        return {}
    for path in paths:
        os.chown(path, NOBODY, NOBODY)
    return {"uid": NOBODY}


async def _store(path: Path) -> None:
    async with SQLiteStore(path, clock=HeldClock()) as store:
        await Sink(store, HeldClock(), CountedChance(), "owner").open(session="other")


@pytest.mark.parametrize("scene", ["no file yet", "a closed store", "its lock file is missing", "an unreachable directory"])
async def test_a_directory_that_cannot_be_written(scene: str, nursery: Nursery, shared: Path):
    """StoreReadOnly with a hint, and the file is as it was."""
    home = shared / "home"
    home.mkdir()
    path, acks = home / "agent.db", shared / "acks"
    if scene in {"a closed store", "its lock file is missing"}:
        await _store(path)
        if scene == "its lock file is missing":
            Path(f"{path}-lock").unlink()
    before = path.read_bytes() if path.exists() else None
    stranger = _stranger(*home.iterdir(), home)
    home.chmod(0o000 if scene == "an unreachable directory" else 0o555)
    try:
        said = nursery.run(path, acks=str(acks), **stranger)
    finally:
        home.chmod(0o755)
    assert (said["acked"], said["error"]) == ([], "store_read_only"), said
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("mode", [0o444, 0o000])
async def test_a_file_that_cannot_be_written(mode: int, nursery: Nursery, shared: Path):
    """StoreReadOnly at the opening or with the first write; the file is as it was."""
    home = shared / "home"
    home.mkdir()
    path = home / "agent.db"
    await _store(path)
    before = path.read_bytes()
    stranger = _stranger(*home.iterdir(), home)
    path.chmod(mode)
    said = nursery.run(path, acks=str(shared / "acks"), **stranger)
    path.chmod(0o600)
    assert (said["acked"], said["error"]) == ([], "store_read_only"), said
    assert said["after"] in {None, "store_read_only"}
    assert path.read_bytes() == before


if __name__ == "__main__":
    _nursery(int(sys.argv[1]))
else:
    from needs import needs
