"""Whoever waits may leave at any step: who queued, who steered, who did not wait, who reads a stream or follows the log, who forks,
closes, erases or prunes. The session can be used at once, nothing is doubled, nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import scenes
from processes import PROMPT_SECONDS
from test_interrupt import cancelled_at, run

from power_agent import Call, Result, Retry, ScriptedModel, SQLiteStore, StatefulAgentLoop, tool
from power_agent.errors import PowerAgentError

ALL = bool(os.environ.get("POWER_AGENT_STORM"))
Deed = Callable[[StatefulAgentLoop], Awaitable[Any]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for room in ("drive.ledger", "loop.intake", "loop.stream"):
        monkeypatch.setattr(f"power_agent.{room}.LOOK_SECONDS", 0.01)


class Stage:
    """A session in the middle of a turn that goes on when it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.happened: Counter[str] = Counter()

    def make(self, store: SQLiteStore) -> StatefulAgentLoop:
        """Build a loop whose `work` takes until it is let go."""

        @tool(recovery="rerun")
        async def work() -> str:
            await self.go.wait()
            return "worked"

        @tool
        async def pay(who: str) -> str:
            self.happened[who] += 1
            return "paid"

        return StatefulAgentLoop(ScriptedModel(self._said), tools=[work, pay], store=store)

    @staticmethod
    def _said(request: Any) -> Any:
        last = request.messages[-1]
        if last.role != "user":
            return "done"
        return [Call("work")] if last.text == "work" else [Call("pay", {"who": last.text})]


async def read(loop: StatefulAgentLoop) -> None:
    async for _ in loop.stream("streamed", "s", key="mine", when_busy="queue"):
        pass


async def follow(loop: StatefulAgentLoop) -> None:
    async with asyncio.timeout(PROMPT_SECONDS):
        async for kept in loop.watch():
            if kept.kind == "turn.ended":
                return


async def branch(loop: StatefulAgentLoop) -> None:
    await loop.fork("other", session_id_new="branch")


async def end(loop: StatefulAgentLoop) -> None:
    await loop.close_session("other")
    await loop.prune(older_than_seconds=0)


DEEDS: dict[str, Deed] = {
    "queued": lambda loop: loop.send("queued", "s", key="mine", when_busy="queue"),
    "steered": lambda loop: loop.send("steered", "s", key="mine", when_busy="steer"),
    "left": lambda loop: loop.send("left", "s", key="mine", when_busy="queue", wait=False),
    "left, idle": lambda loop: loop.send("left", "other", key="mine", wait=False),
    "streamed": read,
    "followed": follow,
    "forked": branch,
    "erased": lambda loop: loop.erase("other"),
    "pruned": end,
    "aborted": lambda loop: loop.abort_pending("other", reason="enough"),
    "settled": lambda loop: loop.cancel("s"),
}


async def left_at(n: int, path: Path, deed: Deed, *, elsewhere: bool) -> bool:
    """Let somebody do something while a turn is in progress, cancel them at their nth step, and see that everything is well."""
    stage = Stage()
    async with SQLiteStore(path, durability="normal") as store:
        first, second = stage.make(store), stage.make(store)
        await first.send("before", "other")
        turn = asyncio.ensure_future(first.send("work", "s"))
        async with asyncio.timeout(PROMPT_SECONDS):
            while "started" not in [call.state for call in (await first.pending("s") if await store.find("s") else [])]:
                await asyncio.sleep(0)
        who = second if elsewhere else first
        asyncio.get_running_loop().call_later(0.02, stage.go.set)
        was = False
        with contextlib.suppress(PowerAgentError):
            was, _ = await cancelled_at(n, deed(who))
        stage.go.set()
        result = await asyncio.wait_for(turn, PROMPT_SECONDS)  # whoever began it is still there
        assert result.status in {"completed", "cancelled"}
        async with asyncio.timeout(PROMPT_SECONDS):
            await _usable(stage, first, second)
        assert [wrong async for wrong in store.verify()] == []
        async with asyncio.timeout(PROMPT_SECONDS):  # what was begun and left goes on, and ends
            while [row.session for row in await store.sessions() if row.deadline]:
                await asyncio.sleep(0.002)
        await first.aclose()
        await second.aclose()
        assert not stage.happened - Counter(dict.fromkeys(stage.happened, 1)), f"{n}: it happened twice: {stage.happened}"
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"{n}: {left}"
    for session in ("s", "other"):
        keys = Counter(row.body for row in scenes.raw(path) if row.session == session and row.kind == "input.received")
        assert all(count == 1 for count in keys.values()), keys
    return was


async def _usable(stage: Stage, first: StatefulAgentLoop, second: StatefulAgentLoop) -> None:
    """Go on with whatever is open, from either loop, until nothing is; what is in doubt is settled truthfully."""
    for loop in (first, second):
        for session in ("s", "other", "branch"):
            while True:
                with contextlib.suppress(PowerAgentError):
                    state = await loop.state(session)
                    if not state.closed and not state.erased and not state.hollow and (state.turn or state.inputs):
                        for call in (await loop.resume(session)).pending:
                            if call.state == "doubted":
                                await loop.settle(session, call.id, Result("paid") if stage.happened[str(call.arguments["who"])] else Retry())
                        continue
                break


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("name", DEEDS)
def test_leaving_at_every_step(tmp_path, caplog, name, elsewhere):
    """Cancelled at the nth step, n = 0, 1, 2 … until it runs clean."""

    async def all_of_them() -> int:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(str(what)))
        for n in itertools.count(0, 1 if ALL else 11):
            path = tmp_path / f"{n}.db"
            was = await left_at(n, path, DEEDS[name], elsewhere=elsewhere)
            path.unlink()
            gc.collect() if n % 10 == 0 else None
            assert complaints == []
            if not was:
                return n
        return 0

    points = run(all_of_them())
    gc.collect()
    assert points >= 3
    assert "never retrieved" not in caplog.text
