"""What comes next: `decide(state, now, facts)` names one step. Pure, and the only place that chooses.

A first run, a retry, a resume after a crash and a resume after an approval all come through here: fold, decide, perform,
record, repeat. What only the living process knows (which calls are running in it, how large the context is) comes in as facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, cast

from power_agent.limits import MAX_BACKOFF_SECONDS, MAX_CONTINUATIONS, MAX_EMPTY_ANSWERS, MAX_MODEL_ATTEMPTS, SAME_CALLS_TOLD, STALLED_ROUNDS_TOLD, Limits
from power_agent.messages import Call
from power_agent.state import Answered, CallPlace, CallState, SessionState, Spent, Turn
from power_agent.word import Word, word


@word(kw_only=True)
class Facts(Word):
    """What the log cannot know. `go_on`: a person wants a turn that stopped at a limit or failed to be continued. `unpark`: somebody wants
    what waits behind a turn that was cancelled or came to a limit. `placeless`: calls that waited for a place to run in. `blocked`: every
    place is held by what nobody can stop.

    Above `context_window` the context is to be compacted; above `context_most` no request can be sent.
    """

    running: frozenset[str] = frozenset()
    placeless: frozenset[str] = frozenset()
    blocked: bool = False
    context_tokens: int | None = None
    context_window: int | None = None
    context_most: int | None = None
    cannot_compact: bool = False
    go_on: bool = False
    unpark: bool = False


LAST = "last answer"
"""Why a model is told that the turn is at its limit: from then on it gets no tools and no other answer."""
LAST_ANSWER = "This turn has reached its limit ({limit}). No tool can be used any more. Say briefly what is done, what is not, and what comes next."
SAME_CALLS = "You have made exactly the same calls {count} times in a row. Their results will not change. Do something else, or say what keeps you from going on."
NO_PROGRESS = "The last {count} rounds of calls brought nothing new: they failed, or came to what they came to before. Do something else, or say what keeps you from going on."
EMPTY = "Your last answer was empty. Go on with the task, or say what you found or did."
CUT_OFF = "Your last answer was cut off because it got too long. Go on exactly where it ends; repeat nothing of it."
GO_ON = "Go on from where you stopped; repeat nothing of what you said."
"""Told where a turn continues one that ended, or was left by a fork, with an answer: else there would be nothing to answer."""
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
class Tell(Word):
    """Tell the model something about how it goes on."""

    why: str
    text: str


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


Step = TakeInput | AskModel | RunCalls | Compact | Tell | EndTurn | Wait


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
    if state.inputs and (facts.go_on or facts.unpark or not state.parked):
        return TakeInput(state.turns + 1, (state.inputs[0].seq,))
    return Wait("input")


def _with_calls(state: SessionState, now: int, facts: Facts) -> Step:
    calls = state.unresolved
    due = _due(state, calls, now, facts)
    if due is not None:
        return due
    running = tuple(call.call.id for call in calls if call.call.id in facts.running)
    if running:
        return Wait("running", running, earliest_deadline(calls))
    return Wait("person", tuple(call.call.id for call in calls), earliest_deadline(calls))


def _due(state: SessionState, calls: tuple[CallState, ...], now: int, facts: Facts) -> RunCalls | None:
    """Return what is to be done about calls at once."""
    over = state.cancel is not None or (state.turn is not None and LAST in state.turn.habits.told)
    run, doubt, expired, abort = list[str](), list[str](), list[str](), list[str]()
    for call in calls:
        name, place = call.call.id, call.place
        if place == "started":
            if name not in facts.running:
                doubt.append(name)
        elif over:
            if place != "doubted":
                abort.append(name)
        elif place == "waiting":
            if call.deadline is not None and call.deadline <= now:
                expired.append(name)
        elif (place != "doubted" or call.permitted_by) and name not in facts.running:
            (abort if name in facts.placeless and _too_late(state.turn, place, now, facts) else run).append(name)
    return RunCalls(tuple(run), tuple(doubt), tuple(expired), tuple(abort)) if run or doubt or expired or abort else None


def _too_late(turn: Turn | None, place: CallPlace, now: int, facts: Facts) -> bool:
    """Say whether a call that waits for a place does so in vain: the turn's time is up, and nobody approved it, or no place comes free."""
    deadline = None if turn is None else turn_deadline(turn)
    return deadline is not None and deadline <= now and (place == "requested" or facts.blocked)


