"""What a caller gets back: a turn as it ended or stands, read from the log."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from pydantic import JsonValue

from power_agent import events as e
from power_agent.messages import Call, OutputShape, Usage
from power_agent.ports import Store
from power_agent.sink import opened
from power_agent.state import CallPlace, SessionState
from power_agent.word import Word, replace, word

Status = Literal["completed", "waiting", "cancelled", "limit", "failed"]
WHY: Mapping[str, str] = {
    "requested": "It has not started.",
    "waiting": "It waits for a person.",
    "approved": "It was approved and has not started.",
    "started": "It is running, or its process died.",
    "doubted": "It may have taken effect.",
}
WITHHELD = frozenset({"refused", "filtered"})
"""Ends of an answer that is not what was asked for, though it is whole."""


@word(kw_only=True)
class PendingCall(Word):
    """A call without an outcome: what it is, where it stands, and why."""

    id: str
    tool: str
    arguments: Mapping[str, JsonValue]
    state: CallPlace
    attempt: int
    why: str
    question: str | None = None
    rule: str | None = None
    digest: str | None = None
    deadline: int | None = None
    external: bool = False
    recovery: e.Recovery = "ask"
    """What its tool promised when it started: whatever that is but "ask", a `resume` may settle it without a person."""
    tainted: str | None = None
    """What the model has read by now that anybody may have written, first."""


@word(kw_only=True)
class CallRecord(Word):
    """A call of a turn and what became of it."""

    id: str
    tool: str
    arguments: Mapping[str, JsonValue]
    state: str
    output: JsonValue = None
    attempts: int = 0


@word(kw_only=True)
class TurnResult(Word):
    """A turn. `status` is `waiting` while it is open; `seq` is its last kept event, `input_seq` the input's.

    `reason` says why it ended so: the limit, the failure's code, a cancel's reason; of a turn that is `completed` it is `refused` or `filtered`
    where the model declined to answer or the provider's filter took all or some of the answer away, and None otherwise.

    `shape` is what its answer was asked to be, `output` the answer as a value of that shape, once the turn is completed.
    """

    session_id: str
    turn: int
    status: Status
    text: str
    calls: tuple[CallRecord, ...] = ()
    pending: tuple[PendingCall, ...] = ()
    usage: Usage = Usage()
    seq: int = 0
    input_seq: int = 0
    reason: str | None = None
    failure: e.Failure | None = None
    output: Any = None
    shape: OutputShape | None = None
    cost_nano_usd: int | None = None
    """What its answers cost in 10⁻⁹ dollars, summaries included; None: unknown, because nobody knows it of at least one."""
    price_sources: tuple[str, ...] = ()
    """Who says so."""

    @property
    def cost_usd(self) -> Decimal | None:
        """What it cost in dollars, exactly; None: unknown."""
        return None if self.cost_nano_usd is None else Decimal(self.cost_nano_usd).scaleb(-9)


def pending_of(state: SessionState) -> list[PendingCall]:
    """Return the unresolved calls of a session, in the order the model made them."""
    return [
        PendingCall(
            id=call.call.id,
            tool=call.call.name,
            arguments=call.call.arguments,
            state=call.place,
            attempt=call.attempt,
            why=call.reason or WHY[call.place],
            question=call.question,
            rule=call.rule,
            digest=call.digest,
            deadline=call.deadline,
            external=call.external,
            recovery=call.recovery,
            tainted=None if state.taint is None else state.taint.what,
        )
        for call in state.unresolved
    ]


async def result_of(store: Store, state: SessionState, number: int, input_seq: int = 0) -> TurnResult:
    """Read a turn from the log. Number 0 stands for an input that no turn has taken yet."""
    if number == 0:
        return TurnResult(session_id=state.session, turn=0, status="waiting", text="", pending=tuple(pending_of(state)), seq=state.seq, input_seq=input_seq)
    began = await _began(store, state, number)
    reader = TurnReader(state.session, number, input_seq)
    for record in await store.read(state.session, after=began - 1):
        event = opened(record).event
        if event is not None and reader.take(record.seq, event):
            break
    result = reader.result(state)
    return replace(result, shape=await _shape_of(store, state, number, began))


async def _shape_of(store: Store, state: SessionState, number: int, began: int) -> OutputShape | None:
    """Return the shape that was asked for: by the turn's inputs, by those of the turn that it continues, or by the configuration."""
    if state.turn is not None and state.turn.number == number:
        return state.turn.output
    if state.last is not None and state.last.number == number:
        return state.last.output
    of_config: OutputShape | None = None
    of_input: dict[int, OutputShape | None] = {}
    of_turn: dict[int, OutputShape | None] = {}
    for record in await store.read(state.session, upto=began, kinds=("session.opened", "session.configured", "input.received", "turn.started")):
        match opened(record).event:
            case e.SessionOpened(config=e.Config(output=shape)) | e.SessionConfigured(config=e.Config(output=shape)):
                of_config = shape
            case e.InputReceived(output=shape):
                of_input[record.seq] = shape
            case e.TurnStarted() as start:
                asked = next((of_input[seq] for seq in start.inputs if of_input.get(seq) is not None), None)
                of_turn[start.turn] = asked or of_turn.get(start.continues or 0) or of_config
    return of_turn.get(number)


