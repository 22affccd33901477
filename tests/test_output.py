"""Answers in a shape: asked for as the format can, checked, asked for again, and in the end refused."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import date

import pytest
from pydantic import BaseModel, Field
from servers import ChatServer, OllamaServer
from vendors import AnthropicServer, GeminiServer, ResponsesServer
from wires import TOOLS, asked, body

from power_agent import Answer, Call, ScriptedModel, StatefulAgentLoop, Text, tool
from power_agent.cli.advice import ADVICE
from power_agent.errors import InvalidInput, KeyConflict, OutputInvalid
from power_agent.limits import MAX_MISSHAPEN_ANSWERS
from power_agent.models.anthropic import Anthropic
from power_agent.models.dialect import Dialect
from power_agent.models.gemini import Gemini
from power_agent.models.handing import NAME, handed_in, with_tool
from power_agent.models.http import HTTPModel
from power_agent.models.ollama import Ollama
from power_agent.models.openai_chat import OpenAIChat
from power_agent.models.openai_responses import OpenAIResponses
from power_agent.outputs import Outputs
from power_agent.ports import ModelReply
from power_agent.testing.speaking import Loopback, Said, head, in_turn, saying
from power_agent.testing.speaking import body as whole


class Invoice(BaseModel):
    """What is to be paid."""

    number: str
    cents: int
    due: date | None = None


GOOD = '{"number": "7", "cents": 1000, "due": "2026-01-31"}'
WRONG = '{"number": "7", "cents": "many"}'
OUTPUTS = Outputs()
SHAPE = OUTPUTS.shape(Invoice)


@tool(recovery="rerun")
async def look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


def make(path, script, **more):
    return StatefulAgentLoop(ScriptedModel(script), store=path / "agent.db", tools=[look], **more)


async def verified(loop):
    assert [wrong async for wrong in loop.verify("s")] == []


async def kinds(loop, *of):
    return [kept.kind for kept in await loop.history("s", kinds=of or None)]


# -- what a value is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Invoice, GOOD, Invoice(number="7", cents=1000, due=date(2026, 1, 31))),
        (Invoice, f"```json\n{GOOD}\n```", Invoice(number="7", cents=1000, due=date(2026, 1, 31))),
        (int, '{"value": 5}', 5),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (Invoice | int, '{"value": 3}', 3),
        (Invoice | int, '{"value": {"number": "1", "cents": 2}}', Invoice(number="1", cents=2)),
        (dict[str, int], '{"value": {"a": 1}}', {"a": 1}),
        (date, '{"value": "2026-02-03"}', date(2026, 2, 3)),
    ],
)
def test_a_value_of_the_shape(kind, text, value):
    outputs = Outputs()
    shape = outputs.shape(kind)
    assert shape.schema["type"] == "object"
    assert outputs.value(shape, text) == value


@pytest.mark.parametrize("text", ["", "no", "[]", '{"value": "x"}', '{"value": 1.5}', '{"value": NaN}', "5", '{"value": 5} and more', "[" * 100_000])
def test_what_is_no_value_of_the_shape(text):
    outputs = Outputs()
    with pytest.raises(OutputInvalid):
        outputs.value(outputs.shape(int), text)


def test_every_error_is_told_up_to_a_bound():
    outputs = Outputs()
    with pytest.raises(OutputInvalid, match=r"value|number: Field required\ncents: Input should be a valid integer") as told:
        outputs.value(outputs.shape(Invoice), '{"cents": "many"}')
    assert "number: Field required" in told.value.message
    with pytest.raises(OutputInvalid, match="and 90 more"):
        outputs.value(outputs.shape(list[int]), json.dumps({"value": ["x"] * 100}))


def test_what_cannot_be_a_shape():
    with pytest.raises(InvalidInput, match="cannot have the shape"):
        Outputs().shape(object())
    with pytest.raises(InvalidInput, match="cannot have the shape"):
        ScriptedModel([]) and StatefulAgentLoop(ScriptedModel([]), store=":memory:", output=lambda: None)


# -- in a turn -------------------------------------------------------------------------------------------------------------


async def test_of_the_loop_and_of_one_send(tmp_path):
    """The loop's shape holds for every turn; one given with an input holds for the turn that takes it."""
    async with make(tmp_path, [GOOD, '{"value": 5}', [Call("look", {"place": "home"})], GOOD, "plain"], output=Invoice) as loop:
        first = await loop.send("one", "s")
        assert (first.status, first.output) == ("completed", Invoice(number="7", cents=1000, due=date(2026, 1, 31)))
        assert (await loop.send("two", "s", output=int, key="k")).output == 5
        third = await loop.send("three", "s")
        assert (third.output.cents, len(third.calls)) == (1000, 1)
        assert (await loop.send("two", "s", output=int, key="k")).output == 5, "read from the log"
        with pytest.raises(KeyConflict):
            await loop.send("three", "s", output=int, key="k")
        assert [request.output.name for request in loop._model.requests] == ["Invoice", "int", "Invoice", "Invoice"]
        with pytest.raises(InvalidInput, match="steers"):
            await loop.send("x", "s", output=int, when_busy="steer")
        await verified(loop)
    async with make(tmp_path, ["plain"] * 9) as loop:
        result = await loop.send("four", "s")
        assert (result.status, result.output, result.shape) == ("completed", None, None)


