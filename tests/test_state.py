"""The fold: what may follow what, and what it amounts to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
from grammar import DONE, OPENED, TURN, after, answer, ask, calling, envelope, histories, history, kinds, make, say, story, summarise
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE_SECONDS

from power_agent import events as e
from power_agent.context import render
from power_agent.errors import IllegalMove
from power_agent.messages import Call, Text, Usage
from power_agent.state import CALL_MOVES, MOVES, RESOLVED, Answered, Returned, Said, SessionState, Summed, Told, Transcript, evolve, fold, freeze, thaw
from power_agent.state.shape import Cancel

FAILURE = e.Failure(code="broken", message="It broke.")
FORK = e.SessionOpened(nonce="other", owner="owner", parent=e.Parent(relation="fork", session="s", seq=5))


def frozen(state: SessionState) -> str:
    return freeze(state, b"")


def states_of(kept: list[e.Envelope]) -> list[SessionState]:
    states = [SessionState("")]
    for one in kept:
        states.append(evolve(states[-1], one))
    return states


def refuse(state: SessionState, event: e.Event, words: str, session: str = "s", epoch: int | None = None) -> None:
    """Demand that an event is refused with these words, and that the state stays as it was."""
    before = frozen(state)
    with pytest.raises(IllegalMove, match=words) as caught:
        evolve(state, envelope(session, state.seq + 1, event, state.epoch if epoch is None else epoch))
    assert caught.value.kind == event.kind
    assert caught.value.place == state.place
    assert frozen(state) == before


# -- fold and evolve ---------------------------------------------------------------------------------------------------


def test_the_grammar_says_everything():
    """Every kind of event occurs in the histories that these tests are about."""
    assert kinds(many()) == set(e.EVENTS)


@cache
def many() -> list[list[e.Envelope]]:
    return [history(seed, 120) for seed in range(300)]


def test_every_legal_move_is_made():
    """Each move of the tables happens in some history, and leads where the table says; no other one happens."""
    made: set[tuple[str, str, str]] = set()
    calls: set[tuple[str, str, str]] = set()
    for kept in many():
        state = SessionState("")
        for one in kept:
            newer = evolve(state, one)
            made.add((state.place, one.kind, newer.place))
            if isinstance(one.event, e.CallEvent) and one.event.call in newer.calls:
                calls.add((state.calls[one.event.call].place, one.kind, newer.calls[one.event.call].place))
            state = newer
    assert made == {(place, kind, to) for place, moves in MOVES.items() if place != "hollow" for kind, targets in moves.items() for to in targets} - NEVER
    assert calls == {(place, kind, to) for place, moves in CALL_MOVES.items() for kind, to in moves.items()}


NEVER = {("calling", kind, "ready") for kind in ("call.approval_asked", "call.approved", "call.started", "call.doubted", "call.retried")}
"""What the table allows in general and no call can do: only an outcome leads out of `calling`."""


@given(histories(), st.data())
def test_fold_may_be_cut_anywhere(kept: list[e.Envelope], data: st.DataObject):
    """Folding a history is folding its beginning, then the rest from there."""
    cut = data.draw(st.integers(0, len(kept)))
    begun = fold(kept[:cut])
    before = frozen(begun)
    assert fold(kept[cut:], begun) == fold(kept)
    assert frozen(begun) == before


@given(histories(60))
def test_fold_is_evolve_repeated_and_every_split_agrees(kept: list[e.Envelope]):
    """Each prefix folds to what evolving step by step gives, and goes on to the same end."""
    states = states_of(kept)
    assert [frozen(fold(kept[:cut])) for cut in range(len(kept) + 1)] == [frozen(state) for state in states]
    assert {frozen(fold(kept[cut:], states[cut])) for cut in range(1, len(kept) + 1)} == {frozen(states[-1])}


@given(histories(60), st.data())
def test_older_states_stay_as_they_were(kept: list[e.Envelope], data: st.DataObject):
    """Neither newer states, nor a branch that leaves an older one, nor a refusal change any state that was handed out."""
    states = states_of(kept)
    before = [frozen(state) for state in states]
    start = data.draw(st.integers(1, len(states) - 1))
    branch = e.SessionOpened(nonce="x", owner="o", parent=e.Parent(relation="fork", session=states[start].session, seq=start))
    if states[start].place != "erased":
        other = evolve(states[start], envelope("branch", start + 1, branch))
        for event in (say("branch"), e.TurnStarted(turn=other.turns + 1, inputs=(start + 2,)), ask(other.turns + 1)):
            other = evolve(other, envelope("branch", other.seq + 1, event))
        assert isinstance(other.transcript[-1], Said)
    for state in states[start:]:
        with pytest.raises(IllegalMove):
            evolve(state, envelope(state.session, state.seq + 1, ask(99, 99, 99), state.epoch))
    assert [frozen(state) for state in states] == before


def test_a_transcript_shows_nobody_what_came_later():
    """Two states that grow from the same one see their own entries only."""
    first = Transcript([Told(1, "one")])
    left, right = first.add(Told(2, "left")), first.add(Told(2, "right"))
    assert [entry.text for entry in (*first, *left, *right)] == ["one", "one", "left", "one", "right"]
    assert (len(first), first[-1].text, left[-1].text, right[1].text) == (1, "one", "left", "right")
    for beyond in (1, -2):
        with pytest.raises(IndexError):
            first[beyond]
    assert first == Transcript([Told(1, "one")]) != left
    assert "one" in repr(first)


@given(histories(), st.data())
def test_a_snapshot_may_be_taken_anywhere(kept: list[e.Envelope], data: st.DataObject):
    """A state that was written and read back is the same state, and goes on to the same end."""
    cut = data.draw(st.integers(0, len(kept)))
    state = fold(kept[:cut])
    text = freeze(state, b"tip")
    thawed = thaw(text, b"tip")
    assert thawed == state
    assert freeze(thawed, b"tip") == text
    assert frozen(fold(kept[cut:], thawed)) == frozen(fold(kept))


def test_a_snapshot_of_another_history_is_not_used():
    """The hash it ends with must be the one that is asked for, and it must be readable."""
    text = freeze(after(*TURN), b"one")
    assert thaw(text, b"one") is not None
    assert thaw(text, b"two") is None
    assert thaw(text[:-2], b"one") is None
    assert thaw(text.replace('"turns"', '"turnips"'), b"one") is None or "turns" not in text
    assert thaw("", b"one") is None


# -- order -------------------------------------------------------------------------------------------------------------


@given(histories(), st.data())
def test_a_history_with_a_gap_a_swap_or_a_double_is_refused(kept: list[e.Envelope], data: st.DataObject):
    """An event that is missing, in the wrong place or there twice is found out by its seq."""
    place = data.draw(st.integers(0, len(kept) - 1))
    doubled = [*kept[: place + 1], *kept[place:]]
    broken = [doubled]
    if place < len(kept) - 1:
        broken += [[*kept[:place], *kept[place + 1 :]], [*kept[:place], kept[place + 1], kept[place], *kept[place + 2 :]]]
    for one in broken:
        with pytest.raises(IllegalMove, match="it has seq"):
            fold(one)


ONCE = {"turn.started", "turn.ended", "model.answered", "model.failed", "call.approved", "call.doubted", "call.started", *e.TERMINAL}


@given(histories())
def test_what_happens_once_cannot_happen_again(kept: list[e.Envelope]):
    """A start, an end, an answer or an outcome is refused a second time even under the next seq."""
    state = SessionState("")
    for one in kept:
        state = evolve(state, one)
        if one.kind in ONCE:
            with pytest.raises(IllegalMove):
                evolve(state, one._replace(seq=state.seq + 1))


@given(histories())
def test_a_call_has_one_outcome(kept: list[e.Envelope]):
    """At every prefix at most one, and none is missing where no turn is open; a branch leaves the open ones behind."""
    outcomes: Counter[str] = Counter()
    asked: set[str] = set()
    state = SessionState("")
    for one in kept:
        state = evolve(state, one)
        if one.kind == "session.opened":
            asked &= set(outcomes)
        if isinstance(one.event, e.ModelAnswered):
            asked |= {part.id for part in one.event.parts if isinstance(part, Call)}
        if one.kind in e.TERMINAL:
            outcomes[e.call_of(one.event) or ""] += 1
        assert set(outcomes.values()) <= {1}
        assert {call.call.id for call in state.unresolved} == asked - set(outcomes)
        assert state.turn is not None or not state.calls


@given(histories())
def test_compactions_neither_overlap_nor_part_pairs(kept: list[e.Envelope]):
    """Ranges of summaries are disjoint and follow each other; an answer with calls stands directly before their outcomes."""
    state = SessionState("")
    for one in kept:
        state = evolve(state, one)
        entries = list(state.transcript)
        ranges = [(entry.first, entry.last) for entry in entries if isinstance(entry, Summed)]
        assert all(last < first for (_, last), (first, _) in pairwise(sorted(ranges)))
        assert all(last <= state.compacted_to for _, last in ranges)
        for before, entry in pairwise([None, *entries]):
            if isinstance(entry, Returned):
                assert isinstance(before, Answered)
                assert before.seq == entry.first
                assert [part.id for part in before.parts if isinstance(part, Call)] == [call.call.id for call in entry.calls]


@given(histories())
def test_the_transcript_stands_in_the_order_of_seq(kept: list[e.Envelope]):
    """Except for summaries, which stand where the entries they replace were: else a range of seqs would be no part of the context."""
    for state in states_of(kept):
        seqs = [entry.seq for entry in state.transcript if not isinstance(entry, Summed)]
        assert seqs == sorted(seqs)


# -- legality is exactly the tables ------------------------------------------------------------------------------------


def plausible(state: SessionState, kind: str) -> e.Event:
    """Make an event of a kind that fits the numbers of the state, so that only the table can refuse it."""
    turn = state.turn.number if state.turn else state.turns + 1
    place = {"round": state.request.round, "attempt": state.request.attempt} if state.request else {"round": 1, "attempt": 1}
    call = next(iter(state.unresolved), None)
    about = {"call": call.call.id if call else f"t{turn}r1c1"}
    attempt = {"attempt": call.attempt if call else 1}
    digest = (call and call.digest) or "digest"
    fields: dict[str, dict[str, object]] = {
        "session.opened": {"nonce": "n", "owner": "o", "parent": e.Parent(relation="fork", session=state.session, seq=state.seq) if state.seq else None},
        "session.configured": {"config": e.Config()},
        "session.imported": {"tip": ""},
        "session.closed": {"reason": "r"},
        "session.erased": {"reason": "r"},
        "owner.changed": {"owner": "o", "why": "dead"},
        "input.received": {"parts": (Text("x"),)},
        "turn.started": {"turn": state.turns + 1, "inputs": tuple(item.seq for item in state.inputs), "continues": state.last and state.last.number},
        "turn.ended": {"turn": turn},
        "note.added": {"text": "x", "why": "y"},
        "cancel.asked": {"reason": "r"},
        "guard.decided": {"guard": "g", "at": "end", "verdict": "refused"},
        "model.asked": {"turn": turn, "model": "m", "round": state.turn.round + 1 if state.turn else 1},
        "model.answered": {"parts": (Text("x"),), **place},
        "model.failed": {"failure": FAILURE, **place},
        "call.approval_asked": {"rule": "r", "digest": digest, **about},
        "call.approved": {"digest": digest, "by": "b", **about},
        "call.denied": {"by": "b", "reason": "r", **about},
        "call.started": {**about, "attempt": attempt["attempt"] + 1, "digest": call and call.digest},
        "call.succeeded": {**about, **attempt, "by": "b"},
        "call.failed": {**about, **attempt, "by": "b", "failure": FAILURE},
        "call.aborted": {"by": "b", "reason": "r", **about},
        "call.doubted": {"reason": "r", **about, **attempt},
        "call.retried": {"by": "b", **about},
        "context.compacted": {"from_seq": state.compacted_to + 1, "to_seq": state.seq, "summary": "x", "strategy": "s"},
    }
    return e.EVENTS[kind](**fields[kind])


def somewhere(places: int = 3) -> dict[str, list[SessionState]]:
    """Collect a few states for every place, from walks."""
    found: dict[str, list[SessionState]] = {place: [] for place in MOVES}
    found["unborn"].append(SessionState(""))
    found["hollow"].append(fold([e.Envelope("s", 1, 1, 0, None, kind="session.opened")]))
    for kept in many():
        for state in states_of(kept)[3:]:
            if len(found[state.place]) < places:
                found[state.place].append(state)
    return found


@pytest.mark.parametrize(("place", "kind"), [(place, kind) for place in MOVES for kind in e.EVENTS if kind not in MOVES[place]])
def test_what_is_not_in_the_table_is_refused(place: str, kind: str):
    """A pair of place and kind that is not in the table changes nothing, however well the event fits."""
    states = waiting_states()[place]
    assert states
    for state in states:
        epoch = state.epoch + 1 if kind == "owner.changed" else 1 if kind == "session.opened" else state.epoch
        refuse(state, plausible(state, kind), f"the session is {place}", session="branch" if kind == "session.opened" else state.session, epoch=epoch)


waiting_states = cache(somewhere)

TO_PLACE: dict[str, tuple[e.Event, ...]] = {
    "requested": (),
    "waiting": (e.CallApprovalAsked(call="t1r1c1", rule="r", digest="d"),),
    "approved": (e.CallApprovalAsked(call="t1r1c1", rule="r", digest="d"), e.CallApproved(call="t1r1c1", digest="d", by="ann")),
    "started": (e.CallStarted(call="t1r1c1", digest="d"),),
    "doubted": (e.CallStarted(call="t1r1c1", digest="d"), e.CallDoubted(call="t1r1c1", attempt=1, reason="died")),
    "succeeded": (e.CallStarted(call="t1r1c1"), e.CallSucceeded(call="t1r1c1", output="done")),
    "failed": (e.CallFailed(call="t1r1c1", failure=FAILURE),),
    "aborted": (e.CallAborted(call="t1r1c1", by="ann", reason="r"),),
    "denied": (e.CallDenied(call="t1r1c1", by="ann", reason="r"),),
}
CALL_KINDS = [kind for kind in e.EVENTS if kind.startswith("call.")]


@pytest.mark.parametrize(("place", "kind"), [(place, kind) for place in CALL_MOVES for kind in CALL_KINDS if kind not in CALL_MOVES[place]])
def test_what_a_call_cannot_do_is_refused(place: str, kind: str):
    """The same for one call; a sibling without an outcome keeps the session in `calling`."""
    state = after(*calling(make(1), make(2)), *TO_PLACE[place])
    call = state.calls["t1r1c1"]
    assert call.place == place
    alone = state.moved(calls={"t1r1c1": call})
    refuse(state, plausible_for(alone, kind), f"call t1r1c1 is {place}")


def plausible_for(state: SessionState, kind: str) -> e.Event:
    """The same as `plausible`, for a call that may have its outcome already."""
    return plausible(state.moved(calls={name: call.moved(place="started") for name, call in state.calls.items()}), kind)


def test_the_life_of_a_call_is_the_contracts():
    """The table says what CONTRACT.md says, word for word."""
    ends = {"denied": "call.denied", "failed": "call.failed", "aborted": "call.aborted", "succeeded": "call.succeeded"}
    contract = {
        "requested": {"waiting": "call.approval_asked", "started": "call.started", **{end: ends[end] for end in ("denied", "failed", "aborted")}},
        "waiting": {"approved": "call.approved", **{end: ends[end] for end in ("denied", "aborted", "succeeded")}},
        "approved": {"started": "call.started", "waiting": "call.approval_asked", "aborted": "call.aborted"},
        "started": {"doubted": "call.doubted", **{end: ends[end] for end in ("succeeded", "failed", "aborted")}},
        "doubted": {"started": "call.started", "doubted": "call.retried", **{end: ends[end] for end in ("succeeded", "failed", "aborted")}},
        **{end: {} for end in ends},
    }
    assert {place: {to: kind for kind, to in moves.items()} for place, moves in CALL_MOVES.items()} == contract
    assert set(RESOLVED) == set(ends)


# -- what a pair of names cannot say -----------------------------------------------------------------------------------

T1 = "t1r1c1"
CANCEL = e.CancelAsked(reason="enough", by="ann")
CHANGED = e.GuardDecided(guard="g", at="call", verdict="changed", subject=T1, change={"order": 2})
TRIM = e.Trim(call=T1, note="gone")
EXTERNAL = e.CallApprovalAsked(call=T1, rule="r", digest="d", external=True)
RETURNED = (*calling(), *TO_PLACE["succeeded"])
"""A turn whose call, made at seq 5, succeeded at seq 7."""


def compacted(first: int, last: int, summary: str | None = "sum", replaces: tuple[int, ...] = (), trimmed: tuple[e.Trim, ...] = ()) -> e.ContextCompacted:
    return e.ContextCompacted(from_seq=first, to_seq=last, summary=summary, replaces=replaces, trimmed=trimmed, strategy="s")


def named(*names: str) -> e.ModelAnswered:
    return e.ModelAnswered(round=1, parts=tuple(Call("x", {}, name) for name in names))


REFUSED: dict[str, tuple[tuple[e.Event, ...], e.Event, str]] = {
    "fork without a past": ((), FORK, "a fork begins behind"),
    "opened twice": ((OPENED,), OPENED, "it is open already"),
    "a fork under its parent's name": ((*TURN, ask(), answer()), FORK, "an id of its own"),
    "spawned on top of another": ((OPENED,), e.SessionOpened(nonce="n", owner="o", parent=e.Parent(relation="spawn", session="p", seq=1)), "open already"),
    "closed over a turn": ((*TURN, summarise()), e.SessionClosed(reason="r"), "a turn is open"),
    "a guard that changes a call that is asked about": ((*calling(), *TO_PLACE["waiting"]), CHANGED, "cannot be changed any more"),
    "a guard that changes a call that runs": ((*calling(), *TO_PLACE["started"]), CHANGED, "cannot be changed any more"),
    "a guard that changes another call": (DONE, CHANGED, "cannot be changed any more"),
    "a guard that changes a call into no object": (calling(), e.GuardDecided(guard="g", at="call", verdict="changed", subject=T1, change=[1]), "cannot be changed"),
    "erased over a turn": ((*TURN, summarise()), e.SessionErased(reason="r"), "a turn is open"),
    "an empty input": ((OPENED,), e.InputReceived(parts=()), "nothing in it"),
    "an input nobody gave": ((OPENED, say()), e.TurnStarted(turn=1, inputs=(1,)), "input 1 is not waiting"),
    "an input taken before": (DONE, e.TurnStarted(turn=2, inputs=(2,)), "input 2 is not waiting"),
    "an input taken twice": ((OPENED, say()), e.TurnStarted(turn=1, inputs=(2, 2)), "takes an input twice"),
    "a queued input shown as a steer": ((*TURN, say(mode="queue")), ask(1, 1, 1, 4), "input 4 is not waiting"),
    "a turn's input shown as a steer": ((*TURN, say()), ask(1, 1, 1, 4), "input 4 is not waiting"),
    "a turn skipped": ((OPENED, say()), e.TurnStarted(turn=2, inputs=(2,)), "turn 2 cannot follow turn 0"),
    "a turn repeated": ((*DONE, say()), e.TurnStarted(turn=1, inputs=(7,)), "turn 1 cannot follow turn 1"),
    "a turn from nothing": ((OPENED,), e.TurnStarted(turn=1), "neither an input"),
    "a turn that continues none": ((OPENED, say()), e.TurnStarted(turn=1, inputs=(2,), continues=1), "turn 1 is not the last one"),
    "a turn that continues another": (DONE, e.TurnStarted(turn=2, continues=7), "turn 7 is not the last one"),
    "the end of another turn": (TURN, e.TurnEnded(turn=2), "turn 2 is not open"),
    "a cancel of nothing": ((OPENED, summarise()), CANCEL, "no turn is open"),
    "asked after a cancel": ((*TURN, CANCEL), ask(), "the turn is cancelled"),
    "asked again after a cancel": ((*TURN, ask(), CANCEL), ask(attempt=2), "the turn is cancelled"),
    "a summary after a cancel": ((*TURN, CANCEL), summarise(), "the turn is cancelled"),
    "asked without a turn": ((OPENED,), ask(), "no turn is open"),
    "asked for another turn": (TURN, ask(2), "round 1, attempt 1 is next"),
    "a round skipped": (TURN, ask(1, 2), "round 1, attempt 1 is next"),
    "an attempt skipped": (TURN, ask(1, 1, 2), "round 1, attempt 1 is next"),
    "an attempt repeated": ((*TURN, ask()), ask(), "round 1, attempt 2 is next"),
    "a round without its answer": ((*TURN, ask()), ask(1, 2), "round 1, attempt 2 is next"),
    "a round repeated": ((*TURN, ask(), answer()), ask(1, 1, 2), "round 2, attempt 1 is next"),
    "a summary that takes an input": ((*TURN, say(mode="steer")), e.ModelAsked(turn=0, round=0, purpose="summary", model="m", inputs=(4,)), "takes no input"),
    "a summary's attempt skipped": ((OPENED,), summarise(2), "attempt 1 is next"),
    "a summary's attempt repeated": ((OPENED, summarise()), summarise(), "attempt 2 is next"),
    "the answer of another round": ((*TURN, ask()), answer(number=2), "round 1, attempt 1 is open"),
    "the answer of another attempt": ((*TURN, ask(), ask(attempt=2)), answer(), "round 1, attempt 2 is open"),
    "the failure of another attempt": ((*TURN, ask(), ask(attempt=2)), e.ModelFailed(round=1, failure=FAILURE), "round 1, attempt 2 is open"),
    "calls named otherwise": ((*TURN, ask()), named("t1r2c1"), "not named t1r1c1"),
    "calls not named": ((*TURN, ask()), named(""), "not named t1r1c1"),
    "calls in another order": ((*TURN, ask()), named("t1r1c2", T1), "not named t1r1c1"),
    "two calls of one name": ((*TURN, ask()), named(T1, T1), "not named t1r1c1"),
    "a call of another name": (calling(), e.CallStarted(call="t1r1c2"), "there is no call 't1r1c2'"),
    "an approval of an external call": ((*calling(), EXTERNAL), e.CallApproved(call=T1, digest="d", by="ann"), "waits for a result"),
    "an approval of something else": ((*calling(), *TO_PLACE["waiting"]), e.CallApproved(call=T1, digest="x", by="ann"), "is for something else"),
    "a result instead of a decision": ((*calling(), *TO_PLACE["waiting"]), e.CallSucceeded(call=T1, by="ann"), "waits for a decision"),
    "an external result from nobody": ((*calling(), EXTERNAL), e.CallSucceeded(call=T1), "waits for a decision"),
    "a start after a cancel": ((*calling(), CANCEL), e.CallStarted(call=T1), "the turn is cancelled"),
    "a start of another attempt": (calling(), e.CallStarted(call=T1, attempt=2), "attempt 1 of call t1r1c1 is next"),
    "a start of something else": ((*calling(), *TO_PLACE["approved"]), e.CallStarted(call=T1, digest="x"), "was approved as something else"),
    "a start of who knows what": ((*calling(), *TO_PLACE["approved"]), e.CallStarted(call=T1), "was approved as something else"),
    "another attempt nobody allowed": ((*calling(), *TO_PLACE["doubted"]), e.CallStarted(call=T1, attempt=2), "nobody allowed another attempt"),
    "the same attempt again": ((*calling(), *TO_PLACE["doubted"], e.CallRetried(call=T1, by="ann")), e.CallStarted(call=T1), "attempt 2 of call t1r1c1 is next"),
    "a start with broken arguments": (calling(make(malformed="{")), e.CallStarted(call=T1), "no usable arguments"),
    "the result of another attempt": ((*calling(), *TO_PLACE["started"]), e.CallSucceeded(call=T1, attempt=2), "attempt 1 of call t1r1c1 is the last"),
    "the failure of another attempt of a call": ((*calling(), *TO_PLACE["started"]), e.CallFailed(call=T1, attempt=2, failure=FAILURE), "attempt 1 of call t1r1c1 is the last"),
    "a doubted result from nobody": ((*calling(), *TO_PLACE["doubted"]), e.CallSucceeded(call=T1), "must say who handed it in"),
    "a doubted failure from nobody": ((*calling(), *TO_PLACE["doubted"]), e.CallFailed(call=T1, failure=FAILURE), "must say who handed it in"),
    "doubt about another attempt": ((*calling(), *TO_PLACE["started"]), e.CallDoubted(call=T1, attempt=2, reason="r"), "attempt 1 of call t1r1c1 is the last"),
    "a retry after a cancel": ((*calling(), *TO_PLACE["doubted"], CANCEL), e.CallRetried(call=T1, by="ann"), "the turn is cancelled"),
    "a range backwards": (DONE, compacted(5, 4), "is not in the past"),
    "a range of the future": (DONE, compacted(1, 7), "1 to 7 is not in the past"),
    "a compaction of nothing": (DONE, compacted(1, 5, None), "it changes nothing"),
    "an empty range": (DONE, compacted(1, 2), "there is nothing in that range"),
    "a range that overlaps": ((*DONE, compacted(1, 5)), compacted(5, 7, replaces=(7,)), "everything up to 5 is folded already"),
    "a range that parts a call from its output": (RETURNED, compacted(1, 6), "parts a call from its output"),
    "a range that parts an output from its call": (RETURNED, compacted(6, 7), "parts a call from its output"),
    "a summary replaced that is not there": (DONE, compacted(1, 5, replaces=(3,)), "replaces a summary that is not there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_follow_is_refused(name: str):
    """Right kind, wrong number: refused with a reason."""
    before, event, words = REFUSED[name]
    state = fold(story(*before), SessionState("s"))
    refuse(state, event, words, epoch=state.epoch or 1)


@pytest.mark.parametrize("epoch", [0, 2, 4, 5])
def test_epochs_rise_by_one(epoch: int):
    """A new owner's epoch is the next one; only a new owner changes it."""
    state = after(OPENED, *[e.OwnerChanged(owner="o", why="dead")] * 2)
    assert state.epoch == 3
    refuse(state, say(), f"it has epoch {epoch} in epoch 3", epoch=epoch)
    if epoch != 4:
        refuse(state, e.OwnerChanged(owner="p", why="dead"), f"epoch {epoch} cannot follow 3", epoch=epoch)


