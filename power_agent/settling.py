"""A person's decision about one call, as a fact: what is allowed where, and what was decided before."""

from __future__ import annotations

from typing import Any

from power_agent import events as e
from power_agent.cleaning import clean, storable
from power_agent.errors import AlreadySettled, CallNotFound, InvalidInput, SettleNotAllowed
from power_agent.limits import MAX_BLOB_BYTES
from power_agent.messages import Call
from power_agent.outcomes import Done, succeeded
from power_agent.ports import Store
from power_agent.sink import opened
from power_agent.state import CallState, SessionState
from power_agent.word import Word, word


@word()
class Approve(Word):
    """Let it run, once, exactly as it was shown."""

    reason: str | None = None


@word()
class Deny(Word):
    """A person's decision about one waiting call: do not let it run; the model is told why. What a policy answers is `power_agent.policy.Deny`."""

    reason: str = "no reason given"


@word()
class Retry(Word):
    """Run it again: it did not happen, or may happen twice."""

    reason: str | None = None


@word()
class Result(Word):
    """It happened, and this was its result."""

    value: Any = None


@word()
class Abort(Word):
    """End it without an outcome."""

    reason: str = "no reason given"


Decision = Approve | Deny | Retry | Result | Abort
ALLOWED = {"waiting": (Approve, Deny, Abort), "external": (Result, Abort), "approved": (Abort,), "doubted": (Retry, Result, Abort)}
NOTHING = Done(())


async def decision_fact(store: Store, state: SessionState, call_id: str, decision: Decision, by: str, now: int) -> Done:
    """Return the fact that a decision amounts to, or none when the same was decided before."""
    said: object = decision
    if not isinstance(said, Decision):
        kind = type(said)
        hint = "Decisions come from power_agent itself: from power_agent import Approve, Deny, Retry, Result, Abort."
        raise InvalidInput(f"{kind.__module__}.{kind.__qualname__} is no decision about a call.", hint=hint)
    call = state.calls.get(call_id)
    if call is None or call.resolved:
        before = await _decisions(store, state, call_id)
        if not before:
            raise CallNotFound(f"Session {state.session!r} has no call {call_id!r}.", session=state.session, call=call_id, hint=_who_is_there(state))
        return _again(state, call_id, decision, before)
    if isinstance(decision, Approve) and call.place == "waiting" and call.deadline is not None and call.deadline <= now:
        message = f"Nobody answered in time: since then nobody may approve call {call_id}. Whoever drives next denies it."
        raise SettleNotAllowed(message, session=state.session, call=call_id, hint="Resume; the model is told, and may ask again.")
    place = "external" if call.place == "waiting" and call.external else call.place
    if type(decision) in ALLOWED.get(place, ()):
        return _fact(state, call, decision, by)
    if _said_before(decision, await _decisions(store, state, call_id)):
        return NOTHING
    if call.place == "approved":
        raise AlreadySettled(f"Call {call_id} was approved already.", session=state.session, call=call_id)
    allowed = ", ".join(one.__name__ for one in ALLOWED.get(place, ())) or "nothing"
    message = f"Call {call_id} is {place}; {type(decision).__name__} is not possible."
    raise SettleNotAllowed(message, session=state.session, call=call_id, hint=f"Possible now: {allowed}.")


_KINDS = ("call.approved", "call.denied", "call.retried", "call.succeeded", "call.failed", "call.aborted")


async def _decisions(store: Store, state: SessionState, call_id: str) -> list[e.Event]:
    """Return what was decided about a call before, and how it ended."""
    return [event for record in await store.read(state.session, kinds=_KINDS) if (event := opened(record).event) and e.call_of(event) == call_id]


def _fact(state: SessionState, call: CallState, decision: Decision, by: str) -> Done:
    name = call.call.id
    match decision:
        case Approve(reason=reason):
            return Done((e.CallApproved(call=name, digest=call.digest or "", by=by, reason=reason),))
        case Deny(reason=reason):
            return Done((e.CallDenied(call=name, by=by, reason=reason, digest=call.digest),))
        case Abort(reason=reason):
            return Done((e.CallAborted(call=name, by=by, reason=reason),))
        case Retry(reason=reason):
            if call.permitted_by:
                return NOTHING
            if state.cancel is not None:
                raise SettleNotAllowed("The turn is cancelled; nothing starts any more.", session=state.session, call=name, hint="Possible now: Result, Abort.")
            return Done((e.CallRetried(call=name, by=by, reason=reason),))
        case Result(value=value):
            done = succeeded(call, value, state.config.limits.max_output_bytes_in_context, by=by)
            if not isinstance(done.facts[0], e.CallSucceeded):
                raise SettleNotAllowed(f"That result of call {name} is not JSON.", session=state.session, call=name, hint="Hand in text, numbers, lists and objects.")
            return done


def _again(state: SessionState, call_id: str, decision: Decision, before: list[e.Event]) -> Done:
    """The call has its outcome: the same decision once more is nothing new, another one comes too late."""
    if _said_before(decision, before):
        return NOTHING
    end = before[-1]
    raise AlreadySettled(f"Call {call_id} has ended already: {end.kind.removeprefix('call.')}.", session=state.session, call=call_id)


def _said_before(decision: Decision, before: list[e.Event]) -> bool:
    match decision:
        case Approve():
            return any(isinstance(event, e.CallApproved) for event in before)
        case Retry():
            return any(isinstance(event, e.CallRetried) for event in before)
        case Deny(reason=reason):
            return any(isinstance(event, e.CallDenied) and event.reason == storable(reason) for event in before)
        case Abort(reason=reason):
            return any(isinstance(event, e.CallAborted) and event.reason == storable(reason) for event in before)
        case Result(value=value):
            return any(isinstance(event, e.CallSucceeded) and event.by is not None and _same_result(event, value) for event in before)


def _same_result(kept: e.CallSucceeded, value: Any) -> bool:
    """Say whether a value would be kept as this very result."""
    if kept.cut is not None:
        done = succeeded(CallState(Call("", id=kept.call)), value, len(kept.cut.head.encode()) + len(kept.cut.tail.encode()))
        return kept.cut.blob in done.blobs
    (fact,) = succeeded(CallState(Call("", id=kept.call)), value, MAX_BLOB_BYTES).facts
    told = clean(fact).event
    return isinstance(told, e.CallSucceeded) and (told.output, told.parts) == (kept.output, kept.parts)


def _who_is_there(state: SessionState) -> str:
    calls = ", ".join(call.call.id for call in state.unresolved)
    return f"Unresolved: {calls}." if calls else "Nothing is unresolved."
