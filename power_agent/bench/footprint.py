"""What it takes up: time to be imported, memory, bytes on disk."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

from power_agent import events as e
from power_agent.bench.apart import Apart
from power_agent.bench.figures import Bound, Figure, alone, compared
from power_agent.bench.scene import ASKED, SENTENCES, agent, talk
from power_agent.bench.size import Size
from power_agent.bench.turns import sink_of
from power_agent.messages import Call, Text, Usage
from power_agent.store import SQLiteStore

IMPORT_OURS = "import power_agent"
IMPORT_LOOP = "from power_agent import StatefulAgentLoop"
IMPORT_RAW = "import aiosqlite, pydantic\nclass Model(pydantic.BaseModel):\n    text: str"
IMPORT = Bound(1.2)
MEMORY = Bound(25.0, 15.0, of="ours")
BYTES = Bound(2.4, 1.9, of="ours")


async def importing(folder: Path, size: Size, rounds: int) -> list[Figure]:  # noqa: ARG001  nothing is written, and nothing can be smaller
    """Importing the package, against its two largest dependencies and one model class."""
    took: dict[str, list[float]] = {IMPORT_OURS: [], IMPORT_LOOP: [], IMPORT_RAW: []}
    for number in range(rounds + 1):
        for script, measured in took.items():
            code = f"import time; began = time.perf_counter()\n{script}\nprint(time.perf_counter() - began)"
            told = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)  # noqa: S603, ASYNC221  ourselves, and nothing else is to run
            if number:  # the first one only warms the disk
                measured.append(told * 1e3)
    against = "aiosqlite, pydantic, one class"
    return [
        compared("import", "import power_agent", list(zip(took[IMPORT_OURS], took[IMPORT_RAW], strict=True)), against, IMPORT),
        compared("import", "… and StatefulAgentLoop", list(zip(took[IMPORT_LOOP], took[IMPORT_RAW], strict=True)), against, Bound()),
    ]


async def memory(folder: Path, size: Size, rounds: int) -> list[Figure]:  # noqa: ARG001  a process of its own is not noisy
    """The most memory that a process had in so many turns of one session, above what importing had taken."""
    grown = Apart("remember", path=str(folder / "memory.db"), turns=size.remembered).answer()
    return [alone("memory", f"after {size.remembered:,} turns, above the import", [grown], MEMORY, "MB")]


async def remember(path: str, turns: int) -> float:
    """Run turns and return the megabytes by which the process grew at most."""
    before = _peak()
    async with agent(path, "normal") as loop:
        await talk(loop, "long", turns)
        return _peak() - before


def _peak() -> float:
    """Return the most megabytes this process ever had. What `getrusage` tells of a child on Linux begins with its parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1e6 if sys.platform == "darwin" else most / 1e3


async def on_disk(folder: Path, size: Size, rounds: int) -> list[Figure]:  # noqa: ARG001  the same each time
    """The file after a checkpoint, a turn at a time; what lies in it of the cached state is told apart."""
    path = folder / "turns.db"
    async with agent(path, "normal") as loop:
        await talk(loop, "written", 1)
    before = path.stat().st_size
    async with agent(path, "normal") as loop:
        await talk(loop, "written", size.written, _question)
    after, each = path.stat().st_size, size.written * 1e3
    return [
        alone("bytes", "six facts with 1 kB of content", [await _six_facts(folder, size.written)], BYTES, "kB"),
        alone("bytes", "a turn with a call, 1 kB of content", [(_without_cache(path) - before) / each], BYTES, "kB"),
        alone("bytes", "… with the cached state", [(after - before) / each], Bound(), "kB"),
    ]


def _question(number: int) -> str:
    """Return a longer and a shorter question in turn. Were all turns alike, what is free in the file's pages would be chance, and the same in each."""
    return ASKED * (1 + number * 5 % (SENTENCES - 1))


def _without_cache(path: Path) -> int:
    """Return the bytes that a file needs when the cached states in it are deleted."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DELETE FROM snapshot")
    pages, free, size = (db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size"))
    db.close()
    return int(pages - free) * int(size)


async def _six_facts(folder: Path, turns: int) -> float:
    """Six facts of a turn through the sink alone."""
    text = "x" * 250
    path = folder / "facts-on-disk.db"
    async with SQLiteStore(path, durability="normal") as store:
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
    return path.stat().st_size / turns / 1e3
