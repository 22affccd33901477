"""One story told through each format, over restarts and from one format to another: the log carries what the provider wants back.

The model here writes and reads real bytes of a format; between them there is no network, only what the provider's server said.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from gatekeepers import GATEKEEPERS
from wires import heard, recorded, sse

from power_agent import StatefulAgentLoop
from power_agent.messages import Call, Reasoning
from power_agent.models.anthropic import Anthropic
from power_agent.models.format import Format
from power_agent.models.gemini import Gemini
from power_agent.models.openai_responses import OpenAIResponses
from power_agent.ports import Glimpse, ModelReply, ModelRequest

MARK = b',"cache_control":{"type":"ephemeral"}'
DONE = {
    "anthropic": sse(
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Done."}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ),
    "openai-responses": sse(
        {"type": "response.completed", "response": {"status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": "Done."}]}]}}
    ),
    "gemini": sse({"candidates": [{"content": {"parts": [{"text": "Done."}]}, "finishReason": "STOP"}]}),
}
STREAMS: dict[str, tuple[Format, str]] = {"anthropic": (Anthropic(), "thinking"), "openai-responses": (OpenAIResponses(), "reasoning"), "gemini": (Gemini(), "thoughts")}
END = {"anthropic": b"]}]}", "openai-responses": b"]}", "gemini": b"]}"}


def look(place: str) -> str:
    """Look at a place."""
    return f"{place} is nice"


def wait() -> str:
    """Wait."""
    return "waited"


class Provider:
    """Calls two tools side by side, hears what they gave, and is done: turn after turn, with the same ids each time."""

    name = "provider:model"

    def __init__(self, form: str) -> None:
        self.form, stream = STREAMS[form]
        self.answers = itertools.cycle([recorded(self.form, stream), DONE[form]])
        self.bodies: list[bytes] = []

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        body = self.form.write("gemini-3-pro", request, stream=True).body
        GATEKEEPERS[self.form.name](json.loads(body))
        self.bodies.append(body.replace(MARK, b""))
        return heard(self.form, next(self.answers))


def signed_in(reply: ModelReply) -> list[bytes]:
    """The raw items of an answer that hold a signature, or something encrypted."""
    signed = [part.raw.encode() for part in reply.parts if isinstance(part, Reasoning | Call) and part.raw and ("+/" in part.raw or "/+" in part.raw)]
    assert signed
    return signed


async def told(path: str, model: Provider, text: str) -> Any:
    """One turn, by a loop of its own."""
    async with StatefulAgentLoop(model, tools=[look, wait], store=path, system="Be kind.") as loop:
        result = await loop.send(text, session_id="story")
        assert (result.status, result.text) == ("completed", "Done.")
        return await loop.messages("story")


@pytest.mark.parametrize("form", STREAMS)
async def test_what_was_signed_survives_a_restart(form, tmp_path):
    """Each request begins with the former one byte for byte, also the first one after a restart, and holds what was signed; ids
    that the provider uses again are told apart.
    """
    model = Provider(form)
    reply = heard(model.form, next(model.answers))
    signed = signed_in(reply)
    model = Provider(form)
    for text in ("One.", "Two.", "Three."):
        messages = await told(str(tmp_path / "story.db"), model, text)
    for former, body in itertools.pairwise(model.bodies):
        assert body.startswith(former.removesuffix(END[form]))
    assert [model.bodies[-1].count(item) for item in signed] == [3] * len(signed)
    calls = [call for message in messages for call in message.calls]
    assert [(call.name, call.arguments) for call in calls] == [("look", {"place": "here"}), ("wait", {})] * 3
    assert [output.content[0].text for message in messages if message.role == "tool" for output in message.parts] == ["here is nice", "waited"] * 3


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(STREAMS, 2)))
async def test_session_goes_on_in_another_format(first, second, tmp_path):
    """What one provider signed is not shown to another one, and is there again when the first one goes on."""
    path, models = str(tmp_path / "story.db"), {name: Provider(name) for name in (first, second)}
    for name in (first, second, first):
        await told(path, models[name], "Go on.")
    reply = heard(models[first].form, recorded(*STREAMS[first]))
    signed = signed_in(reply)
    assert not any(item in body for item in signed for body in models[second].bodies)
    assert all(item in models[first].bodies[-1] for item in signed)
