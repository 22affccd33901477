"""Measure the log on this machine's own disk, beside raw SQLite in the same run.

Machines are noisy and disks differ: what counts are the ratios. Each workload runs in several rounds, ours and the raw one in
turn, and the medians are compared. Raw means: the same bytes in a bare table, the same journal mode and the same durability.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiosqlite

from power_agent import SQLiteStore, Text, Usage, process
from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.cli import options
from power_agent.clock import SystemClock
from power_agent.messages import Call
from power_agent.ports import Durability
from power_agent.sink import Sink, opened
from power_agent.state import SessionState, fold

MANY = 64
BYTES = 2_400
BARE = "CREATE TABLE bare (id INTEGER PRIMARY KEY, body TEXT)"
PUT = "INSERT INTO bare (body) VALUES (?)"
IMPORT_OURS = "import power_agent"
IMPORT_LOOP = "from power_agent import StatefulAgentLoop"
IMPORT_RAW = "import aiosqlite, pydantic\nclass Model(pydantic.BaseModel):\n    text: str"


@dataclass(frozen=True)
class Figure:
    """One line of the table: ours against raw, and the ratio that is promised."""

    name: str
    ours: float
    raw: float
    unit: str
    promise: str
    kept: bool

    @property
    def ratio(self) -> float:
        """Ours against raw."""
        return self.ours / self.raw if self.raw else 0.0


def sink_of(store: SQLiteStore) -> Sink:
    """A sink as an application would have it."""
    return Sink(store, SystemClock(), SystemChance(), process.me(), dead=process.proven_dead)


def two_facts(number: int) -> tuple[e.Event, e.Event]:
    """Return two facts of a common size."""
    return e.NoteAdded(text="x" * 120, why=f"measured {number}"), e.NoteAdded(text="y" * 120, why=f"measured {number}")


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds that some work takes."""
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def record_many(sink: Sink, state: SessionState, commits: int) -> SessionState:
    """Record two facts per commit; the notes are taken up now and then, as a turn would."""
    for number in range(commits):
        state = await sink.record(state.moved(notes=()), two_facts(number))
    return state


def raw_commits(db: sqlite3.Connection, commits: int) -> float:
    """Commit two rows at a time, the synchronous way."""
    bodies = [(e.encode(fact),) for fact in two_facts(0)]
    began = time.perf_counter()
    for _ in range(commits):
        db.execute("BEGIN IMMEDIATE")
        db.execute(PUT, bodies[0])
        db.execute(PUT, bodies[1])
        db.execute("COMMIT")
    return time.perf_counter() - began


async def raw_async_commits(path: Path, durability: str, commits: int) -> float:
    """Commit two rows at a time through aiosqlite, as its documentation shows it."""
    bodies = [(e.encode(fact),) for fact in two_facts(0)]
    async with aiosqlite.connect(path, isolation_level=None) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute(f"PRAGMA synchronous = {durability}")
        await db.execute(BARE.replace("TABLE", "TABLE IF NOT EXISTS"))
        began = time.perf_counter()
        for _ in range(commits):
            await db.execute("BEGIN IMMEDIATE")
            await db.executemany(PUT, bodies)
            await db.execute("COMMIT")
        return time.perf_counter() - began


