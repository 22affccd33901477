"""What was folded away or cut can be looked up by the model, in bounded pieces, in its own session only."""

from __future__ import annotations

import re

import pytest
from test_compaction import Windowed, chat, dump, talk, work

from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop, tool
from power_agent import events as e
from power_agent.limits import RECALL_CHARACTERS, RECALL_EXCERPT_CHARACTERS
from power_agent.ports import ModelRequest

RECALL = ["recall_search", "recall_read"]


def names(request: ModelRequest) -> list[str]:
    return [spec.name for spec in request.tools]


async def outputs(loop, model_lines, session: str = "s") -> list[str]:
    """Let the model make calls, and return what came of them."""
    loop._model._script = model_lines
    await loop.send("look it up", session)
    return [
        one.event.output if isinstance(one.event, e.CallSucceeded) else one.event.failure.message
        for one in await loop.history(session, limit=10_000)
        if one.kind in {"call.succeeded", "call.failed"}
    ]


def once(*calls: Call):
    """Make these calls in one answer, then say so."""
    made = []

    def script(request: ModelRequest):
        if request.purpose == "summary":
            return "They talked."
        if made:
            return "done"
        made.append(True)
        return list(calls)

    return script


async def test_offered_only_where_there_is_something_to_recall():
    """Before the first compaction there are no such tools; from then on there are, also after a restart: the log says so."""
    model = Windowed(talk, 2_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump]) as loop:
        await chat(loop, 20)
        turns = [request for request in model.requests if request.purpose == "turn"]
        shown = [names(request) for request in turns]
        assert shown[0] == ["dump"]
        assert shown[-1] == ["dump", *RECALL]
        first = shown.index(["dump", *RECALL])
        assert shown == [["dump"]] * first + [["dump", *RECALL]] * (len(shown) - first)
        history = await loop.history("s", limit=10_000)
        asked = [one.seq for one in history if isinstance(one.event, e.ModelAsked) and one.event.purpose == "turn"]
        assert asked[first - 1] < next(one.seq for one in history if isinstance(one.event, e.ContextCompacted)) < asked[first]
        assert all(request.tools == () for request in model.requests if request.purpose == "summary")


async def test_offered_where_an_output_was_cut(tmp_path):
    """The model saw head and tail; all of it can be read, piece by piece."""
    model = ScriptedModel(work(1, 60_000))
    async with StatefulAgentLoop(model, store=tmp_path / "log.db", tools=[dump], limits=Limits(max_output_bytes_in_context=20_000)) as loop:
        await loop.send("go", "s")
        assert names(model.requests[1]) == ["dump", *RECALL]
        seq = next(one.seq for one in await loop.history("s") if one.kind == "call.succeeded")
        text, start = "", 0
        for _ in range(20):
            (*_, piece) = await outputs(loop, once(Call("recall_read", {"seq": seq, "start": start})))
            found = re.search(r"\n\[… read on with start=(\d+) …\]$", piece)
            assert len(piece) <= RECALL_CHARACTERS + 60
            text += piece[: found.start()] if found else piece
            if not found:
                break
            start = int(found[1])
        assert "0         " * 5_000 in text


async def test_search_finds_words_and_says_where():
    """The newest with the most words first; bounded excerpts; what is not there is not there."""
    model = Windowed(talk, 2_000)
    async with StatefulAgentLoop(model, store=":memory:") as loop:
        await loop.send("The Colour of the hidden door is vermilion, " + "remember " * 30, "s")
        await chat(loop, 20)
        (found,) = await outputs(loop, once(Call("recall_search", {"query": "VERMILION door"})))
        assert "The Colour of the hidden door" in found
        seq = int(re.match(r"seq (\d+): user", found)[1])
        *_, read = await outputs(loop, once(Call("recall_read", {"seq": seq})))
        assert read.startswith(f"seq {seq}: user: The Colour of the hidden door is vermilion")
        *_, nothing = await outputs(loop, once(Call("recall_search", {"query": "unicorn"})))
        assert nothing == "Nothing in this conversation contains 'unicorn'."
        *_, many = await outputs(loop, once(Call("recall_search", {"query": "question", "limit": 3})))
        hits = re.findall(r"^seq (\d+):", many, re.MULTILINE)
        assert len(hits) == 3
        assert hits == sorted(hits, key=int, reverse=True)
        assert len(many) < 3 * (RECALL_EXCERPT_CHARACTERS + 60)


async def test_another_session_is_out_of_reach():
    """Only its own log is read, whatever it asks for."""
    model = Windowed(talk, 2_000)
    async with StatefulAgentLoop(model, store=":memory:") as loop:
        await loop.send("the password is swordfish", "other")
        await chat(loop, 20)
        assert await outputs(loop, once(Call("recall_search", {"query": "swordfish"}), Call("recall_read", {"seq": 1, "upto": 5_000}))) is not None
        history = await loop.history("s", limit=10_000)
        assert "password" not in repr(history)


async def test_the_reference_in_a_trimmed_output_leads_to_it():
    """What the model is told to call is what gives it the output."""
    model = Windowed(work(9, 1_800), 4_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump]) as loop:
        await loop.send("go", "s")
        note = re.search(r'recall_read\(seq=(\d+), upto=(\d+), call="(\w+)"\)', repr(await loop.messages("s")))
        assert note is not None
        *_, read = await outputs(loop, once(Call("recall_read", {"seq": int(note[1]), "upto": int(note[2]), "call": note[3]})))
        assert read.startswith("seq ")
        assert "0         " * 100 in read


@pytest.mark.parametrize("arguments", [{}, {"seq": "1"}, {"seq": True}, {"seq": 0}, {"seq": 1, "upto": None}, {"seq": 1, "what": 2}])
async def test_arguments_are_checked(arguments):
    """As of every tool: it says what is wrong and does not run."""
    async with StatefulAgentLoop(Windowed(talk, 2_000), store=":memory:") as loop:
        await chat(loop, 12)
        (said,) = await outputs(loop, once(Call("recall_read", arguments)))
        assert "It was not run." in said


async def test_a_users_tool_of_that_name_comes_first():
    """Then ours is not there."""

    @tool(name="recall_search", recovery="rerun")
    async def own(query: str) -> str:
        """Search elsewhere."""
        return f"own {query}"

    model = Windowed(talk, 2_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[own]) as loop:
        await chat(loop, 12)
        assert names(model.requests[-1]) == ["recall_search", "recall_read"]
        assert await outputs(loop, once(Call("recall_search", {"query": "x"}))) == ["own x"]
