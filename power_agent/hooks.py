"""Who hears what was kept. Listeners hear after the fact; nothing they do changes what happened."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from power_agent.events import Envelope
from power_agent.ports import Listener

_log = logging.getLogger("power_agent")


class Hooks:
    """The listeners of one loop, in the order they came."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> None:
        """Let somebody hear what is kept from now on."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Stop telling somebody."""
        self._listeners.remove(listener)

    def tell(self, kept: Iterable[Envelope]) -> None:
        """Tell everybody, in order. One who raises is logged and told the next event all the same."""
        for envelope in kept:
            for listener in tuple(self._listeners):
                try:
                    listener(envelope)
                except Exception:  # noqa: BLE001  whatever a listener raises, the fact is kept
                    _log.exception("A listener failed at event %s of session %r.", envelope.seq, envelope.session)
