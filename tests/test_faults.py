"""Each fault of the table, in each format, streamed and not, with each client, through the whole loop and a real connection.

Whatever a server does: it takes bounded time, what comes of it is an answer, another attempt or a typed error, every event that was
kept is legal, and the next request is a valid one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from dataclasses import replace

import httpx
import httpx2
import pytest
from faults import FAULTS, PLAIN, STATUSES, TROUBLE, VENDORS, WAITS, in_stream

from power_agent import StatefulAgentLoop
from power_agent.errors import ContextTooLong, ModelError
from power_agent.models.http import HTTPModel
from power_agent.state import fold
from power_agent.testing.model_contract import KEY, ROOMY, SHORT, asking
from power_agent.testing.speaking import Loopback, Said, body, head, in_turn, saying, stopping

CLIENTS = {name: functools.partial(kind, verify=False) for name, kind in (("httpx", httpx.AsyncClient), ("httpx2", httpx2.AsyncClient))}
"""Nothing is encrypted on loopback, and reading all certificates for each client would take longer than the tests."""
WAYS = [[("httpx", True), ("httpx2", False)], [("httpx2", True), ("httpx", False)]]
"""Which client streams and which does not: the formats take turns, so that over them each fault meets all four."""
FINE = Said(text="At last.")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    """Between attempts nothing is waited for here but what a server asks for."""
    monkeypatch.setattr("power_agent.drive.attempts.backoff", lambda _attempt: 0.0)


async def went(vendor, stream, client, reply, bounds=ROOMY):
    """Send twice, the first time into the fault; return what both came to, and the kept events. All of it is checked here."""
    fine = vendor.answer(FINE, stream=stream)
    async with Loopback(in_turn(reply, fine)) as loopback, CLIENTS[client]() as connection:
        model = HTTPModel(vendor.form(), "m", base_url=loopback.url, key=KEY, client=connection, stream=stream, bounds=bounds)
        async with StatefulAgentLoop(model, store=":memory:") as loop, asyncio.timeout(20):
            first = await loop.send("Hello.", "s")
            second = await loop.send("And again.", "s")
            events = await loop.history("s")
            assert [fault async for fault in loop.verify()] == []
        for asked in loopback.asked:
            vendor.server.check(asked.json)
        assert (second.status, second.text) == ("completed", FINE.text)
        assert KEY not in repr(events)
        return first, events


def failures(events):
    return [kept.event for kept in events if kept.kind == "model.failed"]


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault(fault, name):
    """A row of the table."""
    row, vendor = FAULTS[fault], VENDORS[name]
    for client, stream in WAYS[list(VENDORS).index(name) % 2]:
        reply = row.reply(vendor, stream)
        first, events = await went(vendor, stream, client, reply, SHORT if row.short else ROOMY)
        failed = failures(events)
        if row.ends == "answer":
            assert (first.status, failed) == ("completed", [])
            assert first.text.startswith(("a", PLAIN.text))
            assert first.usage.input in {0, 11}
        elif row.ends == "again":
            assert (first.status, first.text, len(failed)) == ("completed", FINE.text, 1), (client, stream)
            assert (failed[0].failure.code, failed[0].retryable) == ("model", True)
        else:
            code, came = ("context_too_long", ("limit", "context")) if row.ends == "long" else ("model", ("failed", "model"))
            assert ((first.status, first.reason), len(failed), failed[0].retryable, failed[0].failure.code) == (came, 1, False, code), (client, stream)


@pytest.mark.parametrize("name", VENDORS)
async def test_an_error_that_comes_as_a_success(name):
    """In a body, in a body where a stream was asked for, in a stream: it is what it says of itself, and too long is its own error."""
    vendor = VENDORS[name]
    for meaning, error in vendor.trouble.items():
        whole, begun = body(200, error), b"".join(vendor.server.stream(PLAIN)[:2])
        streamed = saying(head(media_type=vendor.server.media_type) + begun + in_stream(vendor, error))
        for stream, reply in ((False, whole), (True, whole), (True, streamed)):
            first, events = await went(vendor, stream, "httpx", reply)
            (failed,) = failures(events)
            again = any(meaning.startswith(word) for word in TROUBLE)
            assert failed.retryable is again, (meaning, stream, failed)
            long = meaning.startswith("too long")
            assert first.status == ("completed" if again else "limit" if long else "failed"), meaning
            assert failed.failure.code == ("context_too_long" if long else "model"), meaning
            assert "HTTP 500" not in failed.failure.message


@pytest.mark.parametrize("name", VENDORS)
async def test_what_nobody_knows_the_cost_of_counts_what_was_reserved(name):
    """A refusal before anything of an answer costs nothing, in the stream, too; a request whose answer broke off may have cost all that was reserved."""
    vendor = VENDORS[name]
    begins, spoken = head(media_type=vendor.server.media_type), b"".join(vendor.server.stream(PLAIN)[: -vendor.server.tail])
    error = in_stream(vendor, vendor.trouble["overloaded"])
    refused = [body(429, vendor.server.error("Busy.")), body(503, vendor.server.error("Busy.")), body(400, vendor.server.error("No.")), saying(begins + error)]
    broken = [stopping(reset=True), saying(begins + spoken), saying(begins + spoken + error), body(200, b"{")]
    for replies, lost in ((refused, False), (broken, True)):
        for reply in replies:
            _, events = await went(vendor, True, "httpx", reply)
            reserved = next(kept.event.reserved_tokens for kept in events if kept.kind == "model.asked")
            assert [one.lost for one in failures(events)] == [lost]
            assert fold(events).spent.lost_tokens == (reserved if lost else 0)


HIDDEN = {
    "anthropic": [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1_000, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc"}},
    ],
    "openai-responses": [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress", "model": "m"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "id": "rs", "summary": []}},
    ],
}
"""How an answer begins of which nothing is shown."""


@pytest.mark.parametrize("name", HIDDEN)
async def test_what_was_thought_in_secret_counts(name):
    """An error behind the beginning of an answer may have cost something, though nobody was shown anything; one behind the opening words has not."""
    vendor = VENDORS[name]
    error = in_stream(vendor, vendor.trouble["overloaded"])
    for pieces, lost in ((HIDDEN[name][:1], False), (HIDDEN[name], True)):
        said = b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in pieces)
        _, events = await went(vendor, True, "httpx", saying(head(media_type=vendor.server.media_type) + said + error))
        assert [one.lost for one in failures(events)] == [lost]


@pytest.mark.parametrize("name", VENDORS)
async def test_every_status_with_every_wait(name):
    """`Retry-After` in seconds, as a date, absurd, negative or nonsense: honoured and bounded where another attempt may help."""
    vendor = VENDORS[name]
    cases = [(status, how) for status in STATUSES for how in WAITS]
    replies = in_turn(*(body(status, vendor.server.error("Later."), **WAITS[how][0]) for status, how in cases))
    async with Loopback(replies) as loopback, CLIENTS["httpx"]() as connection:
        model = HTTPModel(vendor.form(), "m", base_url=loopback.url, key=KEY, client=connection, bounds=ROOMY)
        for status, how in cases:
            with pytest.raises(ModelError) as raised:
                await model.ask(asking(), lambda _kind, _text: None)
            again = status in {408, 409, 425, 429} or status >= 500
            assert (raised.value.retryable, raised.value.retry_after) == (again, WAITS[how][1] if again else None), (status, how)
            assert isinstance(raised.value, ContextTooLong) is (status == 413)


@contextlib.contextmanager
def full():
    """An address at which connections are neither taken nor refused."""
    with socket.socket() as server, contextlib.ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def closed():
    """An address where nobody is."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize(("where", "said"), [(closed, "failed"), (full, "could not be reached in time")], ids=["refused", "connect time-out"])
async def test_nobody_there(where, said, name, client, tmp_path):
    """Refused, or not even that: every attempt is a typed failure, and where the server is back the turn goes on."""
    vendor = VENDORS[name]
    with where() as address:
        async with CLIENTS[client]() as connection:
            model = HTTPModel(vendor.form(), "m", base_url=address, key=KEY, client=connection, bounds=replace(SHORT, connect_seconds=0.1))
            async with StatefulAgentLoop(model, store=tmp_path / "log.db") as loop, asyncio.timeout(20):
                assert (await loop.send("Hello.", "s")).status == "failed"
                failed = failures(await loop.history("s"))
    assert len(failed) == 6
    assert all(one.retryable and said in one.failure.message and not one.lost for one in failed)
    async with Loopback(vendor.answer(FINE, stream=True)) as loopback, CLIENTS[client]() as connection:
        model = HTTPModel(vendor.form(), "m", base_url=loopback.url, key=KEY, client=connection)
        async with StatefulAgentLoop(model, store=tmp_path / "log.db") as loop:
            assert (await loop.resume("s")).text == FINE.text
            assert [fault async for fault in loop.verify()] == []
        vendor.server.check(json.loads(loopback.asked[0].body))
