"""Who hears what was kept, and who sees what is on its way. Both only hear: nothing they do changes what happened.

Facts are told after they were kept, in order. Glimpses (pieces of an answer, progress of a tool) are told as they come and never kept.
Of a glimpse that may be the beginning of a secret the rest is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from power_agent.events import TERMINAL, Envelope, Event, call_of
from power_agent.givens import called, listed
from power_agent.ports import Glimpsed, Listener
from power_agent.secrets import Flow, Secrets
from power_agent.word import replace

H = TypeVar("H", bound=Callable[..., None])
_log = logging.getLogger("power_agent")

Onlooker = Callable[[Glimpsed], None]
"""Sees glimpses. It must not block; what it raises is logged and changes nothing."""


class Hooks:
    """The listeners and onlookers of one loop, in the order they came."""

    def __init__(self, listeners: Iterable[Listener] = (), secrets: Secrets | None = None) -> None:
        self._listeners: tuple[tuple[Listener, tuple[type[Event], ...]], ...] = tuple((hearing(one), ()) for one in listed(listeners, "Listeners", "listeners"))
        self._onlookers: tuple[Onlooker, ...] = ()
        self._screen = Screen(secrets) if secrets else None

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

    def tell(self, kept: Envelope) -> None:
        """Tell everybody, in order. One who raises is logged and told the next event all the same."""
        if self._screen is not None and self._screen.holds_back:
            for seen in self._screen.settled(kept):
                self._show(seen)
        for listener, kinds in self._listeners:
            if kinds and not isinstance(kept.event, kinds):
                continue
            try:
                listener(kept)
            except (Exception, SystemExit, asyncio.CancelledError):  # noqa: BLE001  whatever a listener raises, the fact is kept and the loop goes on
                _log.exception("A listener failed at event %s of session %r.", kept.seq, kept.session)

    def glimpse(self, seen: Glimpsed) -> None:
        """Show a glimpse to everybody, in the event loop."""
        for shown in (seen,) if self._screen is None else self._screen.take(seen):
            self._show(shown)

    def _show(self, seen: Glimpsed) -> None:
        for onlooker in self._onlookers:
            try:
                onlooker(seen)
            except (Exception, SystemExit, asyncio.CancelledError):  # noqa: BLE001  the same
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


def hearing(one: H) -> H:
    """Return what was handed in to hear or see, or raise `InvalidInput`: nobody would wait for it."""
    called(one, "listener", "Pass a plain function of what is told; it must not block. One that has to wait puts what it hears into a queue, or uses watch().")
    return one


STREAMS = 1_000
"""Of so many answers and calls at once a rest is held back; of more, the oldest is let go unseen."""


class Screen:
    """Covers glimpses. What was held back of a stream is shown before the fact that ends it, or before the next stream of its maker."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._open: dict[tuple[str, str | None], tuple[Glimpsed, Flow]] = {}

    def take(self, seen: Glimpsed) -> Iterator[Glimpsed]:
        """Yield what can be shown now."""
        maker = (seen.session, seen.call)
        last, flow = self._open.get(maker, (seen, None))
        if flow is not None and seen.kind == "void":
            del self._open[maker]  # nothing of it counts
        elif flow is not None and (last.kind, last.turn, last.round, last.attempt) != (seen.kind, seen.turn, seen.round, seen.attempt):
            yield from self._ended(maker)
            flow = None
        if seen.kind in {"void", "skipped"}:
            yield replace(seen, text=self._secrets.cover(seen.text))
            return
        flow = flow or self._secrets.flow()
        self._open[maker] = (seen, flow)
        if len(self._open) > STREAMS:
            del self._open[next(iter(self._open))]
        if text := flow.feed(seen.text):
            yield replace(seen, text=text)

    @property
    def holds_back(self) -> bool:
        """Whether the end of any stream is still waited for."""
        return bool(self._open)

    def settled(self, kept: Envelope) -> Iterator[Glimpsed]:
        """Yield what was held back of that which a fact tells whole."""
        if kept.kind in {"model.answered", "model.failed"}:
            yield from self._ended((kept.session, None))
        elif kept.kind in TERMINAL and kept.event is not None:
            yield from self._ended((kept.session, call_of(kept.event)))

    def _ended(self, maker: tuple[str, str | None]) -> Iterator[Glimpsed]:
        last, flow = self._open.pop(maker, (None, None))
        if last is not None and flow is not None and (text := flow.end()):
            yield replace(last, text=text)