def earliest_deadline(calls: tuple[CallState, ...]) -> int | None:
    """Return when the first of these calls has waited long enough for a person."""
    return min((call.deadline for call in calls if call.place == "waiting" and call.deadline is not None), default=None)


def _with_model(state: SessionState, turn: Turn, now: int, facts: Facts) -> Step:
    steers = tuple(item.seq for item in state.inputs if item.mode == "steer")
    last = state.transcript[-1] if state.transcript else None
    if turn.answered and turn.round and isinstance(last, Answered) and not steers and not state.notes and not any(isinstance(part, Call) for part in last.parts):
        return _with_answer(state, turn, now)
    if LAST in turn.habits.told and not state.notes:
        return EndTurn(turn.number, "limit", _reached(state, turn, now))  # it had its one request
    held_up = _after_setback(state, turn, now)
    if held_up is not None:
        return held_up
    if LAST not in turn.habits.told:
        reached = _reached(state, turn, now)
        if reached is not None:
            return _at_limit(state, turn, reached)
        told = _to_tell(turn) if turn.round or steers or state.notes or not isinstance(last, Answered) else Tell("continued", GO_ON)
        if told is not None:
            return told
    if _too_long(turn, facts) and not facts.cannot_compact and (turn.answered or turn.attempt < MAX_MODEL_ATTEMPTS):
        return Compact()
    if turn.overfull or _beyond(facts.context_tokens, facts.context_most):
        return EndTurn(turn.number, "limit", "context")
    if turn.answered:
        return AskModel(turn.number, turn.round + 1, 1, steers)
    return AskModel(turn.number, turn.round, turn.attempt + 1, steers)


def _after_setback(state: SessionState, turn: Turn, now: int) -> Step | None:
    """Give up after a failure for good, or wait for the time of the next attempt."""
    setback = state.setback
    if setback is not None and setback.not_before is None and setback.purpose == "turn" and not turn.overfull:
        deadline = turn_deadline(turn)
        if setback.retryable and deadline is not None and setback.at >= deadline:  # time ended it, not what failed
            return EndTurn(turn.number, "limit", "max_turn_seconds")
        return EndTurn(turn.number, "failed", setback.failure.code)
    if setback is not None and setback.not_before is not None:
        until = min(setback.not_before, setback.at + MAX_BACKOFF_SECONDS * 1000, turn_deadline(turn) or setback.not_before)  # the clock may have jumped
        if setback.at - MAX_BACKOFF_SECONDS * 1000 <= now < until:
            return Wait("backoff", until=until)
    return None


def _with_answer(state: SessionState, turn: Turn, now: int) -> Step:
    """End the turn, unless its answer is none or was cut."""
    habits = turn.habits
    if LAST in habits.told:
        return EndTurn(turn.number, "limit", _reached(state, turn, now))
    if habits.cut > MAX_CONTINUATIONS:
        return EndTurn(turn.number, "limit", "answer_length")
    if turn.output is not None:  # half of it is no answer, and none has not the shape: the model is told what is wrong with it
        return EndTurn(turn.number, "completed")
    if habits.cut:
        return Tell("answer cut by length", CUT_OFF)
    if 0 < habits.empty <= MAX_EMPTY_ANSWERS:
        return Tell("empty answer", EMPTY)
    return EndTurn(turn.number, "completed")


