"""What the model sees: always what a provider accepts, in words that are held fast here."""

from __future__ import annotations

import re

import pytest
from grammar import DONE, OPENED, TURN, after, answer, ask, calling, envelope, histories, history, make, say, story, summarise
from hypothesis import given

from power_agent import events as e
from power_agent.context import Context, cut_places, render
from power_agent.errors import IllegalMove
from power_agent.messages import Attachment, Call, ContentPart, Message, Opaque, Output, Reasoning, Text
from power_agent.state import Answered, Returned, SessionState, Summed, evolve, fold

T1 = "t1r1c1"
WIRE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
CUT = e.Cut(blob="b" * 64, size=20, head="häd", tail="tail")
FAILURE = e.Failure(code="broken", message="It broke.")
ASKED = e.CallApprovalAsked(call=T1, rule="r", digest="d")


def strict(messages: tuple[Message, ...]) -> str | None:
    """Judge messages as the strictest provider would: what is wrong with them, or None."""
    wire_ids: set[str] = set()
    for position, message in enumerate(messages):
        if not message.parts:
            return f"message {position} is empty"
        if message.role == "tool" and (position == 0 or not messages[position - 1].calls):
            return f"message {position} answers nothing"
        if message.role == "tool" and not all(isinstance(part, Output) and part.content for part in message.parts):
            return f"message {position} holds something else than outputs"
        if message.role != "tool" and any(isinstance(part, Output) for part in message.parts):
            return f"message {position} is no place for outputs"
        if message.calls and message.role != "assistant":
            return f"message {position} makes calls"
        names = [call.provider_id or "" for call in message.calls]
        if not all(WIRE_ID.fullmatch(name) for name in names) or len({*names}) < len(names) or wire_ids & {*names}:
            return f"message {position} has the ids {names}"
        wire_ids |= {*names}
        follows = messages[position + 1] if position + 1 < len(messages) else None
        answered = [(part.provider_id, part.call, part.name) for part in follows.parts if isinstance(part, Output)] if follows else []
        if message.calls and answered != [(call.provider_id, call.id, call.name) for call in message.calls]:
            return f"the calls of message {position} are answered by {answered}"
    if not messages or messages[-1].role == "assistant":
        return "nothing to answer"
    return None


GOOD = (Message("user", (Text("a"),)), Message("assistant", (Call("x", {}, "i", "i"),)), Message("tool", (Output("i", (Text("o"),), provider_id="i", name="x"),)))
BAD: dict[str, tuple[Message, ...]] = {
    "no output": GOOD[:2],
    "orphan": (GOOD[0], GOOD[2]),
    "late": (*GOOD[:2], GOOD[0], GOOD[2]),
    "twice": (*GOOD, *GOOD[1:]),
    "ends with the assistant": (*GOOD, Message("assistant", (Text("a"),))),
    "nothing": (),
    "empty": (Message("user", ()),),
    "other id": (*GOOD[:2], Message("tool", (Output("i", (Text("o"),), provider_id="j", name="x"),))),
    "illegal id": (GOOD[0], Message("assistant", (Call("x", {}, "i", "no good"),)), Message("tool", (Output("i", (Text("o"),), provider_id="no good", name="x"),))),
    "no content": (*GOOD[:2], Message("tool", (Output("i", (), provider_id="i", name="x"),))),
}


@pytest.mark.parametrize("name", BAD)
def test_the_judge_judges(name: str):
    """What no provider takes is noticed by the tests' own judge."""
    assert strict(GOOD) is None
    assert strict(BAD[name]) is not None


# -- always sendable, or said why not ----------------------------------------------------------------------------------


@given(histories())
def test_every_prefix_can_be_sent_or_says_why_not(kept: list[e.Envelope]):
    """At every commit boundary what would be sent is valid, or there is a reason; and never a reason without need."""
    state = SessionState("")
    for one in kept:
        state = evolve(state, one)
        context = render(state)
        wrong = strict(context.messages)
        assert (context.why_not is None) == (wrong is None and state.place not in {"closed", "erased"})
        if state.place == "ready" and not isinstance(state.transcript[-1], Answered):
            assert wrong is None