def test_a_session_begins_with_epoch_1():
    """And with seq 1."""
    for kept in (envelope("s", 1, OPENED, 2), envelope("s", 2, OPENED), envelope("s", 0, OPENED)):
        with pytest.raises(IllegalMove):
            evolve(SessionState("s"), kept)


def test_a_fork_begins_with_epoch_1():
    """A branch has its own owner and its own numbering of owners."""
    refuse(after(*TURN, ask(), answer()), FORK, "epoch 1", session="branch", epoch=7)


def test_a_fork_begins_where_it_says():
    """The seq that `parent` names is the one it follows."""
    refuse(after(*DONE), FORK, "seq|behind", session="branch", epoch=1)


def test_an_event_of_another_session_is_refused():
    """Nothing of one session can be slipped into another."""
    refuse(after(*TURN), ask(), "session", session="somebody else's")


def test_a_doubted_call_runs_again_only_as_what_was_approved():
    """An approval binds the second attempt like the first: the digest of what runs must be the approved one."""
    approved = after(*calling(), *TO_PLACE["approved"], *TO_PLACE["doubted"], e.CallRetried(call=T1, by="rerun"))
    refuse(approved, e.CallStarted(call=T1, attempt=2, digest="something else"), "approved as something else")


# -- what it amounts to ------------------------------------------------------------------------------------------------


