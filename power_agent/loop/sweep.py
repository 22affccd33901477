"""Everything that was left: taken up side by side, so many at once, and again where the dead cannot be told from the living."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from power_agent.drive.tasks import looked_at, own_failure, stopped
from power_agent.errors import NothingToResume, OwnershipLost, SessionBusy, SessionClosed, SessionErased, StoreClosed
from power_agent.limits import MAX_PASSED_OVER, MAX_RESUMED_AT_ONCE
from power_agent.ports import SessionRow
from power_agent.results import TurnResult

_QUICKER = (SessionBusy, OwnershipLost, NothingToResume, SessionClosed, SessionErased)
"""Somebody else did something about it meanwhile."""
_log = logging.getLogger("power_agent")


class _Vain(NamedTuple):
    """How often a session was resumed without getting anywhere, where its log ended then, and at how many looks it was passed over since."""

    head: int
    times: int = 0
    passed: int = 0


class Sweep:
    """Resumes sessions, each once at a time. One that cannot be resumed keeps nobody from the others: the log of the program is told.

    Where that changed nothing (a probe that does not know, say), a session is passed over at the next look, then at three, at seven: each
    attempt stands in the log, and what it waits for may take weeks. When somebody adds to its log, it is due at once.
    """

    def __init__(self, left: Callable[[], Awaitable[list[SessionRow]]], resume: Callable[[str], Awaitable[TurnResult]], pause: Callable[[float], Awaitable[object]]) -> None:
        self._left = left
        self._resume = resume
        self._pause = pause
        self._places = asyncio.Semaphore(MAX_RESUMED_AT_ONCE)
        self._under_way: dict[str, asyncio.Task[TurnResult | None]] = {}
        self._vain: dict[str, _Vain] = {}

    async def once(self) -> list[TurnResult]:
        """Resume what is left now, and wait for it."""
        try:
            tasks = await self._begin()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await stopped(self._under_way.values())
        return [result for task in tasks if (result := task.result()) is not None]

    async def until_closed(self, seconds: float) -> None:
        """Look again and again, however long what was resumed before takes."""
        try:
            while True:
                try:
                    await self._begin()
                except StoreClosed:
                    raise
                except Exception:  # noqa: BLE001  a disk may recover
                    _log.exception("What was left unfinished could not be looked for; it is tried again in %g s.", seconds)
                await self._pause(seconds)
        except StoreClosed:
            return
        finally:
            await stopped(self._under_way.values())

    async def _begin(self) -> list[asyncio.Task[TurnResult | None]]:
        left = await self._left()
        for name in self._vain.keys() - {row.session for row in left} - self._under_way.keys():
            del self._vain[name]
        for row in left:
            if row.session not in self._under_way and self._is_due(row):
                task = self._under_way[row.session] = asyncio.create_task(self._one(row), name=f"resume {row.session}")
                task.add_done_callback(looked_at)
        return list(self._under_way.values())

    def _is_due(self, row: SessionRow) -> bool:
        """Say whether a session is resumed at this look: the more often that was in vain, the rarer."""
        vain = self._vain.get(row.session)
        if vain is None or vain.head != row.head or vain.passed >= min(2**vain.times - 1, MAX_PASSED_OVER):
            return True
        self._vain[row.session] = _Vain(vain.head, vain.times, vain.passed + 1)
        return False

    async def _one(self, row: SessionRow) -> TurnResult | None:
        name, result = row.session, None
        try:
            async with self._places:
                with own_failure():
                    result = await self._resume(name)
        except StoreClosed:
            raise
        except _QUICKER:
            pass
        except Exception:  # noqa: BLE001  whatever it is: the others are to go on
            _log.exception("Session %r was left unfinished and cannot be resumed.", name)
        finally:
            del self._under_way[name]
        before = self._vain.pop(name, None)
        if result is None or result.status == "waiting":
            head = row.head if result is None else result.seq
            self._vain[name] = _Vain(head, 1 if before is None or before.head != row.head else before.times + 1)
        return result