async def test_wrong_once(tmp_path):
    """The model is told what is wrong; what it said then is the answer, and the log shows both."""
    async with make(tmp_path, [WRONG, GOOD], output=Invoice) as loop:
        result = await loop.send("one", "s")
        assert (result.status, result.output.cents) == ("completed", 1000)
        assert "cents: Input should be a valid integer" in str(loop._model.requests[1].messages[-1])
        assert (await kinds(loop)).count("guard.decided") == 1
        await verified(loop)


@pytest.mark.parametrize("answer", [WRONG, "", "I would rather not.", Answer(text='{"number": "7', finish="length")])
async def test_always_wrong(tmp_path, answer):
    """Bounded; the failure holds the last answer, and resume tries once more."""
    async with make(tmp_path, [answer] * MAX_MISSHAPEN_ANSWERS + [GOOD], output=Invoice) as loop:
        result = await loop.send("one", "s")
        assert (result.status, result.reason, result.output) == ("failed", "output_invalid", None)
        said = answer.text if isinstance(answer, Answer) else answer
        assert (result.failure.code, result.failure.details["answer"], result.text) == ("output_invalid", said, said)
        assert len(loop._model.requests) == MAX_MISSHAPEN_ANSWERS
        assert (await loop.resume("s")).output.cents == 1000, "the turn that continues it has its shape"
        await verified(loop)
    assert ADVICE["output_invalid"].commands


async def test_a_shape_of_a_failed_turn_is_inherited(tmp_path):
    async with make(tmp_path, ["no"] * MAX_MISSHAPEN_ANSWERS + ['{"value": 4}']) as loop:
        assert (await loop.send("one", "s", output=int)).status == "failed"
        assert (await loop.resume("s", output=int)).output == 4


