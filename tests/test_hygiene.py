"""A turn that goes round in circles, says nothing or is cut off is noticed, told, and ended; a restart does not begin to count anew."""

from __future__ import annotations

import asyncio

import pytest

from power_agent import Answer, Call, Limits, ModelError, ScriptedModel, StatefulAgentLoop, tool
from power_agent import events as e
from power_agent.machine import CUT_OFF, EMPTY, GO_ON, LAST_ANSWER
from power_agent.ports import ModelRequest


@tool(recovery="rerun")
async def look(place: str = "here") -> str:
    """Look somewhere."""
    return f"nothing at {place}"


@tool(recovery="rerun")
async def fail(number: int) -> str:
    """Fail."""
    raise ValueError(f"no {number}")


def notes(history) -> list[e.NoteAdded]:
    return [one.event for one in history if isinstance(one.event, e.NoteAdded)]


async def ended(script, **limits):
    """Let a script run; return how its turn ended, its notes, and what it was asked."""
    model = ScriptedModel(script)
    async with StatefulAgentLoop(model, store=":memory:", tools=[look, fail], limits=Limits(**limits)) as loop:
        result = await loop.send("go", "s")
        return result, notes(await loop.history("s")), model.requests


async def test_the_same_calls_again_and_again():
    """The model is told at three, six and nine; at twelve the turn ends, and a person may let it go on."""
    result, told, requests = await ended(lambda _: [Call("look")])
    assert (result.status, result.reason) == ("limit", "max_same_calls")
    assert [note.why for note in told if note.why == "same calls"] == ["same calls"] * 3
    assert len(requests) == 12
    assert "3 times in a row" in requests[3].messages[-1].text


@pytest.mark.parametrize("same", [11, 12, 13])
async def test_the_same_calls_at_their_limit(same: int):
    """Eleven are fine; the twelfth ends it."""
    result, _, _ = await ended(lambda request: [Call("look")] if request.replies < same else "done", max_rounds_without_progress=None)
    assert result.status == ("completed" if same < 12 else "limit")


async def test_other_arguments_are_other_calls():
    """Neither told nor ended."""
    result, told, _ = await ended(lambda request: [Call("look", {"place": str(request.replies)})] if request.replies < 30 else "done")
    assert (result.status, told) == ("completed", [])


@pytest.mark.parametrize(
    "script",
    [
        lambda request: [Call("fail", {"number": request.replies})],
        lambda request: [Call("look", {"place": "there" if request.replies % 2 else "here"})],
        lambda request: [Call("look", malformed=f'{{"place": {request.replies}')],
    ],
    ids=["always failing", "in a circle", "malformed"],
)
async def test_rounds_without_progress(script):
    """Told every five, ended at twenty."""
    result, told, requests = await ended(script)
    assert (result.status, result.reason) == ("limit", "max_rounds_without_progress")
    assert [note.why for note in told] == ["no progress"] * 3 or len(requests) in {20, 22}


async def test_an_empty_answer_is_asked_about_twice():
    """Then it is the end."""
    result, told, requests = await ended(["", Answer("  "), ""])
    assert (result.status, len(requests)) == ("completed", 3)
    assert [(note.why, note.text) for note in told] == [("empty answer", EMPTY)] * 2
    result, told, _ = await ended(["", "here I am"])
    assert (result.text, len(told)) == ("here I am", 1)


@pytest.mark.parametrize("finish", ["filtered", "refused"])
@pytest.mark.parametrize("text", ["", "I will not."])
async def test_an_answer_that_was_withheld_says_so(finish, text, tmp_path):
    """The result's reason tells a refusal, or what a filter took away, from an empty or a good answer; live, streamed and read from the log."""
    script = [Answer(text, finish=finish)] * (1 if text else 3)
    async with StatefulAgentLoop(ScriptedModel(script * 2 + [Answer("", finish=finish), "here I am"]), store=tmp_path / "agent.db") as loop:
        result = await loop.send("go", "s", key="k")
        assert (result.status, result.text, result.reason) == ("completed", text, finish)
        assert result == await loop.send("go", "s", key="k") == await loop.resume("s")
        stream = loop.stream("go", "s")
        assert [event async for event in stream]
        assert stream.result.reason == finish
        if not text:
            assert (await loop.send("go", "s")).reason is None, "it was asked again, and answered"
    result, _, _ = await ended([""] * 3)
    assert (result.status, result.reason) == ("completed", None)


