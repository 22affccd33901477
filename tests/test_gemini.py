"""Google Gemini: what is written is what the provider takes, what it sends is read whole."""

import json

import pytest
from conversations import conversations, everything
from hypothesis import given
from wires import TOOLS, asked, back, body, ends_only_with_its_end, grows, heard, pinned, recorded, sse, whole

from power_agent.errors import ContextTooLong, InvalidInput, ModelError
from power_agent.messages import Attachment, Call, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.gemini import UNSIGNED, Gemini

FORM = Gemini()
SIGNED_CALL = '{"functionCall":{"name":"look","args":{"place":"here"}},"thoughtSignature":"CuQBAVSoXO+/"}'

STREAM = recorded(FORM, "thoughts")


def said(*parts, reason="STOP", **more):
    ended = {"finishReason": reason} if reason else {}
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **ended, **more}], "modelVersion": "gemini-x"}


# -- read --------------------------------------------------------------------------------------------------------------


def test_thoughts_text_and_parallel_calls():
    """Chunks of text grow together, calls come whole, arguments may be missing; thoughts count as output."""
    glimpses = []
    reply = heard(FORM, STREAM, glimpses)
    thought, text, look, wait = reply.parts
    assert (thought, text) == (Reasoning("**Hm** so."), Text("I look."))
    assert look == Call("look", {"place": "here"}, raw=SIGNED_CALL)
    assert (wait.name, wait.arguments, wait.malformed, wait.provider_id) == ("wait", {}, None, None)
    assert (reply.finish, reply.model, reply.format) == ("calls", "gemini-x", "gemini")
    assert reply.usage == Usage(330, 52, 300, 0, 30)
    assert [kind for kind, _ in glimpses] == ["reasoning", "reasoning", "text", "text", "arguments", "arguments"]


def test_signature_goes_back_at_its_part():
    """The signed call goes back byte for byte, results in the order of the calls; another format's request holds no signature."""
    reply = heard(FORM, STREAM)
    named = tuple(Call(part.name, part.arguments, f"t1r1c{place}", None, None, part.raw) if isinstance(part, Call) else part for place, part in enumerate(reply.parts))
    tool = Message("tool", (Output("t1r1c2", (Text("x"),), name="look"), Output("t1r1c3", (Text("y"),), True, name="wait")))
    sent = FORM.write("gemini-3-pro", asked(Message("user", (Text("hello"),)), Message("assistant", named, "gemini"), tool), stream=True).body.decode()
    assert SIGNED_CALL + ',{"functionCall":{"name":"wait"}}' in sent
    contents = json.loads(sent)["contents"]
    assert [list(part) for part in contents[1]["parts"]] == [["text"], ["functionCall", "thoughtSignature"], ["functionCall"]]
    assert contents[2]["parts"] == [{"functionResponse": {"name": "look", "response": {"output": "x"}}}, {"functionResponse": {"name": "wait", "response": {"error": "y"}}}]
    foreign = FORM.write("gemini-3-pro", asked(Message("user", (Text("hello"),)), Message("assistant", named, "elsewhere"), tool), stream=True).body.decode()
    assert "CuQB" not in foreign


def test_parts_with_a_signature_are_never_joined():
    """A signature may come with the last piece of text, or with no text at all; both go back at their own part."""
    reply = heard(FORM, sse(said({"text": "Hel"}, reason=None), said({"text": "lo", "thoughtSignature": "A=="}, reason=None), said({"text": "", "thoughtSignature": "B=="})))
    assert reply.parts == (Text("Hel"), Text("lo", '{"text":"lo","thoughtSignature":"A=="}'), Opaque('{"text":"","thoughtSignature":"B=="}'))
    assert back(FORM, reply)["contents"][1]["parts"] == [{"text": "Hel"}, {"text": "lo", "thoughtSignature": "A=="}, {"text": "", "thoughtSignature": "B=="}]
    thought = whole(FORM, said({"text": "hm", "thought": True, "thoughtSignature": "C=="}, {"text": "hi"}))
    assert thought.parts[0] == Reasoning("hm", '{"text":"hm","thought":true,"thoughtSignature":"C=="}')


def test_calls_made_elsewhere_carry_the_providers_own_word():
    """From the third generation on the first of the calls side by side must be signed; earlier ones are left alone."""
    calls = Message("assistant", (Call("look", {}, id="a", provider_id="a"), Call("wait", {}, id="b", provider_id="b")), "elsewhere")
    result = Message("tool", (Output("a", (Text("x"),), name="look"), Output("b", (Text("x"),), name="wait")))
    request = asked(Message("user", (Text("x"),)), calls, result)
    for model, expected in (("gemini-3-pro", UNSIGNED), ("gemini-flash-latest", UNSIGNED), ("gemini-2.5-pro", None), ("tunedModels/mine", None)):
        parts = body(FORM, request, model=model)["contents"][1]["parts"]
        assert [part.get("thoughtSignature") for part in parts] == [expected, None]


