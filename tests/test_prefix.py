"""The digest of a request is a chain: a later request continues it, in another process, too, and the bytes sent do the same."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS
from servers import ChatServer, OllamaServer
from vendors import AnthropicServer, GeminiServer, ResponsesServer
from wires import TOOLS, asked

from power_agent import StatefulAgentLoop, tool
from power_agent.messages import Call, Message, Output, Text
from power_agent.models.anthropic import Anthropic
from power_agent.models.gemini import Gemini
from power_agent.models.http import HTTPModel
from power_agent.models.ollama import Ollama
from power_agent.models.openai_chat import OpenAIChat
from power_agent.models.openai_responses import OpenAIResponses
from power_agent.prefix import Prefix
from power_agent.testing.speaking import Loopback, Said, head, in_turn, saying, stopping

SIDES = {
    "anthropic": (Anthropic(), AnthropicServer()),
    "openai-responses": (OpenAIResponses(), ResponsesServer()),
    "openai-chat": (OpenAIChat(), ChatServer()),
    "gemini": (Gemini(), GeminiServer()),
    "ollama": (Ollama(), OllamaServer()),
}
MARK = b',"cache_control":{"type":"ephemeral"}'
CALLED = Said(reasoning="Hm.", calls=(Call("look", {"at": "north"}, provider_id="c1"), Call("look", {"at": "süd"}, provider_id="c2")), finish="calls")


class Recording(HTTPModel):
    """A model that remembers what it was asked."""

    requests: list = []  # noqa: RUF012  of this process

    async def ask(self, request, glimpse):
        self.requests.append(request)
        return await super().ask(request, glimpse)


@tool(name="look", recovery="rerun")
def look(at: str) -> str:
    """Look somewhere."""
    return f"nothing {at}"


def agent(form, url, path):
    return StatefulAgentLoop(Recording(SIDES[form][0], "m", base_url=url), tools=[look], store=path, system="Be brief.")


def test_chain():
    """It is continued by what is added, however it is arrived at, and broken by whatever a cache would miss."""
    first, second = Message("user", (Text("a"),)), Message("assistant", (Text("b"), Call("look", {"n": 1}, "t1r1c1")))
    third = Message("tool", (Output("t1r1c1", (Text("c"),), False, None, "look"),))
    grown = Prefix()
    steps = [grown.digest(asked(*messages, tools=TOOLS)) for messages in ((first,), (first, second, third))]
    assert steps == [Prefix().digest(asked(*messages, tools=TOOLS)) for messages in ((first,), (first, second, third))]
    assert grown.digest(asked(first, second, third, tools=TOOLS)) == steps[1]
    assert grown.digest(asked(first, tools=TOOLS)) == steps[0]
    whole = asked(first, second, third, tools=TOOLS)
    others = [
        replace(whole, system="x"),
        replace(whole, tools=TOOLS[:1]),
        replace(whole, settings={"seed": 1}),
        replace(whole, model="other:m"),
        asked(Message("user", (Text("A"),)), second, third, tools=TOOLS),
        asked(first, second, Message("tool", (Output("t1r1c1", (Text("c"),), True, None, "look"),)), tools=TOOLS),
        asked(Message("user", (Text("ab"),)), third, tools=TOOLS),
    ]
    assert len({steps[1], *map(grown.digest, others)}) == len(others) + 1


def test_what_was_hashed_is_not_hashed_again(monkeypatch):
    """Of a long session only the new messages are written out."""
    written = []
    writer = Prefix.digest.__globals__["_writer"]()

    def counting(message, **options):
        written.append(message)
        return writer(message, **options)

    monkeypatch.setitem(Prefix.digest.__globals__, "_writer", lambda: counting)
    prefix, messages = Prefix(), [Message("user", (Text(str(number)),)) for number in range(100)]
    for count in range(1, 101):
        prefix.digest(asked(*messages[:count]))
    assert written == messages


@pytest.mark.parametrize("form", SIDES)
async def test_resume_in_another_process_extends_it(form, tmp_path):
    """A process asks, runs two calls, asks again and is killed while it waits. Here the turn is resumed and another one follows:
    the digests are one chain, and each request begins with the bytes of the former one.
    """
    _, server = SIDES[form]
    answers = [saying(head(media_type=server.media_type) + b"".join(server.stream(said))) for said in (CALLED, Said(text="Nothing."), Said(text="Goodbye."))]
    async with Loopback(in_turn(answers[0], stopping(), *answers[1:])) as loopback:
        child = await asyncio.create_subprocess_exec(sys.executable, __file__, form, loopback.url, tmp_path / "log.db", cwd=Path(__file__).parent)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(loopback.asked) < 2:
                await asyncio.sleep(0.01)
        child.kill()
        await child.wait()
        async with agent(form, loopback.url, tmp_path / "log.db") as here:
            assert (await here.resume("story")).text == "Nothing."
        async with agent(form, loopback.url, tmp_path / "log.db") as here:
            assert (await here.send("Thanks.", "story")).text == "Goodbye."
            digests = [kept.event.prefix_digest for kept in await here.history("story") if kept.kind == "model.asked"]
    last = Recording.requests[-1]
    chain = [Prefix().digest(replace(last, messages=last.messages[:count])) for count in range(1, len(last.messages) + 1)]
    assert [chain.index(digest) for digest in digests] == [0, 2, 2, 4]
    bodies = [asked.body.replace(MARK, b"") for asked in loopback.asked]
    assert bodies[1] == bodies[2]
    for former, later in pairwise(bodies):
        shared = next((place for place, (one, other) in enumerate(zip(former, later, strict=False)) if one != other), len(former))
        assert former[shared:].strip(b'"]}') == b""
        assert len(former) - shared <= len(b'"}]}]}}')


if __name__ == "__main__":

    async def live(form, url, path):
        async with agent(form, url, path) as here:
            await here.send("Look!", "story")

    asyncio.run(live(*sys.argv[1:]))
