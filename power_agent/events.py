"""Everything that can happen, on one page.

An event is a finished fact in the past tense: frozen, without a clock and without chance. Where it stands (session, seq,
epoch, time, hash) is the envelope's business and added by the sink. The name on disk is the literal in the class line and
is stable for ever, like the number that stands for it in a row; renaming a class never breaks a log.

To change the shape of an event, raise its `version` and add a lifter that turns the old JSON into the new; bytes on disk
never change. Fields at their default are not written, so **a default is part of the format**: changing one changes the shape.
Never reuse a name or a number for a new meaning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import JsonValue

from power_agent.errors import IllegalMove, StoreDamaged, StoreNewer
from power_agent.limits import Limits
from power_agent.messages import AnswerPart, ContentPart, OutputShape, Usage
from power_agent.tongue import reader, writer
from power_agent.word import Word, word

Mode = Literal["turn", "queue", "steer"]
Recovery = Literal["rerun", "keyed", "probe", "ask"]
Purpose = Literal["turn", "summary"]
TurnStatus = Literal["completed", "cancelled", "limit", "failed"]
HandOver = Literal["released", "expired", "dead"]
Finish = Literal["stop", "calls", "length", "refused", "filtered", "other"]


@word()
class Event(Word):
    """One fact. `kind` is its name on disk, `code` the number that stands for it in a row."""

    kind: ClassVar[str] = ""
    code: ClassVar[int] = 0
    version: ClassVar[int] = 1


# -- what events are made of -------------------------------------------------------------------------------------------


@word(kw_only=True)
class ToolRef(Word):
    """A tool as the model was shown it: its name and the digest of its description and schema. `foreign`: strangers wrote them."""

    name: str
    digest: str
    foreign: bool = False


@word(kw_only=True)
class Config(Word):
    """What a turn runs with. An open turn keeps the one recorded when it began."""

    model: str | None = None
    system: str | None = None
    tools: tuple[ToolRef, ...] = ()
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    limits: Limits = Limits()
    output: OutputShape | None = None


@word(kw_only=True)
class Parent(Word):
    """Where a session came from. A fork shares the past up to `seq`; a spawned one starts afresh for `call`."""

    relation: Literal["fork", "spawn"]
    session: str
    seq: int
    call: str | None = None


@word(kw_only=True)
class Failure(Word):
    """An error as data: a stable code, what happened, and what else is known."""

    code: str
    message: str
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@word(kw_only=True)
class Cut(Word):
    """Output too large for the context: all of it is in a blob, the model sees head and tail."""

    blob: str
    size: int
    head: str
    tail: str


@word(kw_only=True)
class Trim(Word):
    """An old output that the context now shows as a reference only."""

    call: str
    note: str


# -- the session -------------------------------------------------------------------------------------------------------


@word(kw_only=True)
class SessionOpened(Event):
    """The first event of every session. `nonce` is random: idempotency keys and the salt of every digest come from it. Without a
    `config` a fork goes on with its parent's.
    """

    kind: ClassVar = "session.opened"
    code: ClassVar = 1
    nonce: str
    owner: str
    config: Config | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    parent: Parent | None = None


@word(kw_only=True)
class SessionConfigured(Event):
    """What the next turn runs with, or the session's title. An open turn is not touched; None changes nothing."""

    kind: ClassVar = "session.configured"
    code: ClassVar = 2
    config: Config | None = None
    title: str | None = None
    by: str | None = None


@word(kw_only=True)
class SessionImported(Event):
    """The events before this came from another store. Approvals given there are void; nothing runs by itself."""

    kind: ClassVar = "session.imported"
    code: ClassVar = 3
    tip: str
    source: str | None = None
    by: str | None = None


@word(kw_only=True)
class SessionClosed(Event):
    """No new input; still readable."""

    kind: ClassVar = "session.closed"
    code: ClassVar = 4
    reason: str
    by: str | None = None


@word(kw_only=True)
class SessionErased(Event):
    """The contents before this were destroyed; the chain still verifies. Backups and exports are out of reach."""

    kind: ClassVar = "session.erased"
    code: ClassVar = 5
    reason: str
    by: str | None = None


