"""One more event, and the state after it.

`evolve(state, envelope)` is pure and total: it returns a new state or raises `IllegalMove` and changes nothing. The tables say
whether a fact may follow; what a pair of names cannot say (is it the right attempt, the approved digest, an input nobody took)
is demanded beside the move it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from power_agent import events as e
from power_agent.chain import fence
from power_agent.events import Envelope, Mode, Parent
from power_agent.messages import Call
from power_agent.ports import Tried
from power_agent.state import habits
from power_agent.state.found import SEARCH, with_found
from power_agent.state.moves import CALL_MOVES, MOVES, RESOLVED, Place
from power_agent.state.shape import (
    Answered,
    CallState,
    Cancel,
    Entry,
    Input,
    LastTurn,
    Measured,
    Outcome,
    Request,
    Returned,
    Said,
    SessionState,
    Setback,
    Summed,
    Taint,
    Told,
    Transcript,
    Turn,
)
from power_agent.word import replace

TOO_LONG = "context_too_long"
"""The code of a failure that a compaction may mend (`errors.ContextTooLong`)."""


class _Refused(Exception):
    """Why a fact does not follow."""


def _demand(truth: object, why: str) -> None:
    """Refuse unless it holds. Reasons that have to be put together stand behind an `if` instead: a fold asks for them often."""
    if not truth:
        raise _Refused(why)


def _set(draft: SessionState, **changes: Any) -> SessionState:
    """Change a draft. Only `evolve` and `fold` make drafts, and nobody else has seen them."""
    draft.__dict__.update(changes)
    return draft


def evolve(state: SessionState, kept: Envelope) -> SessionState:
    """Return the state after one more event, or raise `IllegalMove`. The state that was handed in is not changed."""
    draft = state.moved()
    _step(draft, kept, draft.place)
    return draft


def fold(envelopes: Iterable[Envelope], state: SessionState | None = None) -> SessionState:
    """Return the state that a history amounts to, beginning with nothing or with the state of an earlier part.

    The same as `evolve` for each event; one draft serves for all, because nobody sees the states between.
    """
    draft = SessionState("") if state is None else state.moved()
    place = draft.place
    for kept in envelopes:
        place = _step(draft, kept, place)
    return draft


def _step(draft: SessionState, kept: Envelope, before: Place) -> Place:
    """Change a draft by one event; returns where it stands then. After a refusal the draft is void."""
    event = kept.event
    kind = kept.kind if event is None else event.kind
    try:
        if kept.seq != draft.seq + 1:
            raise _Refused(f"it has seq {kept.seq} after {draft.seq}")
        if draft.seq and kept.session != draft.session and kind != "session.opened" and event is not None:
            raise _Refused(f"it is of session {kept.session!r}")
        if event is None:
            _hollow(draft, kept)
            return draft.place
        allowed = MOVES[before].get(kind)
        if allowed is None:
            raise _Refused(f"the session is {before}")
        if kept.epoch != draft.epoch and kind not in {"session.opened", "owner.changed"}:
            raise _Refused(f"it has epoch {kept.epoch} in epoch {draft.epoch}")
        _HANDLERS[kind](draft, event, kept)
        fields = draft.__dict__
        fields["seq"], fields["epoch"], fields["at"] = kept.seq, kept.epoch, kept.at
        after = draft.place
        if after not in allowed:
            raise _Refused(f"it would lead to {after}")
    except _Refused as refused:
        raise e.illegal(kept.session, kind, before, str(refused)) from None
    return after


def _hollow(draft: SessionState, kept: Envelope) -> None:
    """Pass over an event whose body was erased; only the tombstone may follow."""
    _demand(not draft.erased, "the session is erased")
    _set(draft, **SessionState(kept.session, kept.seq, kept.epoch, kept.at, hollow=True).__dict__)


def _opened(state: SessionState, event: e.SessionOpened, kept: Envelope) -> SessionState:
    fork = event.parent is not None and event.parent.relation == "fork"
    _demand(kept.epoch == 1, "a session begins with epoch 1")
    if not state.seq:
        _demand(not fork, "a fork begins behind its parent's events")
        return _set(state, session=kept.session, owner=event.owner, nonce=event.nonce, config=event.config or e.Config(), parent=event.parent)
    _demand(fork and event.parent is not None, "it is open already")
    if cast("Parent", event.parent).seq != state.seq:
        raise _Refused(f"it begins behind seq {cast('Parent', event.parent).seq}, not {state.seq}")
    _demand(kept.session != state.session, "a fork needs an id of its own")
    return _set(_branched(state), session=kept.session, owner=event.owner, nonce=event.nonce, config=event.config or state.config, parent=event.parent)


def _branched(state: SessionState) -> SessionState:
    """Leave behind what belongs to the parent: unresolved calls, untaken inputs, the open request, the open turn."""
    transcript = state.transcript
    if state.calls:
        left = tuple(call if call.resolved else call.moved(place="aborted", outcome=Outcome(touched=True, left=True)) for call in state.calls.values())
        transcript = transcript.add(Returned(state.seq, state.answer_seq, left))
    last, spent = state.last, state.spent
    if state.turn is not None:
        turn = state.turn
        ms = turn.ms_before + state.at - turn.started_at
        last = LastTurn(turn.number, "forked", state.seq, turn.rounds_before + turn.round, state.turn_spent, began=turn.seq, ms=ms, about=turn.about, output=turn.output)
    return _set(state, transcript=transcript, last=last, spent=spent, turn=None, calls={}, inputs=(), notes=(), request=None, setback=None, cancel=None, closed=False, parked=False)


def _configured(state: SessionState, event: e.SessionConfigured, _: Envelope) -> SessionState:
    measured = state.measured if event.config is None or event.config == state.config else Measured()  # another prompt weighs something else
    return _set(state, config=event.config or state.config, title=event.title if event.title is not None else state.title, measured=measured)


def _imported(state: SessionState, _event: e.SessionImported, _: Envelope) -> SessionState:
    void = {
        name: call.moved(place="requested", digest=None, rule=None, deadline=None)
        if call.place == "approved" or (call.place == "waiting" and not call.external)
        else call.moved(permitted_by=None)
        for name, call in state.calls.items()
    }
    return _set(state, calls=void)


def _closed(state: SessionState, _event: e.SessionClosed, _: Envelope) -> SessionState:
    _demand(state.turn is None, "a turn is open")
    return _set(state, closed=True, request=None)


def _erased(state: SessionState, _event: e.SessionErased, _: Envelope) -> SessionState:
    _demand(state.turn is None, "a turn is open")
    return _set(state, **SessionState(state.session, hollow=True, erased=True).__dict__)  # what a reader of the tombstone has, no more


def _owner(state: SessionState, event: e.OwnerChanged, kept: Envelope) -> SessionState:
    if kept.epoch != state.epoch + 1:
        raise _Refused(f"epoch {kept.epoch} cannot follow {state.epoch}")
    return _set(state, owner=event.owner)


def _input(state: SessionState, event: e.InputReceived, kept: Envelope) -> SessionState:
    _demand(event.parts, "there is nothing in it")
    return _set(state, inputs=(*state.inputs, Input(kept.seq, event.mode, event.parts, event.key, event.output)), parked=state.parked and event.mode != "turn")


def _take(state: SessionState, seqs: tuple[int, ...], modes: tuple[Mode, ...], at: int) -> tuple[tuple[Input, ...], tuple[Entry, ...]]:
    """Take inputs: what is left, and what the model will see."""
    if not seqs:
        return state.inputs, ()
    taken = []
    for seq in seqs:
        found = next((item for item in state.inputs if item.seq == seq), None)
        if found is None or found.mode not in modes:
            raise _Refused(f"input {seq} is not waiting")
        taken.append(found)
    _demand(len(set(seqs)) == len(seqs), "it takes an input twice")
    left = tuple(item for item in state.inputs if item.seq not in seqs)
    return left, tuple(Said(at, item.seq, item.parts) for item in taken)


def _turn_started(state: SessionState, event: e.TurnStarted, kept: Envelope) -> SessionState:
    if event.turn != state.turns + 1:
        raise _Refused(f"turn {event.turn} cannot follow turn {state.turns}")
    _demand(event.inputs or event.continues, "it has neither an input nor a turn to continue")
    state = _with_lost(state)
    left, said = _take(state, event.inputs, ("turn", "queue", "steer"), kept.seq)
    rounds, ms, spent, about = 0, 0, state.spent, event.inputs
    output = next((item.output for item in state.inputs if item.seq in event.inputs and item.output is not None), None)
    if event.continues is not None:
        if state.last is None or state.last.number != event.continues:
            raise _Refused(f"turn {event.continues} is not the last one")
        before = state.last
        rounds, ms, spent, about = before.rounds, before.ms, state.spent.since(before.spent), before.about + event.inputs
        output = output or before.output
    turn = Turn(event.turn, kept.seq, kept.at, state.config, event.inputs, event.continues, rounds_before=rounds, ms_before=ms, before=spent, about=about)
    turn = turn.moved(output=output or state.config.output) if output or state.config.output else turn
    return _set(state, turns=event.turn, turn=turn, inputs=left, transcript=state.transcript.add(*said), request=None, setback=None, parked=False)


def _turn_ended(state: SessionState, event: e.TurnEnded, kept: Envelope) -> SessionState:
    turn = cast("Turn", state.turn)
    if state.turn is None or event.turn != turn.number:
        raise _Refused(f"turn {event.turn} is not open")
    _demand(not state.calls, "calls are unresolved")
    lost = _with_lost(state)
    ms = turn.ms_before + kept.at - turn.started_at
    last = LastTurn(turn.number, event.status, kept.seq, turn.rounds_before + turn.round, lost.turn_spent, event.reason, turn.seq, ms, turn.about, turn.output)
    return _set(lost, turn=None, last=last, request=None, setback=None, cancel=None, parked=event.status in {"cancelled", "limit"})


def _note(state: SessionState, event: e.NoteAdded, kept: Envelope) -> SessionState:
    if state.turn is not None:
        state = _set(state, turn=state.turn.moved(habits=habits.told(state.turn.habits, event.why, state.turn.round)))
    return _set(state, notes=(*state.notes, Told(kept.seq, event.text)))


def _cancel(state: SessionState, event: e.CancelAsked, _: Envelope) -> SessionState:
    _demand(state.turn is not None, "no turn is open")
    return _set(state, cancel=state.cancel or Cancel(event.reason, event.by))


def _guard(state: SessionState, event: e.GuardDecided, _: Envelope) -> SessionState:
    if event.at == "end" and event.verdict == "refused" and state.turn is not None:
        if event.guard == e.OUTPUT:
            return _set(state, turn=state.turn.moved(misshapen=state.turn.misshapen + 1))
        return _set(state, turn=state.turn.moved(objections=state.turn.objections + 1))
    if event.at != "call" or event.verdict != "changed":
        return state
    call = state.calls.get(event.subject or "")
    if call is None or call.place != "requested" or not isinstance(event.change, dict):
        raise _Refused(f"call {event.subject} cannot be changed any more")
    changed = call.moved(call=replace(call.call, arguments=event.change))
    return _set(state, calls={**state.calls, call.call.id: changed})


def _with_lost(state: SessionState) -> SessionState:
    """Count what an unanswered request reserved as spent: nobody will ever know."""
    if state.request is None:
        return state
    return _set(state, spent=state.spent.lost(state.request))


def _asked(state: SessionState, event: e.ModelAsked, kept: Envelope) -> SessionState:
    _demand(state.cancel is None, "the turn is cancelled")
    state = _with_lost(state)
    turn, transcript, left, notes = state.turn, state.transcript, state.inputs, state.notes
    if event.purpose == "turn":
        _demand(turn is not None, "no turn is open")
        turn = cast("Turn", turn)
        expected = (turn.round + 1, 1) if turn.answered else (turn.round, turn.attempt + 1)
        if event.turn != turn.number or (event.round, event.attempt) != expected:
            raise _Refused(f"round {expected[0]}, attempt {expected[1]} is next")
        left, said = _take(state, event.inputs, ("steer",), kept.seq)
        transcript, notes = transcript.add(*said, *(Told(kept.seq, note.text) for note in notes)), ()
        turn = turn.moved(round=event.round, attempt=event.attempt, answered=False, tried=turn.tried if event.attempt > 1 else ())
        foreign = [f"the description of {tool.name}" for tool in turn.config.tools if tool.foreign][:1] if state.taint is None else []
        state = _tainted(state, kept.seq, [*foreign, *(["what it was shown beside the log"] if event.untrusted else [])])
    else:
        _demand(not event.inputs, "a summary takes no input")
        open_summary = state.request or state.setback
        attempt = open_summary.attempt + 1 if open_summary is not None and open_summary.purpose == "summary" else 1
        if event.attempt != attempt:
            raise _Refused(f"attempt {attempt} is next")
    request = Request(kept.seq, event.purpose, event.round, event.attempt, event.reserved_tokens, event.reserved_cost_nano_usd or 0, event.model)
    return _set(state, turn=turn, transcript=transcript, inputs=left, notes=notes, request=request, setback=None)


def _tainted(state: SessionState, seq: int, what: list[str]) -> SessionState:
    """Remember that the model sees what anybody may have written. Nothing takes that back, a compaction least of all: it sums it up."""
    if not what:
        return state
    before = state.taint
    return _set(state, taint=Taint(what[0], seq, len(what)) if before is None else replace(before, times=before.times + len(what)))


def _of_request(state: SessionState, event: e.ModelAnswered | e.ModelFailed) -> Request:
    request = cast("Request", state.request)
    if event.round != request.round or event.attempt != request.attempt:
        raise _Refused(f"round {request.round}, attempt {request.attempt} is open")
    return request


def _answered(state: SessionState, event: e.ModelAnswered, kept: Envelope) -> SessionState:
    request = _of_request(state, event)
    spent = state.spent.paid(event)
    if request.purpose == "summary":
        return _set(state, request=None, setback=None, spent=spent)
    before = cast("Turn", state.turn)
    turn = before.moved(answered=True, habits=habits.answered(before.habits, event))
    made = [part for part in event.parts if isinstance(part, Call)]
    if made:
        prefix = f"t{turn.number}r{turn.round}c"
        if [call.id for call in made] != [f"{prefix}{number}" for number in range(1, len(made) + 1)]:
            raise _Refused(f"its calls are not named {prefix}1 and so on")
    transcript = state.transcript.add(Answered(kept.seq, event.parts, event.format))
    calls = {call.id: CallState(call) for call in made}
    measured = Measured(kept.seq, event.usage.input + event.usage.output) if event.usage.input else state.measured
    state = _set(state, request=None, setback=None, turn=turn, spent=spent, replies=state.replies + 1, measured=measured, answered_by=request.model)
    return _set(state, transcript=transcript, calls=calls, answer_seq=kept.seq)


def _failed(state: SessionState, event: e.ModelFailed, kept: Envelope) -> SessionState:
    request = _of_request(state, event)
    setback = Setback(request.purpose, request.attempt, event.failure, event.retryable, event.not_before, kept.at)
    state = _set(state, replies=state.replies + (request.purpose == "turn"))
    spent = state.spent.lost(request) if event.lost else state.spent
    spent = spent if event.usage is None else spent.moved(usage=spent.usage + event.usage)
    turn = state.turn
    if turn is not None and request.purpose == "turn":
        too_long = event.failure.code == TOO_LONG
        turn = turn.moved(overfull=True) if too_long else turn.moved(tried=(*turn.tried, Tried(model=request.model, final=not event.retryable)))
    return _set(state, request=None, setback=setback, spent=spent, turn=turn)


def _compacted(state: SessionState, event: e.ContextCompacted, kept: Envelope) -> SessionState:
    if not event.from_seq <= event.to_seq <= state.seq:
        raise _Refused(f"{event.from_seq} to {event.to_seq} is not in the past")
    _demand(event.summary is not None or event.trimmed, "it changes nothing")
    notes = {trim.call: trim.note for trim in event.trimmed}
    state = _with_lost(state)
    setback = state.setback if state.setback is not None and state.setback.purpose == "turn" else None
    if state.turn is not None and state.turn.overfull:
        state, setback = _set(state, turn=state.turn.moved(overfull=False)), None
    state = _set(state, measured=Measured(kept.seq, event.tokens_after or 0), compactions=state.compactions + 1)
    transcript = Transcript(_trimmed(entry, notes) for entry in state.transcript) if notes else state.transcript
    if event.summary is None:
        return _set(state, transcript=transcript, request=None, setback=setback)
    if state.compacted_to >= event.from_seq:
        raise _Refused(f"everything up to {state.compacted_to} is folded already")
    summed = Summed(kept.seq, event.from_seq, event.to_seq, event.summary)
    return _set(state, transcript=_summed_up(transcript, summed, event.replaces), compacted_to=event.to_seq, request=None, setback=setback)


def _summed_up(transcript: Transcript, summed: Summed, replaces: tuple[int, ...]) -> Transcript:
    """Put a summary where the entries it stands for were."""

    def covered(seq: int) -> bool:
        return summed.first <= seq <= summed.last

    kept: list[Entry] = []
    place = None
    for entry in transcript:
        inside = entry.seq in replaces if isinstance(entry, Summed) else covered(entry.seq)
        _demand(not isinstance(entry, Returned) or inside == covered(entry.first), "it parts a call from its output")
        if not inside:
            kept.append(entry)
        elif place is None:
            place = len(kept)
    if place is None:
        raise _Refused("there is nothing in that range")
    summaries = {entry.seq for entry in transcript if isinstance(entry, Summed)}
    _demand(summaries.issuperset(replaces), "it replaces a summary that is not there")
    kept.insert(place, summed)
    return Transcript(kept)


def _trimmed(entry: Entry, notes: Mapping[str, str]) -> Entry:
    if not isinstance(entry, Returned) or not any(call.call.id in notes for call in entry.calls):
        return entry
    return replace(entry, trimmed={**entry.trimmed, **{call.call.id: notes[call.call.id] for call in entry.calls if call.call.id in notes}})


# -- one call ----------------------------------------------------------------------------------------------------------


def _call_moved(state: SessionState, event: e.CallEvent, kept: Envelope) -> SessionState:
    call = state.calls.get(event.call)
    if call is None:
        raise _Refused(f"there is no call {event.call!r}")
    place = CALL_MOVES[call.place].get(event.kind)
    if place is None:
        raise _Refused(f"call {event.call} is {call.place}")
    moved = _CALL_HANDLERS[event.kind](state, call, event)
    moved.__dict__["place"] = place  # again a fresh copy
    if call.call.name == SEARCH and moved.outcome is not None:
        found = with_found(state.found, moved.outcome.output)
        if found != state.found:
            _set(state, found=found, measured=Measured())  # other tools weigh something else
    calls = {**state.calls, event.call: moved}
    if place not in RESOLVED or any(other.place not in RESOLVED for other in reversed(calls.values())):  # the last ones are open the longest
        return _set(state, calls=calls)
    returned = Returned(kept.seq, state.answer_seq, tuple(calls.values()))
    turn = cast("Turn", state.turn)
    cuts = sum(other.outcome is not None and other.outcome.cut is not None for other in returned.calls)
    _set(state, turn=turn.moved(habits=habits.returned(turn.habits, returned.calls)), cuts=state.cuts + cuts)
    _tainted(state, kept.seq, [f"{other.call.name} ({other.call.id})" for other in returned.calls if other.fence is not None])
    return _set(state, calls={}, transcript=state.transcript.add(returned))


def _approval_asked(state: SessionState, call: CallState, event: e.CallApprovalAsked) -> CallState:
    if event.untrusted:
        call = call.moved(fence=fence(state.nonce, event.call))
    return call.moved(rule=event.rule, question=event.question, digest=event.digest, deadline=event.deadline, external=event.external)


def _approved(_: SessionState, call: CallState, event: e.CallApproved) -> CallState:
    if call.external:
        raise _Refused(f"call {event.call} waits for a result, not for an approval")
    if event.digest != call.digest:
        raise _Refused(f"the approval of call {event.call} is for something else")
    return call.moved(reason=event.reason)


def _denied(_: SessionState, call: CallState, event: e.CallDenied) -> CallState:
    return call.moved(outcome=Outcome(by=event.by, reason=event.reason))


def _call_started(state: SessionState, call: CallState, event: e.CallStarted) -> CallState:
    _demand(state.cancel is None, "the turn is cancelled")
    if event.attempt != call.attempt + 1:
        raise _Refused(f"attempt {call.attempt + 1} of call {event.call} is next")
    if (call.place == "approved" or call.rule is not None) and event.digest != call.digest:
        raise _Refused(f"call {event.call} was approved as something else")
    if call.place == "doubted" and not call.permitted_by:
        raise _Refused(f"nobody allowed another attempt of call {event.call}")
    if call.call.malformed is not None:
        raise _Refused(f"call {event.call} has no usable arguments")
    around = fence(state.nonce, event.call) if event.untrusted else call.fence
    return call.moved(attempt=event.attempt, recovery=event.recovery, process=event.process, permitted_by=None, digest=event.digest, reason=None, fence=around)


def _touched(call: CallState) -> bool:
    return call.attempt > 0


def _succeeded(_: SessionState, call: CallState, event: e.CallSucceeded) -> CallState:
    if call.place == "waiting" and not (call.external and event.by):
        raise _Refused(f"call {event.call} waits for a decision")
    _own_result(call, event.call, event.attempt, event.by)
    return call.moved(outcome=Outcome(touched=_touched(call), output=event.output, parts=event.parts, cut=event.cut, by=event.by))


def _call_failed(_: SessionState, call: CallState, event: e.CallFailed) -> CallState:
    if call.place != "requested":
        _own_result(call, event.call, event.attempt, event.by)
    return call.moved(outcome=Outcome(touched=_touched(call), harmless=call.recovery == "rerun", failure=event.failure, cut=event.cut, by=event.by))


def _own_result(call: CallState, name: str, attempt: int, by: str | None) -> None:
    if call.place != "waiting" and attempt != call.attempt:
        raise _Refused(f"attempt {call.attempt} of call {name} is the last one")
    if call.place == "doubted" and not by:
        raise _Refused(f"the result of the doubted call {name} must say who handed it in")


def _aborted(_: SessionState, call: CallState, event: e.CallAborted) -> CallState:
    return call.moved(outcome=Outcome(touched=_touched(call), by=event.by, reason=event.reason))


def _doubted(_: SessionState, call: CallState, event: e.CallDoubted) -> CallState:
    if event.attempt != call.attempt:
        raise _Refused(f"attempt {call.attempt} of call {event.call} is the last one")
    return call.moved(reason=event.reason)


def _retried(state: SessionState, call: CallState, event: e.CallRetried) -> CallState:
    _demand(state.cancel is None, "the turn is cancelled")
    return call.moved(permitted_by=event.by, reason=event.reason or call.reason)


_CALL_HANDLERS: Mapping[str, Callable[[SessionState, CallState, Any], CallState]] = {
    "call.approval_asked": _approval_asked,
    "call.approved": _approved,
    "call.denied": _denied,
    "call.started": _call_started,
    "call.succeeded": _succeeded,
    "call.failed": _call_failed,
    "call.aborted": _aborted,
    "call.doubted": _doubted,
    "call.retried": _retried,
}

_HANDLERS: Mapping[str, Callable[[SessionState, Any, Envelope], SessionState]] = {
    "session.opened": _opened,
    "session.configured": _configured,
    "session.imported": _imported,
    "session.closed": _closed,
    "session.erased": _erased,
    "owner.changed": _owner,
    "input.received": _input,
    "turn.started": _turn_started,
    "turn.ended": _turn_ended,
    "note.added": _note,
    "cancel.asked": _cancel,
    "guard.decided": _guard,
    "model.asked": _asked,
    "model.answered": _answered,
    "model.failed": _failed,
    "context.compacted": _compacted,
    **dict.fromkeys(_CALL_HANDLERS, _call_moved),
}
