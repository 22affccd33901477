"""OpenAI Responses: what is written is what the provider takes, what it sends is read whole."""

import json

import pytest
from conversations import conversations, everything
from hypothesis import given
from wires import TOOLS, asked, back, body, ends_only_with_its_end, grows, heard, pinned, recorded, sse, whole

from power_agent.errors import ContextTooLong, InvalidInput, ModelError
from power_agent.messages import Attachment, Call, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.openai_responses import OpenAIResponses

FORM = OpenAIResponses()
REASONING = '{"id":"rs_1","type":"reasoning","encrypted_content":"gAAAAABo+/==","summary":[{"type":"summary_text","text":"Hm."}]}'
CALL = '{"id":"fc_1","type":"function_call","status":"completed","arguments":"{\\"place\\": \\"here\\"}","call_id":"call_1","name":"look"}'
MESSAGE = '{"id":"msg_1","type":"message","status":"completed","content":[{"type":"output_text","annotations":[],"text":"I look."}],"role":"assistant","phase":"commentary"}'

STREAM = recorded(FORM, "reasoning")


def typed(text, **more):
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "annotations": [], "text": text}], **more}


def called(arguments, **more):
    return {"id": "fc_1", "type": "function_call", "status": "completed", "arguments": arguments, "call_id": "call_1", "name": "look", **more}


def done(index, item):
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def added(index, item):
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def ended(status="completed", **more):
    return {"type": f"response.{status}", "response": {"object": "response", "status": status, "output": [], **more}}


def answered(*items, status="completed", **more):
    return {"object": "response", "status": status, "model": "gpt-x", "output": list(items), **more}


# -- read --------------------------------------------------------------------------------------------------------------


def test_reasoning_text_and_parallel_calls():
    """Everything in its order, glimpsed on the way, although two calls come interleaved."""
    glimpses = []
    reply = heard(FORM, STREAM, glimpses)
    assert reply.parts[:3] == (Reasoning("Hm.", REASONING), Text("I look.", MESSAGE), Call("look", {"place": "here"}, provider_id="call_1", raw=CALL))
    assert (reply.parts[3].name, reply.parts[3].arguments, reply.parts[3].provider_id) == ("wait", {}, "call_2")
    assert (reply.finish, reply.model, reply.format) == ("calls", "gpt-x", "openai-responses")
    assert reply.usage == Usage(328, 52, 300, 20, 30)
    assert glimpses == [("reasoning", "Hm."), ("text", "I look."), ("arguments", '{"place": "h'), ("arguments", "{}"), ("arguments", 'ere"}')]


def test_items_go_back_as_they_came():
    """Reasoning, message and call go back byte for byte and in their order; to another format's request they do not."""
    reply = heard(FORM, STREAM)
    tool = Message("tool", (Output("t1r1c1", (Text("x"),), provider_id="call_1"), Output("t1r1c2", (Text("y"),), provider_id="call_2")))
    request = asked(Message("user", (Text("hello"),)), Message("assistant", reply.parts, reply.format), tool)
    assert f"{REASONING},{MESSAGE},{CALL}" in FORM.write("gpt-x", request, stream=True).body.decode()
    foreign = asked(Message("user", (Text("hello"),)), Message("assistant", reply.parts, "elsewhere"), tool)
    sent = FORM.write("gpt-x", foreign, stream=True).body.decode()
    assert "gAAA" not in sent
    assert "msg_1" not in sent
    assert '{"type":"message","role":"assistant","content":"I look."}' in sent


def test_reasoning_nobody_can_look_up_does_not_go_back():
    """Without its encrypted content the provider would look for it, and it keeps nothing; with open text it goes back."""
    empty = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    reply = whole(FORM, answered(empty, typed("hi")))
    assert reply.parts[0] == Reasoning("Hm.")
    assert [item.get("id") for item in back(FORM, reply)["input"]] == [None, "msg_1", None]
    opened = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    reply = whole(FORM, answered(opened, typed("hi")))
    assert reply.parts[0].reasoning == "Hm."
    assert back(FORM, reply)["input"][1] == opened


def test_reasoning_behind_which_nothing_follows_does_not_go_back():
    """Cut while it thought: the provider refuses reasoning without the item it led to."""
    reply = whole(FORM, answered(json.loads(REASONING), status="incomplete", incomplete_details={"reason": "max_output_tokens"}))
    assert (reply.finish, len(reply.parts)) == ("length", 1)
    assert [item["type"] for item in back(FORM, reply)["input"]] == ["message", "message"]


