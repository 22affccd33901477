"""What comes next: states, facts and the clock on one side, the one step they lead to on the other."""

from __future__ import annotations

import pytest
from grammar import DONE, OPENED, START, TURN, after, answer, ask, calling, envelope, histories, make, say, story, summarise
from hypothesis import given
from hypothesis import strategies as st

from power_agent import events as e
from power_agent.limits import MAX_BACKOFF_SECONDS, Limits
from power_agent.machine import EMPTY, AskModel, Compact, EndTurn, Facts, RunCalls, Step, TakeInput, Tell, Wait, decide
from power_agent.messages import Text, Usage
from power_agent.state import SessionState, evolve, fold, freeze

T1, T2, T3 = "t1r1c1", "t1r1c2", "t1r1c3"
NOW = START + 1_000
FAILURE = e.Failure(code="overloaded", message="Busy.")
CANCEL = e.CancelAsked(reason="enough", by="ann")
ASKED = e.CallApprovalAsked(call=T1, rule="r", digest="d")
LATE = e.CallApprovalAsked(call=T1, rule="r", digest="d", deadline=NOW)
APPROVED = (ASKED, e.CallApproved(call=T1, digest="d", by="ann"))
STARTED = e.CallStarted(call=T1)
DOUBTED = (STARTED, e.CallDoubted(call=T1, attempt=1, reason="died"))
RETRIED = (*DOUBTED, e.CallRetried(call=T1, by="ann"))
DENIED = e.CallDenied(call=T1, by="ann", reason="no")
RETURNED = (*calling(), DENIED)
FINAL = (*TURN, ask(), answer())
HERE = Facts(running=frozenset({T1}))
GO_ON = Facts(go_on=True)
LARGE = Facts(context_tokens=101, context_window=100)


def ended(status: e.TurnStatus) -> e.TurnEnded:
    return e.TurnEnded(turn=1, status=status)


def failed(not_before: int | None = None, number: int = 1) -> e.ModelFailed:
    return e.ModelFailed(round=number, failure=FAILURE, retryable=True, not_before=not_before)


BRANCH = e.SessionOpened(nonce="n", owner="o", parent=e.Parent(relation="fork", session="s", seq=3))

