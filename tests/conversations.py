"""Conversations: every legal list of messages, as chance makes them, and one that has everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from power_agent.messages import Attachment, Call, Message, Opaque, Output, Reasoning, Text

RAW: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "reasoning": '{"type":"thinking","thinking":"hm","signature":"EqQB+/=="}',
        "text": '{"type":"text","text":"cited","citations":[{"type":"page_location","cited_text":"x","document_index":0,"document_title":null,'
        '"start_page_number":1,"end_page_number":2}]}',
        "opaque": '{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"x"}}',
        "result": '{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}',
        "call": '{"type":"tool_use","id":"given","name":"look","input":{"place":"x"},"caller":{"type":"direct"}}',
    },
    "openai-responses": {
        "reasoning": '{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"gAAA+/=="}',
        "text": '{"id":"msg_1","type":"message","status":"completed","content":[{"type":"output_text","annotations":[],"text":"cited"}],"role":"assistant"}',
        "opaque": '{"id":"ws_1","type":"web_search_call","status":"completed","action":{"type":"search"}}',
        "result": '{"id":"ctc_1","type":"custom_tool_call","call_id":"call_custom","name":"draw","input":"x"}',
        "call": '{"id":"fc_1","type":"function_call","status":"completed","arguments":"{\\"place\\": \\"x\\"}","call_id":"given","name":"look"}',
    },
    "gemini": {
        "reasoning": '{"text":"hm","thought":true,"thoughtSignature":"Cq+/"}',
        "text": '{"text":"cited","thoughtSignature":"Dq+/"}',
        "opaque": '{"executableCode":{"language":"PYTHON","code":"1"}}',
        "result": '{"groundingMetadata":{"webSearchQueries":["x"]}}',
        "call": '{"functionCall":{"id":"given","name":"look","args":{"place":"x"}},"thoughtSignature":"Eq+/"}',
    },
}

WORDS = st.text(max_size=8) | st.sampled_from(["", " ", "\n", "word", "\U0010fffd", "\U0010fffdx", "\ud800", "é", '"\\'])
NAMES = st.sampled_from(["look", "wait", "made.up", "", "x" * 90])
ATTACHED = st.sampled_from([Attachment("image/png", blob="png"), Attachment("application/pdf", blob="pdf", name="a.pdf"), Attachment("image/png", url="https://example.org/a.png")])
SAID = st.lists(WORDS.map(Text) | ATTACHED, max_size=3).map(tuple)
ARGUMENTS = st.dictionaries(st.sampled_from(["place", "n"]), st.none() | st.integers() | WORDS, max_size=2)


@st.composite
def answer(draw: Any, formats: tuple[str, ...], number: int) -> Message:
    """One answer, in some format, with calls numbered so that no id occurs twice."""
    form = draw(st.sampled_from([*formats, "elsewhere", None]))
    raw = RAW.get(form or "", dict.fromkeys(RAW["gemini"], '{"of":"another"}'))
    parts: list[Any] = []
    for place, kind in enumerate(draw(st.lists(st.sampled_from(["text", "cited", "thought", "secret", "opaque", "result", "call", "rawcall", "broken"]), min_size=1, max_size=5))):
        wire = f"id_{number}_{place}"
        ours = f"t1r{number}c{place}"
        match kind:
            case "text":
                parts.append(Text(draw(WORDS)))
            case "cited":
                parts.append(Text("cited", raw["text"]))
            case "thought":
                parts.append(Reasoning(draw(WORDS)))
            case "secret":
                parts.append(Reasoning("hm", raw["reasoning"]))
            case "opaque" | "result":
                parts.append(Opaque(raw[kind]))
            case "call":
                parts.append(Call(draw(NAMES), draw(ARGUMENTS), id=ours, provider_id=wire))
            case "rawcall":
                parts.append(Call("look", {"place": "x"}, id=ours, provider_id=wire, raw=raw["call"]))
            case _:
                parts.append(Call("look", {}, id=ours, provider_id=wire, malformed='{"pl'))
    return Message("assistant", tuple(parts), form)


@st.composite
def conversations(draw: Any, *formats: str) -> tuple[Message, ...]:
    """A legal list of messages: it begins with a person, and each call is answered directly behind its message."""
    messages = [Message("user", draw(SAID))]
    for number in range(draw(st.integers(0, 4))):
        said = draw(answer(formats, number))
        messages.append(said)
        if said.calls:
            outputs = tuple(Output(call.id, draw(SAID) or (Text("done"),), draw(st.booleans()), call.provider_id, call.name) for call in said.calls)
            messages.append(Message("tool", outputs))
        if not said.calls or draw(st.integers(0, 3)) == 0:
            messages.append(Message("user", draw(SAID)))
    return tuple(messages)


def asked_at(messages: tuple[Message, ...]) -> list[int]:
    """The lengths at which a model would have been asked."""
    return [length for length in range(1, len(messages) + 1) if messages[length - 1].role != "assistant" and not (length < len(messages) and messages[length].role == "tool")]


def everything(form: str) -> tuple[Message, ...]:
    """A conversation with one of everything, in one format and with an answer from elsewhere."""
    raw = RAW[form]
    calls = (Call("look", {"place": "x"}, id="t1r1c1", provider_id="given", raw=raw["call"]), Call("wait", {}, id="t1r1c2", provider_id="call_2"))
    broken = Call("look", {}, id="t1r2c1", provider_id="call_3", malformed='{"place": "')
    foreign = (Reasoning("secret", '{"signed":"elsewhere"}'), Text("Hier."), Opaque('{"type":"elsewhere"}'), Call("made.up", {"n": 1}, id="t2r1c1", provider_id="call_4"))
    return (
        Message("user", (Text("See this."), Attachment("image/png", blob="png"), Attachment("application/pdf", blob="pdf", name="a.pdf"))),
        Message("assistant", (Reasoning("hm", raw["reasoning"]), Text("cited", raw["text"]), Opaque(raw["opaque"]), Opaque(raw["result"]), *calls), form),
        Message(
            "tool",
            (
                Output("t1r1c1", (Text("a place"), Attachment("image/png", blob="png")), provider_id="given", name="look"),
                Output("t1r1c2", (Text("done"),), provider_id="call_2", name="wait"),
            ),
        ),
        Message("assistant", (broken,), form),
        Message("tool", (Output("t1r2c1", (Text("Not a JSON object."),), failed=True, provider_id="call_3", name="look"),)),
        Message("user", (Text("[Note from the harness] go on"),)),
        Message("assistant", foreign, "elsewhere"),
        Message("tool", (Output("t2r1c1", (Text("There is no such tool."),), failed=True, provider_id="call_4", name="made.up"),)),
        Message("assistant", (Text("Done."),), "elsewhere"),
        Message("user", (Attachment("image/png", url="https://example.org/a.png"),)),
    )