def test_call_with_an_id_is_answered_by_it():
    """The id stands at the call and at its result, also when it had to be another one; where there was none, none is made up."""
    call = whole(FORM, said({"functionCall": {"id": "g1", "name": "look", "args": {}}})).parts[0]
    assert call.provider_id == "g1"
    for wire in ("g1", "new"):
        named = Message("assistant", (Call("look", {}, id="t1r1c1", provider_id=wire, raw=call.raw), Call("look", {}, id="t1r1c2", provider_id="t1r1c2")), "gemini")
        result = Message("tool", (Output("t1r1c1", (Text("x"),), provider_id=wire, name="look"), Output("t1r1c2", (Text("y"),), provider_id="t1r1c2", name="look")))
        contents = body(FORM, asked(Message("user", (Text("x"),)), named, result))["contents"]
        assert [part["functionCall"].get("id") for part in contents[1]["parts"]] == [wire, None]
        assert [part["functionResponse"].get("id") for part in contents[2]["parts"]] == [wire, None]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "filtered"),
        ("RECITATION", "filtered"),
        ("BLOCKLIST", "filtered"),
        ("PROHIBITED_CONTENT", "filtered"),
        ("SPII", "filtered"),
        ("IMAGE_SAFETY", "filtered"),
        ("LANGUAGE", "other"),
        ("OTHER", "other"),
        ("BRAND_NEW", "other"),
    ],
)
def test_stop_reasons(reason, finish):
    assert heard(FORM, sse(said({"text": "hi"}, reason=None), said(reason=reason))).finish == finish


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"])
def test_stumbling_is_worth_another_attempt(reason):
    """The provider could not read what its model said, and does not show it. With a call in hand that is good, the call counts."""
    with pytest.raises(ModelError, match="print") as caught:
        whole(FORM, said(reason=reason, finishMessage="print(default_api.look())"))
    assert caught.value.retryable
    assert whole(FORM, said({"functionCall": {"name": "wait"}}, reason=reason)).finish == "calls"


def test_blocked_prompt_is_an_answer():
    reply = heard(FORM, sse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 5}}))
    assert (reply.parts, reply.finish, reply.usage) == ((), "filtered", Usage(5))


def test_arguments_that_are_no_object_run_nothing():
    for arguments in ([1], "x", 3):
        reply = whole(FORM, said({"functionCall": {"name": "look", "args": arguments}}))
        assert (reply.parts[0].arguments, reply.parts[0].malformed) == ({}, json.dumps(arguments, separators=(",", ":")))
    reply = whole(FORM, said({"functionCall": {"name": "look", "args": {"a": 1}, "willContinue": True}}, reason="MAX_TOKENS"))
    assert (reply.finish, reply.parts[0].malformed is None) == ("length", False)


def test_whole_answer_is_read_like_a_stream():
    """One object, or all of a stream in one list."""
    assert (
        whole(FORM, said({"text": "hi"}))
        == heard(FORM, sse(said({"text": "h"}, reason=None), said({"text": "i"})))
        == whole(FORM, [said({"text": "h"}, reason=None), said({"text": "i"})])
    )


def test_empty_answer_is_an_answer():
    assert (whole(FORM, said()).parts, whole(FORM, said()).finish) == ((), "stop")
    assert whole(FORM, {"candidates": [{"finishReason": "STOP"}]}).parts == ()


def test_what_is_not_known_is_kept():
    """Parts of unknown kinds go back at their place; what stands beside the parts is kept and cannot go back."""
    code, drawn = {"executableCode": {"language": "PYTHON", "code": "1"}}, {"inlineData": {"mimeType": "image/png", "data": "iVBO"}, "thoughtSignature": "A=="}
    reply = whole(FORM, said({"text": "a"}, code, drawn, {"text": "b"}, groundingMetadata={"webSearchQueries": ["x"]}, citationMetadata={"citations": [{"uri": "u"}]}))
    assert [type(part) for part in reply.parts] == [Text, Opaque, Opaque, Text, Opaque, Opaque]
    assert json.loads(reply.parts[4].opaque) == {"citationMetadata": {"citations": [{"uri": "u"}]}}
    assert back(FORM, reply)["contents"][1]["parts"] == [{"text": "a"}, code, drawn, {"text": "b"}]


def test_part_with_nothing_in_it_is_passed_over():
    assert whole(FORM, said({"text": "", "extra": None}, {"text": ""}, {}, {"text": "hi"})).parts == (Text("hi"),)


def test_stream_without_its_end_is_no_answer():
    ends_only_with_its_end(FORM, STREAM)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "[DONE]",
        {},
        {"candidates": 3},
        {"candidates": [3]},
        {"candidates": [{"content": {"parts": [3, {}, {"text": 3}]}}]},
        {"promptFeedback": []},
        {"candidates": [{"index": 1, "content": {"parts": [{"text": "second"}]}}]},
    ],
)
def test_absurd_values_are_survived(value):
    reading = FORM.read(asked(), stream=True)
    for one in (value, said({"text": "hi"})):
        list(reading.take(one))
    assert reading.reply().parts[-1] == Text("hi")
    assert Text("second") not in reading.reply().parts


