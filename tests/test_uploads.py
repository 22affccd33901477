"""Bytes that are said are looked at, kept with what names them, and sent in every format, now and after a restart."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from hashlib import sha256

import pytest
from test_prefix import SIDES

from power_agent import Attachment, Call, Message, ScriptedModel, StatefulAgentLoop, Text, Upload, tool, uploads
from power_agent.errors import InvalidInput, KeyConflict
from power_agent.guards import guard
from power_agent.messages import Output
from power_agent.models.http import HTTPModel
from power_agent.policy import Change
from power_agent.testing.speaking import Loopback, Said, head, in_turn, saying

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(64))
NAMES = {PNG: sha256(PNG).hexdigest(), JPEG: sha256(JPEG).hexdigest()}


@tool(recovery="rerun")
def photograph(many: bool) -> object:
    """Take a picture."""
    return [Text("Two."), Upload(PNG, name="a.png"), Upload(JPEG)] if many else Upload(PNG)


@pytest.mark.parametrize("form", SIDES)
async def test_a_picture_is_sent_in_every_format(form, tmp_path):
    """By its bytes from a person, and from a tool; the next process sends the same bytes."""
    wire, server = SIDES[form]
    called = Said(calls=(Call("photograph", {"many": True}, provider_id="c1"),), finish="calls")
    answers = [saying(head(media_type=server.media_type), *server.stream(said)) for said in (called, Said(text="Seen."))]
    async with Loopback(in_turn(*answers)) as loopback:
        for text in ("What is it?", "And now?"):
            async with StatefulAgentLoop(HTTPModel(wire, "m", base_url=loopback.url), tools=[photograph], store=tmp_path / "log.db") as agent:
                assert (await agent.send([Text(text), Upload(PNG)] if text[0] == "W" else text, "s")).text == "Seen."
                assert [fault async for fault in agent.verify()] == []
    bodies = [asked.body for asked in loopback.asked]
    png, jpeg = (b64encode(content) for content in (PNG, JPEG))
    assert [(body.count(png), body.count(jpeg)) for body in bodies] == [(1, 0), (2, 1), (2, 1)]
    for body in bodies:
        server.check(json.loads(body))


async def test_what_is_kept(tmp_path):
    """The fact names the bytes, the blob holds them; a path is read, and a tool may return one picture alone."""
    (tmp_path / "a.png").write_bytes(PNG)
    model = ScriptedModel([[Call("photograph", {"many": False})], "Done."])
    async with StatefulAgentLoop(model, tools=[photograph], store=tmp_path / "log.db") as agent:
        await agent.send(tmp_path / "a.png", "s")
        messages = await agent.messages("s")
        assert messages[0] == Message("user", (Attachment("image/png", blob=NAMES[PNG], name="a.png", size=len(PNG)),))
        output = next(part for message in messages for part in message.parts if isinstance(part, Output))
        assert output.content == (Attachment("image/png", blob=NAMES[PNG], size=len(PNG)),)
        assert [request.attachments for request in model.requests] == [{NAMES[PNG]: PNG}] * 2


async def test_a_key_means_these_bytes(tmp_path):
    """The same key with the same bytes is the same input; with others it is another one."""
    async with StatefulAgentLoop(ScriptedModel(["One.", "Two."]), store=tmp_path / "log.db") as agent:
        assert (await agent.send(Upload(PNG), "s", key="k")).text == "One."
        assert (await agent.send(Upload(PNG), "s", key="k")).text == "One."
        with pytest.raises(KeyConflict):
            await agent.send(Upload(PNG + b"x"), "s", key="k")


async def test_bytes_that_wait_behind_an_open_turn(tmp_path):
    """An input that is queued keeps its bytes in the same commit; so does one that is streamed."""
    release = asyncio.Event()

    @tool(recovery="rerun")
    async def wait() -> str:
        """Wait."""
        await release.wait()
        return "so"

    model = ScriptedModel([[Call("wait", {})], "First.", "Second.", "Third."])
    async with StatefulAgentLoop(model, tools=[wait], store=tmp_path / "log.db") as agent:
        first = asyncio.ensure_future(agent.send("Go.", "s"))
        while not model.requests:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(agent.send(Upload(PNG), "s", when_busy="queue"))
        while "input.received" not in [kept.kind for kept in (await agent.history("s"))[3:]]:
            await asyncio.sleep(0.01)
        release.set()
        assert ((await first).text, (await second).text) == ("First.", "Second.")
        assert model.requests[-1].attachments == {NAMES[PNG]: PNG}
        async with agent.stream(Upload(JPEG), "s") as stream:
            async for _ in stream:
                pass
        assert model.requests[-1].attachments == {NAMES[PNG]: PNG, NAMES[JPEG]: JPEG}
        assert [fault async for fault in agent.verify()] == []


async def test_a_guard_may_change_bytes(tmp_path):
    """What a guard puts in their place is kept; what it takes away is not."""

    @guard("input")
    async def smaller(incoming):
        return Change([Text("a picture"), Upload(JPEG)], "smaller")

    model = ScriptedModel(["Seen."])
    async with StatefulAgentLoop(model, store=tmp_path / "log.db", guards=[smaller]) as agent:
        await agent.send(Upload(PNG), "s")
        assert model.requests[0].attachments == {NAMES[JPEG]: JPEG}
    assert PNG not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


async def test_a_result_that_is_not_what_it_is_called(tmp_path):
    """The tool ran, so the call failed, and the model is told why."""

    @tool(recovery="rerun")
    def lie() -> Upload:
        """Lie."""
        return Upload(b"hello", "image/png")

    model = ScriptedModel([[Call("lie", {})], "Oh."])
    async with StatefulAgentLoop(model, tools=[lie], store=tmp_path / "log.db") as agent:
        assert (await agent.send("Go.", "s")).text == "Oh."
    assert "is called image/png" in str(model.requests[-1].messages[-1])


@pytest.mark.parametrize(
    ("content", "called", "is_"),
    [
        (PNG, None, "image/png"),
        (JPEG, "image/jpeg", "image/jpeg"),
        (b"GIF89a...", None, "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", None, "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None, "audio/wav"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/x-wav", "audio/x-wav"),
        (b"%PDF-1.7\n", None, "application/pdf"),
        (b"ID3\4\0", None, "audio/mpeg"),
        (b"\0\0\0\x18ftypmp42", "audio/mp4", "audio/mp4"),
        ("Grüße".encode(), None, "text/plain"),
        (b"{}", "application/json; charset=utf-8", "application/json; charset=utf-8"),
        (b"PK\3\4", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (bytearray(PNG), None, "image/png"),
    ],
)
def test_what_something_is(content, called, is_):
    (part,), blobs = uploads.taken([Upload(content, called, "n")])
    assert (part.media_type, part.size, part.name) == (is_, len(content), "n")
    assert blobs == {part.blob: bytes(content)}


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        (Upload(b""), "empty"),
        (Upload(b"\0\1\2"), "cannot be seen"),
        (Upload(JPEG, "image/png"), "is image/jpeg"),
        (Upload(b"<html>", "image/png"), "is not"),
        (Upload(PNG, "png"), "no media type"),
        (Upload(PNG, "text/plain"), "is image/png"),
        (Upload("text"), "not str"),
    ],
)
async def test_what_is_refused(upload, said, tmp_path):
    """Before anything is kept: no session is begun."""
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "log.db") as agent:
        with pytest.raises(InvalidInput, match=said):
            await agent.send(upload, "s")
        assert await agent.sessions() == []


def test_size_is_bounded(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", len(PNG))
    uploads.taken([Upload(PNG)])
    with pytest.raises(InvalidInput, match="are allowed"):
        uploads.taken([Upload(PNG + b"x")])
    assert "PNG" not in repr(Upload(PNG))


async def test_a_file_that_is_not_there(tmp_path):
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "log.db") as agent:
        with pytest.raises(InvalidInput, match="cannot be read"):
            await agent.send([Text("See"), tmp_path / "none.png"], "s")
