"""Anthropic Messages: what is written is what the provider takes, what it sends is read whole."""

import pytest
from conversations import asked_at, conversations, everything
from hypothesis import given
from wires import TOOLS, asked, back, body, ends_only_with_its_end, grows, heard, pinned, recorded, sse, whole

from power_agent.errors import ContextTooLong, InvalidInput, ModelError
from power_agent.messages import Attachment, Call, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.anthropic import Anthropic

FORM = Anthropic()
MARK = b',"cache_control":{"type":"ephemeral"}'

THINKING = recorded(FORM, "thinking")


def start(**usage):
    return {"type": "message_start", "message": {"type": "message", "role": "assistant", "model": "claude-x", "content": [], "usage": usage}}


def block(index, value, *deltas, stop=True):
    begun = {"type": "content_block_start", "index": index, "content_block": value}
    grown = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [begun, *grown, *([{"type": "content_block_stop", "index": index}] if stop else [])]


def end(reason, **usage):
    return [{"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}, {"type": "message_stop"}]


def typed(text):
    return block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})


# -- read --------------------------------------------------------------------------------------------------------------


def test_thoughts_text_and_parallel_calls():
    """Everything in its order, glimpsed on the way; usage counts what was cached as input."""
    glimpses = []
    reply = heard(FORM, THINKING, glimpses)
    thought, redacted, text, look, wait = reply.parts
    assert thought == Reasoning("Let me see 😀", '{"type":"thinking","thinking":"Let me see 😀","signature":"EqQBCgIYAhIM/+=="}')
    assert redacted == Reasoning("", '{"type":"redacted_thinking","data":"EmwKAhgB/+=="}')
    assert text == Text("I look")
    assert look == Call("look", {"place": "here"}, provider_id="toolu_01")
    assert wait == Call("wait", {}, provider_id="toolu_02")
    assert (reply.finish, reply.model, reply.format) == ("calls", "claude-x", "anthropic")
    assert reply.usage == Usage(330, 55, 300, 20, 30)
    assert ("text", "I look") in glimpses
    assert "".join(piece for kind, piece in glimpses if kind == "arguments") == '{"place": "here"}'


def test_what_was_signed_goes_back_as_it_came():
    """Thoughts, redacted ones too, go back byte for byte, in front of what follows from them."""
    reply = heard(FORM, THINKING)
    tool = Message("tool", (Output("t1r1c1", (Text("x"),), provider_id="toolu_01"), Output("t1r1c2", (Text("y"),), provider_id="toolu_02")))
    request = asked(Message("user", (Text("hello"),)), Message("assistant", reply.parts, reply.format), tool)
    sent = FORM.write("claude-x", request, stream=True).body.decode()
    assert reply.parts[0].raw + "," + reply.parts[1].raw in sent
    foreign = asked(Message("user", (Text("hello"),)), Message("assistant", reply.parts, "elsewhere"), tool)
    assert "EqQB" not in FORM.write("claude-x", foreign, stream=True).body.decode()


def test_thought_behind_which_nothing_follows_does_not_go_back():
    """Cut between a thought and what it led to: the provider refuses an answer that ends with a thought."""
    thoughts = [*block(0, {"type": "thinking", "thinking": "hm", "signature": "A=="}), *block(1, {"type": "redacted_thinking", "data": "B=="})]
    alone = heard(FORM, sse(start(), *thoughts, *end("max_tokens")))
    assert [turn["role"] for turn in back(FORM, alone)["messages"]] == ["user"]
    spaced = heard(FORM, sse(start(), *block(0, {"type": "text", "text": "So"}), *thoughts[1:], *block(2, {"type": "text", "text": "\n"}), *end("max_tokens")))
    assert [one["type"] for one in back(FORM, spaced)["messages"][1]["content"]] == ["text"]


def test_unsigned_thought_does_not_go_back():
    """A thought that was cut before its signature would be refused."""
    reply = heard(FORM, sse(start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "hm"}), *end("max_tokens")))
    assert reply.parts == (Reasoning("hm"),)
    assert [turn["role"] for turn in back(FORM, reply)["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refused"),
        ("pause_turn", "other"),
        ("brand_new", "other"),
        (None, "other"),
    ],
)
def test_stop_reasons(reason, finish):
    assert heard(FORM, sse(start(), *typed("hi"), *end(reason))).finish == finish


@pytest.mark.parametrize("reason", ["end_turn", "pause_turn", "brand_new", None])
def test_call_makes_an_answer_one_of_calls(reason):
    """Whatever the provider calls the end, an answer with a call waits for its result."""
    assert heard(FORM, sse(start(), *block(0, {"type": "tool_use", "id": "a", "name": "wait", "input": {}}), *end(reason))).finish == "calls"


