"""Between what is said and what is kept: make it storable, reversibly, or refuse it; and cover what is secret, for good.

An event is encoded once. What goes on from here is the event read back from that very text: the state that lives in memory
cannot differ from the one that is folded after a restart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import count
from operator import is_
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from power_agent.errors import EventTooLarge, InvalidInput, StoreDamaged
from power_agent.events import Cut, Event, decode, encode
from power_agent.limits import MAX_ID_CHARACTERS
from power_agent.messages import Attachment, clean_text, restore_text
from power_agent.secrets import Cover
from power_agent.word import Word, names_of, replace

T = TypeVar("T")

Cleaner = Callable[[str], str]
"""Turns one text of an event into the text that is kept. Must be pure and stable: cleaning twice changes nothing more."""


class Clean(NamedTuple):
    """An event as it will be kept, and the text it will be kept as."""

    event: Event
    body: str


def clean(event: Event, cleaners: Sequence[Cleaner] = (), max_bytes: int | None = None, cover: Cover | None = None) -> Clean:
    """Return what will be kept, or raise `InvalidInput` and say why it cannot be. Without a secret in it, `cover` costs one look."""
    for cleaner in cleaners:
        event = _cleaned(event, cleaner)
    body = _encoded(event)
    if cover is not None and (body is None or cover.suspects(body)):
        event = _cleaned(event, cover)
        body = _encoded(event)
    if body is None or "\U0010fffd" in body:
        event = _cleaned(event, clean_text)
        body = _encoded(event)
        if body is None:
            raise InvalidInput(f"A {event.kind} event holds text that is not Unicode.")
    if "NaN" in body or "Infinity" in body:
        _refuse_constants(event.kind, body)
    if max_bytes is not None and len(body) > max_bytes // 4 and (size := len(body.encode())) > max_bytes:
        raise EventTooLarge(f"A {event.kind} event has {size} bytes; {max_bytes} are allowed.", bytes=size, limit=max_bytes)
    try:
        return Clean(decode(event.kind, body), body)
    except StoreDamaged as error:
        raise InvalidInput(f"A {event.kind} event cannot be kept: {error.message}") from error


def _encoded(event: Event) -> str | None:
    """Encode; None means that a lone surrogate is in the way."""
    try:
        return encode(event)
    except UnicodeError:
        return None
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's own error is a ValueError
        if "surrogates" in str(error):
            return None
        raise InvalidInput(f"A {event.kind} event cannot be written as JSON: {' '.join(str(error).split())[:200]}") from error


def _refuse_constants(kind: str, body: str) -> None:
    def refuse(constant: str) -> None:
        raise InvalidInput(f"A {kind} event holds {constant}, which is not JSON.", hint="Replace it by null or a string.")

    try:
        json.loads(body, parse_constant=refuse)
    except ValueError as error:
        raise InvalidInput(f"A {kind} event cannot be kept: {error}") from error


def _cleaned(event: Event, change: Cleaner) -> Event:
    try:
        return _mapped(event, change)  # type: ignore[no-any-return]
    except RecursionError:
        raise InvalidInput(f"A {event.kind} event is nested too deeply.") from None


def storable(value: T) -> T:
    """Return something that is said with its texts as the log has them: to be compared with what was kept, or sent as it will be kept.
    It is not kept so: what is kept is cleaned there, and cleaning twice would change it.
    """
    return _mapped(value, clean_text)  # type: ignore[no-any-return]


def covered(value: T, cover: Cover, blobs: Mapping[str, bytes]) -> tuple[T, dict[str, bytes]]:
    """Return something that is said, and the blobs it names, without secrets. A blob is named by its content: one that changes gets
    another name, and what stands for it shows the beginning and end of what it is now.
    """
    fresh = {digest: cover.bytes(content) for digest, content in blobs.items()}
    changed = {digest: content for digest, content in fresh.items() if content is not blobs[digest]}
    return _mapped(value, cover, changed), {_digest(content) if digest in changed else digest: content for digest, content in fresh.items()}


def as_said(kept: T) -> T:
    """Return what is kept as it was said: cleaned once more, it is the same again."""
    return _mapped(kept, restore_text)  # type: ignore[no-any-return]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _renamed(value: Cut | Attachment, content: bytes) -> Cut | Attachment:
    if isinstance(value, Attachment):
        return replace(value, blob=_digest(content), size=len(content))
    head, tail = len(value.head.encode()), len(value.tail.encode())
    return Cut(blob=_digest(content), size=len(content), head=content[:head].decode(errors="ignore"), tail=content[max(len(content) - tail, 0) :].decode(errors="ignore"))


def _mapped(value: Any, change: Cleaner, blobs: Mapping[str, bytes] = MappingProxyType({})) -> Any:
    """Return a copy with every text changed, keys included, and with other names for blobs that are others now. A number within JSON is a
    text, too, where that is changed: a secret may be one.
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_number(item, change) if type(item) in _NUMBERS else _mapped(item, change, blobs) for item in value]
    if isinstance(value, tuple):
        return type(value)(_mapped(item, change, blobs) for item in value)
    if isinstance(value, Cut | Attachment) and value.blob is not None and value.blob in blobs:
        value = _renamed(value, blobs[value.blob])
    if isinstance(value, Word):
        old = {name: getattr(value, name) for name in names_of(type(value))}
        new = {name: _mapped(one, change, blobs) for name, one in old.items()}
        return value if all(map(is_, new.values(), old.values())) else replace(value, **new)
    if isinstance(value, Mapping):
        return _distinct((_mapped(key, change), _number(item, change) if type(item) in _NUMBERS else _mapped(item, change, blobs)) for key, item in value.items())
    if is_dataclass(value) and not isinstance(value, type):  # somebody else's, in settings or metadata: it is written like a mapping
        return dataclasses.replace(value, **{one.name: _mapped(getattr(value, one.name), change, blobs) for one in fields(value)})
    return value


_NUMBERS = frozenset({int, float})


def _number(value: float, change: Cleaner) -> float | str:
    said = repr(value)
    changed = change(said)
    return value if changed == said else changed


def _distinct(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return items as a mapping; where two keys became the same one, what the second one held is not lost."""
    found: dict[str, Any] = {}
    for key, item in items:
        found[key if key not in found else next(one for one in (f"{key}-{number}" for number in count(2)) if one not in found)] = item
    return found


_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, lone surrogates, line and paragraph separators


def check_id(name: object, what: str = "session id") -> str:
    """Return an id or key that can be stored and printed, or raise `InvalidInput`."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_ID_CHARACTERS or name.startswith("@"):
        raise InvalidInput(f"{name!r} is not a {what}.", hint=f"Use 1 to {MAX_ID_CHARACTERS} characters, no control characters, no leading @.")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in name):
        raise InvalidInput(f"{name!r} is not a {what}.", hint="Control characters and broken Unicode cannot stand in it.")
    return name