@word(kw_only=True)
class OwnerChanged(Event):
    """A new owner took the session, at a new epoch: the old one had released it, let its lease run out, or was dead."""

    kind: ClassVar = "owner.changed"
    code: ClassVar = 6
    owner: str
    previous: str | None = None
    why: HandOver


# -- input and turns ---------------------------------------------------------------------------------------------------


@word(kw_only=True)
class InputReceived(Event):
    """Something was said to the agent. Acknowledged means kept; a repeated key is the same input. The turn that begins with it answers
    in the shape `output`, if there is one, else in the one of the configuration.
    """

    kind: ClassVar = "input.received"
    code: ClassVar = 10
    parts: tuple[ContentPart, ...]
    mode: Mode = "turn"
    key: str | None = None
    by: str | None = None
    metadata: Mapping[str, JsonValue] | None = None
    output: OutputShape | None = None


@word(kw_only=True)
class TurnStarted(Event):
    """A turn began with these inputs (by seq), or goes on where turn `continues` stopped."""

    kind: ClassVar = "turn.started"
    code: ClassVar = 11
    turn: int
    inputs: tuple[int, ...] = ()
    continues: int | None = None


@word(kw_only=True)
class TurnEnded(Event):
    """A turn ended; exactly one end for each start. Waiting never ends a turn."""

    kind: ClassVar = "turn.ended"
    code: ClassVar = 12
    turn: int
    status: TurnStatus = "completed"
    reason: str | None = None
    failure: Failure | None = None


@word(kw_only=True)
class NoteAdded(Event):
    """The harness tells the model something, and why. Shown with the next request."""

    kind: ClassVar = "note.added"
    code: ClassVar = 13
    text: str
    why: str


@word(kw_only=True)
class CancelAsked(Event):
    """Somebody wants the turn to end. Any process may ask; the owner obeys."""

    kind: ClassVar = "cancel.asked"
    code: ClassVar = 14
    reason: str
    by: str | None = None


OUTPUT = "output="
"""The guard that is always there when an answer must have a shape; no function has this name."""


@word(kw_only=True)
class GuardDecided(Event):
    """A guard changed or refused something before it happened; `at` names the place, `subject` what it was about."""

    kind: ClassVar = "guard.decided"
    code: ClassVar = 15
    guard: str
    at: Literal["input", "model", "call", "end"]
    verdict: Literal["changed", "refused"]
    reason: str | None = None
    subject: str | None = None
    change: JsonValue = None


# -- the model ---------------------------------------------------------------------------------------------------------


@word(kw_only=True)
class ModelAsked(Event):
    """Intent, kept before any byte is sent. `inputs` are the steering inputs this request is the first to show.

    `prefix_digest` (`prefix.py`) says by what a provider's cache knows the request, before guards change anything of it.
    `untrusted`: some of `context` may have been written by anybody, or strangers describe a tool that came since the turn began.
    """

    kind: ClassVar = "model.asked"
    code: ClassVar = 20
    turn: int
    round: int
    attempt: int = 1
    purpose: Purpose = "turn"
    model: str
    inputs: tuple[int, ...] = ()
    prefix_digest: str | None = None
    reserved_tokens: int = 0
    reserved_cost_nano_usd: int | None = None
    context: tuple[ContentPart, ...] = ()
    untrusted: bool = False


@word(kw_only=True)
class ModelAnswered(Event):
    """A whole answer. One event: a message is never kept without its calls. `model` answered, where it says that it
    is another one than was asked. The cost is in 10⁻⁹ dollars, or unknown.
    """

    kind: ClassVar = "model.answered"
    code: ClassVar = 21
    round: int
    attempt: int = 1
    parts: tuple[AnswerPart, ...]
    format: str | None = None
    finish: Finish = "stop"
    usage: Usage = Usage()
    model: str | None = None
    cost_nano_usd: int | None = None
    price_source: str | None = None


@word(kw_only=True)
class ModelFailed(Event):
    """An attempt came to nothing. With `not_before` (milliseconds of the wall clock) another one follows; without, none.

    `lost` says that nobody knows what it used: what was reserved for it counts.
    """

    kind: ClassVar = "model.failed"
    code: ClassVar = 22
    round: int
    attempt: int = 1
    failure: Failure
    retryable: bool = False
    not_before: int | None = None
    usage: Usage | None = None
    lost: bool = False


