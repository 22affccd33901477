"""Guards: they look before something happens, and may change or refuse it. What they decide is kept.

    input   before an input is kept           Incoming → Change(to=parts) | Refuse(reason)
    model   before a request leaves           Asking   → Change(to={"system": …, "settings": …}) | Refuse(reason)
    call    before a tool runs                Wanted   → Change(to=arguments) | Refuse(reason)
    end     before a turn ends as completed   Ending   → Refuse(reason): the reason goes back to the model, a bounded number of times

A guard is a function, async or not, that takes one of these and returns None to let it pass. `@guard("input")` says what it guards;
without it a function guards calls. It must not have effects and must say the same of the same thing: it may be asked again after a
restart. One that raises refuses, because what could not be looked at does not happen; only at the end of a turn it is passed over.
One that awaits and hangs is stopped when the turn is cancelled or its time is over, and what it guards does not happen; one that guards
inputs, when it takes longer than `max_turn_seconds`, or the loop is closed. What is not async runs in the event loop, as policies do: it must not
block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args

from power_agent.errors import InvalidInput
from power_agent.givens import listed
from power_agent.messages import ContentPart
from power_agent.policy import Change, GuardVerdict, Refuse
from power_agent.ports import ModelRequest
from power_agent.word import Word, word

Place = Literal["input", "model", "call", "end"]
AnyGuard = Callable[[Any], GuardVerdict | Awaitable[GuardVerdict]]
G = TypeVar("G", bound=AnyGuard)

CHANGEABLE = frozenset({"system", "settings"})
"""What a guard may change in a request; the messages are the log's."""


@word(kw_only=True)
class Incoming(Word):
    """An input that is about to be kept."""

    session: str
    parts: tuple[ContentPart, ...]
    by: str | None = None


@word(kw_only=True)
class Asking(Word):
    """A request that is about to leave."""

    session: str
    turn: int
    round: int
    attempt: int
    request: ModelRequest


@word(kw_only=True)
class Ending(Word):
    """A turn that is about to end as completed. `objections` counts how often guards have held it up already."""

    session: str
    turn: int
    text: str
    rounds: int
    objections: int


def guard(place: Place) -> Callable[[G], G]:
    """Say what a function guards."""
    if place not in get_args(Place):
        raise InvalidInput(f"There is nothing to guard at {place!r}.", hint=f"The places are: {', '.join(get_args(Place))}.")

    def marked(function: G) -> G:
        function.guards = place  # type: ignore[attr-defined]
        return function

    return marked


class Guards:
    """The guards of one loop, by place, in the order they came."""

    def __init__(self, guards: Iterable[AnyGuard] = ()) -> None:
        self._at: dict[str, tuple[AnyGuard, ...]] = {}
        for one in listed(guards, "Guards", "guards"):
            if not callable(one):
                raise InvalidInput(f"{one!r} guards nothing: it is no function.", hint="A guard is a function of what it looks at.")
            place = getattr(one, "guards", "call")
            self._at[place] = (*self._at.get(place, ()), one)

    def at(self, place: Place) -> tuple[AnyGuard, ...]:
        """Return who guards a place."""
        return self._at.get(place, ())


def settled(verdict: object, place: Place) -> GuardVerdict:
    """Turn what a guard came to into a verdict that can be obeyed: nonsense and errors refuse."""
    if isinstance(verdict, Exception):
        return Refuse(f"the guard itself failed: {type(verdict).__name__}: {verdict}")
    if verdict is None or isinstance(verdict, Refuse):
        return verdict
    if not isinstance(verdict, Change):
        return Refuse(f"the guard answered {verdict!r}, which is no verdict")
    if place == "model" and (not isinstance(verdict.to, Mapping) or not CHANGEABLE.issuperset(verdict.to)):
        return Refuse(f"the guard wanted to change what it may not: only {', '.join(sorted(CHANGEABLE))} of a request can be changed")
    if place == "call" and not isinstance(verdict.to, Mapping):
        return Refuse("the guard changed the arguments into something that is not a mapping")
    if place == "end":
        return None
    return verdict
