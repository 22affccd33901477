"""What happened, without what was said: the body of an event with every text replaced by a mark.

Kept are the names of fields, numbers, words from closed lists (a status, a mode), our own call ids and the names of tools that
the session was configured with. Free JSON (arguments, outputs, settings, details) becomes one mark, keys and all. Digests and keys
go too: a short text can be guessed from its digest. What is not known to be harmless is not shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from power_agent.events import Finish, HandOver, Mode, Purpose, Recovery, TurnStatus

MARK = "[redacted: {count} characters]"
FREE = frozenset({"arguments", "output", "metadata", "settings", "details", "change"})
"""Fields that hold whatever JSON somebody put there."""
WORDS: dict[str, Collection[str]] = {
    "mode": Mode.__args__,  # type: ignore[attr-defined]
    "recovery": Recovery.__args__,  # type: ignore[attr-defined]
    "purpose": Purpose.__args__,  # type: ignore[attr-defined]
    "status": TurnStatus.__args__,  # type: ignore[attr-defined]
    "finish": Finish.__args__,  # type: ignore[attr-defined]
    "why": HandOver.__args__,  # type: ignore[attr-defined]
    "relation": ("fork", "spawn"),
    "verdict": ("changed", "refused"),
    "at": ("input", "model", "call", "end"),
}
"""Fields that hold a word from a closed list."""
_CALL_ID = re.compile(r"t[0-9]{1,9}r[0-9]{1,9}c[0-9]{1,9}")
_IDS = frozenset({"id", "call", "subject"})


def redacted(body: str, tools: Collection[str]) -> str:
    """Return a body that tells what happened and nothing that was said."""
    return json.dumps(_shown(json.loads(body), "", frozenset(tools)), ensure_ascii=False, separators=(",", ":"))


def _shown(value: Any, name: str, tools: frozenset[str]) -> Any:
    if name in FREE and value is not None:
        return _mark(json.dumps(value))
    if name == "usage":
        return value  # numbers only
    if isinstance(value, dict):
        return {key: _shown(item, key, tools) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item, name, tools) for item in value]
    if not isinstance(value, str):
        return value
    harmless = value in WORDS.get(name, ()) or (name in _IDS and _CALL_ID.fullmatch(value)) or (name == "name" and value in tools)
    return value if harmless else _mark(value)


def _mark(text: str) -> str:
    return MARK.format(count=len(text))