# -- calls -------------------------------------------------------------------------------------------------------------


@word(kw_only=True)
class CallEvent(Event):
    """A fact about one call, named by our id."""

    call: str


@word(kw_only=True)
class CallApprovalAsked(CallEvent):
    """A person is asked `question`. `digest` covers exactly what will run. An external call waits for its result instead, of which
    `untrusted` says what it says of a start.
    """

    kind: ClassVar = "call.approval_asked"
    code: ClassVar = 30
    rule: str
    digest: str
    question: str | None = None
    deadline: int | None = None
    external: bool = False
    untrusted: bool = False


@word(kw_only=True)
class CallApproved(CallEvent):
    """A person allowed exactly what the digest covers, once; `rule` is the one that an "always" made."""

    kind: ClassVar = "call.approved"
    code: ClassVar = 31
    digest: str
    by: str
    reason: str | None = None
    rule: str | None = None


@word(kw_only=True)
class CallDenied(CallEvent):
    """A person, a rule or a passed deadline said no. Terminal: it was not run."""

    kind: ClassVar = "call.denied"
    code: ClassVar = 32
    by: str
    reason: str
    digest: str | None = None


@word(kw_only=True)
class CallStarted(CallEvent):
    """Intent, durable before the effect. `digest` covers exactly what will run, where a person was asked or the arguments do not say
    it all. `process` names what runs it where that can be proven dead later. `untrusted`: what it returns may have been written by
    anybody.
    """

    kind: ClassVar = "call.started"
    code: ClassVar = 33
    attempt: int = 1
    recovery: Recovery = "ask"
    idempotency_key: str | None = None
    digest: str | None = None
    process: str | None = None
    untrusted: bool = False


@word(kw_only=True)
class CallSucceeded(CallEvent):
    """Terminal: the effect happened. `output` is the tool's value, `parts` content for the model, `cut` stands for both
    where they were too large. `by` names who handed the result in.
    """

    kind: ClassVar = "call.succeeded"
    code: ClassVar = 34
    attempt: int = 1
    output: JsonValue = None
    parts: tuple[ContentPart, ...] | None = None
    cut: Cut | None = None
    by: str | None = None


@word(kw_only=True)
class CallFailed(CallEvent):
    """Terminal: the tool said so. Before a start: the call itself was wrong (unknown tool, bad arguments)."""

    kind: ClassVar = "call.failed"
    code: ClassVar = 35
    attempt: int = 1
    failure: Failure
    cut: Cut | None = None
    by: str | None = None


@word(kw_only=True)
class CallAborted(CallEvent):
    """Terminal: ended without an outcome."""

    kind: ClassVar = "call.aborted"
    code: ClassVar = 36
    by: str
    reason: str


@word(kw_only=True)
class CallDoubted(CallEvent):
    """Found started without an outcome: it may have happened. Not terminal."""

    kind: ClassVar = "call.doubted"
    code: ClassVar = 37
    attempt: int
    reason: str


@word(kw_only=True)
class CallRetried(CallEvent):
    """A person, or the tool's recovery class, allowed another attempt of a doubted call."""

    kind: ClassVar = "call.retried"
    code: ClassVar = 38
    by: str
    reason: str | None = None


# -- context -----------------------------------------------------------------------------------------------------------


@word(kw_only=True)
class ContextCompacted(Event):
    """From here on the context shows `summary` instead of the events from `from_seq` to `to_seq`. Nothing is rewritten.

    `replaces` names the earlier compactions (by seq) whose summaries are part of this one; `trimmed` old outputs that the
    context now only refers to. Ranges never overlap and never part a call from its output.
    """

    kind: ClassVar = "context.compacted"
    code: ClassVar = 40
    from_seq: int
    to_seq: int
    summary: str | None
    replaces: tuple[int, ...] = ()
    trimmed: tuple[Trim, ...] = ()
    tokens_before: int | None = None
    tokens_after: int | None = None
    strategy: str
    by: str | None = None


# -- the closed union --------------------------------------------------------------------------------------------------