def test_answer_cut_within_arguments_runs_nothing():
    """The call before the cut is whole; the last one is kept as it broke off."""
    first = block(0, {"type": "tool_use", "id": "a", "name": "look", "input": {}}, {"type": "input_json_delta", "partial_json": '{"place":"x"}'})
    cut = block(1, {"type": "tool_use", "id": "b", "name": "look", "input": {}}, {"type": "input_json_delta", "partial_json": '{"pla'}, stop=False)
    reply = heard(FORM, sse(start(), *first, *cut, *end("max_tokens")))
    assert reply.finish == "length"
    assert reply.parts == (Call("look", {"place": "x"}, provider_id="a"), Call("look", {}, provider_id="b", malformed='{"pla'))
    for deltas, stop in (((), True), (({"type": "input_json_delta", "partial_json": "{}"},), False)):
        reply = heard(FORM, sse(start(), *block(0, {"type": "tool_use", "id": "b", "name": "look", "input": {}}, *deltas, stop=stop), *end("max_tokens")))
        assert reply.parts[0].malformed is not None
    reply = whole(FORM, {"type": "message", "content": [{"type": "tool_use", "id": "b", "name": "look", "input": {"place": "x"}}], "stop_reason": "max_tokens"})
    assert reply.parts == (Call("look", {}, provider_id="b", malformed='{"place":"x"}'),)


def test_what_stands_before_the_cut_is_whole():
    """A call without arguments in front of the text that was cut can run."""
    call, text = block(0, {"type": "tool_use", "id": "a", "name": "wait", "input": {}}), block(1, {"type": "text", "text": "And n"}, stop=False)
    reply = heard(FORM, sse(start(), *call, *text, *end("max_tokens")))
    assert (reply.finish, reply.parts) == ("length", (Call("wait", {}, provider_id="a"), Text("And n")))


def test_last_signature_counts():
    """A signature comes whole: a second one takes its place."""
    deltas = [{"type": "signature_delta", "signature": one} for one in ("A==", "B==")]
    reply = heard(FORM, sse(start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""}, *deltas), *end("end_turn")))
    assert reply.parts[0].raw == '{"type":"thinking","thinking":"","signature":"B=="}'


def test_arguments_are_never_repaired():
    for text in ('{"place": "x"', "[1]", '{"a": NaN}', "{'place': 'x'}"):
        reply = heard(
            FORM, sse(start(), *block(0, {"type": "tool_use", "id": "a", "name": "look", "input": {}}, {"type": "input_json_delta", "partial_json": text}), *end("tool_use"))
        )
        assert reply.parts == (Call("look", {}, provider_id="a", malformed=text),)


def test_ids_that_repeat_or_are_missing_are_read():
    """The reader judges no ids: the log gives each call its own."""
    reply = heard(
        FORM,
        sse(
            start(),
            *block(0, {"type": "tool_use", "id": "a", "name": "wait"}),
            *block(1, {"type": "tool_use", "id": "a", "name": "wait"}),
            *block(2, {"type": "tool_use", "name": "wait"}),
            *end("tool_use"),
        ),
    )
    assert [part.provider_id for part in reply.parts] == ["a", "a", None]


def test_call_keeps_what_stands_beside_it():
    """Fields of a call that mean nothing here go back with it, under the id it goes by now."""
    reply = heard(FORM, sse(start(), *block(0, {"type": "tool_use", "id": "a", "name": "wait", "input": {}, "caller": {"type": "direct"}}), *end("tool_use")))
    call = reply.parts[0]
    renamed = Message("assistant", (Call("wait", {}, id="t1r1c1", provider_id="new", raw=call.raw),), "anthropic")
    made = body(FORM, asked(Message("user", (Text("hello"),)), renamed, Message("tool", (Output("t1r1c1", (Text("x"),), provider_id="new"),))))
    assert made["messages"][1]["content"] == [{"type": "tool_use", "id": "new", "name": "wait", "input": {}, "caller": {"type": "direct"}}]


def test_citations_and_server_tools_are_kept_and_go_back():
    """A search, its result and the citations come back in the next request as they came."""
    search = block(0, {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}, {"type": "input_json_delta", "partial_json": '{"query":"x"}'})
    found = block(1, {"type": "web_search_tool_result", "tool_use_id": "srv", "content": [{"type": "web_search_result", "encrypted_content": "Eo=="}]})
    cited = block(
        2,
        {"type": "text", "text": "", "citations": []},
        {"type": "text_delta", "text": "so"},
        {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "s"}},
    )
    reply = heard(FORM, sse(start(), *search, *found, *cited, *end("end_turn")))
    assert [type(part) for part in reply.parts] == [Opaque, Opaque, Text]
    sent = back(FORM, reply)["messages"][1]["content"]
    assert sent[0] == {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"query": "x"}}
    assert sent[1]["content"][0]["encrypted_content"] == "Eo=="
    assert sent[2] == {"type": "text", "text": "so", "citations": [{"type": "char_location", "cited_text": "s"}]}