def test_a_guard_changes_what_will_run_and_not_what_was_said():
    """The call's arguments before anybody was asked; the model's message stays as it was. Other verdicts change nothing."""
    state = after(*calling(), CHANGED)
    assert state.calls[T1].call.arguments == {"order": 2}
    assert state.transcript[-1].parts[0].arguments == {"order": 1}
    for at, verdict in (("call", "refused"), ("input", "changed"), ("model", "changed"), ("end", "changed")):
        other = e.GuardDecided(guard="g", at=at, verdict=verdict, subject=T1, change={"order": 2})
        assert after(*calling(), other).calls[T1].call.arguments == {"order": 1}


def test_an_open_turn_keeps_its_configuration():
    """What is configured meanwhile is for the next turn."""
    state = after(*TURN, e.SessionConfigured(config=e.Config(model="new")))
    assert state.config.model == "new"
    assert state.turn.config.model is None


def test_configuring_changes_what_is_named_only():
    """The title without the configuration, or the other way round; an empty title is one."""
    config = e.Config(model="m")
    state = after(OPENED, e.SessionConfigured(config=config), e.SessionConfigured(title="t"))
    assert (state.config, state.title) == (config, "t")
    assert fold(story(e.SessionConfigured(title=""), state=state), state).title == ""


def test_a_note_is_shown_with_the_next_request_only():
    """It waits until then, also over the end of a turn, and is shown once."""
    state = after(*DONE, e.NoteAdded(text="psst", why="test"), say(), e.TurnStarted(turn=2, inputs=(8,)))
    assert [note.text for note in state.notes] == ["psst"]
    state = fold(story(ask(2), ask(2, 1, 2), state=state), state)
    assert state.notes == ()
    assert [entry.text for entry in state.transcript if isinstance(entry, Told)] == ["psst"]