AnyEvent = (
    SessionOpened
    | SessionConfigured
    | SessionImported
    | SessionClosed
    | SessionErased
    | OwnerChanged
    | InputReceived
    | TurnStarted
    | TurnEnded
    | NoteAdded
    | CancelAsked
    | GuardDecided
    | ModelAsked
    | ModelAnswered
    | ModelFailed
    | CallApprovalAsked
    | CallApproved
    | CallDenied
    | CallStarted
    | CallSucceeded
    | CallFailed
    | CallAborted
    | CallDoubted
    | CallRetried
    | ContextCompacted
)

EVENTS: Mapping[str, type[Event]] = {event.kind: event for event in get_args(AnyEvent)}
CODES: Mapping[int, str] = {event.code: event.kind for event in EVENTS.values()}
TERMINAL = frozenset({"call.succeeded", "call.failed", "call.aborted", "call.denied"})
FROM_OUTSIDE = frozenset({"input.received", "cancel.asked", "call.approved", "call.denied", "call.retried", "call.succeeded", "call.failed", "call.aborted"})
"""Facts that a process which does not own the session may append, at the current epoch and head."""


def from_outside(event: Event) -> bool:
    """Say whether a process that does not own the session may append an event; what a guard decided about an input goes with it."""
    return event.kind in FROM_OUTSIDE or (isinstance(event, GuardDecided) and event.at == "input")


class Envelope(NamedTuple):
    """An event and where it stands. `seq` orders a session, `position` the store; `at` (milliseconds) is for display."""

    session: str
    seq: int
    epoch: int
    at: int
    event: Event | None
    hash: bytes = b""
    position: int = 0
    kind: str = ""


# -- to disk and back --------------------------------------------------------------------------------------------------

Lifter = Callable[[dict[str, Any]], dict[str, Any]]
LIFTERS: dict[tuple[str, int], Lifter] = {}
"""(kind, version) → what turns that version's JSON into the next one's."""


@cache
def _reader(kind: str) -> Callable[[str], Event]:
    """Return what reads one kind of event; made when first needed, so that importing stays cheap."""
    return reader(EVENTS[kind])


@cache
def _writer(kind: str) -> Callable[..., bytes]:
    """Return what writes one kind of event; who only reads needs none."""
    return writer(EVENTS[kind])


def encode(event: Event) -> str:
    """Write an event as compact JSON, fields at their default left out. The text that is hashed is the text that is kept."""
    text = _writer(event.kind)(event, exclude_defaults=True, warnings=False).decode()
    return f'{{"v":{event.version},{text[1:]}' if event.version > 1 else text


def decode(kind: str, body: str) -> Event:
    """Read an event as it was kept, lifting an older shape to the current one."""
    known = EVENTS.get(kind)
    if known is None:
        raise StoreNewer(f"The log holds an event of the unknown kind {kind!r}.", kind=kind)
    if known.version > 1 or body.startswith('{"v":'):
        return _lifted(kind, body)
    try:
        return _reader(kind)(body)
    except ValueError as error:
        raise StoreDamaged(f"A {kind} event cannot be read: {_brief(error)}", kind=kind) from error


def _lifted(kind: str, body: str) -> Event:
    import json  # noqa: PLC0415  old shapes are rare

    try:
        data = json.loads(body)
        version, current = data.pop("v", 1), EVENTS[kind].version
        if type(version) is not int:
            raise StoreDamaged(f"A {kind} event cannot be read: its version is {version!r}.", kind=kind)
        if version > current:
            raise StoreNewer(f"The log holds a {kind} event of version {version}; this is version {current}.", kind=kind)
        for step in range(version, current):
            data = LIFTERS[kind, step](data)
        event: Event = _reader(kind)(json.dumps(data))
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise StoreDamaged(f"A {kind} event cannot be read: {_brief(error)}", kind=kind) from error
    return event


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def call_of(event: Event) -> str | None:
    """Return the id of the call that an event is about."""
    return event.call if isinstance(event, CallEvent) else None


def illegal(session: str, kind: str, place: str, why: str) -> IllegalMove:
    """Make the error for a fact that does not follow from what is kept."""
    return IllegalMove(f"{kind} is not possible in session {session!r}: {why}.", session=session, kind=kind, place=place)


for _event in EVENTS.values():  # kinds are compared on every step of a fold
    _event.kind = sys.intern(_event.kind)
