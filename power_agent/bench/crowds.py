"""Many at once: sessions in one file, from one process and from two, and calls side by side."""

from __future__ import annotations

import asyncio
from pathlib import Path

from power_agent import StatefulAgentLoop
from power_agent.bench.apart import Apart
from power_agent.bench.figures import Bound, Figure, Watch, alone, compared
from power_agent.bench.scene import QUESTION, USAGE, agent, talk
from power_agent.bench.size import Size
from power_agent.bench.turns import DURABILITIES, record_many, sink_of
from power_agent.limits import Limits
from power_agent.messages import Call
from power_agent.models.scripted import Answer, ScriptedModel
from power_agent.ports import ModelRequest
from power_agent.store import SQLiteStore

FACTS = Bound(4.0, at_least=True)
AT_ONCE = Bound(4.0, 8.0, at_least=True)
NOT_SLOWER = Bound(0.95, at_least=True)
"""Not slower, but for what two measurements of the same differ by."""
NONE_FAILED = Bound(0.0, of="ours")
PARALLEL = {"full": Bound(1.15, 1.08), "normal": Bound()}
CALLS, SLEEP = 16, 0.05


async def many(folder: Path, size: Size, rounds: int) -> list[Figure]:
    """The same turns, once one session after the other, once all sessions at the same time; then in two processes."""
    failed = 0
    speed: dict[str, list[float]] = {"alone": [], "few": [], "many": [], "two": []}
    async with agent(folder / "many.db") as loop:
        await _at_once(loop, "few", size.few, 1)  # warm, and all are born
        await _at_once(loop, "many", size.many, 1)
        for _ in range(rounds):
            with Watch() as watch:
                for number in range(size.few):
                    await talk(loop, f"few {number}", 1)
            speed["alone"].append(size.few / watch.ms * 1e3)
            for crowd, sessions, turns in (("few", size.few, size.turns_at_once), ("many", size.many, 1)):
                with Watch() as watch:
                    failed += await _at_once(loop, crowd, sessions, turns)
                speed[crowd].append(sessions * turns / watch.ms * 1e3)
    for number in range(rounds):
        took, lost = await _two(folder / "many.db", number, size)
        failed += lost
        speed["two"].append(2 * (size.few // 2) * size.turns_at_once / took)
    sides = {name: list(zip(speed[name], speed[other], strict=True)) for name, other in (("few", "alone"), ("many", "few"), ("two", "few"))}
    return [
        await facts_at_once(folder, size, rounds),
        compared("many", f"{size.few} sessions at once, FULL", sides["few"], "the same one by one", AT_ONCE, "turns/s"),
        compared("many", f"{size.many} sessions at once, FULL", sides["many"], f"{size.few} at once", NOT_SLOWER, "turns/s"),
        compared("many", f"2 processes of {size.few // 2}, FULL", sides["two"], f"{size.few} in one", Bound(), "turns/s"),
        alone("many", "turns that failed", [failed], NONE_FAILED, "turns"),
    ]


async def _at_once(loop: StatefulAgentLoop, crowd: str, sessions: int, turns: int) -> int:
    """Run turns of many sessions at once; return in how many something went wrong."""
    ends = await asyncio.gather(*(talk(loop, f"{crowd} {number}", turns) for number in range(sessions)), return_exceptions=True)
    return sum(isinstance(end, BaseException) for end in ends)


async def crowd(path: str, name: str, sessions: int, turns: int) -> dict[str, float]:
    """Be one of two processes: get ready, wait for the word, run. Returns the milliseconds and how many sessions failed."""
    async with agent(path) as loop:
        failed = await _at_once(loop, name, sessions, 1)
        Apart.ready()
        with Watch() as watch:
            failed += await _at_once(loop, name, sessions, turns)
        return {"ms": watch.ms, "failed": failed}


async def _two(path: Path, number: int, size: Size) -> tuple[float, int]:
    """Let two processes run at the same time; return the seconds until both were done, and what failed."""
    both = [Apart("crowd", path=str(path), name=f"process {number} {one}", sessions=size.few // 2, turns=size.turns_at_once) for one in (1, 2)]
    for one in both:
        one.wait_until_ready()
    for one in both:
        one.go()
    told = [one.answer() for one in both]
    return max(one["ms"] for one in told) / 1e3, int(sum(one["failed"] for one in told))


async def facts_at_once(folder: Path, size: Size, rounds: int) -> Figure:
    """The sink alone: facts of many sessions at once, against facts of one."""
    pairs = []
    async with SQLiteStore(folder / "facts.db") as store:
        sink = sink_of(store)
        single = await sink.open()
        states = list(await asyncio.gather(*(sink.open() for _ in range(size.few))))
        each = size.commits // 8 + 1
        for _ in range(rounds):
            with Watch() as one:
                single = await record_many(sink, single, size.commits)
            with Watch() as all_of_them:
                states = list(await asyncio.gather(*(record_many(sink, state, each) for state in states)))
            pairs.append((each * 2 * size.few / all_of_them.ms * 1e3, size.commits * 2 / one.ms * 1e3))
    return compared("many", f"facts of {size.few} sessions, FULL", pairs, "facts of one session", FACTS, "facts/s")


async def parallel(folder: Path, size: Size, rounds: int) -> list[Figure]:
    """A turn with sixteen calls that sleep, against sixteen coroutines that sleep."""

    async def nap() -> str:
        """Sleep."""
        await asyncio.sleep(SLEEP)
        return "slept"

    def say(request: ModelRequest) -> Answer:
        answered = request.messages[-1].role == "tool"
        return Answer("Done." if answered else "", () if answered else [Call("nap") for _ in range(CALLS)], usage=USAGE)

    figures = []
    for durability in DURABILITIES:
        pairs = []
        async with agent(folder / f"parallel-{durability}.db", durability, model=ScriptedModel(say), tools=[nap], limits=Limits(max_parallel_calls=CALLS)) as loop:
            await loop.send(QUESTION, "naps")  # warm
            for _ in range(rounds * size.naps):
                with Watch() as ours:
                    await talk(loop, "naps", 1)
                with Watch() as bare:
                    await asyncio.gather(*(nap() for _ in range(CALLS)))
                pairs.append((ours.ms, bare.ms))
        name = f"{CALLS} calls of {SLEEP * 1e3:.0f} ms, {durability.upper()}"
        figures.append(compared("parallel", name, pairs, f"{CALLS} coroutines", PARALLEL[durability]))
    return figures