def test_call_goes_by_the_id_it_is_given():
    call = whole(FORM, answered(called("{}"))).parts[0]
    renamed = Message("assistant", (Call("look", {}, id="t1r1c1", provider_id="new", raw=call.raw),), "openai-responses")
    sent = body(FORM, asked(Message("user", (Text("x"),)), renamed, Message("tool", (Output("t1r1c1", (Text("x"),), provider_id="new"),))))["input"]
    assert (sent[1]["call_id"], sent[1]["id"], sent[2]["call_id"]) == ("new", "fc_1", "new")


@pytest.mark.parametrize(
    ("status", "details", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", {"reason": "max_output_tokens"}, "length"),
        ("incomplete", {"reason": "content_filter"}, "filtered"),
        ("incomplete", {"reason": "brand_new"}, "other"),
        ("incomplete", None, "other"),
    ],
)
def test_ends(status, details, finish):
    """In a stream and whole."""
    assert heard(FORM, sse(done(0, typed("hi")), ended(status, incomplete_details=details))).finish == finish
    assert whole(FORM, answered(typed("hi"), status=status, incomplete_details=details)).finish == finish


def test_refusal_is_text_and_an_end_of_its_own():
    glimpses = []
    refusal = typed("")
    refusal["content"] = [{"type": "refusal", "refusal": "I will not."}]
    reply = heard(FORM, sse(added(0, typed("")), {"type": "response.refusal.delta", "output_index": 0, "delta": "I will not."}, done(0, refusal), ended()), glimpses)
    assert (reply.finish, reply.parts[0].text, glimpses) == ("refused", "I will not.", [("text", "I will not.")])
    assert back(FORM, reply)["input"][1] == refusal


