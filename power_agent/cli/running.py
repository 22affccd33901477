"""Running one piece of async work from a shell: the first Ctrl-C (or SIGTERM) interrupts it cleanly, the second leaves at once.

Leaving at once is safe: what was acknowledged is in the log, and a process that ends in the middle of a turn is what the log is for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from power_agent.cli.advice import INTERRUPTED
from power_agent.cli.saying import voice

T = TypeVar("T")
ONE_STOP_SECONDS = 0.2


class Interrupted(KeyboardInterrupt):
    """Somebody asked for the end, and the work was put down in order."""


def run(work: Coroutine[Any, Any, T], *, saying: str = "") -> T:
    """Run work to its end, or raise `Interrupted` once it has been put down; `saying` is told while that goes on."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return asyncio.run(_watched(work, saying))
    finally:
        signal.signal(signal.SIGTERM, before)


async def _watched(work: Coroutine[Any, Any, T], saying: str) -> T:
    loop, task, asked = asyncio.get_running_loop(), asyncio.ensure_future(work), list[float]()

    def stop(number: int) -> None:
        """Interrupt; a second Ctrl-C leaves. One stop may arrive as several signals (`timeout` sends two): they count once."""
        if asked and number == signal.SIGINT and loop.time() - asked[0] > ONE_STOP_SECONDS:
            voice.note("Left at once. The log is safe; what was running is found out on resume.")
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        if not asked:
            asked.append(loop.time())
            if saying:
                voice.note(saying)
            task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if asked:
            raise Interrupted from None
        raise
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
