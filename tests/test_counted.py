"""What a turn costs, counted in calls of functions: clocks of shared machines say little, counts are the same everywhere.

A turn costs the same the hundredth time as the tenth, and with fifty tools as with one; of calls side by side each costs the same.
Whoever adds something to the path of every turn sees it here.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

from power_agent import Call, Limits, StatefulAgentLoop, tool
from power_agent.bench.scene import agent, talk
from power_agent.models.scripted import Answer, ScriptedModel
from power_agent.ports import ModelRequest

A_TURN = 2_100
"""Calls of functions in the event loop's thread for nine facts in four commits; 1,980 when this was written."""
ONE_MORE_CALL = 400
"""The same for one more call of a tool beside others; 250 to 320 when this was written."""


async def counted(job: Callable[[], Awaitable[object]]) -> int:
    """Count the calls of Python functions in this thread while something is done."""
    calls = 0

    def see(_frame: object, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        await job()
    finally:
        sys.setprofile(before)
    return calls


async def a_turn(loop: StatefulAgentLoop) -> int:
    """Count one turn: the cheapest of five, for now and then one caches the state."""
    return min([await counted(lambda: talk(loop, "s", 1)) for _ in range(5)])


def idle(number: int):
    """Return a tool that nobody calls."""

    @tool(name=f"tool_{number}")
    async def nothing(path: str, limit: int = 10) -> str:
        """Do nothing."""
        return ""

    return nothing


async def test_a_turn_costs_the_same_for_ever_and_whatever_stands_by(tmp_path):
    """The tenth turn and the hundred and tenth, with one tool and with fifty-one."""
    seen = []
    for tools in (0, 50):
        async with agent(tmp_path / f"{tools}.db", "normal", tools=[idle(number) for number in range(tools)]) as loop:
            await talk(loop, "s", 10)
            seen.append(await a_turn(loop))
            await talk(loop, "s", 100)
            seen.append(await a_turn(loop))
    assert max(seen) <= min(seen) * 1.01, seen
    assert min(seen) <= A_TURN, seen


async def test_calls_side_by_side_cost_the_same_each(tmp_path):
    """Nothing that is done for one of them looks at all the others again."""

    async def look(number: int) -> str:
        """Look."""
        return "nothing"

    async def with_calls(count: int) -> int:
        def say(request: ModelRequest) -> Answer:
            return Answer("done") if request.messages[-1].role == "tool" else Answer("", [Call("look", {"number": number}) for number in range(count)])

        limits = Limits(max_parallel_calls=64)
        async with StatefulAgentLoop(ScriptedModel(say), tools=[look], store=tmp_path / f"{count}.db", limits=limits, durability="normal") as loop:
            await talk(loop, "s", 3)
            return await a_turn(loop)

    few, more, many = [await with_calls(count) for count in (4, 16, 64)]
    assert (more - few) / 12 <= ONE_MORE_CALL, (few, more, many)
    assert (many - more) / 48 <= (more - few) / 12 * 1.5, (few, more, many)
