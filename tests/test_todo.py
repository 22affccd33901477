"""The list a model keeps, and the question it puts to a person: both live in the log and nowhere else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from power_agent import Abort, Call, Result, ScriptedModel, StatefulAgentLoop, ask_person, todo, todo_of
from power_agent.errors import SettleNotAllowed
from power_agent.policy.rules import Rules, natures_of
from power_agent.settling import Approve
from power_agent.tools.todo import KINDS, MAX_ITEMS, Item

FIRST = [{"text": "buy paint", "state": "done"}, {"text": "paint", "state": "doing"}, {"text": "sleep"}]
SECOND = [{"text": "sleep", "state": "doing"}]


def told(model: ScriptedModel) -> list[str]:
    return [part.content[0].text for message in model.requests[-1].messages if message.role == "tool" for part in message.parts]


# -- todo ----------------------------------------------------------------------------------------------------------------


async def test_the_list_is_what_the_last_call_said(tmp_path):
    """The whole list is passed each time; another loop reads the present one from the log, at any time of its history."""
    model = ScriptedModel([[Call("todo", {"items": FIRST})], [Call("todo", {"items": SECOND})], "done"])
    async with StatefulAgentLoop(model, tools=[todo], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
    assert told(model) == [
        '[{"text":"buy paint","state":"done"},{"text":"paint","state":"doing"},{"text":"sleep","state":"open"}]',
        '[{"text":"sleep","state":"doing"}]',
    ]
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "agent.db") as loop:
        kept = await loop.history("s", kinds=KINDS)
    assert todo_of(kept) == (Item(text="sleep", state="doing"),)
    assert todo_of(kept[:2]) == tuple(Item(**one) for one in FIRST)
    assert todo_of([]) == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.db", "agent.db-lock"], "there is no side file"


@pytest.mark.parametrize(
    "items",
    [
        [{"text": ""}],
        [{"text": "x", "state": "later"}],
        [{"text": "x", "owner": "ada"}],
        "sleep",
        [{"text": "x"}] * (MAX_ITEMS + 1),
    ],
)
async def test_a_wrong_list_changes_nothing(tmp_path, items):
    """A list that is none is refused, and the one before stays."""
    model = ScriptedModel([[Call("todo", {"items": SECOND})], [Call("todo", {"items": items})], "done"])
    async with StatefulAgentLoop(model, tools=[todo], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
        assert todo_of(await loop.history("s", kinds=KINDS)) == (Item(text="sleep", state="doing"),)
    assert model.requests[-1].messages[-1].parts[0].failed


async def test_an_empty_list_clears(tmp_path):
    """Nothing to do is a list, too; another tool's output is none."""

    def other() -> list[dict[str, str]]:
        return [{"text": "not mine"}]

    model = ScriptedModel([[Call("todo", {"items": SECOND})], [Call("todo", {"items": []})], [Call("other")], "done"])
    async with StatefulAgentLoop(model, tools=[todo, other], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
        kept = await loop.history("s", kinds=KINDS)
    assert todo_of(kept) == ()
    assert len(todo_of(kept[:2])) == 1


# -- a question to a person ----------------------------------------------------------------------------------------------

ANSWER = """
import asyncio, sys
from power_agent import Result, ScriptedModel, StatefulAgentLoop

async def main():
    async with StatefulAgentLoop(ScriptedModel([]), store=sys.argv[1]) as loop:
        (call,) = await loop.pending("s")
        print(call.tool, call.arguments["question"], *call.arguments["options"])
        assert await loop.settle("s", call.id, Result("blue"), by="ada") == []

asyncio.run(main())
"""
ASKED = [Call("ask_person", {"question": "Which colour?", "options": ["red", "blue"]})]


async def test_a_question_is_answered_from_another_process_after_a_restart(tmp_path):
    """The question waits in the log. A process without the tool answers it; the loop that comes then goes on with the answer."""
    path = tmp_path / "agent.db"
    async with StatefulAgentLoop(ScriptedModel([ASKED]), tools=[ask_person], store=path) as loop:
        result = await loop.send("Paint it.", "s")
        assert (result.status, [call.external for call in result.pending]) == ("waiting", [True])
    house = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    answered = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", ANSWER, str(path)], check=True, capture_output=True, text=True, env=house)
    assert answered.stdout.strip() == "ask_person Which colour? red blue"
    model = ScriptedModel([ASKED, "It is blue."])
    async with StatefulAgentLoop(model, tools=[ask_person], store=path) as loop:
        assert (await loop.resume("s")).status == "completed"
        (ended,) = await loop.history("s", kinds=["call.succeeded"])
        assert ended.event.by == "ada"
    assert told(model) == ["blue"]


@pytest.mark.parametrize("mode", ["read-only", "on-request", "always-ask", "never-ask"])
async def test_a_question_changes_nothing(mode):
    """A policy judges it as any other call; it changes nothing, so a session that only reads may ask."""
    policy = Rules(mode=mode, natures=natures_of([ask_person]))
    async with StatefulAgentLoop(ScriptedModel([ASKED]), tools=[ask_person], policy=policy, store=":memory:") as loop:
        assert [call.external for call in (await loop.send("Paint it.", "s")).pending] == [True]


async def test_a_question_that_nobody_answers_goes_on_waiting(tmp_path):
    """Resuming does not invent an answer, nor can the question be approved; only a result or an abort ends it."""
    path = tmp_path / "agent.db"
    async with StatefulAgentLoop(ScriptedModel([ASKED, "Never mind."]), tools=[ask_person], store=path) as loop:
        await loop.send("Paint it.", "s")
        assert (await loop.resume("s")).status == "waiting"
        (call,) = await loop.pending("s")
        with pytest.raises(SettleNotAllowed):
            await loop.settle("s", call.id, Approve())
        await loop.settle("s", call.id, Abort("Ada is on holiday"))
        assert (await loop.resume("s")).status == "completed"


@pytest.mark.parametrize("arguments", [{}, {"question": " "}, {"question": ""}, {"question": "x", "options": "red"}, {"question": "x" * 10_001}])
async def test_no_question_is_refused(tmp_path, arguments):
    """A call without a question is answered at once; no person sees it."""
    model = ScriptedModel([[Call("ask_person", arguments)], "done"])
    async with StatefulAgentLoop(model, tools=[ask_person], store=tmp_path / "agent.db") as loop:
        assert (await loop.send("go", "s")).status == "completed"
    assert "It was not run." in told(model)[0]


async def test_the_answer_may_be_anything_that_is_json(tmp_path):
    """The person's answer reaches the model as it was handed in."""
    model = ScriptedModel([ASKED, "done"])
    async with StatefulAgentLoop(model, tools=[ask_person], store=tmp_path / "agent.db") as loop:
        await loop.send("go", "s")
        await loop.settle("s", "t1r1c1", Result({"colour": "blue", "sure": True}))
        await loop.resume("s")
    assert told(model) == ['{"colour":"blue","sure":true}']
