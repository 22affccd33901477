"""What a person hands in, looked at when something is made of it: a list where there may be several, a function where something is called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from sys import float_info
from typing import Any, TypeGuard

from power_agent.errors import InvalidInput


def listed(given: object, what: str, name: str) -> tuple[Any, ...]:
    """Return what comes in a list. One alone is refused: a list of it was meant."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidInput(f"{what} come in a list, not as {type(given).__name__}.", hint=f"Write {name}=[…].")
    return tuple(given)


def called(given: object, what: str, hint: str) -> None:
    """Refuse what cannot be called, and what would have to be awaited: nobody does."""
    if not callable(given):
        raise InvalidInput(f"{given!r} is no {what}: it is no function.", hint=hint)
    if awaited(given):
        raise InvalidInput(f"{name_of(given)} is no {what}: it is async, and nobody would await it.", hint=hint)


def fitting(given: object, what: str, needs: Collection[str], hint: str) -> None:
    """Refuse what lacks what it would be used by, and the kind of a thing where the thing itself is meant."""
    if isinstance(given, type):
        raise InvalidInput(f"{given.__name__} is a class, and no {what}.", hint=f"Make one: {given.__name__}(…).")
    missing = [name for name in needs if not hasattr(given, name)]
    if missing:
        raise InvalidInput(f"{given!r:.100} is no {what}: it has no {' and no '.join(missing)}.", hint=hint)


def awaited(given: Callable[..., Any]) -> bool:
    """Say whether a call of it only begins when it is awaited."""
    return any(iscoroutinefunction(one) or isasyncgenfunction(one) for one in (given, type(given).__call__))


def yields(given: Callable[..., Any]) -> bool:
    """Say whether a call of it only begins when somebody goes through what it yields."""
    return any(isgeneratorfunction(one) or isasyncgenfunction(one) for one in (given, type(given).__call__))


def name_of(given: object) -> str:
    """Return what a function, or an object that is called, is called by."""
    return str(getattr(given, "__name__", type(given).__name__))


def is_number(value: object) -> TypeGuard[int | float]:
    """Say whether it is a finite number, and not a truth."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max
