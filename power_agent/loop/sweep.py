"""Everything that was left: taken up side by side, so many at once, and again where the dead cannot be told from the living."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from power_agent.drive.tasks import looked_at, stopped
from power_agent.errors import NothingToResume, OwnershipLost, SessionBusy, SessionClosed, SessionErased, StoreClosed
from power_agent.limits import MAX_PASSED_OVER, MAX_RESUMED_AT_ONCE
from power_agent.results import TurnResult

_QUICKER = (SessionBusy, OwnershipLost, NothingToResume, SessionClosed, SessionErased)
"""Somebody else did something about it meanwhile."""
_log = logging.getLogger("power_agent")


class Sweep:
    """Resumes sessions, each once at a time. One that cannot be resumed keeps nobody from the others: the log of the program is told.

    What did not end by that (a probe that does not know, say) is passed over the next time, then twice, four times: each attempt stands in the
    log, and whatever it waits for may take weeks.
    """

    def __init__(self, left: Callable[[], Awaitable[list[str]]], resume: Callable[[str], Awaitable[TurnResult]]) -> None:
        self._left = left
        self._resume = resume
        self._places = asyncio.Semaphore(MAX_RESUMED_AT_ONCE)
        self._under_way: dict[str, asyncio.Task[TurnResult | None]] = {}
        self._in_vain: dict[str, int] = {}
        self._passed_over: dict[str, int] = {}

    async def once(self) -> list[TurnResult]:
        """Resume what is left now, and wait for it."""
        try:
            ended = await asyncio.gather(*await self._begin())
        finally:
            await stopped(self._under_way.values())
        return [result for result in ended if result is not None]

    async def until_closed(self, seconds: float) -> None:
        """Look again and again, however long what was resumed before takes."""
        try:
            while True:
                await self._begin()
                await asyncio.sleep(seconds)
        except StoreClosed:
            return
        finally:
            await stopped(self._under_way.values())

    async def _begin(self) -> list[asyncio.Task[TurnResult | None]]:
        left = await self._left()
        for name in self._in_vain.keys() - left - self._under_way.keys():
            del self._in_vain[name]
        for name in left:
            if name not in self._under_way and self._is_due(name):
                task = self._under_way[name] = asyncio.create_task(self._one(name), name=f"resume {name}")
                task.add_done_callback(looked_at)
        return list(self._under_way.values())

    def _is_due(self, name: str) -> bool:
        """Say whether a session is resumed at this look: the more often that was in vain, the rarer."""
        times, passed = self._in_vain.get(name, 0), self._passed_over.pop(name, 0)
        if passed >= min(2**times - 1, MAX_PASSED_OVER):
            return True
        self._passed_over[name] = passed + 1
        return False

    async def _one(self, name: str) -> TurnResult | None:
        self._in_vain[name] = self._in_vain.get(name, 0) + 1
        try:
            async with self._places:
                result = await self._resume(name)
        except StoreClosed:
            raise
        except _QUICKER:
            return None
        except Exception:  # noqa: BLE001  whatever it is: the others are to go on
            _log.exception("Session %r was left unfinished and cannot be resumed.", name)
            return None
        else:
            if result.status != "waiting":
                del self._in_vain[name]
            return result
        finally:
            del self._under_way[name]