STEPS: dict[str, tuple[tuple[e.Event, ...], Facts, Step]] = {
    # nothing goes on for ever
    "unborn": ((), Facts(), Wait("closed")),
    "closed": ((*DONE, e.SessionClosed(reason="r")), GO_ON, Wait("closed")),
    "erased": ((*DONE, e.SessionErased(reason="r")), GO_ON, Wait("closed")),
    # between turns
    "opened": ((OPENED,), Facts(), Wait("input")),
    "said": ((OPENED, say()), Facts(), TakeInput(1, (2,))),
    "said twice": ((OPENED, say(), say()), Facts(), TakeInput(1, (2,))),
    "unseen steer becomes a turn": ((OPENED, say(mode="steer")), Facts(), TakeInput(1, (2,))),
    "turn over": (DONE, Facts(), Wait("input")),
    "turn over, nothing to go on with": (DONE, GO_ON, Wait("input")),
    "turn over, next input": ((*TURN, say(mode="queue"), ended("completed")), Facts(), TakeInput(2, (4,))),
    "turn failed, next input": ((*TURN, say(mode="queue"), ended("failed")), Facts(), TakeInput(2, (4,))),
    "turn cancelled, input parked": ((*TURN, say(mode="queue"), ended("cancelled")), Facts(), Wait("input")),
    "turn at its limit, input parked": ((*TURN, say(mode="steer"), ended("limit")), Facts(), Wait("input")),
    "parked, somebody speaks": ((*TURN, say(mode="queue"), ended("limit"), say()), Facts(), TakeInput(2, (4,))),
    "parked, somebody queues": ((*TURN, say(mode="queue"), ended("cancelled"), say(mode="queue")), Facts(), Wait("input")),
    "parked, go on": ((*TURN, say(mode="queue"), ended("cancelled")), GO_ON, TakeInput(2, (4,))),
    "cancelled, go on": ((*TURN, ended("cancelled")), GO_ON, Wait("input")),
    "at its limit, go on": ((*TURN, say(mode="queue"), ended("limit")), GO_ON, TakeInput(2, (), 1)),
    "failed, go on": ((*TURN, ended("failed")), GO_ON, TakeInput(2, (), 1)),
    "failed": ((*TURN, ended("failed")), Facts(), Wait("input")),
    "summary asked for between turns": ((OPENED, say(), summarise()), Facts(), TakeInput(1, (2,))),
    # the model
    "turn started": (TURN, Facts(), AskModel(1, 1, 1)),
    "asked, found without an answer": ((*TURN, ask()), Facts(), AskModel(1, 1, 2)),
    "asked again, found without an answer": ((*TURN, ask(), ask(attempt=2)), Facts(), AskModel(1, 1, 3)),
    "steer": ((*TURN, say(mode="steer"), say(mode="queue"), say(mode="steer")), Facts(), AskModel(1, 1, 1, (4, 6))),
    "steer, asked again": ((*TURN, ask(), say(mode="steer")), Facts(), AskModel(1, 1, 2, (5,))),
    "answered": (FINAL, Facts(), EndTurn(1, "completed")),
    "answered with nothing": ((*TURN, ask(), e.ModelAnswered(round=1, parts=())), Facts(), Tell("empty answer", EMPTY)),
    "answered, steer": ((*FINAL, say(mode="steer")), Facts(), AskModel(1, 2, 1, (6,))),
    "answered, queued": ((*FINAL, say(mode="queue")), Facts(), EndTurn(1, "completed")),
    "answered, note": ((*FINAL, e.NoteAdded(text="n", why="w")), Facts(), AskModel(1, 2, 1)),
    "answered, too large": (FINAL, LARGE, EndTurn(1, "completed")),
    "outputs back": (RETURNED, Facts(), AskModel(1, 2, 1)),
    "failed for good": ((*TURN, ask(), failed()), Facts(), EndTurn(1, "failed", "overloaded")),
    "failed, back-off": ((*TURN, ask(), failed(NOW + 1)), Facts(), Wait("backoff", until=NOW + 1)),
    "failed, back-off over": ((*TURN, ask(), failed(NOW)), Facts(), AskModel(1, 1, 2)),
    "failed, back-off, steer": ((*TURN, ask(), failed(NOW + 1), say(mode="steer")), Facts(), Wait("backoff", until=NOW + 1)),
    "summary failed for good": ((*TURN, summarise(), e.ModelFailed(round=0, failure=FAILURE)), LARGE, Compact()),
    "summary failed, back-off": ((*TURN, summarise(), e.ModelFailed(round=0, failure=FAILURE, not_before=NOW + 5)), LARGE, Wait("backoff", until=NOW + 5)),
    "summary given up": ((*TURN, summarise(), e.ModelFailed(round=0, failure=FAILURE)), Facts(cannot_compact=True), AskModel(1, 1, 1)),
    "next turn": ((*DONE, say(), e.TurnStarted(turn=2, inputs=(7,))), Facts(), AskModel(2, 1, 1)),
    # the context
    "too large": (TURN, LARGE, Compact()),
    "as large as the window": (TURN, Facts(context_tokens=100, context_window=100), AskModel(1, 1, 1)),
    "size unknown": (TURN, Facts(context_window=100), AskModel(1, 1, 1)),
    "window unknown": (TURN, Facts(context_tokens=10**9), AskModel(1, 1, 1)),
    "too large, cannot be helped": (TURN, Facts(context_tokens=101, context_window=100, cannot_compact=True), AskModel(1, 1, 1)),
    "too large, asked again": ((*TURN, ask()), LARGE, Compact()),
    "summary found without an answer": ((*TURN, summarise()), LARGE, Compact()),
    # calls
    "made": (calling(make(1), make(2)), Facts(), RunCalls(run=(T1, T2))),
    "waiting for a person": ((*calling(), ASKED), Facts(), Wait("person", (T1,))),
    "siblings run whatever one waits for": ((*calling(make(1), make(2)), ASKED), Facts(), RunCalls(run=(T2,))),
    "approved": ((*calling(), *APPROVED), Facts(), RunCalls(run=(T1,))),
    "approved, being started here": ((*calling(), *APPROVED), HERE, Wait("running", (T1,))),
    "running here": ((*calling(), STARTED), HERE, Wait("running", (T1,))),
    "found started": ((*calling(), STARTED), Facts(), RunCalls(doubt=(T1,))),
    "one runs here, one was found": (
        (*calling(make(1), make(2), make(3)), STARTED, e.CallStarted(call=T2), e.CallDenied(call=T3, by="b", reason="r")),
        HERE,
        RunCalls(doubt=(T2,)),
    ),
    "doubted": ((*calling(), *DOUBTED), Facts(), Wait("person", (T1,))),
    "doubted, allowed again": ((*calling(), *RETRIED), Facts(), RunCalls(run=(T1,))),
    "doubted, allowed again, the old one still runs": ((*calling(), *RETRIED), HERE, Wait("running", (T1,))),
    "started again, found": ((*calling(), *RETRIED, e.CallStarted(call=T1, attempt=2)), Facts(), RunCalls(doubt=(T1,))),
    "deadline passed": ((*calling(), LATE), Facts(), RunCalls(expired=(T1,))),
    "deadline ahead": ((*calling(), e.CallApprovalAsked(call=T1, rule="r", digest="d", deadline=NOW + 1)), Facts(), Wait("person", (T1,), NOW + 1)),
    "deadline passed, one to run, one found": (
        (*calling(make(1), make(2), make(3)), LATE, e.CallStarted(call=T3)),
        Facts(),
        RunCalls(run=(T2,), doubt=(T3,), expired=(T1,)),
    ),
    "one runs, one waits until": (
        (*calling(make(1), make(2)), e.CallApprovalAsked(call=T1, rule="r", digest="d", deadline=NOW + 9), e.CallStarted(call=T2)),
        Facts(running=frozenset({T2})),
        Wait("running", (T2,), NOW + 9),
    ),
    "the earliest deadline": (
        (
            *calling(make(1), make(2)),
            e.CallApprovalAsked(call=T1, rule="r", digest="d", deadline=NOW + 9),
            e.CallApprovalAsked(call=T2, rule="r", digest="d", deadline=NOW + 3, external=True),
        ),
        Facts(),
        Wait("person", (T1, T2), NOW + 3),
    ),
    "what still runs of a call that was given up": (
        (*calling(make(1), make(2)), STARTED, e.CallAborted(call=T1, by="b", reason="r"), *[e.CallApprovalAsked(call=T2, rule="r", digest="d")]),
        HERE,
        Wait("person", (T2,)),
    ),
    # cancel
    "cancelled": ((*TURN, CANCEL), Facts(), EndTurn(1, "cancelled", "enough")),
    "cancelled while asking": ((*TURN, ask(), CANCEL), Facts(), EndTurn(1, "cancelled", "enough")),
    "cancelled while summarising": ((*TURN, summarise(), CANCEL), LARGE, EndTurn(1, "cancelled", "enough")),
    "cancelled in back-off": ((*TURN, ask(), failed(NOW + 9), CANCEL), Facts(), EndTurn(1, "cancelled", "enough")),
    "cancelled after the answer": ((*FINAL, CANCEL), Facts(), EndTurn(1, "cancelled", "enough")),
    "cancelled, failed for good": ((*TURN, ask(), failed(), CANCEL), Facts(), EndTurn(1, "cancelled", "enough")),
    "cancelled, made": ((*calling(make(1), make(2)), *APPROVED, CANCEL), Facts(), RunCalls(abort=(T1, T2))),
    "cancelled, deadline passed": ((*calling(), LATE, CANCEL), Facts(), RunCalls(abort=(T1,))),
    "cancelled, running here": ((*calling(), STARTED, CANCEL), HERE, Wait("running", (T1,))),
    "cancelled, one runs, one not yet": ((*calling(make(1), make(2)), STARTED, CANCEL), HERE, RunCalls(abort=(T2,))),
    "cancelled, found started": ((*calling(make(1), make(2)), STARTED, CANCEL), Facts(), RunCalls(doubt=(T1,), abort=(T2,))),
    "cancelled, doubted": ((*calling(), *DOUBTED, CANCEL), Facts(), Wait("person", (T1,))),
    "cancelled, allowed before": ((*calling(), *RETRIED, CANCEL), Facts(), Wait("person", (T1,))),
    "cancelled, all over": ((*calling(), CANCEL, DENIED), Facts(), EndTurn(1, "cancelled", "enough")),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_comes_next(name: str):
    """One state, one step; where several could be taken, the one that must come first."""
    events, facts, step = STEPS[name]
    assert decide(after(*events), NOW, facts) == step


def test_the_table_is_complete():
    """Every kind of step, every reason to wait and every way to end but `limit`, which has a table of its own, stands in it."""
    steps = [step for _, _, step in STEPS.values()]
    assert {type(step) for step in steps} == {TakeInput, AskModel, RunCalls, Compact, Tell, EndTurn, Wait}
    assert {step.why for step in steps if isinstance(step, Wait)} == {"backoff", "running", "person", "input", "closed"}
    assert {step.status for step in steps if isinstance(step, EndTurn)} == {"completed", "cancelled", "failed"}


def test_a_branch_goes_on_with_the_turn_it_left():
    """When a person says so, and not by itself."""
    state = evolve(after(*TURN), envelope("branch", 4, BRANCH))
    assert decide(state, NOW) == Wait("input")
    assert decide(state, NOW, GO_ON) == TakeInput(2, (), 1)


@pytest.mark.parametrize("hollow", [True, False])
def test_an_erased_session_is_over(hollow: bool):
    """Also when all that is left of it is the tombstone."""
    kept = [e.Envelope("s", 1, 1, 0, None, kind="session.opened")] if hollow else story(OPENED)
    assert decide(fold([*kept, envelope("s", 2, e.SessionErased(reason="r"))]), NOW, GO_ON) == Wait("closed")
    assert decide(fold(kept[:1]), NOW).__class__ is Wait


# -- limits ------------------------------------------------------------------------------------------------------------


def limited(limits: Limits, *events: e.Event) -> SessionState:
    """A turn with these limits."""
    opened = e.SessionOpened(nonce="n", owner="o", config=e.Config(limits=limits))
    return after(opened, *TURN[1:], *events)


def rounds(count: int) -> tuple[e.Event, ...]:
    """So many answers with a call that was denied."""
    events: list[e.Event] = []
    for number in range(1, count + 1):
        call = make(in_round=number)
        events += [ask(1, number), answer(call, number=number), e.CallDenied(call=call.id, by="b", reason="r")]
    return tuple(events)


def costing(nano: int) -> tuple[e.Event, ...]:
    paid = e.ModelAnswered(round=1, parts=(make(),), cost_nano_usd=nano)
    return (ask(), paid, DENIED)


def using(tokens: int) -> tuple[e.Event, ...]:
    return (ask(), answer(make(), usage=Usage(input=tokens - 1, output=1)), DENIED)


def reserving(tokens: int) -> tuple[e.Event, ...]:
    """An attempt whose end nobody saw, and one more that failed."""
    lost = e.ModelAsked(turn=1, round=1, model="m", reserved_tokens=tokens, reserved_cost_nano_usd=tokens)
    return (lost, ask(attempt=2), e.ModelFailed(round=1, attempt=2, failure=FAILURE, not_before=0))


LIMITS = {
    "max_rounds_per_turn": (3, rounds),
    "max_tokens_per_turn": (100, using),
    "max_tokens_per_session": (100, using),
    "max_cost_usd_per_turn": (0.1, costing),
    "max_cost_usd_per_session": (0.1, costing),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_limit_ends_the_turn_when_it_is_reached(name: str, over: int):
    """One below it the model is asked; at it and above it the turn ends and says which limit it was."""
    bound, events = LIMITS[name]
    used = (round(bound * 10**9) if "usd" in name else bound) + over
    step = decide(limited(Limits(**{name: bound}), *events(used)), NOW)
    if over < 0:
        assert isinstance(step, AskModel)
    else:
        assert step == EndTurn(1, "limit", name)


@pytest.mark.parametrize(("at", "step"), [(9_999, AskModel(1, 1, 1)), (10_000, EndTurn(1, "limit", "max_turn_seconds")), (10_001, EndTurn(1, "limit", "max_turn_seconds"))])
def test_a_turn_that_takes_too_long_is_ended(at: int, step: Step):
    """Counted from its start by the wall clock; a clock that jumped back ends nothing."""
    state = limited(Limits(max_turn_seconds=10))
    assert state.turn is not None
    assert decide(state, state.turn.started_at + at) == step
    assert decide(state, state.turn.started_at - at) == AskModel(1, 1, 1)


WAITED = Facts(placeless=frozenset({T1}))
BLOCKED = Facts(placeless=frozenset({T1}), blocked=True)


@pytest.mark.parametrize(
    ("events", "facts", "in_vain"),
    [
        ((), WAITED, True),
        ((), Facts(), False),
        (APPROVED, WAITED, False),
        (APPROVED, BLOCKED, True),
        (RETRIED, WAITED, False),
        (RETRIED, BLOCKED, True),
    ],
    ids=["requested", "requested, never without a place", "approved", "approved, blocked", "allowed again", "allowed again, blocked"],
)
def test_a_call_without_a_place_when_the_time_is_up(events: tuple[e.Event, ...], facts: Facts, in_vain: bool):
    """What nobody decided about does not begin any more; what a person allowed does, unless no place will ever come free."""
    state = limited(Limits(max_turn_seconds=10), ask(), answer(make()), *events)
    assert state.turn is not None
    assert decide(state, state.turn.started_at + 9_999, facts) == RunCalls(run=(T1,))
    assert decide(state, state.turn.started_at + 10_000, facts) == (RunCalls(abort=(T1,)) if in_vain else RunCalls(run=(T1,)))
    unlimited = limited(Limits(), ask(), answer(make()), *events)
    assert decide(unlimited, NOW + 10**9, facts) == RunCalls(run=(T1,))


@pytest.mark.parametrize("name", ["max_tokens_per_turn", "max_tokens_per_session"])
def test_what_may_have_been_spent_counts_against_a_limit(name: str):
    """A request whose end nobody saw counts with what it reserved."""
    assert decide(limited(Limits(**{name: 100}), *reserving(99)), NOW) == AskModel(1, 1, 3)
    assert decide(limited(Limits(**{name: 100}), *reserving(100)), NOW) == EndTurn(1, "limit", name)


@pytest.mark.parametrize("name", ["max_cost_usd_per_turn", "max_cost_usd_per_session"])
def test_what_it_may_have_cost_counts_against_a_limit(name: str):
    """The same in money."""
    assert decide(limited(Limits(**{name: 100e-9}), *reserving(99)), NOW) == AskModel(1, 1, 3)
    assert decide(limited(Limits(**{name: 100e-9}), *reserving(100)), NOW) == EndTurn(1, "limit", name)


@pytest.mark.parametrize("name", ["max_tokens_per_turn", "max_tokens_per_session"])
def test_a_request_found_without_an_answer_counts_before_it_is_asked_again(name: str):
    """Promise I16: known and reserved cost never exceed the limit by more than one request, however often the process dies."""
    found = e.ModelAsked(turn=1, round=1, model="m", reserved_tokens=100)
    assert decide(limited(Limits(**{name: 100}), found), NOW) == EndTurn(1, "limit", name)


def test_a_round_that_began_may_be_tried_again():
    """The limit of rounds counts answers asked for, not attempts."""
    state = limited(Limits(max_rounds_per_turn=1), ask(), failed(NOW))
    assert decide(state, NOW) == AskModel(1, 1, 2)


def test_a_final_answer_at_a_limit_is_a_completed_turn():
    """Nothing more was wanted."""
    assert decide(limited(Limits(max_rounds_per_turn=1), ask(), answer()), NOW) == EndTurn(1, "completed")


def test_what_did_not_cost_in_this_turn_counts_for_the_session_only():
    """A new turn has new limits; the session's goes on."""
    usage = Usage(60, 40)
    events = (ask(), answer(usage=usage), e.TurnEnded(turn=1), say(), e.TurnStarted(turn=2, inputs=(7,)))
    assert decide(limited(Limits(max_tokens_per_turn=100), *events), NOW) == AskModel(2, 1, 1)
    assert decide(limited(Limits(max_tokens_per_session=100), *events), NOW) == EndTurn(2, "limit", "max_tokens_per_session")


@pytest.mark.parametrize(
    ("limits", "used"), [(Limits(max_rounds_per_turn=2), rounds(2)), (Limits(max_tokens_per_turn=50), using(50)), (Limits(max_cost_usd_per_turn=1e-7), costing(100))]
)
def test_going_on_without_a_higher_limit_ends_at_once(limits: Limits, used: tuple[e.Event, ...]):
    """A turn that continues inherits what was spent: no request is made. With a higher limit it goes on."""
    over = (*used, e.TurnEnded(turn=1, status="limit"))
    state = limited(limits, *over, e.TurnStarted(turn=2, continues=1))
    step = decide(state, NOW)
    assert isinstance(step, EndTurn)
    assert (step.turn, step.status) == (2, "limit")
    higher = limited(limits, *over, e.SessionConfigured(config=e.Config(limits=Limits(max_rounds_per_turn=3))), e.TurnStarted(turn=2, continues=1))
    assert decide(higher, NOW) == AskModel(2, 1, 1)


def test_going_on_without_more_time_ends_at_once():
    """The same for the time a turn may take."""
    state = limited(Limits(max_turn_seconds=10))
    kept = [envelope("s", 4, e.TurnEnded(turn=1, status="limit"), at=NOW + 20_000), envelope("s", 5, e.TurnStarted(turn=2, continues=1), at=NOW + 20_000)]
    assert decide(fold(kept, state), NOW + 20_000) == EndTurn(2, "limit", "max_turn_seconds")


def test_the_smaller_of_a_limit_and_the_models_window_counts():
    """A limit that is larger than the window must not let a request out that cannot be answered."""
    state = limited(Limits(max_context_tokens=50))
    assert decide(state, NOW, Facts(context_tokens=51, context_window=100)) == Compact()
    assert decide(state, NOW, Facts(context_tokens=50, context_window=60)) == AskModel(1, 1, 1)
    assert decide(state, NOW, Facts(context_tokens=50, context_window=40)) == Compact()


def test_no_limit_is_none():
    """`None` means unbounded."""
    state = limited(Limits(max_rounds_per_turn=None, max_same_calls=None, max_rounds_without_progress=None), *rounds(61))
    assert decide(state, NOW + 10**12) == AskModel(1, 62, 1)


# -- back-off and the clock --------------------------------------------------------------------------------------------

HOUR = MAX_BACKOFF_SECONDS * 1_000


@pytest.mark.parametrize(
    ("passed", "wait"),
    [(0, True), (4_999, True), (5_000, False), (5_001, False), (10**12, False), (-1, True), (-HOUR, True), (-HOUR - 1, False), (-(10**12), False)],
)
def test_a_back_off_is_honoured_and_bounded(passed: int, wait: bool):
    """Until its moment; a clock that jumped forward ends it, one that jumped far back does too."""
    state = after(*TURN, ask(), failed(START + 5 + 5_000))
    assert state.at == START + 5
    assert decide(state, state.at + passed) == (Wait("backoff", until=state.at + 5_000) if wait else AskModel(1, 1, 2))


def test_a_back_off_ends_with_the_time_of_the_turn():
    """Nobody waits for an attempt that the turn has no time for."""
    state = limited(Limits(max_turn_seconds=2.5), ask(), failed(START + 10**9))
    assert state.turn is not None
    deadline = state.turn.started_at + 2_500
    assert decide(state, deadline - 1) == Wait("backoff", until=deadline)
    assert decide(state, deadline) == EndTurn(1, "limit", "max_turn_seconds")


@pytest.mark.parametrize(
    ("seconds", "retryable", "step"),
    [(0.001, True, EndTurn(1, "limit", "max_turn_seconds")), (3_600, True, EndTurn(1, "failed", "overloaded")), (0.001, False, EndTurn(1, "failed", "overloaded"))],
)
def test_the_last_attempt_may_end_with_the_time(seconds, retryable, step):
    """Whether the last attempt broke off at the deadline or failed before it is told by when it failed, not by when it is decided."""
    state = limited(Limits(max_turn_seconds=seconds), ask(), e.ModelFailed(round=1, failure=FAILURE, retryable=retryable))
    assert {decide(state, state.at), decide(state, NOW + 10**9)} == {step}


def test_a_server_cannot_ask_for_ever():
    """Whatever it wants, an hour after the failure another attempt is made."""
    state = after(*TURN, ask(), failed(START + 10**12))
    assert decide(state, state.at) == Wait("backoff", until=state.at + HOUR)
    assert decide(state, state.at + HOUR - 1) == Wait("backoff", until=state.at + HOUR)
    assert decide(state, state.at + HOUR) == AskModel(1, 1, 2)


def test_what_is_said_meanwhile_does_not_lengthen_a_back_off():
    """The hour is counted from the failure, not from the last event: else a talkative outside would delay it for ever."""
    state = after(*TURN, ask(), failed(START + 10**12))
    later = evolve(state, envelope("s", state.seq + 1, say(mode="queue"), at=state.at + HOUR - 1))
    assert decide(later, state.at + HOUR) == AskModel(1, 1, 2)


# -- properties --------------------------------------------------------------------------------------------------------


@given(histories(), st.integers(-(10**13), 10**13), st.booleans())
def test_deciding_is_pure(kept: list[e.Envelope], now: int, go_on: bool):
    """The same step for the same state, from wherever it was read; and the state is as before."""
    state = fold(kept)
    before = freeze(state, b"")
    facts = Facts(running=frozenset({T1}), go_on=go_on, context_tokens=1)
    assert decide(state, now, facts) == decide(fold(kept), now, facts)
    assert freeze(state, b"") == before


def event_for(step: Step, state: SessionState) -> e.Event | None:
    """Make the event that a driver would record first for a step."""
    match step:
        case TakeInput(turn, inputs, continues):
            return e.TurnStarted(turn=turn, inputs=inputs, continues=continues)
        case AskModel(turn, number, attempt, inputs):
            return e.ModelAsked(turn=turn, round=number, attempt=attempt, inputs=inputs, model="m")
        case EndTurn(turn, status, reason):
            return e.TurnEnded(turn=turn, status=status, reason=reason)
        case Tell(why, text):
            return e.NoteAdded(text=text, why=why)
        case RunCalls(run, doubt, expired, abort):
            calls = state.calls
            for name in run:
                if calls[name].call.malformed is not None:
                    return e.CallAborted(call=name, by="b", reason="r")
                return e.CallStarted(call=name, attempt=calls[name].attempt + 1, digest=calls[name].digest)
            for name in doubt:
                return e.CallDoubted(call=name, attempt=calls[name].attempt, reason="r")
            for name in (*expired, *abort):
                return e.CallAborted(call=name, by="b", reason="r") if name in abort else e.CallDenied(call=name, by="b", reason="r")
    return None


@given(histories(), st.booleans())
def test_every_step_that_is_decided_is_legal(kept: list[e.Envelope], go_on: bool):
    """What decide names, the fold accepts: a loop of both cannot get stuck between them."""
    state = fold(kept)
    step = decide(state, state.at + 10**9, Facts(go_on=go_on))
    event = event_for(step, state)
    if event is not None:
        assert evolve(state, envelope(state.session, state.seq + 1, event, state.epoch)).seq == state.seq + 1
    else:
        assert isinstance(step, Wait)


@given(histories(60))
def test_driving_comes_to_rest(kept: list[e.Envelope]):
    """From any point on, doing what decide names, with a model that says one sentence, ends in a wait for somebody."""
    state = fold(kept)
    for _ in range(200):
        now = state.at + 2 * HOUR
        event = event_for(decide(state, now), state)
        if state.place == "asking" and state.cancel is None:
            event = e.ModelAnswered(round=state.turn.round, attempt=state.turn.attempt, parts=(Text("done"),))
        if event is None:
            break
        state = evolve(state, envelope(state.session, state.seq + 1, event, state.epoch, at=now))
    step = decide(state, state.at + 2 * HOUR)
    assert isinstance(step, Wait)
    assert step.why in {"person", "input", "closed"}
    if step.why == "input":
        assert state.turn is None
        assert not state.inputs or state.parked