@pytest.mark.parametrize("counts", [None, {}, {"promptTokenCount": -1, "candidatesTokenCount": "many", "cachedContentTokenCount": 10**30}])
def test_absurd_usage_counts_as_none(counts):
    assert whole(FORM, {**said({"text": "hi"}), "usageMetadata": counts}).usage == Usage()


@pytest.mark.parametrize(("word", "retryable"), [("UNAVAILABLE", True), ("RESOURCE_EXHAUSTED", True), ("INVALID_ARGUMENT", False), ("PERMISSION_DENIED", False)])
def test_errors_within_a_stream(word, retryable):
    with pytest.raises(ModelError) as caught:
        heard(FORM, sse(said({"text": "hi"}, reason=None), {"error": {"code": 1, "message": "Sorry", "status": word}}))
    assert (caught.value.retryable, "Sorry" in caught.value.message) == (retryable, True)


@pytest.mark.parametrize(("delay", "seconds"), [("34.5s", 34.5), ("-1s", None), ("soon", None), ("1e9s", None), ("", None), ("nans", None)])
def test_server_says_how_long_to_wait(delay, seconds):
    """In the body, which may be wrapped in a list; absurd waits are passed over."""
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]
    said = {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}}
    for body_ in (said, [said]):
        error = FORM.refused(429, body_, "")
        assert (error.retryable, error.retry_after, error.status) == (True, seconds, 429)


def test_too_long_is_its_own_error():
    said = {"error": {"code": 400, "message": "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}}
    assert isinstance(FORM.refused(400, said, ""), ContextTooLong)
    assert not isinstance(FORM.refused(400, {"error": {"message": "API key not valid", "status": "INVALID_ARGUMENT"}}, ""), ContextTooLong)


# -- write -------------------------------------------------------------------------------------------------------------


def test_request_is_pinned():
    """One request with everything in it, and the smallest one."""
    settings = {"max_output_tokens": 999, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"], "tool_choice": "tool:look", "reasoning_tokens": 512}
    settings["extra"] = {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}], "generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    full = FORM.write("gemini-3-pro", asked(*everything("gemini"), system="Be kind.", tools=TOOLS, settings=settings), stream=True)
    assert (full.path, full.framing, dict(full.headers)) == ("/models/gemini-3-pro:streamGenerateContent?alt=sse", "events", {})
    pinned(FORM, "everything", full)
    small = FORM.write("gemini-3-pro", asked(), stream=False)
    assert (small.path, small.framing) == ("/models/gemini-3-pro:generateContent", "whole")
    pinned(FORM, "hello", small)


def test_place_of_a_model():
    """A model that names its place stands there; nothing in a name leaves the path."""
    assert FORM.write("tunedModels/mine", asked(), stream=False).path == "/tunedModels/mine:generateContent"
    assert FORM.write("x?key=y#z", asked(), stream=False).path == "/models/x%3Fkey%3Dy%23z:generateContent"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tool_choice": "auto"}, {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}),
        ({"tool_choice": "required"}, {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}),
        ({"tool_choice": "none"}, {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}),
        ({"reasoning_effort": "low"}, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "low"}}}),
        ({"reasoning_effort": "none"}, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}),
    ],
)
def test_settings_have_the_names_of_the_format(settings, expected):
    made = body(FORM, asked(tools=TOOLS, settings=settings))
    assert {name: made[name] for name in expected} == expected


def test_tools_of_the_provider_stand_behind_ours():
    made = body(FORM, asked(tools=TOOLS, settings={"extra": {"tools": [{"googleSearch": {}}]}}))
    assert [list(tool) for tool in made["tools"]] == [["functionDeclarations"], ["googleSearch"]]
    assert made["tools"][0]["functionDeclarations"][1]["parametersJsonSchema"] == {"type": "object", "properties": {}}


def test_key_stands_in_its_header():
    assert FORM.authorise("k") == {"x-goog-api-key": "k"}


@pytest.mark.parametrize("part", [Attachment("application/zip", blob="pdf"), Attachment("image/png", blob="lost"), Attachment("image/png")])
def test_what_cannot_be_said_is_refused(part):
    with pytest.raises(InvalidInput):
        FORM.write("m", asked(Message("user", (part,))), stream=True)


def test_images_sound_and_documents():
    parts = (Attachment("image/png", blob="png"), Attachment("audio/wav", blob="wav"), Attachment("application/pdf", url="https://example.org/a.pdf"))
    sent = body(FORM, asked(Message("user", parts)))["contents"][0]["parts"]
    assert [list(one) for one in sent] == [["inlineData"], ["inlineData"], ["fileData"]]
    assert sent[2]["fileData"] == {"mimeType": "application/pdf", "fileUri": "https://example.org/a.pdf"}


# -- every legal conversation ------------------------------------------------------------------------------------------


@given(conversations("gemini"))
def test_every_conversation_is_valid_and_extends_the_former(messages):
    """Whatever was said, the request is one the provider takes, and it begins with the former request byte for byte."""
    grows(FORM, messages, model="gemini-3")
