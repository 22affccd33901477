"""What a model is shown of its surroundings with one request: memory, documents, the time, a working directory.

A provider is a function that says it anew for each request. It is shown as the last part of what the user says, is not kept as
history, and stands in the request's event, so that the log says what the model saw. It has no effects, and what it says is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from power_agent.errors import InvalidInput
from power_agent.givens import listed
from power_agent.limits import BYTES_PER_TOKEN, MAX_SURROUNDINGS_CHARACTERS, SURROUNDINGS_SHARE
from power_agent.messages import Attachment, ContentPart, Message, Text
from power_agent.strategies import shortened
from power_agent.word import Word, word

_log = logging.getLogger("power_agent")


@word(kw_only=True)
class Asked(Word):
    """The request that surroundings are wanted for. `text` is what was said last."""

    session: str
    turn: int
    round: int
    text: str = ""


Shown = str | ContentPart | Sequence[ContentPart] | None
Provider = Callable[[Asked], Shown | Awaitable[Shown]]


def providing(providers: object) -> tuple[Provider, ...]:
    """Return providers as they were handed in, or raise `InvalidInput`."""
    found = listed(providers, "Functions that say what the model is shown", "context")
    for one in found:
        if not callable(one):
            raise InvalidInput(f"{one!r:.100} says nothing: it is no function.", hint="What a model is shown with each request is said by functions, async or not.")
    return found


def parts_of(shown: Any) -> tuple[ContentPart, ...]:
    """Return what a provider said as parts."""
    if shown is None or shown == "":
        return ()
    if isinstance(shown, str):
        return (Text(shown),)
    parts = (shown,) if isinstance(shown, Text | Attachment) else tuple(shown)
    if not all(isinstance(part, Attachment) or (isinstance(part, Text) and isinstance(part.text, str)) for part in parts):
        raise TypeError(f"a provider of context says text or parts, not {shown!r:.100}")
    return parts


def bounded(parts: Sequence[ContentPart], bound: int | None) -> tuple[ContentPart, ...]:
    """Cut texts so that all of them together stay within what surroundings may take."""
    left = MAX_SURROUNDINGS_CHARACTERS if bound is None else min(MAX_SURROUNDINGS_CHARACTERS, int(bound * SURROUNDINGS_SHARE) * BYTES_PER_TOKEN)
    kept = list[ContentPart]()
    for part in parts:
        if isinstance(part, Text):
            text = shortened(part.text, left) if left > 0 else ""
            left -= len(text)
            if text:
                kept.append(Text(text))
        else:
            kept.append(part)
    return tuple(kept)


def failed(provider: Provider, session: str, error: Exception) -> None:
    """Pass a provider over that failed: a request without its words is better than none."""
    _log.warning("The context of %s is not shown to session %r: %s: %s", getattr(provider, "__name__", provider), session, type(error).__name__, error)


def with_surroundings(messages: tuple[Message, ...], parts: tuple[ContentPart, ...]) -> tuple[Message, ...]:
    """Show parts behind everything else, as said by the user."""
    if not parts:
        return messages
    last = messages[-1]
    if last.role == "user":
        return (*messages[:-1], Message("user", (*last.parts, *parts)))
    return (*messages, Message("user", parts))