def test_many_walks_are_judged_the_same():
    """The same, at the end of some hundred long walks."""
    for seed in range(300):
        context = render(fold(history(seed, 60)))
        assert context.why_not is not None or strict(context.messages) is None


@given(histories())
def test_what_was_sent_stays_the_beginning_of_what_is_sent(kept: list[e.Envelope]):
    """Until a compaction, messages are only added: prompt caches survive. Outputs come with the last call's outcome."""
    state, before = SessionState(""), Context(())
    for one in kept:
        state = evolve(state, one)
        context = render(state)
        if one.kind not in {"context.compacted", "session.erased"}:
            assert context.messages[: len(before.messages)] == before.messages
        before = context


def test_rendering_reads_the_state_only():
    """Twice the same, and the state is as before."""
    state = fold(history(5, 80))
    assert render(state) == render(state)
    assert render(fold(history(5, 80))) == render(state)


NOT_SENDABLE: dict[str, tuple[tuple[e.Event, ...], str]] = {
    "unborn": ((), "the session is unborn"),
    "closed": ((*DONE, e.SessionClosed(reason="r")), "the session is closed"),
    "erased": ((*DONE, e.SessionErased(reason="r")), "the session is erased"),
    "empty": ((OPENED,), "there is nothing to answer"),
    "answered": (DONE, "there is nothing to answer"),
    "unresolved": (
        (*calling(make(1), make(2), make(3)), e.CallDenied(call=T1, by="b", reason="r"), e.CallStarted(call="t1r1c3")),
        "unresolved calls: t1r1c2 is requested, t1r1c3 is started",
    ),
}


@pytest.mark.parametrize("name", NOT_SENDABLE)
def test_the_reason_why_not(name: str):
    """It names the place, the calls and where they stand, or that nothing was said."""
    events, reason = NOT_SENDABLE[name]
    assert render(after(*events)).why_not == reason


def test_a_whole_conversation():
    """Who says what, in order: words, notes, answers with their calls, outputs; the provider's own items go back unchanged."""
    thinking, odd = Reasoning("hm", raw='{"signature":"s"}'), Opaque('{"type":"odd"}')
    answered = e.ModelAnswered(round=1, parts=(thinking, Text("let me see"), odd, make(provider_id="call_7")), format="scripted")
    state = after(*TURN, e.NoteAdded(text="be quick", why="w"), ask(), answered, e.CallStarted(call=T1), e.CallSucceeded(call=T1, output={"cents": 10}))
    assert render(state) == Context(
        (
            Message("user", (Text("hello"),)),
            Message("user", (Text("[Note from the harness] be quick"),)),
            Message("assistant", (thinking, Text("let me see"), odd, make(provider_id="call_7")), "scripted"),
            Message("tool", (Output(T1, (Text('{"cents":10}'),), provider_id="call_7", name="charge"),)),
        )
    )


def test_an_empty_answer_is_no_message():
    """Providers refuse empty messages."""
    assert [message.role for message in render(after(*TURN, ask(), e.ModelAnswered(round=1, parts=()))).messages] == ["user"]


# -- the words ---------------------------------------------------------------------------------------------------------


def started(recovery: e.Recovery = "ask") -> e.CallStarted:
    return e.CallStarted(call=T1, recovery=recovery)


def failed(failure: e.Failure = FAILURE, cut: e.Cut | None = None, attempt: int = 1) -> e.CallFailed:
    return e.CallFailed(call=T1, failure=failure, cut=cut, attempt=attempt)