def test_a_steer_is_shown_by_the_request_that_names_it():
    """What was not named waits on."""
    state = after(*TURN, say("left", "steer"), say("hard left", "steer"), ask(1, 1, 1, 4))
    assert [item.seq for item in state.inputs] == [5]
    assert state.transcript[-1] == Said(6, 4, (Text("left"),))


def test_inputs_are_parked_after_a_cancel_or_a_limit_until_somebody_speaks():
    """Queued and steering inputs stay parked; an input that wants a turn, or a turn, ends that."""
    for status, parked in (("cancelled", True), ("limit", True), ("completed", False), ("failed", False)):
        state = after(*TURN, say(mode="queue"), e.TurnEnded(turn=1, status=status))
        assert state.parked is parked
        assert fold(story(say(mode="steer"), state=state), state).parked is parked
        assert fold(story(say(), state=state), state).parked is False
        assert fold(story(e.TurnStarted(turn=2, inputs=(4,)), state=state), state).parked is False


def test_the_first_cancel_counts():
    """A second one changes nothing; the end of the turn takes it away."""
    state = after(*TURN, CANCEL, e.CancelAsked(reason="other"))
    assert state.cancel == Cancel("enough", "ann")
    assert fold(story(e.TurnEnded(turn=1, status="cancelled"), state=state), state).cancel is None


