"""A server on loopback that says what a test wants, byte for byte, and the two things a wire format's test must bring along.

`Said` is an answer in our words. A `ServerSide` is the format as its provider speaks it: `Said` → bytes, and a check of what
was asked. It is written from the provider's documentation, never with the format's own code, or both would share a mistake.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from power_agent.events import Finish
from power_agent.messages import Call, Usage
from power_agent.word import Word, word


@word(kw_only=True)
class Said(Word):
    """What the server answers. A call's `provider_id` is its id on the wire (None: the server sends none)."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish: Finish = "stop"
    usage: Usage = field(default_factory=lambda: Usage(input=11, output=7))
    cut_arguments: str | None = None
    """Sent in place of the last call's arguments: how far they came before the answer was cut."""


class ServerSide(Protocol):
    """A wire format from the provider's side. All of it is pure."""

    media_type: str
    """Of a streamed answer: `text/event-stream` or `application/x-ndjson`."""

    def whole(self, said: Said) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        ...

    def stream(self, said: Said) -> list[bytes]:
        r"""Return a streamed answer as the bytes of its events or lines, in order, each with its end (`data: {…}\n\n`).

        Texts and arguments come in at least two pieces each where the format streams them. Only with the last element may the
        answer be whole to a reader, or with one of the last `tail` elements.
        """
        ...

    tail: int
    """How many elements at the end of `stream` may be missing while the answer counts as whole all the same (1: none but the last is needed to see the end)."""

    def error(self, message: str, *, too_long: bool = False) -> dict[str, Any]:
        """Return the body of an error; with `too_long` the one that says that the context is."""
        ...

    def stream_error(self, message: str) -> bytes:
        """Return an error as the format reports it inside a stream that began well."""
        ...

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `AssertionError` for a request that the provider would refuse: unknown roles, calls without results, ids that do not match."""
        ...

    def results(self, body: Mapping[str, Any]) -> list[str]:
        """Return the results of calls that a request carries, as texts, in their order."""
        ...


class Asked(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, read."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


Reply = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


class Loopback:
    """A real server on a port of its own that lets a function answer each request on the raw connection."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[Asked] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, limit=2**24)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            asked = await _read(reader)
            self.asked.append(asked)
            await self.reply(asked, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # whoever asked has gone, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Asked(first.split()[1], headers, await reader.readexactly(int(headers.get("content-length", "0"))))


def head(status: int = 200, media_type: str = "application/json", length: int | None = None, **headers: str) -> bytes:
    """Return the head of an answer; without a length the body ends where the connection does. `_` in a name is written `-`."""
    lines = [f"HTTP/1.1 {status} Said", f"content-type: {media_type}", "connection: close"]
    lines += [] if length is None else [f"content-length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def saying(*pieces: bytes, pause: float | None = None) -> Reply:
    """Answer with these bytes, in these pieces, with a pause between them (0: only a turn of the loop), and close."""

    async def reply(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause is not None:
                await asyncio.sleep(pause)

    return reply


def body(status: int, value: Any, **headers: str) -> Reply:
    """Answer with a JSON value, or with the bytes as they are."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return saying(head(status, length=len(content), **headers) + content)


def in_turn(*replies: Reply) -> Reply:
    """Answer each request with the next of these, and with the last one for ever."""
    left = list(replies)

    async def reply(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked, writer)

    return reply


def stopping(*pieces: bytes, reset: bool = False) -> Reply:
    """Say this much and nothing more: fall silent, or with `reset` break the connection."""

    async def reply(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        if reset:
            writer.transport.abort()
        else:
            await asyncio.sleep(3_600)

    return reply