async def test_queued_inputs_keep_their_own_shapes(tmp_path):
    """A turn that follows in the same breath answers in its own shape, not in that of the turn before or behind it."""

    async def script(request):
        while (await kinds(loop)).count("input.received") < 3:
            await asyncio.sleep(0.01)
        return ['{"value": 1}', "two", '{"value": "three"}'][request.replies]

    async with make(tmp_path, script) as loop:
        await loop.send("one", "s", output=int, wait=False)
        second = asyncio.ensure_future(loop.send("two", "s", when_busy="queue"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        third = await loop.send("three", "s", output=str, when_busy="queue")
        assert ((await second).text, (await second).output, third.output) == ("two", None, "three")
        assert [request.output and request.output.name for request in loop._model.requests] == ["int", None, "str"]


async def test_resumed_where_the_type_is_not_known(tmp_path):
    """A process that knows only the log gives plain data; one that is handed the type, a value."""
    async with make(tmp_path, [Answer(text="late", seconds=3600)]) as loop:
        sending = asyncio.ensure_future(loop.send("one", "s", output=Invoice))
        while not loop._model.requests:
            await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.wait([sending])
    async with make(tmp_path, [GOOD, GOOD]) as loop:
        assert (await loop.resume("s")).output == json.loads(GOOD)
        assert (await loop.resume("s", output=Invoice)).output.cents == 1000


async def test_streams_give_it_too(tmp_path):
    async with make(tmp_path, [WRONG, GOOD]) as loop:
        stream = loop.stream("one", "s", output=Invoice)
        async for _ in stream:
            pass
        assert stream.result.output.cents == 1000


async def test_without_a_shape_the_log_says_nothing_of_one(tmp_path):
    async with make(tmp_path, ["yes"]) as loop:
        await loop.send("one", "s")
    with sqlite3.connect(tmp_path / "agent.db") as db:
        assert not [text for (text,) in db.execute("SELECT body FROM event") if '"output":{' in str(text)]
    db.close()


async def test_a_type_that_was_changed_is_the_same_input(tmp_path):
    """After a deploy the same key with the type as it is now, with none, or with another one: the answer that was paid for, in its shape."""

    class Before(BaseModel):
        total: int

    class After(BaseModel):
        total: int = Field(description="In cents.")

    async with make(tmp_path, ['{"total": 3}']) as loop:
        first = await loop.send("hi", "s", key="k", output=Before)
        assert first.output == Before(total=3)
    async with make(tmp_path, []) as loop:
        for shape in (After, None, int):
            again = await loop.send("hi", "s", key="k", output=shape)
            assert (again.output, again.shape, again.seq) == ({"total": 3}, first.shape, first.seq), "plain data: this process does not know the type"
        with pytest.raises(KeyConflict):
            await loop.send("ho", "s", key="k", output=After)
    async with make(tmp_path, [], output=Before) as loop:
        assert (await loop.send("hi", "s", key="k", output=After)).output == Before(total=3)


class Tokened(BaseModel):
    """A shape whose description shows what looks like a secret: ghp_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2."""

    cents: int


async def test_a_shape_with_a_secret_in_it_keeps_its_type(tmp_path):
    """The log has the schema without the secret; the answer is checked and made a value all the same, and the key is the same input."""
    async with make(tmp_path, ['{"cents": "many"}', '{"cents": 1}', '{"cents": "few"}', '{"cents": 2}'], output=Tokened) as loop:
        assert (await loop.send("one", "s")).output == Tokened(cents=1)
        sent = [await loop.send("two", "s", key="k", output=Tokened) for _ in range(2)]
        assert [one.output for one in sent] == [Tokened(cents=2)] * 2
        assert all("ghp_a1" not in str(request.output) for request in loop._model.requests)


async def test_replayed_as_it_was_judged(tmp_path):
    """Answers are judged again by the types that are known; where a type is not, as the log says. Another type goes another way."""
    async with make(tmp_path, [WRONG, [Call("look", {"place": "here"})], GOOD, "plain"]) as loop:
        await loop.send("one", "s", output=Invoice)
        await loop.send("two", "s")
        assert (await loop.replay("s")).divergence is None
    async with make(tmp_path, []) as loop:
        played = await loop.replay("s")
        assert (played.divergence, played.requests) == (None, 4)
    async with make(tmp_path, [WRONG, GOOD], output=Invoice) as loop:
        await loop.send("one", "t")
    async with make(tmp_path, [], output=int) as loop:
        assert (await loop.replay("t")).divergence is not None


async def test_forked_anywhere_it_is_gone_on_with(tmp_path):
    """Wherever in a turn a fork begins, behind a bad answer, its refusal or a good one: resume ends with the shape that was asked for."""
    async with make(tmp_path, [WRONG, [Call("look", {"place": "here"})], GOOD, GOOD]) as loop:
        seq = (await loop.send("one", "s", output=Invoice)).seq
        for place in range(3, seq):
            fork = await loop.fork("s", at=place)
            assert (await loop.resume(fork)).output == Invoice.model_validate_json(GOOD), place


# -- on the wire -----------------------------------------------------------------------------------------------------------

FORMS = {form.name: form for form in (Anthropic(), OpenAIResponses(), OpenAIChat(), OpenAIChat(Dialect(shapes=False)), Gemini(), Ollama())}
SERVERS = {"anthropic": AnthropicServer(), "openai-responses": ResponsesServer(), "openai-chat": ChatServer(), "gemini": GeminiServer(), "ollama": OllamaServer()}
WAYS = [
    (Anthropic(), False, "forced"),
    (Anthropic(), True, "forced"),
    (OpenAIResponses(), False, "said"),
    (OpenAIResponses(), True, "said"),
    (OpenAIChat(), True, "said"),
    (OpenAIChat(Dialect(shapes=False)), True, "forced"),
    (Gemini(), False, "said"),
    (Gemini(), True, "forced"),
    (Ollama(), False, "said"),
    (Ollama(), True, "offered"),
]


@pytest.mark.parametrize(("form", "tools", "way"), WAYS)
def test_how_a_format_asks_for_a_shape(form, tools, way):
    request = asked(tools=TOOLS if tools else (), output=SHAPE)
    assert form.shapes(request) == way
    if way == "said":
        made = body(form, request)
        place = {
            "openai-chat": lambda: made["response_format"]["json_schema"]["schema"],
            "openai-responses": lambda: made["text"]["format"]["schema"],
            "gemini": lambda: made["generationConfig"]["responseJsonSchema"],
            "ollama": lambda: made["format"],
        }[form.name]()
        assert place == SHAPE.schema
    else:
        made = body(form, with_tool(request, forced=way == "forced"))
        assert NAME in json.dumps(made["tools"])
        assert json.dumps(SHAPE.schema)[1:-1] in json.dumps(made["tools"])
        forced = json.dumps([made.get("tool_choice"), made.get("toolConfig")])
        assert any(word in forced for word in ("any", "ANY", "required")) == (way == "forced")
    assert NAME not in json.dumps(body(form, asked(tools=TOOLS)))


def test_thinking_is_not_forced():
    assert Anthropic().shapes(asked(output=SHAPE, settings={"reasoning_tokens": 2000})) == "offered"


def test_strict_where_the_schema_is():
    """OpenAI's strict mode takes closed objects whose fields are all required."""
    made = body(OpenAIChat(), asked(output=Outputs().shape(int)))
    assert made["response_format"]["json_schema"]["strict"] is True
    made = body(OpenAIChat(), asked(output=SHAPE))
    assert made["response_format"]["json_schema"]["strict"] is False


def test_an_answer_that_is_handed_in():
    """Alone it is the answer; beside real calls it came too early and is only said; what cannot be read stays what it was."""
    request = asked(tools=TOOLS, output=SHAPE)
    alone = handed_in(request, ModelReply(parts=(Text("Here it is:"), Call(NAME, {"cents": 1}), Call(NAME, {"cents": 2})), finish="calls"))
    assert alone.parts[1].text == '{"cents":1}'
    assert [type(part).__name__ for part in alone.parts] == ["Reasoning", "Text"]
    assert alone.finish == "stop"
    early = handed_in(request, ModelReply(parts=(Call(NAME, {"cents": 1}), Call("look", {})), finish="calls"))
    assert [type(part).__name__ for part in early.parts] == ["Text", "Call"]
    assert early.finish == "calls"
    broken = handed_in(request, ModelReply(parts=(Call(NAME, {}, malformed='{"cents": 1'),), finish="length"))
    assert (broken.parts[0].text, broken.finish) == ('{"cents": 1', "length")
    taken = asked(tools=(*TOOLS, with_tool(request, forced=True).tools[-1]), output=SHAPE)
    assert with_tool(taken, forced=True).tools[-1].name == f"{NAME}_2", "a tool of the user's has that name"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("form", "tools", "way"), WAYS)
async def test_end_to_end(tmp_path, form, tools, way, stream):
    """Over a real connection: wrong once, then right, then another turn. No call is in the log, and the provider accepts each request."""
    server = SERVERS[form.name]

    def said(text):
        return Said(text=text) if way == "said" else Said(calls=(Call(NAME, json.loads(text), provider_id="c1"),), finish="calls")

    replies = [saying_of(server, answer, stream) for answer in (said(WRONG), said(GOOD), Said(text="not JSON"), Said(text=GOOD))]
    async with Loopback(in_turn(*replies)) as provider:
        model = HTTPModel(form, "m-1", base_url=provider.url, key="k", stream=stream)
        async with StatefulAgentLoop(model, store=tmp_path / "agent.db", tools=[look] if tools else [], output=Invoice) as loop:
            assert (await loop.send("one", "s")).output.cents == 1000
            assert (await loop.send("two", "s")).output.cents == 1000, "also in plain text, when the tool is not called"
            assert not [kind for kind in await kinds(loop) if kind.startswith("call.")]
            await verified(loop)
        for request in provider.asked:
            server.check(request.json)
        await model.aclose()


def saying_of(server, answer, stream):
    return saying(head(200, server.media_type), *server.stream(answer)) if stream else whole(200, server.whole(answer))