def test_what_a_request_reserved_is_spent_when_its_end_is_unknown():
    """Asked again, or the turn over: the reserved tokens and cost count, for the turn and for the session."""
    reserved = e.ModelAsked(turn=1, round=1, model="m", reserved_tokens=100, reserved_cost_nano_usd=7)
    asked = after(*TURN, reserved)
    assert asked.spent.tokens == 0
    again = fold(story(ask(attempt=2), state=asked), asked)
    over = fold(story(e.TurnEnded(turn=1, status="failed"), state=asked), asked)
    summary = after(OPENED, say(), summarise(1, 100))
    begun = fold(story(e.TurnStarted(turn=1, inputs=(2,)), state=summary), summary)
    assert again.turn is not None
    assert over.last is not None
    assert [one.tokens for one in (again.spent, again.turn_spent, over.spent, over.last.spent, begun.spent)] == [100] * 5
    assert [one.lost_cost_nano_usd for one in (again.spent, again.turn_spent, over.spent, over.last.spent)] == [7] * 4


def test_a_compaction_without_the_answer_counts_what_its_request_reserved():
    """Somebody asked for a summary, died, and the context was compacted otherwise: the request may have been paid for."""
    state = after(*DONE, summarise(1, 100), compacted(1, 5))
    assert state.request is None
    assert state.spent.tokens == 100