def test_server_tool_without_a_result_does_not_go_back():
    """Cut between a search and its result, the search alone would be refused."""
    reply = heard(
        FORM,
        sse(start(), *block(0, {"type": "text", "text": "I search"}), *block(1, {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}), *end("max_tokens")),
    )
    assert [one["type"] for one in back(FORM, reply)["messages"][1]["content"]] == ["text"]


def test_server_tool_that_waits_for_a_call_goes_back():
    """Code that the provider runs may call one of our tools: its result comes later, and the provider wants to see what asked."""
    asks = block(0, {"type": "server_tool_use", "id": "srv", "name": "code_execution", "input": {}})
    call = block(1, {"type": "tool_use", "id": "a", "name": "wait", "input": {}, "caller": {"type": "code_execution_20260120", "tool_id": "srv"}})
    reply = heard(FORM, sse(start(), *asks, *call, *end("tool_use")))
    sent = back(FORM, reply, Message("tool", (Output("", (Text("x"),), provider_id="a"),)))["messages"][1]["content"]
    assert [one["type"] for one in sent] == ["server_tool_use", "tool_use"]


def test_what_is_not_known_is_kept():
    """Blocks, deltas and events of kinds that are not known end nothing; the blocks go back."""
    odd = block(0, {"type": "compaction", "content": "a"}, {"type": "compaction_delta", "content": "b", "level": 2})
    reply = heard(FORM, sse(start(), {"type": "fireworks", "x": 1}, *odd, *typed("hi")[:0], *end("end_turn")))
    assert reply.parts == (Opaque('{"type":"compaction","content":"ab","level":2}'),)
    assert back(FORM, reply)["messages"][1]["content"] == [{"type": "compaction", "content": "ab", "level": 2}]


def test_whole_message_is_read_like_a_stream():
    said = {"type": "message", "model": "claude-x", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 4}}
    assert whole(FORM, said) == heard(FORM, sse(start(input_tokens=3), *typed("hi"), *end("end_turn", output_tokens=4)))


def test_empty_answer_is_an_answer():
    reply = heard(FORM, sse(start(), *end("end_turn")))
    assert (reply.parts, reply.finish) == ((), "stop")


def test_stream_without_its_end_is_no_answer():
    """Cut behind any event but the last, another attempt is asked for."""
    ends_only_with_its_end(FORM, THINKING)


@pytest.mark.parametrize(
    "value", [None, 1, "x", [], {}, {"type": 5}, {"type": "content_block_delta"}, {"type": "content_block_start", "content_block": 3}, {"type": "message_delta", "usage": []}]
)
def test_absurd_values_are_survived(value):
    reading = FORM.read(asked(), stream=True)
    list(reading.take(value))
    list(reading.take({"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "hi"}}))
    list(reading.take({"type": "message_stop"}))
    assert Text("hi") in reading.reply().parts


@pytest.mark.parametrize("counts", [{}, {"input_tokens": None}, {"input_tokens": -1, "output_tokens": "many", "cache_read_input_tokens": 10**30}])
def test_absurd_usage_counts_as_none(counts):
    assert heard(FORM, sse(start(**counts), *end("end_turn", **counts))).usage == Usage()


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [("overloaded_error", True), ("api_error", True), ("rate_limit_error", True), ("brand_new_error", True), ("invalid_request_error", False), ("permission_error", False)],
)
def test_errors_within_a_stream(kind, retryable):
    with pytest.raises(ModelError) as caught:
        heard(FORM, sse(start(), *typed("hi"), {"type": "error", "error": {"type": kind, "message": "Sorry"}}))
    assert (caught.value.retryable, "Sorry" in caught.value.message) == (retryable, True)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [(429, "rate_limit_error", True), (529, "overloaded_error", True), (500, "api_error", True), (401, "authentication_error", False), (400, "invalid_request_error", False)],
)
def test_refusals(status, kind, retryable):
    error = FORM.refused(status, {"type": "error", "error": {"type": kind, "message": "Sorry"}}, "")
    assert (type(error), error.retryable, error.status, error.word) == (ModelError, retryable, status, kind)
    assert FORM.refused(status, None, "<html>Bad</html>").retryable is retryable


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "prompt is too long: 216342 tokens > 200000 maximum"),
        (413, "Request exceeds the maximum size"),
        (400, "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000"),
    ],
)
def test_too_long_is_its_own_error(status, said):
    error = FORM.refused(status, {"type": "error", "error": {"type": "invalid_request_error", "message": said}}, "")
    assert isinstance(error, ContextTooLong)
    assert not error.retryable


