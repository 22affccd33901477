"""Who hears what was kept, and who sees what is on its way. Both only hear: nothing they do changes what happened.

Facts are told after they were kept, in order. Glimpses (pieces of an answer, progress of a tool) are told as they come and never kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from power_agent.events import Envelope, Event
from power_agent.ports import Glimpsed, Listener

_log = logging.getLogger("power_agent")

Onlooker = Callable[[Glimpsed], None]
"""Sees glimpses. It must not block; what it raises is logged and changes nothing."""


class Hooks:
    """The listeners and onlookers of one loop, in the order they came."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners: tuple[tuple[Listener, tuple[type[Event], ...]], ...] = tuple((one, ()) for one in listeners)
        self._onlookers: tuple[Onlooker, ...] = ()

    def add(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Let somebody hear what is kept from now on, of these kinds or of all; returns what ends it."""
        entry = (listener, kinds)
        self._listeners = (*self._listeners, entry)

        def end() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not entry)

        return end

    def remove(self, listener: Listener) -> None:
        """Stop telling somebody, whatever they asked for."""
        self._listeners = tuple(one for one in self._listeners if one[0] != listener)

    def show(self, onlooker: Onlooker) -> Callable[[], None]:
        """Let somebody see glimpses from now on; returns what ends it."""
        self._onlookers = (*self._onlookers, onlooker)

        def end() -> None:
            self._onlookers = tuple(one for one in self._onlookers if one is not onlooker)

        return end

    def tell(self, kept: Iterable[Envelope]) -> None:
        """Tell everybody, in order. One who raises is logged and told the next event all the same."""
        for envelope in kept:
            for listener, kinds in self._listeners:
                if kinds and not isinstance(envelope.event, kinds):
                    continue
                try:
                    listener(envelope)
                except Exception:  # noqa: BLE001  whatever a listener raises, the fact is kept
                    _log.exception("A listener failed at event %s of session %r.", envelope.seq, envelope.session)

    def glimpse(self, seen: Glimpsed) -> None:
        """Show a glimpse to everybody, in the event loop."""
        for onlooker in self._onlookers:
            try:
                onlooker(seen)
            except Exception:  # noqa: BLE001  the same
                _log.exception("An onlooker failed at a glimpse of session %r.", seen.session)

    def glimpser(self) -> Onlooker:
        """Return `glimpse` for use from any thread: tools that run in one report their progress from there."""
        loop = asyncio.get_running_loop()

        def from_anywhere(seen: Glimpsed) -> None:
            if not self._onlookers:
                return
            try:
                here = asyncio.get_running_loop() is loop
            except RuntimeError:
                here = False
            if here:
                self.glimpse(seen)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(self.glimpse, seen)

        return from_anywhere