def test_answers_and_failures_are_paid_for():
    """Usage and known cost add up; an answer of unknown cost is counted as such; tokens of a failed attempt count."""
    used = Usage(10, 5, 3, 2, 1)
    first = e.ModelAnswered(round=1, parts=(Text("a"),), usage=used, cost_nano_usd=40)
    failed = e.ModelFailed(round=2, failure=FAILURE, usage=Usage(1, 1))
    state = after(*TURN, ask(), first, ask(1, 2), failed, ask(1, 2, 2), answer(number=2, attempt=2, usage=used))
    assert state.turn is not None
    assert state.spent == state.turn_spent
    assert (state.spent.usage, state.spent.cost_nano_usd, state.spent.unpriced, state.spent.tokens) == (Usage(21, 11, 6, 4, 2), 40, 1, 32)
    unknown = after(*TURN, ask(), e.ModelFailed(round=1, failure=FAILURE))
    assert unknown.spent.tokens == 0
    reserved = e.ModelAsked(turn=1, round=1, model="m", reserved_tokens=100, reserved_cost_nano_usd=7)
    lost = after(*TURN, reserved, e.ModelFailed(round=1, failure=FAILURE, lost=True))
    assert lost.turn is not None
    assert [(spent.lost_tokens, spent.lost_cost_nano_usd) for spent in (lost.spent, lost.turn_spent)] == [(100, 7)] * 2