def test_rate_limit_on_tokens_is_not_too_long():
    said = "This request would exceed your organization's rate limit of 40,000 input tokens per minute, and the context limit exceeded is not meant"
    assert not isinstance(FORM.refused(429, {"error": {"type": "rate_limit_error", "message": said}}, ""), ContextTooLong)


# -- write -------------------------------------------------------------------------------------------------------------


def test_request_is_pinned():
    """One request with everything in it, and the smallest one."""
    settings = {
        "max_output_tokens": 999,
        "temperature": 1,
        "stop": ["END"],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_tokens": 1024,
        "extra": {"metadata": {"user_id": "u"}},
    }
    full = FORM.write("claude-x", asked(*everything("anthropic"), system="Be kind.", tools=TOOLS, settings=settings), stream=True)
    assert (full.path, full.framing, dict(full.headers)) == ("/v1/messages", "events", {"anthropic-version": "2023-06-01"})
    pinned(FORM, "everything", full)
    small = FORM.write("claude-x", asked(), stream=False)
    assert small.framing == "whole"
    pinned(FORM, "hello", small)


def test_key_stands_in_its_header():
    assert FORM.authorise("k") == {"x-api-key": "k"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": {"type": "none"}}),
        ({"tool_choice": "tool:look"}, {"tool_choice": {"type": "tool", "name": "look"}}),
        ({"parallel_tool_calls": False}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
        ({"reasoning_effort": "high"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_tokens": 2048}, {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 34_048}),
        ({"top_p": 0.5, "seed": 3}, {"top_p": 0.5}),
        ({"extra": {"service_tier": "auto"}}, {"service_tier": "auto"}),
    ],
)
def test_settings_have_the_names_of_the_format(settings, expected):
    made = body(FORM, asked(tools=TOOLS, settings=settings))
    assert {name: made[name] for name in expected} == expected
    assert "seed" not in made


def test_tools_of_the_provider_stand_behind_ours():
    made = body(FORM, asked(tools=TOOLS, settings={"extra": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}}))
    assert [tool["name"] for tool in made["tools"]] == ["look", "wait", "web_search"]
    assert made["tools"][1]["input_schema"] == {"type": "object", "properties": {}}


def test_budget_for_thoughts_waits_for_calls_made_elsewhere():
    """The provider refuses to go on with calls that began without a thought while a budget is set."""
    call = Message("assistant", (Call("look", {}, id="t1r1c1", provider_id="a"),), "elsewhere")
    result = Message("tool", (Output("t1r1c1", (Text("x"),), provider_id="a"),))
    hello, settings = Message("user", (Text("hello"),)), {"reasoning_tokens": 1024}
    assert "thinking" not in body(FORM, asked(hello, call, result, settings=settings))
    assert "thinking" in body(FORM, asked(hello, call, result, hello, settings=settings))
    signed = Message("assistant", (Reasoning("", '{"type":"thinking","thinking":"","signature":"x"}'), *call.parts), "anthropic")
    assert "thinking" in body(FORM, asked(hello, signed, result, settings=settings))


@pytest.mark.parametrize("part", [Attachment("audio/wav", blob="wav"), Attachment("image/tiff", blob="png"), Attachment("image/png", blob="lost"), Attachment("image/png")])
def test_what_cannot_be_said_is_refused(part):
    with pytest.raises(InvalidInput):
        FORM.write("m", asked(Message("user", (part,))), stream=True)


def test_documents():
    """PDF as bytes or by address, text as text."""
    parts = (Attachment("application/pdf", blob="pdf"), Attachment("application/pdf", url="https://example.org/a.pdf"), Attachment("text/plain", blob="txt", name="a.txt"))
    sent = body(FORM, asked(Message("user", parts)))["messages"][0]["content"]
    assert [one["source"]["type"] for one in sent] == ["base64", "url", "text"]
    assert (sent[2]["source"]["data"], sent[2]["title"]) == ("Grüße", "a.txt")


# -- every legal conversation ------------------------------------------------------------------------------------------


@given(conversations("anthropic"))
def test_every_conversation_is_valid_and_extends_the_former(messages):
    """Whatever was said, the request is one the provider takes, and apart from the marks it begins with the former request."""
    grows(FORM, messages, mark=MARK, end=b"]}]}")


def test_marks_stand_where_the_former_request_ended():
    """What one request marked last, the next one marks too: the cache is found however much was said in between."""
    messages, marked = everything("anthropic"), None
    for length in asked_at(messages):
        turns = body(FORM, asked(*messages[:length], system="s", tools=TOOLS))["messages"]
        places = [(turn, place) for turn, one in enumerate(turns) for place, each in enumerate(one["content"]) if "cache_control" in each]
        assert places[-1] == (len(turns) - 1, len(turns[-1]["content"]) - 1)
        assert marked is None or marked in places or marked[0] == places[-1][0]
        marked = places[-1]
