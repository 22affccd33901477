"""Servers elsewhere: over real sockets, with every way in which an answer can fail to come, and what is then known about the call."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_SECONDS

from power_agent import Call, ScriptedModel, StatefulAgentLoop
from power_agent import events as e
from power_agent.policy import Allow
from power_agent.testing.speaking import Asked, Loopback, head
from power_agent.tools.mcp import MCPServer, MCPServers

TOOL = {"name": "act", "inputSchema": {"type": "object", "properties": {}}}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "far", "version": "1"}}


class Far:
    """A server elsewhere: greets as it should, and answers a call as it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.greeted = 0
        self.say = self.well
        self.side = Loopback(self.reply)

    async def reply(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        message = json.loads(asked.body) if asked.body else {}
        match message.get("method"):
            case "initialize":
                self.greeted += 1
                self.answer(writer, message, HELLO, mcp_session_id=f"s{self.greeted}")
            case "tools/list":
                self.answer(writer, message, {"tools": [TOOL]})
            case "tools/call":
                self.calls += 1
                await self.say(message, asked, writer)
            case "server/discover":
                writer.write(head(400, length=0))
            case None:
                writer.write(head(405, length=0))
            case _:
                writer.write(head(202, length=0))

    @staticmethod
    def answer(writer: asyncio.StreamWriter, message: dict[str, Any], result: Any, **headers: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        writer.write(head(length=len(body), **headers) + body)

    async def well(self, message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.answer(writer, message, {"content": [{"type": "text", "text": "did it"}]})

    async def as_events(self, message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": "did it"}]}})
        writer.write(head(media_type="text/event-stream") + f"event: message\ndata: {body}\n\n".encode())

    async def gateway(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(504, "text/html") + b"<h1>Gateway Time-out</h1>")

    async def hangs_up(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def cut(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(length=1_000) + b'{"jsonrpc": "2.0"')

    async def events_cut(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(media_type="text/event-stream") + b"event: message\ndata: {")

    async def says_it_is_huge(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(length=10_000_000_000))

    async def without_end(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head() + b'{"jsonrpc": "2.0", "x": "')
        while True:
            writer.write(b"x" * 1_048_576)
            await writer.drain()

    async def an_event_without_end(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(media_type="text/event-stream") + b"data: ")
        while True:
            writer.write(b"x" * 1_048_576)
            await writer.drain()

    async def garbled(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(length=9) + b'{"jsonrpc')

    async def a_page(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, "text/html") + b"<h1>Welcome</h1>")

    async def accepted(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(202, length=0))

    async def refuses(self, message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32602, "message": "No."}}).encode()
        writer.write(head(400, length=len(body)) + body)

    async def elsewhere(self, _message: dict[str, Any], _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head(307, length=0, location=self.thief))

    async def forgets(self, _message: dict[str, Any], asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.calls -= 1
        self.say = self.well
        assert asked.headers["mcp-session-id"] == "s1"
        writer.write(head(404, "text/plain", length=0))

    thief = ""


@pytest.fixture
async def far():
    server = Far()
    async with server.side:
        yield server


async def outcome(far: Far, *, calls: int = 1, **more: Any) -> tuple[list[e.Event], MCPServers]:
    servers = MCPServers([MCPServer(name="far", url=f"{far.side.url}/mcp", **more)])
    script = [[Call("far__act", {})] for _ in range(calls)]
    async with StatefulAgentLoop(ScriptedModel([*script, "Done."]), tools=[servers], store=":memory:", policy=lambda _: Allow()) as loop:
        await loop.send("go", "s")
        found = [one.event for one in await loop.history("s")]
    return [one for one in found if one.kind in {"call.succeeded", "call.failed", "call.doubted"}], servers


@pytest.mark.parametrize("how", ["well", "as_events"])
async def test_an_answer(far, how, monkeypatch):
    """As JSON and as events; the headers it was given reach it, filled in."""
    monkeypatch.setenv("FAR_TOKEN", "secret")
    far.say = getattr(far, how)
    (done,), servers = await outcome(far, headers={"Authorization": "Bearer ${FAR_TOKEN}"})
    assert done.output == "did it"
    assert {asked.headers["authorization"] for asked in far.side.asked} == {"Bearer secret"}
    assert "secret" not in repr(servers.status())


@pytest.mark.parametrize("how", ["gateway", "hangs_up", "cut", "events_cut", "says_it_is_huge", "without_end", "an_event_without_end", "garbled", "a_page", "accepted"])
async def test_what_nobody_can_know_is_doubted(far, how):
    """The call left, and no answer of the server came back whole: perhaps it happened."""
    far.say = getattr(far, how)
    (doubted,), _ = await outcome(far)
    assert (type(doubted), far.calls) == (e.CallDoubted, 1)


async def test_what_the_server_refused(far):
    """Its own error is a failure."""
    far.say = far.refuses
    (failed,), _ = await outcome(far)
    assert failed.failure.message == "The server far refused: No."


async def test_a_key_does_not_follow_a_redirect(far):
    """Whoever a server points to hears nothing."""
    async with Loopback(far.reply) as thief:
        far.thief = f"{thief.url}/mcp"
        far.say = far.elsewhere
        (failed,), _ = await outcome(far, headers={"Authorization": "Bearer secret"})
        assert thief.asked == []
    assert isinstance(failed, e.CallFailed)


async def test_a_server_that_was_started_anew(far):
    """It forgot the connection and did nothing: the call says so, a new connection is made, and the next call reaches it."""
    far.say = far.forgets
    (failed, done), _ = await outcome(far, calls=2)
    assert failed.failure.details == {"untouched": True}
    assert (done.output, far.calls, far.greeted) == ("did it", 1, 2)


async def test_a_farewell_that_nobody_answers(far):
    """Closing does not wait for a server that takes leave of nobody."""
    usual = far.side.reply

    async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.body:
            await usual(asked, writer)
        else:
            await asyncio.sleep(60)

    far.side.reply = silent
    async with asyncio.timeout(PATIENCE_SECONDS):
        (done,), _ = await outcome(far)
    assert done.output == "did it"


async def test_a_server_that_is_not_there_any_more():
    """A connection that is refused was not a call: that is known, and said."""
    far = Far()
    async with far.side:
        servers = MCPServers([MCPServer(name="far", url=f"{far.side.url}/mcp")])
        loop = StatefulAgentLoop(ScriptedModel([[Call("far__act", {})], "Done."]), tools=[servers], store=":memory:", policy=lambda _: Allow())
        await loop.__aenter__()
    try:
        await loop.send("go", "s")
        (failed,) = [one.event for one in await loop.history("s") if one.event.kind == "call.failed"]
        assert failed.failure.details == {"untouched": True}
        assert "cannot be reached" in failed.failure.message
    finally:
        await loop.aclose()


MODERN = '''
import sys, uvicorn, socket
from mcp.server.mcpserver import MCPServer, Context
server = MCPServer("modern")

@server.tool()
async def act(ctx: Context) -> str:
    """Act."""
    if not any(one.name == "later" for one in await server.list_tools()):
        server.add_tool(lambda: "later", name="later", description="Came later.")
        await ctx.notify_tools_changed()
    return "did it"

if sys.argv[1] == "stdio":
    server.run()
else:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    import asyncio
    asyncio.run(uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error")).serve(sockets=[listener]))
'''


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_tools_that_come_later_in_the_newer_dialect(way, tmp_path: Path):
    """A server of the SDK says over its subscription that its tools changed; the next request offers the new one."""
    script = tmp_path / "modern.py"
    script.write_text(MODERN, encoding="utf-8")
    process = None
    if way == "http":
        process = subprocess.Popen([sys.executable, str(script), "http"], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220  it only starts
        assert process.stdout is not None
        described = MCPServer(name="far", url=await asyncio.to_thread(lambda: process.stdout.readline().strip()))
    else:
        described = MCPServer(name="far", command=sys.executable, args=(str(script), "stdio"))
    servers = MCPServers([described])
    try:
        async with StatefulAgentLoop(ScriptedModel([[Call("far__act", {})], "Done."]), tools=[servers], store=":memory:", policy=lambda _: Allow()) as loop:
            assert servers.status()[0].protocol == "2026-07-28"
            await loop.send("go", "s")
            for _ in range(500):
                if len(loop.tools) == 2:
                    break
                await asyncio.sleep(0.01)
            assert [one.spec.name for one in loop.tools] == ["far__act", "far__later"]
            assert servers.differences() == {"far__later": "The server did not offer this tool before."}
    finally:
        if process is not None:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
            process.stdout.close()
