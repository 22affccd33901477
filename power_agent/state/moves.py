"""The tables of legal moves: what may happen where. A pair that does not stand here is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Place = Literal["unborn", "idle", "summarising", "ready", "asking", "calling", "closed", "hollow", "erased"]
CallPlace = Literal["requested", "waiting", "approved", "started", "doubted", "succeeded", "failed", "aborted", "denied"]

_ANYTIME = ("session.configured", "session.imported", "owner.changed", "input.received", "note.added", "guard.decided")
_CALL_FACTS = (
    "call.approval_asked",
    "call.approved",
    "call.denied",
    "call.started",
    "call.succeeded",
    "call.failed",
    "call.aborted",
    "call.doubted",
    "call.retried",
)


def _moves(place: Place, **to: tuple[Place, ...]) -> dict[str, tuple[Place, ...]]:
    stays: dict[str, tuple[Place, ...]] = dict.fromkeys(_ANYTIME, (place,))
    return stays | {"session.opened": ("idle",)} | {kind.replace("__", "."): places for kind, places in to.items()}


MOVES: Mapping[Place, Mapping[str, tuple[Place, ...]]] = {
    "unborn": {"session.opened": ("idle",)},
    "idle": _moves(
        "idle",
        turn__started=("ready",),
        model__asked=("summarising",),
        context__compacted=("idle",),
        session__closed=("closed",),
        session__erased=("erased",),
    ),
    "ready": _moves(
        "ready",
        model__asked=("asking", "summarising"),
        context__compacted=("ready",),
        cancel__asked=("ready",),
        turn__ended=("idle",),
    ),
    "asking": _moves(
        "asking",
        model__asked=("asking",),
        model__answered=("ready", "calling"),
        model__failed=("ready",),
        cancel__asked=("asking",),
        turn__ended=("idle",),
    ),
    "calling": _moves("calling", cancel__asked=("calling",)) | dict.fromkeys(_CALL_FACTS, ("calling", "ready")),
    "summarising": _moves(
        "summarising",
        model__asked=("summarising", "asking"),
        model__answered=("idle", "ready"),
        model__failed=("idle", "ready"),
        context__compacted=("idle", "ready"),
        cancel__asked=("summarising",),
        turn__started=("ready",),
        turn__ended=("idle",),
        session__closed=("closed",),
        session__erased=("erased",),
    ),
    "closed": {
        "session.opened": ("idle",),
        "session.imported": ("closed",),
        "owner.changed": ("closed",),
        "session.erased": ("erased",),
    },
    "hollow": {"session.erased": ("erased",)},
    "erased": {},
}
"""Where a session stands → what may happen → where it may stand then. `session.opened` on a living one is a fork's first event;
`hollow` is what the events before a tombstone amount to, once their bodies are gone."""

CALL_MOVES: Mapping[CallPlace, Mapping[str, CallPlace]] = {
    "requested": {
        "call.approval_asked": "waiting",
        "call.started": "started",
        "call.denied": "denied",
        "call.failed": "failed",
        "call.aborted": "aborted",
    },
    "waiting": {
        "call.approved": "approved",
        "call.denied": "denied",
        "call.aborted": "aborted",
        "call.succeeded": "succeeded",
    },
    "approved": {
        "call.started": "started",
        "call.approval_asked": "waiting",
        "call.aborted": "aborted",
    },
    "started": {
        "call.succeeded": "succeeded",
        "call.failed": "failed",
        "call.aborted": "aborted",
        "call.doubted": "doubted",
    },
    "doubted": {
        "call.retried": "doubted",
        "call.started": "started",
        "call.succeeded": "succeeded",
        "call.failed": "failed",
        "call.aborted": "aborted",
    },
    "succeeded": {},
    "failed": {},
    "aborted": {},
    "denied": {},
}
"""The life of one tool call. The four without a way out are its ends."""

RESOLVED: frozenset[CallPlace] = frozenset(place for place, moves in CALL_MOVES.items() if not moves)
