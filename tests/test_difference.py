"""Two states compared: what one has and the other has not, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from grammar import DONE, OPENED, TURN, after, answer, ask, calling, histories, make, story
from hypothesis import given
from hypothesis import strategies as st

from power_agent import Call, ScriptedModel, StatefulAgentLoop, tool
from power_agent import events as e
from power_agent.context import render
from power_agent.difference import Changed, Difference, Moved, difference
from power_agent.limits import Limits
from power_agent.messages import Attachment, Opaque, Reasoning, Text, Usage
from power_agent.state import fold

T1 = "t1r1c1"


@given(histories(), st.data())
def test_the_messages_of_one_are_made_into_those_of_the_other(history: list[e.Envelope], data: st.DataObject):
    """What both begin with, and what was added, are the second one's messages; the way back is the same, turned around."""
    low, high = sorted(data.draw(st.tuples(st.integers(1, len(history)), st.integers(1, len(history)))))
    before, now = fold(history[:low]), fold(history[:high])
    there, back = difference(before, now), difference(now, before)
    one, two = render(before).messages, render(now).messages
    assert one[: there.common] + there.gone == one
    assert one[: there.common] + there.added == two
    assert (back.gone, back.added, back.tokens, back.cost_nano_usd) == (there.added, there.gone, -there.tokens, -there.cost_nano_usd)
    assert {(move.call, move.after, move.before) for move in back.calls} == {(move.call, move.before, move.after) for move in there.calls}
    assert {(change.name, change.after, change.before) for change in _plain(back)} == {(change.name, change.before, change.after) for change in _plain(there)}
    for move in there.calls:
        if move.call in now.calls:
            assert now.calls[move.call].place == move.after
    assert str(there).count("\n") >= len(there.added)


def _plain(found: Difference) -> list[Changed]:
    return [change for change in found.changes if change.name != "settings"]


@given(histories())
def test_nothing_is_different_from_itself(history: list[e.Envelope]):
    state = fold(history)
    same = difference(state, fold(history))
    assert not same
    assert str(same).endswith("no difference")


def test_a_call_is_followed_into_the_message_it_ends_in():
    """From requested over waiting to its outcome, which is part of a message by then."""
    begun = (*calling(make(1), make(2)),)
    done = (*begun, e.CallStarted(call=T1), e.CallSucceeded(call=T1, output="paid"), e.CallDenied(call="t1r1c2", by="ann", reason="no"))
    found = difference(after(*begun), after(*done))
    assert found.calls == (Moved(T1, "charge", "requested", "succeeded"), Moved("t1r1c2", "charge", "requested", "denied"))
    assert [message.role for message in found.added] == ["tool"]
    assert found.gone == ()
    assert "call t1r1c1 (charge): requested → succeeded" in str(found)
    assert "+ tool: t1r1c1 returned paid" in str(found)
    assert "+ tool: t1r1c2 failed Denied by ann" in str(found)
    assert difference(after(*TURN), after(*begun)).calls == (Moved(T1, "charge", None, "requested"), Moved("t1r1c2", "charge", None, "requested"))


def test_what_was_spent_and_configured():
    config = e.Config(system="Be brief.", tools=(e.ToolRef(name="pay", digest="1"), e.ToolRef(name="see", digest="1")), settings={"t": 1}, limits=Limits(max_rounds_per_turn=3))
    other = replace(config, system=None, tools=(e.ToolRef(name="pay", digest="2"),), settings={}, limits=Limits(max_rounds_per_turn=4))
    begun = (replace(OPENED, config=config), *TURN[1:], ask(), answer(usage=Usage(10, 5)))
    found = difference(after(*begun[:-1]), after(*begun, e.TurnEnded(turn=1), e.SessionConfigured(config=other, title="new")))
    assert (found.tokens, found.cost_nano_usd) == (15, 0)
    assert {change.name: (change.before, change.after) for change in found.changes} == {
        "place": ("asking", "idle"),
        "title": (None, "new"),
        "system": ("Be brief.", None),
        "tools.pay": ("1", "2"),
        "tools.see": ("1", None),
        "settings": ({"t": 1}, {}),
        "limits.max_rounds_per_turn": (3, 4),
    }
    assert "spent: +15 tokens" in str(found)
    assert "limits.max_rounds_per_turn: 3 → 4" in str(found)


def test_two_branches():
    """Different calls under one id are two calls; a fork's loss shows as what is gone."""
    left = after(*TURN, ask(), answer(make(1)))
    right = after(*TURN, ask(), answer(Call("refund", {}, T1)))
    found = difference(left, right)
    assert found.calls == (Moved(T1, "charge", "requested", None), Moved(T1, "refund", None, "requested"))
    assert (len(found.gone), len(found.added), found.common) == (1, 1, 1)


def test_every_part_is_shown_on_one_short_line():
    parts = (Reasoning("why\nnot"), Text("x" * 500), Attachment("image/png", name="a.png"), Attachment("image/png"), Opaque('{"type":"new"}'))
    history = story(*TURN, ask(), e.ModelAnswered(round=1, parts=parts), e.TurnEnded(turn=1))
    shown = str(difference(fold(history[:3]), fold(history))).splitlines()
    lines = [line for line in shown if line.startswith("+ ")]
    assert [line[:24] for line in lines] == ["+ assistant: (thinks) wh", "+ assistant: " + "x" * 11, "+ assistant: [a.png]", "+ assistant: [image/png]", '+ assistant: {"type":"ne']
    assert max(map(len, lines)) < 180


async def test_the_loop_compares_seqs_and_branches():
    """`diff` of two seqs, of a seq and now, and of two sessions."""

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async with StatefulAgentLoop(ScriptedModel([[Call("add", {"a": 1, "b": 2})], "three", "other"]), tools=[add], store=":memory:") as loop:
        await loop.send("one and two?", "s")
        found = await loop.diff("s", before=4)
        assert found.calls == (Moved(T1, "add", None, "succeeded"),)
        assert [message.role for message in found.added] == ["assistant", "tool", "assistant"]
        assert (await loop.diff("s", before=4, after=5)).calls == (Moved(T1, "add", None, "requested"),)
        await loop.send("something else", "t")
        other = await loop.diff("s", "t")
        assert (other.before[0], other.after[0], other.common) == ("s", "t", 0)
        assert [message.role for message in other.added] == ["user", "assistant", "tool", "assistant"]
        assert not await loop.diff("s", "s")


def test_a_longer_log_of_the_same_says_so():
    """What moved on without saying anything differs in its place in the log alone."""
    found = difference(after(*DONE), after(*DONE, e.GuardDecided(guard="g", at="model", verdict="changed")))
    assert not found
    assert found.before != found.after
