"""An owner that waits for a tool or a model looks up for what others add to the log, whoever they are, and wakes for each end at once."""

from __future__ import annotations

import asyncio

import pytest
from processes import PROMPT_SECONDS

from power_agent import Answer, Call, ScriptedModel, StatefulAgentLoop, tool
from power_agent.drive.tasks import first_of
from power_agent.limits import LOOK_SECONDS


async def test_a_cancel_by_another_owner_is_seen_while_a_call_runs(tmp_path):
    """Nobody wakes the one who waits: it looks by itself, well before the call would end."""
    running = asyncio.Event()

    @tool
    async def work() -> str:
        """Work for an hour."""
        running.set()
        await asyncio.sleep(3_600)
        return "done"

    path = tmp_path / "log.db"
    async with StatefulAgentLoop(ScriptedModel([[Call("work")], Answer("done")]), tools=[work], store=path) as owner, StatefulAgentLoop(ScriptedModel([]), store=path) as other:
        sending = asyncio.ensure_future(owner.send("go", "s"))
        await asyncio.wait_for(running.wait(), PROMPT_SECONDS)
        assert await other.cancel("s")
        result = await asyncio.wait_for(sending, PROMPT_SECONDS)
    assert result.status in {"cancelled", "waiting"}


@pytest.mark.parametrize("ends", ["with a result", "with an error", "cancelled", "before"])
async def test_the_first_end_wakes_at_once(ends):
    """However it ends, and nothing is left hanging on those that go on."""
    loop = asyncio.get_running_loop()
    first, other = loop.create_future(), loop.create_future()
    end = {"with a result": lambda: first.set_result(None), "with an error": lambda: first.set_exception(OSError()), "cancelled": first.cancel}.get(ends, lambda: None)
    if ends == "before":
        first.set_result(None)
    loop.call_soon(end)
    await asyncio.wait_for(first_of((other, first), 3_600), PROMPT_SECONDS)
    assert first.done()
    assert not other.done()
    assert other._callbacks is None
    first.cancelled() or first.exception()


async def test_nobody_waits_longer_than_said():
    """Where nothing ends, time does; and a wait that is cancelled leaves nothing behind."""
    never = asyncio.get_running_loop().create_future()
    await asyncio.wait_for(first_of((never,), LOOK_SECONDS / 10), PROMPT_SECONDS)
    waiting = asyncio.ensure_future(first_of((never,), 3_600))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not never.done()
    assert never._callbacks is None