DOUBTED = e.CallDoubted(call=T1, attempt=1, reason="the process died")
AGAIN = (DOUBTED, e.CallRetried(call=T1, by="ann"), e.CallStarted(call=T1, attempt=2))
UNTOUCHED = e.Failure(code="tool", message="The bank was not called.", details={"untouched": True})
SENTENCES: dict[str, tuple[tuple[e.Event, ...], str]] = {
    "denied": ((ASKED, e.CallDenied(call=T1, by="ann", reason="too much")), "Denied by ann: too much. It was not run."),
    "denied by a rule": ((e.CallDenied(call=T1, by="rule 3", reason="Not on Sundays."),), "Denied by rule 3: Not on Sundays. It was not run."),
    "denied without a reason": ((e.CallDenied(call=T1, by="ann", reason=""),), "Denied by ann: no reason given. It was not run."),
    "aborted before": ((e.CallAborted(call=T1, by="ann", reason="enough"),), "Aborted by ann: enough. It was not run."),
    "aborted waiting": ((ASKED, e.CallAborted(call=T1, by="ann", reason="enough")), "Aborted by ann: enough. It was not run."),
    "aborted after": (
        (started(), e.CallAborted(call=T1, by="ann", reason="enough")),
        "Aborted by ann: enough. It may have taken effect; check before repeating.",
    ),
    "aborted in doubt": (
        (started("rerun"), DOUBTED, e.CallAborted(call=T1, by="ann", reason="enough")),
        "Aborted by ann: enough. It may have taken effect; check before repeating.",
    ),
    "failed": ((started(), failed()), "It broke. It may have taken effect."),
    "failed, keyed": ((started("keyed"), failed()), "It broke. It may have taken effect."),
    "failed, probe": ((started("probe"), failed()), "It broke. It may have taken effect."),
    "failed, rerun": ((started("rerun"), failed()), "It broke."),
    "failed before": ((e.CallFailed(call=T1, failure=e.Failure(code="unknown_tool", message="There is no tool 'charge'.")),), "There is no tool 'charge'."),
    "failed, untouched": ((started(), failed(UNTOUCHED)), "The bank was not called."),
    "failed, the second attempt untouched": (
        (started(), *AGAIN, failed(UNTOUCHED, attempt=2)),
        "The bank was not called. That is so of the last attempt; an earlier one may have taken effect.",
    ),
    "failed, the second attempt": ((started(), *AGAIN, failed(attempt=2)), "It broke. It may have taken effect."),
    "failed, handed in": ((started(), DOUBTED, e.CallFailed(call=T1, failure=FAILURE, by="ann")), "It broke. It may have taken effect."),
    "failed with much output": ((started(), failed(cut=CUT)), "häd\n[… 12 of 20 bytes left out …]\ntail It may have taken effect."),
    "failed with much output, rerun": ((started("rerun"), failed(cut=CUT)), "häd\n[… 12 of 20 bytes left out …]\ntail"),
    "failed without a word": ((started("rerun"), failed(e.Failure(code="x", message=""))), "It failed."),
    "failed without a word, ask": ((started(), failed(e.Failure(code="x", message=""))), "It failed. It may have taken effect."),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_the_model_reads_about_a_call_that_did_not_succeed(name: str):
    """The sentence, word for word, marked as a failure."""
    events, sentence = SENTENCES[name]
    output = render(after(*calling(), *events)).messages[-1].parts[0]
    assert output == Output(T1, (Text(sentence),), True, T1, "charge")


VALUES: dict[str, tuple[e.CallSucceeded, tuple[ContentPart, ...]]] = {
    "none": (e.CallSucceeded(call=T1), (Text("(no output)"),)),
    "empty": (e.CallSucceeded(call=T1, output=""), (Text("(no output)"),)),
    "empty parts": (e.CallSucceeded(call=T1, parts=()), (Text("(no output)"),)),
    "empty text": (e.CallSucceeded(call=T1, parts=(Text(""), Text("x"))), (Text("x"),)),
    "text": (e.CallSucceeded(call=T1, output="ten euros"), (Text("ten euros"),)),
    "false": (e.CallSucceeded(call=T1, output=False), (Text("false"),)),
    "zero": (e.CallSucceeded(call=T1, output=0), (Text("0"),)),
    "list": (e.CallSucceeded(call=T1, output=[]), (Text("[]"),)),
    "object": (e.CallSucceeded(call=T1, output={"b": "ä", "a": [1.5, None]}), (Text('{"b":"ä","a":[1.5,null]}'),)),
    "parts": (e.CallSucceeded(call=T1, parts=(Text("see"), Attachment("image/png", blob="b"))), (Text("see"), Attachment("image/png", blob="b"))),
    "cut": (e.CallSucceeded(call=T1, cut=CUT), (Text("häd\n[… 12 of 20 bytes left out …]\ntail"),)),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_the_model_reads_about_a_call_that_succeeded(name: str):
    """The value as text, JSON where it is none; something even where there was no output."""
    event, content = VALUES[name]
    assert render(after(*calling(), started(), event)).messages[-1].parts[0] == Output(T1, content, False, T1, "charge")


def test_what_a_branch_reads_about_calls_it_left_behind():
    """They may have happened in the parent; a sibling with an outcome keeps it."""
    busy = after(*calling(make(1), make(2)), e.CallDenied(call=T1, by="ann", reason="no"))
    opened = e.SessionOpened(nonce="n", owner="o", parent=e.Parent(relation="fork", session="s", seq=busy.seq))
    context = render(evolve(busy, envelope("branch", busy.seq + 1, opened)))
    told = [part.content[0].text for part in context.messages[-1].parts]
    assert told == ["Denied by ann: no. It was not run.", "Not carried into this branch. It may have taken effect."]
    assert strict(context.messages) is None


def test_summaries_and_trims():
    """A summary stands for what it replaces; a trimmed output is a reference."""
    state = after(*calling(), started(), e.CallSucceeded(call=T1, output="long"), ask(1, 2), answer(number=2), e.TurnEnded(turn=1))
    trim = e.ContextCompacted(from_seq=1, to_seq=7, summary=None, trimmed=(e.Trim(call=T1, note="[left out]"),), strategy="trim")
    trimmed = evolve(state, envelope("s", state.seq + 1, trim))
    assert render(trimmed).messages[2].parts[0].content == (Text("[left out]"),)
    assert len(render(trimmed).messages) == len(render(state).messages)
    summed = e.ContextCompacted(from_seq=1, to_seq=7, summary="They said hello.", strategy="s")
    messages = render(evolve(state, envelope("s", state.seq + 1, summed))).messages
    assert messages == (Message("user", (Text("[Summary of the conversation so far]\nThey said hello."),)), Message("assistant", (Text("answer"),)))


# -- the ids on the wire -----------------------------------------------------------------------------------------------


def wire_ids(*provider_ids: str | None) -> list[str]:
    """Render calls with these ids of the provider's, all in one message."""
    calls = tuple(make(number, provider_id=name) for number, name in enumerate(provider_ids, 1))
    events = [e.CallDenied(call=call.id, by="b", reason="r") for call in calls]
    context = render(after(*calling(*calls), *events))
    assert strict(context.messages) is None
    return [call.provider_id for call in context.messages[1].calls]


GIVEN: dict[str, tuple[tuple[str | None, ...], list[str]]] = {
    "none": ((None, None), [T1, "t1r1c2"]),
    "empty": (("", ""), [T1, "t1r1c2"]),
    "the provider's": (("toolu_01-A", "call_9"), ["toolu_01-A", "call_9"]),
    "twice": (("call_1", "call_1", "call_1"), ["call_1", "t1r1c2", "t1r1c3"]),
    "illegal": (("a b", "é", "x\n", "a.b"), [T1, "t1r1c2", "t1r1c3", "t1r1c4"]),
    "longest": (("x" * 64, "x" * 65), ["x" * 64, "t1r1c2"]),
    "like the one before of ours": ((None, T1), [T1, "t1r1c2"]),
}


@pytest.mark.parametrize("name", GIVEN)
def test_ids_on_the_wire(name: str):
    """The provider's own where it is legal and new, else ours, made different where somebody took it."""
    provider_ids, expected = GIVEN[name]
    assert wire_ids(*provider_ids) == expected


def test_an_id_that_looks_like_one_of_ours_does_not_take_its_place():
    """Ours is then made different, and still tells which call it is; the provider's stays as it is."""
    for provider_ids in (("t1r1c2", None), ("t1r1c3", "t1r1c3_", None), ("t1r1c3_1", "t1r1c3", None)):
        given = wire_ids(*provider_ids)
        assert given[:-1] == list(provider_ids[:-1])
        assert given[-1].startswith(f"t1r1c{len(given)}_")


def test_ids_on_the_wire_stay_short_whatever_a_provider_makes_up():
    """A provider that takes all our names, and all that they would become, gets legal ids all the same."""
    last = "t1r1c71"
    assert len(set(wire_ids(*(last + "_" * count for count in range(70) if len(last) + count <= 64), *[None] * 20))) == 78


def test_an_id_reused_in_a_later_turn_becomes_ours():
    """Some providers count their ids afresh in each request."""
    later = (say(), e.TurnStarted(turn=2, inputs=(8,)), ask(2), answer(make(turn=2, provider_id="call_0")))
    state = after(*calling(make(provider_id="call_0")), e.CallDenied(call=T1, by="b", reason="r"), e.TurnEnded(turn=1), *later, e.CallDenied(call="t2r1c1", by="b", reason="r"))
    context = render(state)
    assert [call.provider_id for message in context.messages for call in message.calls] == ["call_0", "t2r1c1"]
    assert strict(context.messages) is None


# -- where to cut ------------------------------------------------------------------------------------------------------


@given(histories())
def test_every_place_to_cut_can_be_used(kept: list[e.Envelope]):
    """A compaction from behind the last one up to any of the places is legal, and what is left can be sent as before."""
    state = fold(kept)
    if state.place not in {"idle", "ready"}:
        return
    for place in cut_places(state):
        event = e.ContextCompacted(from_seq=state.compacted_to + 1, to_seq=place, summary="so far", strategy="s")
        after_it = evolve(state, envelope(state.session, state.seq + 1, event, state.epoch))
        assert strict(render(after_it).messages) in {None, "nothing to answer"}
        shown = [entry.seq for entry in after_it.transcript if not isinstance(entry, Summed)]
        assert shown == [entry.seq for entry in state.transcript if not isinstance(entry, Summed) and entry.seq > place]


def test_a_note_kept_while_calls_ran_does_not_part_them():
    """It is part of the context from where the model is shown it, behind the outputs, and so is its place to cut."""
    busy = (*calling(), started(), e.NoteAdded(text="psst", why="w"), e.CallSucceeded(call=T1), ask(1, 2), answer(number=2), e.TurnEnded(turn=1))
    state = after(*busy)
    for place in cut_places(state):
        event = e.ContextCompacted(from_seq=1, to_seq=place, summary="so far", strategy="s")
        assert strict(render(evolve(state, envelope("s", state.seq + 1, event))).messages) in {None, "nothing to answer"}
    assert cut_places(state) == (3, 8, 9, 10)


@given(histories())
def test_no_place_to_cut_is_forgotten(kept: list[e.Envelope]):
    """Every seq behind which a cut would be legal and shorten the context is named, or shares its moment with a later entry."""
    state = fold(kept)
    if state.place not in {"idle", "ready"}:
        return
    named = set(cut_places(state))
    for entry in state.transcript:
        if entry.seq in named or isinstance(entry, Summed):
            continue
        event = e.ContextCompacted(from_seq=state.compacted_to + 1, to_seq=entry.seq, summary="so far", strategy="s")
        with pytest.raises(IllegalMove):
            evolve(state, envelope(state.session, state.seq + 1, event, state.epoch))


def test_where_to_cut():
    """Behind words, final answers and outputs; never inside a pair, never behind a summary, never at calls that are open."""
    assert cut_places(after(*DONE)) == (3, 5)
    assert cut_places(after(*calling())) == (3,)
    returned = (*calling(), e.CallDenied(call=T1, by="b", reason="r"))
    assert cut_places(after(*returned)) == (3, 6)
    summed = after(*DONE, e.ContextCompacted(from_seq=1, to_seq=3, summary="s", strategy="s"))
    assert cut_places(summed) == (5,)
    two = after(*TURN, say("a", "steer"), say("b", "steer"), ask(1, 1, 1, 4, 5))
    assert cut_places(two) == (3, 6)
    left = fold(story(summarise(), state=after(*DONE)), after(*DONE))
    assert cut_places(left) == (3, 5)
    assert [type(entry) for entry in after(*returned).transcript][-1] is Returned


def test_a_place_before_the_last_compaction_is_none():
    """What was left standing in front of a compacted range cannot be the end of the next one."""
    state = after(*DONE, e.ContextCompacted(from_seq=4, to_seq=5, summary="s", strategy="s"))
    assert cut_places(state) == ()
