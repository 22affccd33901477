"""What makes a context smaller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from power_agent.events import Trim
from power_agent.messages import Message
from power_agent.word import Word, word


@word(kw_only=True)
class Exchange(Word):
    """A part of a context that is folded away whole or not at all: words, or an answer with the outputs of its calls."""

    first: int
    last: int
    messages: tuple[Message, ...]
    tokens: int


@word(kw_only=True)
class Crowded(Word):
    """A context that has to become smaller: `tokens` now, `room` is what it shall have.

    `exchanges` may be folded away, oldest first, and `summaries` (of what was folded away before) with them; `recent` stays.
    `ask(instructions, text)` asks the model for summaries, whose request may have `ask_room` tokens; what that costs is counted.
    `urgent`: no request can be sent as it stands; outputs among `recent` may be trimmed too.
    """

    session: str
    exchanges: tuple[Exchange, ...]
    recent: tuple[Exchange, ...]
    summaries: tuple[str, ...]
    tokens: int
    room: int
    urgent: bool
    count: Callable[[str], int]
    ask: Callable[[str, str], Awaitable[str]]
    ask_room: int | None = None


@word(kw_only=True)
class Smaller(Word):
    """What a strategy proposes: `summary` in place of everything up to the exchange that ends with `upto`, or outputs to trim."""

    upto: int = 0
    summary: str | None = None
    trimmed: tuple[Trim, ...] = ()


class Strategy(Protocol):
    """A way to make a context smaller. It only proposes: what does not fit the log, or does not help, is not taken.

    What it raises is logged and means that it has nothing to propose. It must not have effects.
    """

    @property
    def name(self) -> str:
        """The name by which the log knows it."""
        ...

    async def __call__(self, crowded: Crowded) -> Smaller | None:
        """Propose something, or nothing."""
        ...