def test_a_turn_that_continues_inherits_what_was_spent():
    """Rounds, tokens and cost go on from where the last turn stopped; a turn with new input begins afresh."""
    ended = after(*TURN, ask(), answer(usage=Usage(3, 4)), e.TurnEnded(turn=1, status="limit", reason="max_rounds_per_turn"), say())
    assert ended.last is not None
    assert (ended.last.rounds, ended.last.status, ended.last.reason, ended.last.seq) == (1, "limit", "max_rounds_per_turn", 6)
    onward = fold(story(e.TurnStarted(turn=2, continues=1), ask(2), answer(), e.TurnEnded(turn=2, status="limit"), state=ended), ended)
    assert onward.last is not None
    assert (onward.last.rounds, onward.last.spent.tokens) == (2, 7)
    afresh = fold(story(e.TurnStarted(turn=2, inputs=(7,)), state=ended), ended)
    assert (afresh.turn.rounds_before, afresh.turn_spent.tokens, afresh.spent.tokens) == (0, 0, 7)


def test_outcomes_stand_in_the_order_of_the_calls():
    """Whatever came first; the session is ready when the last one has its outcome."""
    state = after(*calling(make(1), make(2)), e.CallStarted(call="t1r1c2"), e.CallSucceeded(call="t1r1c2"))
    assert (state.place, [call.call.id for call in state.unresolved]) == ("calling", [T1])
    state = fold(story(e.CallDenied(call=T1, by="ann", reason="no"), state=state), state)
    assert (state.place, state.calls) == ("ready", {})
    returned = state.transcript[-1]
    assert isinstance(returned, Returned)
    assert (returned.seq, returned.first, [call.call.id for call in returned.calls]) == (8, 5, [T1, "t1r1c2"])


def test_a_start_that_failed_before_it_began_touched_nothing():
    """`touched` says that a call had been started; `harmless` that running it again is."""
    before = after(*calling(), *TO_PLACE["failed"]).transcript[-1].calls[0].outcome
    later = after(*calling(), e.CallStarted(call=T1, recovery="rerun"), e.CallFailed(call=T1, failure=FAILURE)).transcript[-1].calls[0].outcome
    assert (before.touched, before.harmless) == (False, False)
    assert (later.touched, later.harmless) == (True, True)


def test_an_allowance_is_for_one_attempt():
    """A retry is used up by the start it allowed."""
    again = (e.CallRetried(call=T1, by="ann"), e.CallStarted(call=T1, attempt=2), e.CallDoubted(call=T1, attempt=2, reason="died"))
    state = after(*calling(), *TO_PLACE["doubted"], *again)
    assert state.calls[T1].attempt == 2
    refuse(state, e.CallStarted(call=T1, attempt=3), "nobody allowed")


def test_an_import_voids_approvals_and_allowances():
    """Nothing that was allowed elsewhere runs here by itself; an external call goes on waiting for its result."""
    imported = e.SessionImported(tip="00")
    for place in ("waiting", "approved"):
        call = after(*calling(), *TO_PLACE[place], imported).calls[T1]
        assert (call.place, call.digest, call.rule) == ("requested", None, None)
    assert after(*calling(), EXTERNAL, imported).calls[T1].place == "waiting"
    doubted = after(*calling(), *TO_PLACE["doubted"], e.CallRetried(call=T1, by="ann"), imported)
    refuse(doubted, e.CallStarted(call=T1, attempt=2), "nobody allowed")