async def _began(store: Store, state: SessionState, number: int) -> int:
    """Return the seq of a turn's start."""
    if state.turn is not None and state.turn.number == number:
        return state.turn.seq
    if state.last is not None and state.last.number == number:
        return state.last.began
    for record in await store.read(state.session, kinds=("turn.started",)):
        event = opened(record).event
        if isinstance(event, e.TurnStarted) and event.turn == number:
            return record.seq
    return state.seq


class TurnReader:
    """Puts a result together from the events of a turn, as they are kept or as they are read."""

    def __init__(self, session: str, number: int, input_seq: int = 0) -> None:
        self._session = session
        self.number = number
        self._input_seq = input_seq
        self._calls: dict[str, CallRecord] = {}
        self._usage = Usage()
        self._cost: int | None = None
        self._unpriced = False
        self._sources: dict[str, None] = {}
        self._text = ""
        self._cut = False
        self._withheld: str | None = None
        self._summary = False
        self._end: e.TurnEnded | None = None
        self._seq = 0
        self.inputs: set[int] = set()

    def take(self, seq: int, event: e.Event) -> bool:
        """Take one event, once; True when it ended the turn."""
        if seq <= self._seq:
            return False
        self._seq = seq
        match event:
            case e.TurnStarted(inputs=inputs):
                self.inputs.update(inputs)
                self._input_seq = self._input_seq or min(inputs, default=0)
            case e.ModelAsked(purpose=purpose, inputs=inputs):
                self.inputs.update(inputs)
                self._summary = purpose == "summary"
            case e.ModelAnswered():
                self._usage += event.usage
                self._unpriced |= event.cost_nano_usd is None
                self._cost = (self._cost or 0) + (event.cost_nano_usd or 0)
                self._sources |= {event.price_source: None} if event.price_source is not None else {}
                if not self._summary:
                    self._answered(event)
            case e.NoteAdded(why=e.OUTPUT):
                self._cut = False  # the whole is said again
            case e.TurnEnded(turn=self.number):
                self._end = event
                return True
            case e.CallEvent():
                self._called(event)
        return False

    def _answered(self, event: e.ModelAnswered) -> None:
        text = "".join(part.text for part in event.parts if hasattr(part, "text"))
        self._text = self._text + text if self._cut else text
        self._withheld = event.finish if event.finish in WITHHELD else None
        self._cut = event.finish == "length" and not any(isinstance(part, Call) for part in event.parts)  # the next one goes on with it
        for part in event.parts:
            if isinstance(part, Call):
                self._calls[part.id] = CallRecord(id=part.id, tool=part.name, arguments=part.arguments, state="requested")

    def _called(self, event: e.CallEvent) -> None:
        known = self._calls.get(event.call)
        if known is None:
            return
        output = event.output if isinstance(event, e.CallSucceeded) else event.failure.message if isinstance(event, e.CallFailed) else None
        attempts = event.attempt if isinstance(event, e.CallStarted) else known.attempts
        state = {"call.approval_asked": "waiting", "call.retried": known.state}.get(event.kind, event.kind.removeprefix("call."))
        self._calls[event.call] = CallRecord(id=known.id, tool=known.tool, arguments=known.arguments, state=state, output=output, attempts=attempts)

    def result(self, state: SessionState | None = None) -> TurnResult:
        """Return the turn; of one that is open, the state says what is pending."""
        end = self._end
        return TurnResult(
            session_id=self._session,
            turn=self.number,
            status="waiting" if end is None else end.status,
            text=self._text,
            calls=tuple(self._calls.values()),
            pending=() if end is not None or state is None else tuple(pending_of(state)),
            usage=self._usage,
            seq=self._seq if end is not None or state is None else state.seq,
            input_seq=self._input_seq,
            reason=None if end is None else end.reason or (self._withheld if end.status == "completed" else None),
            failure=end.failure if end is not None else None,
            cost_nano_usd=None if self._unpriced else self._cost,
            price_sources=tuple(self._sources),
        )