def bare(path: Path, durability: str) -> sqlite3.Connection:
    """Open a bare table."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {durability}")
    db.execute(BARE)
    return db


async def appending(folder: Path, durability: Durability, commits: int, rounds: int) -> list[Figure]:
    """Two facts a commit, one session: against the raw commit, and against aiosqlite."""
    ours, raw, raw_async = [], [], []
    db = bare(folder / f"bare-{durability}.db", durability)
    async with SQLiteStore(folder / f"ours-{durability}.db", durability=durability) as store:
        sink = sink_of(store)
        state = await sink.open()
        state = await record_many(sink, state, commits // 4 + 1)  # warm
        for _ in range(rounds):
            began = time.perf_counter()
            state = await record_many(sink, state, commits)
            ours.append(time.perf_counter() - began)
            raw.append(raw_commits(db, commits))
            raw_async.append(await raw_async_commits(folder / f"async-{durability}.db", durability, commits))
    db.close()
    each = 1e6 / commits
    us, bare_us, async_us = (statistics.median(times) * each for times in (ours, raw, raw_async))
    if durability == "full":
        return [Figure("commit of two facts, FULL", us, bare_us, "µs", "≤ 2× raw sqlite3", us <= 2 * bare_us)]
    return [Figure("commit of two facts, NORMAL", us, async_us, "µs", "≤ 5× raw aiosqlite", us <= 5 * async_us)]


async def many(folder: Path, commits: int, rounds: int) -> list[Figure]:
    """The same number of facts, once one after the other in one session, once over many sessions at the same time."""
    one_by_one, at_once = [], []
    async with SQLiteStore(folder / "many.db") as store:
        sink = sink_of(store)
        single = await sink.open()
        states = list(await asyncio.gather(*(sink.open() for _ in range(MANY))))
        for _ in range(rounds):
            began = time.perf_counter()
            single = await record_many(sink, single, commits)
            one_by_one.append(commits * 2 / (time.perf_counter() - began))
            began = time.perf_counter()
            states = list(await asyncio.gather(*(record_many(sink, state, commits // 8 + 1) for state in states)))
            at_once.append((commits // 8 + 1) * 2 * MANY / (time.perf_counter() - began))
    ours, alone = statistics.median(at_once), statistics.median(one_by_one)
    return [Figure(f"{MANY} sessions at once, FULL", ours, alone, "facts/s", "≥ 4× one session", ours >= 4 * alone)]


def story(turns: int) -> list[e.Event]:
    """Return a session of so many turns, each with one tool call: eight or nine facts and about 1 kB of content."""
    facts: list[e.Event] = [e.SessionOpened(nonce="0" * 32, owner="bench", config=e.Config(model="bench:model", system="You are helpful."))]
    for turn in range(1, turns + 1):
        call = Call("read_file", {"path": f"notes/{turn}.md", "limit": 200}, id=f"t{turn}r1c1", provider_id=f"toolu_{turn:020}")
        facts += [
            e.InputReceived(parts=(Text("Please look at my notes and tell me what is still to do. " * 4),)),
            e.TurnStarted(turn=turn, inputs=(len(facts) + 1,)),
            e.ModelAsked(turn=turn, round=1, model="bench:model", prefix_digest="0" * 22),
            e.ModelAnswered(round=1, parts=(Text("I will read the file first. " * 4), call), finish="calls", usage=Usage(900, 60)),
            e.CallStarted(call=call.id, idempotency_key="0" * 32),
            e.CallSucceeded(call=call.id, output="- buy milk\n- call Ada\n- write the report\n" * 10),
            e.ModelAsked(turn=turn, round=2, model="bench:model", prefix_digest="0" * 22),
            e.ModelAnswered(round=2, parts=(Text("You still have to buy milk, call Ada and write the report. " * 3),), usage=Usage(1200, 60)),
            e.TurnEnded(turn=turn),
        ]
    return facts


async def write_story(store: SQLiteStore, facts: Sequence[e.Event], name: str) -> None:
    """Keep a story, turn by turn."""
    sink = sink_of(store)
    opened_by = facts[0]
    state = await sink.open(opened_by.config if isinstance(opened_by, e.SessionOpened) else None, name)
    for start in range(1, len(facts), 9):
        state = await sink.record(state, facts[start : start + 9])
    await sink.release(state)


async def loading(folder: Path, events: int, rounds: int) -> list[Figure]:
    """Read a session into a state, against a bare SELECT and json.loads of every body."""
    facts = story(events // 9)
    async with SQLiteStore(folder / "load.db", durability="normal") as store:
        await write_story(store, facts, "long")
        db = sqlite3.connect(folder / "load.db", isolation_level=None)
        ours, raw = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            records = await store.read("long")
            fold(map(opened, records), SessionState("long"))
            ours.append(time.perf_counter() - began)
            del records  # what is alive slows the collector down, and with it the other side
            began = time.perf_counter()
            rows = db.execute("SELECT seq, kind, body FROM event WHERE session = 1 ORDER BY seq").fetchall()
            parsed = [json.loads(body) for _, _, body in rows]
            raw.append(time.perf_counter() - began)
            count = len(parsed)
            del rows, parsed
        db.close()
    us, bare_ms = statistics.median(ours) * 1e3, statistics.median(raw) * 1e3
    return [Figure(f"{count} events into a state", us, bare_ms, "ms", "≤ 3.5× raw read and parse", us <= 3.5 * bare_ms)]


async def bytes_on_disk(folder: Path, turns: int) -> list[Figure]:
    """Six facts of a turn with 1 kB of content in all, in the file after a checkpoint."""
    text = "x" * 250
    async with SQLiteStore(folder / "bytes.db", durability="normal") as store:
        sink = sink_of(store)
        state = await sink.open()
        for turn in range(1, turns + 1):
            call = Call("read_file", {"path": text}, id=f"t{turn}r1c1")
            state = await sink.record(
                state,
                [
                    e.InputReceived(parts=(Text(text),)),
                    e.TurnStarted(turn=turn, inputs=(state.seq + 1,)),
                    e.ModelAsked(turn=turn, round=1, model="bench:model", prefix_digest="0" * 22),
                    e.ModelAnswered(round=1, parts=(Text(text),), usage=Usage(100, 50)),
                    e.NoteAdded(text=text + call.name, why="measured"),
                    e.TurnEnded(turn=turn, reason=text),
                ],
            )
    size = (folder / "bytes.db").stat().st_size / turns
    return [Figure("six facts with 1 kB of content", size / 1000, 1.0, "kB", "≤ 2.4 kB", size <= BYTES)]


def importing(rounds: int) -> list[Figure]:
    """Importing the package, against its two largest dependencies and one model class."""
    times: dict[str, list[float]] = {IMPORT_OURS: [], IMPORT_LOOP: [], IMPORT_RAW: []}
    for number in range(rounds + 1):
        for script, measured in times.items():
            code = f"import time; began = time.perf_counter()\n{script}\nprint(time.perf_counter() - began)"
            told = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)  # noqa: S603  ourselves
            if number:
                measured.append(told)
    ours, loop, raw = (statistics.median(measured) * 1e3 for measured in times.values())
    return [
        Figure("import power_agent", ours, raw, "ms", "≤ 1.2× aiosqlite + pydantic", ours <= 1.2 * raw),
        Figure("… and StatefulAgentLoop", loop, raw, "ms", "(no promise yet)", kept=True),
    ]


async def measure(commits: int = 300, events: int = 8_000, rounds: int = 5) -> list[Figure]:
    """Run every workload in a temporary folder of the current directory's disk."""
    with tempfile.TemporaryDirectory(prefix=".power-agent-bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        figures = await appending(folder, "full", commits, rounds)
        figures += await appending(folder, "normal", commits, rounds)
        figures += await many(folder, commits, rounds)
        figures += await loading(folder, events, rounds)
        figures += await bytes_on_disk(folder, max(events // 6, 50))
    return figures + importing(rounds)


def bench(*, as_json: options.Json = False) -> int:
    """Measure what the log costs on this directory's disk, beside raw SQLite in the same run. Always 0: a machine's mood is no failure."""
    print("measuring in this directory; this takes about half a minute …", file=sys.stderr)
    figures = asyncio.run(measure())
    if as_json:
        print(json.dumps({"v": 1, "figures": [{**asdict(figure), "ratio": figure.ratio} for figure in figures]}))
        return 0
    print(f"{'figure':<34}{'ours':>12}{'raw':>12}{'ratio':>8}  {'promise':<28}")
    for figure in figures:
        kept = "" if figure.kept else "  NOT KEPT"
        print(f"{figure.name:<34}{figure.ours:>9.1f} {figure.unit:<7}{figure.raw:>7.1f}{figure.ratio:>8.2f}  {figure.promise:<28}{kept}")
    return 0