def test_answer_cut_within_arguments_runs_nothing():
    """The call before the cut is whole; the last one is kept as it broke off, whether its item was closed or not."""
    cut = {"incomplete_details": {"reason": "max_output_tokens"}}
    grown = [added(1, called("", status="in_progress", call_id="b")), {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"pla'}]
    reply = heard(FORM, sse(done(0, called('{"place":"x"}')), *grown, ended("incomplete", **cut)))
    assert reply.finish == "length"
    assert reply.parts[0].arguments == {"place": "x"}
    assert reply.parts[1] == Call("look", {}, provider_id="b", malformed='{"pla')
    for item in (called('{"pla', status="incomplete"), called("{}", status="incomplete"), called("", status="completed")):
        assert whole(FORM, answered(item, status="incomplete", **cut)).parts[0].malformed == item["arguments"]
    assert whole(FORM, answered(called("{}", status="incomplete"))).parts[0].malformed == "{}"
    made = back(FORM, reply, Message("tool", (Output("", (Text("x"),), provider_id="call_1"), Output("", (Text("y"),), provider_id="b"))))
    assert made["input"][2]["arguments"] == "{}"


def test_arguments_are_never_repaired():
    for text in ('{"place": "x"', "[1]", '{"a": NaN}'):
        assert whole(FORM, answered(called(text))).parts == (Call("look", {}, provider_id="call_1", malformed=text),)


def test_no_arguments_at_all_go_back_as_an_object():
    """Some servers leave the text of a call without arguments empty, and refuse it when it comes back so."""
    reply = whole(FORM, answered(called("")))
    assert (reply.parts[0].arguments, reply.parts[0].malformed) == ({}, None)
    assert back(FORM, reply, Message("tool", (Output("", (Text("x"),), provider_id="call_1"),)))["input"][1]["arguments"] == "{}"


def test_places_and_ids_may_repeat():
    """Servers that number every item 0, or give the same id twice, lose nothing."""
    said = [added(0, typed("")), {"type": "response.output_text.delta", "output_index": 0, "delta": "hi"}, done(0, typed("hi"))]
    calls = [added(0, called("")), done(0, called("{}")), added(0, called("")), done(0, called('{"place":"x"}'))]
    reply = heard(FORM, sse(*said, *calls, ended()))
    assert [getattr(part, "arguments", None) for part in reply.parts] == [None, {}, {"place": "x"}]
    reply = heard(FORM, sse(*said, *calls, ended(output=[typed("hi"), called("{}"), called('{"place":"x"}')])))
    assert [getattr(part, "arguments", None) for part in reply.parts] == [None, {}, {"place": "x"}]
    reply = heard(FORM, sse(done(0, called("{}")), done(0, called("{}")), ended()))
    assert len(reply.parts) == 2
    missing = whole(FORM, answered(called("{}", call_id=None)))
    assert missing.parts[0].provider_id is None


def test_items_that_are_never_called_done_are_read_from_their_pieces():
    pieces = [
        added(0, typed("", content=[])),
        {"type": "response.output_text.delta", "output_index": 0, "delta": "h"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "i"},
    ]
    assert heard(FORM, sse(*pieces, ended())).parts == (Text("hi"),)
    assert heard(FORM, sse(*pieces[1:], ended())).parts == (Text("hi"),)


def test_message_of_a_broken_shape_goes_back_as_its_text():
    """What the provider would not take as its own item is said anew."""
    for broken in ({"content": [{"type": "output_text", "text": "hi"}, {"type": "output_text"}]}, {"role": None}):
        reply = whole(FORM, answered(typed("hi", **broken)))
        assert back(FORM, reply)["input"][1] == {"type": "message", "role": "assistant", "content": "hi"}


def test_better_copy_of_reasoning_counts():
    """When the last word about the whole leaves the encrypted content out, the item from the stream is used."""
    reply = heard(FORM, sse(done(0, json.loads(REASONING)), done(1, typed("hi")), ended(output=[{"id": "rs_1", "type": "reasoning", "summary": []}, typed("hi")])))
    assert reply.parts[0].raw == REASONING


def test_citations_go_back():
    note = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://example.org", "title": "x"}
    item = typed("hi", content=[{"type": "output_text", "text": "hi", "annotations": [note]}])
    assert back(FORM, whole(FORM, answered(item)))["input"][1] == item


def test_what_is_not_known_is_kept():
    """Items and events of kinds that are not known end nothing; the items go back, unless they wait for an answer nobody gives."""
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
    drawing = {"id": "x", "type": "custom_tool_call", "call_id": "c", "name": "draw", "input": ""}
    pair = [{"type": "shell_call", "call_id": "s"}, {"type": "shell_call_output", "call_id": "s"}]
    reply = heard(
        FORM, sse({"type": "response.fireworks"}, {"type": "fireworks"}, done(0, search), done(1, drawing), done(2, pair[0]), done(3, pair[1]), done(4, typed("hi")), ended())
    )
    assert [type(part) for part in reply.parts] == [Opaque] * 4 + [Text]
    assert back(FORM, reply)["input"][1:-1] == [search, *pair, typed("hi")]


def test_empty_answer_is_an_answer():
    assert (whole(FORM, answered()).parts, whole(FORM, answered()).finish) == ((), "stop")
    assert heard(FORM, sse(done(0, typed("", content=[])), ended())).parts == ()


def test_stream_without_its_end_is_no_answer():
    ends_only_with_its_end(FORM, STREAM, ("", "[DONE]"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "x",
        [],
        {},
        {"type": 5},
        {"type": "response.output_item.done"},
        {"type": "response.output_item.added", "item": 3},
        {"type": "response.output_text.delta", "delta": 4, "output_index": "0"},
    ],
)
def test_absurd_values_are_survived(value):
    reading = FORM.read(asked(), stream=True)
    list(reading.take(value))
    for one in (done(7, typed("hi")), ended()):
        list(reading.take(one))
    assert reading.reply().parts[-1].text == "hi"


@pytest.mark.parametrize("counts", [None, {}, {"input_tokens": -1, "output_tokens": "many", "input_tokens_details": 3}, {"input_tokens_details": {"cached_tokens": 10**30}}])
def test_absurd_usage_counts_as_none(counts):
    assert whole(FORM, answered(usage=counts)).usage == Usage()


@pytest.mark.parametrize(
    ("event", "retryable"),
    [
        ({"type": "error", "code": "server_error", "message": "Sorry", "param": None}, True),
        ({"type": "error", "error": {"type": "rate_limit_exceeded", "message": "Sorry"}}, True),
        ({"type": "error", "code": None, "message": "Sorry"}, True),
        (ended("failed", error={"code": "rate_limit_exceeded", "message": "Sorry"}), True),
        (ended("failed", error={"code": "invalid_prompt", "message": "Sorry"}), False),
        (ended("failed", error={"code": "insufficient_quota", "message": "Sorry"}), False),
    ],
)
def test_errors_within_a_stream(event, retryable):
    with pytest.raises(ModelError) as caught:
        heard(FORM, sse(done(0, typed("hi")), event))
    assert (caught.value.retryable, "Sorry" in caught.value.message) == (retryable, True)


@pytest.mark.parametrize("status", ["failed", "cancelled", "queued", "in_progress"])
def test_whole_response_that_is_none(status):
    with pytest.raises(ModelError) as caught:
        whole(FORM, answered(typed("hi"), status=status))
    assert caught.value.retryable


def test_too_long_is_its_own_error():
    """By the provider's word for it, by its sentence, as a refusal and within a stream."""
    said = {"error": {"message": "Your input exceeds the context window of this model.", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    assert isinstance(FORM.refused(400, said, ""), ContextTooLong)
    said["error"]["code"] = None
    assert isinstance(FORM.refused(400, said, ""), ContextTooLong)
    with pytest.raises(ContextTooLong):
        heard(FORM, sse(ended("failed", error={"code": "context_length_exceeded", "message": "x"})))


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(429, "rate_limit_exceeded", True), (429, "insufficient_quota", False), (500, "server_error", True), (503, None, True), (409, None, True), (404, "model_not_found", False)],
)
def test_refusals(status, code, retryable):
    error = FORM.refused(status, {"error": {"message": "Sorry", "type": "x", "code": code}}, "")
    assert (type(error), error.retryable, error.status) == (ModelError, retryable, status)
    assert FORM.refused(status, None, "<html>").retryable is (status != 404)


# -- write -------------------------------------------------------------------------------------------------------------


def test_request_is_pinned():
    """One request with everything in it, and the smallest one."""
    settings = {
        "max_output_tokens": 999,
        "temperature": 0.5,
        "tool_choice": "tool:look",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "extra": {"reasoning": {"summary": "auto"}},
    }
    full = FORM.write("gpt-x", asked(*everything("openai-responses"), system="Be kind.", tools=TOOLS, settings=settings), stream=True)
    assert (full.path, full.framing, dict(full.headers)) == ("/responses", "events", {})
    pinned(FORM, "everything", full)
    small = FORM.write("gpt-x", asked(), stream=False)
    assert small.framing == "whole"
    pinned(FORM, "hello", small)


def test_nothing_is_kept_on_the_other_side():
    """The provider keeps nothing and hands out its reasoning encrypted; models without reasoning refuse to be asked for that."""
    made = body(FORM, asked(), model="gpt-5")
    assert (made["store"], made["include"]) == (False, ["reasoning.encrypted_content"])
    assert "include" not in body(FORM, asked(), model="gpt-4.1-mini")


def test_settings_have_the_names_of_the_format():
    made = body(FORM, asked(tools=TOOLS, settings={"tool_choice": "required", "top_p": 0.5, "seed": 1, "extra": {"tools": [{"type": "web_search"}], "service_tier": "flex"}}))
    assert (made["tool_choice"], made["top_p"], made["service_tier"], [tool.get("name") for tool in made["tools"]]) == ("required", 0.5, "flex", ["look", "wait", None])
    assert made["tools"][0]["strict"] is False
    assert "tool_choice" not in body(FORM, asked(settings={"tool_choice": "required"}))
    with pytest.raises(InvalidInput):
        body(FORM, asked(settings={"stop": "END"}))


def test_key_stands_in_its_header():
    assert FORM.authorise("k") == {"authorization": "Bearer k"}


def test_failed_call_says_so():
    call = Message("assistant", (Call("look", {}, id="a", provider_id="a"),))
    shown = (Text("broke"), Attachment("image/png", blob="png"))
    for content, expected in ((shown[:1], "Error: broke"), (shown, ["input_text", "input_text", "input_image"])):
        output = body(FORM, asked(Message("user", (Text("x"),)), call, Message("tool", (Output("a", content, True, "a", "look"),))))["input"][-1]["output"]
        assert (output if isinstance(output, str) else [one["type"] for one in output]) == expected


@pytest.mark.parametrize("part", [Attachment("audio/wav", blob="wav"), Attachment("image/png", blob="lost"), Attachment("image/png")])
def test_what_cannot_be_said_is_refused(part):
    with pytest.raises(InvalidInput):
        FORM.write("m", asked(Message("user", (part,))), stream=True)


def test_documents():
    parts = (Attachment("application/pdf", blob="pdf", name="a.pdf"), Attachment("application/pdf", url="https://example.org/a.pdf"), Attachment("text/plain", blob="txt"))
    sent = body(FORM, asked(Message("user", parts)))["input"][0]["content"]
    assert sent[0] == {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjcK"}
    assert sent[1] == {"type": "input_file", "file_url": "https://example.org/a.pdf"}
    assert sent[2]["filename"] == "document.plain"


# -- every legal conversation ------------------------------------------------------------------------------------------


@given(conversations("openai-responses"))
def test_every_conversation_is_valid_and_extends_the_former(messages):
    """Whatever was said, the request is one the provider takes, and it begins with the former request byte for byte."""
    grows(FORM, messages)