async def test_an_answer_cut_by_length_is_continued():
    """The pieces are one text; after three continuations the turn ends at its limit."""
    result, told, requests = await ended([Answer("One, ", finish="length"), Answer("two, ", finish="length"), "three."])
    assert (result.status, result.text) == ("completed", "One, two, three.")
    assert [note.text for note in told] == [CUT_OFF] * 2
    assert requests[1].messages[-2].text == "One, "
    result, told, requests = await ended(lambda _: Answer("more ", finish="length"))
    assert (result.status, result.reason, len(requests), len(told)) == ("limit", "answer_length", 4, 3)


async def test_what_ended_with_an_answer_can_be_continued(tmp_path):
    """A turn that stopped at an answer which was cut once too often, and a fork right behind an answer: the model is told to go on."""
    script = [*[Answer(text="a", finish="length")] * 4, "The end.", "The other end."]
    async with StatefulAgentLoop(ScriptedModel(script), store=tmp_path / "agent.db") as loop:
        assert (await loop.send("go", "s")).reason == "answer_length"
        resumed = await loop.resume("s")
        assert (resumed.status, resumed.text) == ("completed", "The end.")
        assert GO_ON in loop._model.requests[-1].messages[-1].text
        [answered] = [kept.seq for kept in await loop.history("s") if kept.kind == "model.answered"][-1:]
        fork = await loop.fork("s", at=answered)
        assert (await loop.resume(fork)).text == "The other end."
        assert [wrong async for wrong in loop.verify()] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"place": "a" "b"}', "Expecting ',' delimiter at character 15 of 18"),
        ('["a"]', "they are a JSON array"),
        ("", "Expecting value at character 1 of 0"),
    ],
)
async def test_malformed_arguments_are_told_exactly(text: str, wrong: str):
    """What and where; nothing is repaired, nothing runs."""
    _, _, requests = await ended([[Call("look", malformed=text)], "done"])
    assert wrong in requests[1].messages[-1].parts[0].content[0].text


async def test_a_restart_does_not_begin_to_count_anew(tmp_path):
    """The counters are the log's: interrupted between any two rounds it comes to the same end."""

    stopping, there = [2, 5, 9], asyncio.Event()

    async def script(request: ModelRequest):
        if stopping and request.replies == stopping[0]:
            stopping.pop(0)
            there.set()
            await asyncio.sleep(60)
        return [Call("look")]

    for life in range(3):
        there.clear()
        async with StatefulAgentLoop(ScriptedModel(script), store=tmp_path / "log.db", tools=[look]) as loop:
            running = asyncio.create_task(loop.resume("s") if life else loop.send("go", "s"))
            await there.wait()
            running.cancel()
            await asyncio.wait([running])
    async with StatefulAgentLoop(model := ScriptedModel(script), store=tmp_path / "log.db", tools=[look]) as loop:
        result = await loop.resume("s")
        assert (result.status, result.reason) == ("limit", "max_same_calls")
        assert [note.why for note in notes(await loop.history("s"))].count("same calls") == 3
    assert len(model.requests) == 3


# -- one last answer ---------------------------------------------------------------------------------------------------


def busy(request: ModelRequest):
    """Call for ever, as long as there are tools."""
    return [Call("look", {"place": str(request.replies)})] if request.tools else "Half of it is done."


async def test_one_last_answer_without_tools():
    """At a limit the model says once where things stand; the turn still ends at its limit."""
    result, told, requests = await ended(busy, max_rounds_per_turn=3, last_answer=True)
    assert (result.status, result.reason, result.text) == ("limit", "max_rounds_per_turn", "Half of it is done.")
    assert [note.text for note in told] == [LAST_ANSWER.format(limit="max_rounds_per_turn")]
    assert len(requests) == 4
    assert [bool(request.tools) for request in requests] == [True] * 3 + [False]


@pytest.mark.parametrize("line", [ModelError("broken"), ModelError("busy", retryable=True), [Call("look")], ""])
async def test_a_last_answer_that_is_none_ends_the_turn_all_the_same(line):
    """One request, not two, and nothing runs any more."""
    result, _, requests = await ended(lambda request: busy(request) if request.tools else line, max_rounds_per_turn=2, last_answer=True)
    assert (result.status, result.reason) == ("limit", "max_rounds_per_turn")
    assert len(requests) == 3
    assert not [call for call in result.calls if call.id.startswith("t1r3") and call.state == "succeeded"]
