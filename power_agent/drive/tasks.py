"""Small things to do with asyncio's tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from power_agent.limits import STOP_SECONDS


class CancelledFromWithin(Exception):
    """Somebody else's code raised `CancelledError` though nobody cancelled anything: it failed, and that is no interrupt."""


@contextmanager
def own_failure() -> Iterator[None]:
    """Make a `CancelledError` the failure of the code that raised it, unless this very task is being cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CancelledFromWithin("it was cancelled from within, without an outcome") from None


async def stopped(tasks: Any) -> None:
    """Cancel tasks and wait for their end, for a while."""
    alive = [task for task in tasks if not task.done()]
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive, timeout=STOP_SECONDS)


async def first_of(futures: Collection[asyncio.Future[Any]], seconds: float) -> None:
    """Wait until one of them is done, at most so long. `asyncio.wait` does more than is asked for here, and a turn waits often."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(seconds, wake)
    for one in futures:
        one.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        for one in futures:
            one.remove_done_callback(wake)


async def dropped(verdict: Any) -> None:
    """Let go of a verdict that nobody waits for any more."""
    task = asyncio.ensure_future(verdict)
    task.cancel()
    await asyncio.wait([task])


def looked_at(task: asyncio.Task[Any]) -> None:
    """Take note of a task's error, also when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
