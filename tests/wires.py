"""Wire formats under test: requests as they are made, streams as they come, and requests pinned to files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conversations import asked_at
from gatekeepers import GATEKEEPERS

from power_agent.errors import ModelError
from power_agent.messages import Message, Text
from power_agent.models.format import Format, Piece, Sending
from power_agent.ports import ModelReply, ModelRequest, ToolSpec

GOLDEN = Path(__file__).parent / "golden" / "wire"
PNG = bytes.fromhex("89504e470d0a1a0a")
PDF = b"%PDF-1.7\n"
BLOBS = {"png": PNG, "pdf": PDF, "txt": "Grüße".encode(), "wav": b"RIFF\x00\x00\x00\x00WAVE"}
TOOLS = (
    ToolSpec(name="look", description="Look at a place.", parameters={"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}),
    ToolSpec(name="wait", description="Wait.", parameters={}),
)


def asked(*messages: Message, **more: Any) -> ModelRequest:
    """A request; without messages, one that says hello."""
    fields: dict[str, Any] = {"model": "provider:model", "system": None, "attachments": BLOBS, **more}
    return ModelRequest(messages=messages or (Message("user", (Text("hello"),)),), **fields)


def body(form: Format, request: ModelRequest, *, model: str = "model", stream: bool = True) -> dict[str, Any]:
    """The body of a request, read as JSON."""
    value = json.loads(form.write(model, request, stream=stream).body)
    assert isinstance(value, dict)
    return value


def pieces_of(stream: bytes) -> Iterable[tuple[str, Any]]:
    """Split server-sent events: each one's name and JSON value."""
    for block in stream.decode().replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(": ")[::2] for line in block.splitlines() if line and not line.startswith(":")]
        text = "\n".join(value for name, value in lines if name == "data")
        if text:
            yield dict(lines).get("event", ""), text if text == "[DONE]" else json.loads(text)


def recorded(form: Format, name: str) -> bytes:
    """A stream as the provider's server writes it."""
    return (GOLDEN / form.name / f"{name}.sse").read_bytes()


def sse(*values: Any, named: bool = True) -> bytes:
    """Write values as server-sent events, named by their type as Anthropic and OpenAI do."""
    return b"".join((f"event: {value['type']}\n" if named and "type" in value else "").encode() + f"data: {json.dumps(value)}\n\n".encode() for value in values)


def heard(form: Format, stream: bytes, glimpses: list[Piece] | None = None) -> ModelReply:
    """Read a stream to its end."""
    reading = form.read(asked(), stream=True)
    for event, value in pieces_of(stream):
        shown = list(reading.take(value, event))
        if glimpses is not None:
            glimpses += shown
    return reading.reply()


def whole(form: Format, value: Any) -> ModelReply:
    """Read an answer that came in one piece."""
    reading = form.read(asked(), stream=False)
    list(reading.take(value))
    return reading.reply()


def ends_only_with_its_end(form: Format, stream: bytes, *behind: tuple[str, Any]) -> None:
    """Cut a stream behind any event but the last: it is no answer, whatever stands behind the cut, and another attempt is asked for."""
    events = list(pieces_of(stream))
    for length in range(len(events)):
        reading = form.read(asked(), stream=True)
        for event, value in [*events[:length], *behind]:
            list(reading.take(value, event))
        assert not reading.done
        with pytest.raises(ModelError) as caught:
            reading.reply()
        assert caught.value.retryable


def grows(form: Format, messages: tuple[Message, ...], *, model: str = "m", mark: bytes = b"", end: bytes = b"]}") -> None:
    """Make each request of a conversation: one that the provider takes, the same each time, and apart from the marks it begins with the former one."""
    former = b""
    for length in asked_at(messages):
        sent = form.write(model, asked(*messages[:length], system="s", tools=TOOLS), stream=True).body
        GATEKEEPERS[form.name](json.loads(sent))
        assert sent == form.write(model, asked(*messages[:length], system="s", tools=TOOLS), stream=True).body
        bare = sent.replace(mark, b"") if mark else sent
        assert bare.startswith(former)
        former = bare.removesuffix(end)


def back(form: Format, reply: ModelReply, *later: Message, **more: Any) -> dict[str, Any]:
    """The body of the request that follows an answer."""
    answer = Message("assistant", reply.parts, reply.format)
    return body(form, asked(Message("user", (Text("hello"),)), answer, *(later or (Message("user", (Text("go on"),)),)), **more))


def pinned(form: Format, name: str, sending: Sending) -> None:
    """Compare a request with the one that is kept in a file, byte for byte. POWER_AGENT_WRITE_GOLDEN=1 keeps it anew."""
    path = GOLDEN / form.name / f"{name}.json"
    if os.environ.get("POWER_AGENT_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sending.body + b"\n")
    assert path.read_bytes() == sending.body + b"\n"