def test_a_branch_leaves_behind_what_belongs_to_its_parent():
    """Unresolved calls, untaken inputs, notes, an open request, the open turn, a cancel and the end of the session."""
    busy = after(*calling(make(1), make(2)), *TO_PLACE["denied"], say(), e.NoteAdded(text="n", why="w"), CANCEL)
    opened = e.SessionOpened(nonce="new", owner="me", parent=e.Parent(relation="fork", session="s", seq=busy.seq))
    branch = evolve(busy, envelope("branch", busy.seq + 1, opened))
    assert (branch.session, branch.nonce, branch.owner, branch.epoch, branch.place) == ("branch", "new", "me", 1, "idle")
    assert (branch.turn, branch.calls, branch.inputs, branch.notes, branch.cancel, branch.request) == (None, {}, (), (), None, None)
    assert branch.last is not None
    assert (branch.last.number, branch.last.status, branch.last.rounds) == (1, "forked", 1)
    kept, left = branch.transcript[-1].calls
    assert (kept.place, kept.outcome.left) == ("denied", False)
    assert (left.place, left.outcome.left) == ("aborted", True)
    shut = after(*DONE, e.SessionClosed(reason="over"))
    assert (
        evolve(shut, envelope("branch", 8, FORK if shut.seq == 5 else e.SessionOpened(nonce="n", owner="o", parent=e.Parent(relation="fork", session="s", seq=7)))).place == "idle"
    )


def test_a_summary_stands_where_the_entries_were():
    """Earlier summaries stay beside it, or become part of it when it says so; trims only change what is shown."""
    first = after(*DONE, compacted(1, 5), say(), e.TurnStarted(turn=2, inputs=(8,)), ask(2), answer(), e.TurnEnded(turn=2))
    assert [type(entry) for entry in first.transcript] == [Summed, Said, Answered]
    beside = fold(story(compacted(6, 9), state=first), first)
    merged = fold(story(compacted(6, 9, replaces=(7,)), state=first), first)
    assert [(type(entry), entry.seq) for entry in beside.transcript] == [(Summed, 7), (Summed, 13), (Answered, 11)]
    assert [(type(entry), entry.seq) for entry in merged.transcript] == [(Summed, 13), (Answered, 11)]
    trimmed = after(*RETURNED, compacted(1, 7, None, trimmed=(TRIM,)))
    assert trimmed.transcript[-1].trimmed == {T1: "gone"}
    assert (trimmed.compacted_to, len(trimmed.transcript)) == (0, 3)


def test_a_compaction_that_succeeded_leaves_no_failed_summary_behind():
    """The next summary is a first attempt again, and nobody waits for a back-off that is over."""
    failed = e.ModelFailed(round=0, failure=FAILURE, not_before=9_999_999_999_999)
    state = after(*DONE, summarise(), failed, compacted(1, 5))
    assert state.setback is None


def test_an_erased_session_is_the_same_whoever_folded_it():
    """The state of the process that erased it, and of one that reads what is left: no words of before are in either."""
    kept = story(*DONE, e.SessionErased(reason="asked to", by="ann"))
    left = [one._replace(event=None) for one in kept[:-1]] + kept[-1:]
    remembered, read = fold(kept), fold(left)
    assert (remembered.place, read.place) == ("erased", "erased")
    assert render(remembered).messages == render(read).messages == ()
    assert fold(kept[:-1]).session == "s"
    assert frozen(remembered.moved(hollow=False)) == frozen(read.moved(hollow=False))


def test_only_the_tombstone_follows_erased_events():
    """A body that is missing without one is no history."""
    hollow = fold([e.Envelope("s", number, 1, 0, None, kind="x") for number in (1, 2)])
    assert (hollow.place, hollow.seq) == ("hollow", 2)
    refuse(hollow, say(), "the session is hollow")
    erased = fold(story(e.SessionErased(reason="r"), state=hollow), hollow)
    with pytest.raises(IllegalMove, match="the session is erased"):
        evolve(erased, e.Envelope("s", 4, 1, 0, None, kind="x"))
    with pytest.raises(IllegalMove, match="it has seq 4"):
        evolve(hollow, e.Envelope("s", 4, 1, 0, None, kind="x"))


# -- determinism -------------------------------------------------------------------------------------------------------

CHILD = """
import hashlib, json, sys
from power_agent.context import render
from power_agent.events import Envelope, decode
from power_agent.state import fold, freeze
lines = [json.loads(line) for line in open(sys.argv[1], "rb")]
state = fold(Envelope(s, q, p, a, decode(k, b), kind=k) for s, q, p, a, k, b in lines)
sys.stdout.write(hashlib.sha256((freeze(state, b"") + repr(render(state))).encode("utf-8", "backslashreplace")).hexdigest())
"""
OUTSIDES = [
    {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
    {"PYTHONHASHSEED": "1", "LC_ALL": "C.utf8", "TZ": "Asia/Tokyo"},
    {"PYTHONHASHSEED": "4242", "LC_ALL": "POSIX", "TZ": "America/St_Johns"},
]


def test_every_process_folds_to_the_same_bytes(tmp_path):
    """Whatever its hash seed, its language and its time zone."""
    path = tmp_path / "story.jsonl"
    rich = max(many(), key=lambda kept: (len(fold(kept).transcript), len(kept)))
    rows = [(one.session, one.seq, one.epoch, one.at, one.kind, e.encode(one.event)) for one in rich]
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
    state = fold(rich)
    here = hashlib.sha256((frozen(state) + repr(render(state))).encode("utf-8", "backslashreplace")).hexdigest()
    children = [subprocess.Popen([sys.executable, "-c", CHILD, str(path)], env={**os.environ, **outside}, stdout=subprocess.PIPE, text=True) for outside in OUTSIDES]
    assert [child.communicate(timeout=PATIENCE_SECONDS)[0] for child in children] == [here] * len(OUTSIDES)