def _at_limit(state: SessionState, turn: Turn, reached: str) -> Step:
    """End a turn at its limit; before that, where that is wanted, let the model say once where things stand."""
    if turn.config.limits.last_answer and turn.round and state.request is None and state.setback is None:
        return Tell(LAST, LAST_ANSWER.format(limit=reached))
    return EndTurn(turn.number, "limit", reached)


def _reached(state: SessionState, turn: Turn, now: int) -> str | None:
    """Name the limit that the next request would break, or what the turn does without end."""
    return _limit(state, turn, now) or _stuck(turn)


def _stuck(turn: Turn) -> str | None:
    """Name what a turn does again and again without end."""
    limits, habits = turn.config.limits, turn.habits
    if limits.max_same_calls is not None and habits.same >= limits.max_same_calls:
        return "max_same_calls"
    if limits.max_rounds_without_progress is not None and habits.stalled >= limits.max_rounds_without_progress:
        return "max_rounds_without_progress"
    return None


def _to_tell(turn: Turn) -> Tell | None:
    """Say what the model is to be told about its last rounds, once for each time."""
    habits = turn.habits
    for why, text, count, every in (("same calls", SAME_CALLS, habits.same, SAME_CALLS_TOLD), ("no progress", NO_PROGRESS, habits.stalled, STALLED_ROUNDS_TOLD)):
        if turn.answered and count and count % every == 0 and habits.told.get(why) != turn.round:
            return Tell(why, text.format(count=count))
    return None


def _too_long(turn: Turn, facts: Facts) -> bool:
    """Say whether the context is to be made smaller before the next request."""
    tokens = facts.context_tokens
    return turn.overfull or _beyond(tokens, turn.config.limits.max_context_tokens) or _beyond(tokens, facts.context_window)


def _beyond(tokens: int | None, bound: int | None) -> bool:
    return tokens is not None and bound is not None and tokens > bound


def turn_deadline(turn: Turn) -> int | None:
    """Return the moment at which a turn has used up its time, whatever is waited for."""
    seconds = turn.config.limits.max_turn_seconds
    return None if seconds is None else turn.started_at - turn.ms_before + math.ceil(seconds * 1000)


def _limit(state: SessionState, turn: Turn, now: int) -> str | None:
    """Name the limit that the next request would break; only what is limited is added up."""
    limits = turn.config.limits
    for name, used in _USED.items():
        bound = getattr(limits, name)
        if bound is not None and used(state, turn, now) >= bound:
            return name
    return None


def used_up(state: SessionState, limits: Limits, now: int) -> str | None:
    """Name the limit that a request for a summary would break: of tokens, of money, and of an open turn's time."""
    names = [*_OF_SESSION] if state.turn is None else [name for name in _USED if name != "max_rounds_per_turn"]
    for name in names:
        bound = getattr(limits, name)
        if bound is not None and _USED[name](state, cast("Turn", state.turn), now) >= bound:
            return name
    return None


def _all_spent(state: SessionState) -> Spent:
    return state.spent if state.request is None else state.spent.lost(state.request)


def _usd(spent: Spent) -> float:
    return (spent.cost_nano_usd + spent.lost_cost_nano_usd) / 1_000_000_000


_USED: Mapping[str, Callable[[SessionState, Turn, int], float]] = {
    "max_rounds_per_turn": lambda _, turn, __: turn.rounds_before + turn.round if turn.answered or LAST in turn.habits.told else 0,
    "max_tokens_per_turn": lambda state, turn, _: _all_spent(state).since(turn.before).tokens,
    "max_tokens_per_session": lambda state, _, __: _all_spent(state).tokens,
    "max_cost_usd_per_turn": lambda state, turn, _: _usd(_all_spent(state).since(turn.before)),
    "max_cost_usd_per_session": lambda state, _, __: _usd(_all_spent(state)),
    "max_turn_seconds": lambda _, turn, now: (turn.ms_before + now - turn.started_at) / 1000,
}
"""What of each limit is used."""
_OF_SESSION = ("max_tokens_per_session", "max_cost_usd_per_session")
"""The limits that hold between turns, too."""
