"""A state as text, so that loading a session need not begin with its first event. A cache: it may be thrown away at any time."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

from power_agent.state.shape import SessionState
from power_agent.tongue import reader, writer

FOLD = 5
"""The version of the fold. Raise it when the same events would give another state: cached states of other versions are not used."""


Frozen = tuple[str, SessionState]
"""The hash of the event that a state ends with, which tells whether it belongs to the log it is found beside; and the state."""
_reader, _writer = cache(lambda: reader(Frozen)), cache(lambda: writer(Frozen))
"""What reads and writes that; made when first needed."""


def freeze(state: SessionState, tip: bytes) -> str:
    """Write a state as text; what is as it would be anyway is left out, and costs nothing when it is read."""
    text = _writer()((tip.hex(), state), exclude_defaults=True).decode()
    return sha256(text.encode()).hexdigest() + text


def thaw(text: str, tip: bytes) -> SessionState | None:
    """Read a state back; None when it is unreadable or belongs to another history."""
    try:
        text, digest = text[64:], text[:64]
        if sha256(text.encode()).hexdigest() != digest:
            return None
        found, state = _reader()(text)
    except ValueError:
        return None
    return state if found == tip.hex() else None
