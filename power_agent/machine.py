"""What comes next: `decide(state, now, facts)` names one step. Pure, and the only place that chooses.

A first run, a retry, a resume after a crash and a resume after an approval all come through here: fold, decide, perform,
record, repeat. What only the living process knows (which calls are running in it, how large the context is) comes in as facts.
"""

from __future__ import annotations

import math
from typing import Literal

from power_agent.limits import MAX_BACKOFF_SECONDS
from power_agent.messages import Call
from power_agent.state import Answered, CallState, SessionState, Turn
from power_agent.word import Word, word


@word(kw_only=True)
class Facts(Word):
    """What the log cannot know. `go_on`: a person wants a turn that stopped at a limit or failed to be continued."""

    running: frozenset[str] = frozenset()
    context_tokens: int | None = None
    context_window: int | None = None
    cannot_compact: bool = False
    go_on: bool = False


NO_FACTS = Facts()
"""Nothing runs here, nothing was measured, nobody asked for more."""


@word()
class TakeInput(Word):
    """Start a turn, with these inputs or as the continuation of an earlier one."""

    turn: int
    inputs: tuple[int, ...]
    continues: int | None = None


@word()
class AskModel(Word):
    """Ask the model, showing it these steering inputs for the first time."""

    turn: int
    round: int
    attempt: int
    inputs: tuple[int, ...] = ()


@word()
class RunCalls(Word):
    """See to the calls: `run` may begin, `doubt` were found started without an outcome, `expired` waited past their
    deadline, `abort` are not to begin any more.
    """

    run: tuple[str, ...] = ()
    doubt: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    abort: tuple[str, ...] = ()


@word()
class Compact(Word):
    """Make the context smaller before the next request."""


@word()
class EndTurn(Word):
    """End the turn."""

    turn: int
    status: Literal["completed", "cancelled", "limit", "failed"]
    reason: str | None = None


@word()
class Wait(Word):
    """Nothing to do: until a moment, for calls that run here, for a person's decision on these calls, for an input, for ever."""

    why: Literal["backoff", "running", "person", "input", "closed"]
    calls: tuple[str, ...] = ()
    until: int | None = None


Step = TakeInput | AskModel | RunCalls | Compact | EndTurn | Wait


def decide(state: SessionState, now: int, facts: Facts = NO_FACTS) -> Step:
    """Name the next step of a session."""
    if state.place in {"unborn", "closed", "hollow", "erased"}:
        return Wait("closed")
    if state.turn is None:
        return _between_turns(state, facts)
    if state.calls:
        return _with_calls(state, now, facts)
    if state.cancel is not None:
        return EndTurn(state.turn.number, "cancelled", state.cancel.reason)
    return _with_model(state, state.turn, now, facts)


def _between_turns(state: SessionState, facts: Facts) -> Step:
    last = state.last
    said_anew = any(item.mode == "turn" for item in state.inputs)  # whoever sent it began something else
    if facts.go_on and last is not None and last.status in {"limit", "failed", "forked"} and not said_anew:
        return TakeInput(state.turns + 1, (), last.number)
    if state.inputs and (facts.go_on or not state.parked):
        return TakeInput(state.turns + 1, (state.inputs[0].seq,))
    return Wait("input")


def _with_calls(state: SessionState, now: int, facts: Facts) -> Step:
    calls = state.unresolved
    doubt = _ids(call for call in calls if call.place == "started" and call.call.id not in facts.running)
    expired = _ids(call for call in calls if call.place == "waiting" and call.deadline is not None and call.deadline <= now)
    ready = _ids(call for call in calls if call.place in {"requested", "approved"} or (call.place == "doubted" and call.permitted_by))
    ready = tuple(call for call in ready if call not in facts.running)
    if state.cancel is not None:
        abort = _ids(call for call in calls if call.place in {"requested", "waiting", "approved"})
        step = RunCalls(doubt=doubt, abort=abort)
    else:
        step = RunCalls(ready, doubt, expired)
    if step != RunCalls():
        return step
    running = _ids(call for call in calls if call.call.id in facts.running)
    if running:
        return Wait("running", running, earliest_deadline(calls))
    return Wait("person", _ids(calls), earliest_deadline(calls))


def _ids(calls: object) -> tuple[str, ...]:
    return tuple(call.call.id for call in calls)  # type: ignore[attr-defined]


def earliest_deadline(calls: tuple[CallState, ...]) -> int | None:
    """Return when the first of these calls has waited long enough for a person."""
    return min((call.deadline for call in calls if call.place == "waiting" and call.deadline is not None), default=None)


def _with_model(state: SessionState, turn: Turn, now: int, facts: Facts) -> Step:
    steers = tuple(item.seq for item in state.inputs if item.mode == "steer")
    last = state.transcript[-1] if state.transcript else None
    if turn.answered and turn.round and isinstance(last, Answered) and not steers and not state.notes and not any(isinstance(part, Call) for part in last.parts):
        return EndTurn(turn.number, "completed")
    setback = state.setback
    if setback is not None and setback.not_before is None and setback.purpose == "turn":
        return EndTurn(turn.number, "failed", setback.failure.code)
    if setback is not None and setback.not_before is not None:
        until = min(setback.not_before, setback.at + MAX_BACKOFF_SECONDS * 1000, turn_deadline(turn) or setback.not_before)  # the clock may have jumped
        if setback.at - MAX_BACKOFF_SECONDS * 1000 <= now < until:
            return Wait("backoff", until=until)
    reached = _limit(state, turn, now)
    if reached is not None:
        return EndTurn(turn.number, "limit", reached)
    if _too_long(turn, facts) and not facts.cannot_compact:
        return Compact()
    if turn.answered:
        return AskModel(turn.number, turn.round + 1, 1, steers)
    return AskModel(turn.number, turn.round, turn.attempt + 1, steers)


def _too_long(turn: Turn, facts: Facts) -> bool:
    bound = turn.config.limits.max_context_tokens or facts.context_window
    return bound is not None and facts.context_tokens is not None and facts.context_tokens > bound


def turn_deadline(turn: Turn) -> int | None:
    """Return the moment at which a turn has used up its time, whatever is waited for."""
    seconds = turn.config.limits.max_turn_seconds
    return None if seconds is None else turn.started_at - turn.ms_before + math.ceil(seconds * 1000)


def _limit(state: SessionState, turn: Turn, now: int) -> str | None:
    """Name the limit that the next request would break."""
    limits = turn.config.limits
    all_spent = state.spent if state.request is None else state.spent.lost(state.request)
    spent = all_spent.since(turn.before)
    rounds = turn.rounds_before + turn.round
    nano = 1_000_000_000
    bounds: tuple[tuple[str, float, float | None], ...] = (
        ("max_rounds_per_turn", rounds if turn.answered else 0, limits.max_rounds_per_turn),
        ("max_tokens_per_turn", spent.tokens, limits.max_tokens_per_turn),
        ("max_tokens_per_session", all_spent.tokens, limits.max_tokens_per_session),
        ("max_cost_usd_per_turn", (spent.cost_nano_usd + spent.lost_cost_nano_usd) / nano, limits.max_cost_usd_per_turn),
        ("max_cost_usd_per_session", (all_spent.cost_nano_usd + all_spent.lost_cost_nano_usd) / nano, limits.max_cost_usd_per_session),
        ("max_turn_seconds", (turn.ms_before + now - turn.started_at) / 1000, limits.max_turn_seconds),
    )
    return next((name for name, value, bound in bounds if bound is not None and value >= bound), None)
