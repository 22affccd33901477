"""The pipe: time and size are bounded, redirects are not followed, proxies and certificates come from the environment."""

from __future__ import annotations

import asyncio
import gzip
import ssl

import httpx
import httpx2
import pytest
from needs import needs
from processes import PROMPT_SECONDS

from power_agent.errors import WireError
from power_agent.testing.speaking import Loopback, body, head, saying, stopping
from power_agent.wire import Bounds, Wire, ascii_name

CLIENTS = {"httpx": httpx.AsyncClient, "httpx2": httpx2.AsyncClient, "made": None}


@pytest.fixture(params=CLIENTS)
async def wired(request, monkeypatch):
    """Make a wire with bounds; its client is httpx's, its successor's, or made by the wire."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    wires, clients = [], []

    def make(**bounds):
        kind = CLIENTS[request.param]
        clients.extend([kind()] if kind is not None else [])
        wires.append(Wire(clients[-1] if kind is not None else None, bounds=Bounds(**bounds)))
        return wires[-1]

    yield make
    for wire in wires:
        await wire.aclose()
    for client in clients:
        assert not client.is_closed, "a client that was passed in is not closed"
        await client.aclose()


async def fetched(wire, url, read="whole"):
    """Ask, and read the answer in one of the three ways."""
    async with wire.send("POST", url, headers={"x-key": "a-key"}, body=b"{}") as incoming:
        if read == "whole":
            return incoming.status, await incoming.whole()
        return incoming.status, [piece async for piece in (incoming.events() if read == "events" else incoming.lines())]


async def test_an_answer_is_read(wired):
    """Whole, as events, and as lines; what was sent arrived as it was."""
    async with Loopback(saying(head(201), b'data: {"a":\n\n', b"\n\r\n  \ndata: 1")) as loopback:
        assert await fetched(wired(), loopback.url + "/path?x=1") == (201, b'data: {"a":\n\n\n\r\n  \ndata: 1')
        assert [event.data for event in (await fetched(wired(), loopback.url, "events"))[1]] == ['{"a":', "1"]
        assert await fetched(wired(), loopback.url, "lines") == (201, ['data: {"a":', "data: 1"])
    first = loopback.asked[0]
    assert (first.path, first.body, first.headers["x-key"], first.headers["accept-encoding"]) == ("/path?x=1", b"{}", "a-key", "gzip")


async def test_a_connection_that_is_never_made(wired):
    """The port is open, and nobody shakes hands."""
    async with Loopback(stopping()) as loopback:
        with pytest.raises(WireError, match="could not be reached in time") as caught:
            await fetched(wired(connect_seconds=0.1), loopback.url.replace("http:", "https:"))
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("bounds", "reply", "said"),
    [
        ({"first_byte_seconds": 0.1}, stopping(), "did not begin to answer for 0.1 s"),
        ({"first_byte_seconds": 0.1}, stopping(head()), "fell silent for 0.1 s"),
        ({"between_bytes_seconds": 0.1}, stopping(head(), b"x"), "fell silent for 0.1 s"),
        ({"whole_seconds": 0.2}, saying(head(), *[b"x"] * 1_000, pause=0.01), "did not end its answer in time"),
    ],
)
async def test_waits_are_bounded(wired, bounds, reply, said):
    """Before the first byte, between bytes, and altogether, however busily somebody says nothing."""
    async with Loopback(reply) as loopback:
        with pytest.raises(WireError, match=said) as caught:
            await fetched(wired(**bounds), loopback.url)
    assert caught.value.retryable


async def test_sizes_are_bounded(wired):
    """What is too large is stopped, packed or not, whole or in events and lines; to try again would not help."""
    bomb = gzip.compress(b" " * 2**26)
    cases = [
        ("whole", saying(head(), b"x" * 2_000)),
        ("whole", saying(head(content_encoding="gzip", length=len(bomb)), bomb)),
        ("events", saying(head(), b"data: " + b"x" * 600)),
        ("lines", saying(head(), b"x" * 600)),
        ("lines", saying(head(), b"x\n" * 1_000)),
    ]
    for read, reply in cases:
        async with Loopback(reply) as loopback:
            with pytest.raises(WireError, match="more than") as caught:
                await fetched(wired(body_bytes=1_000, event_bytes=500), loopback.url, read)
        assert not caught.value.retryable
    async with Loopback(saying(head(), b"x" * 2_000)) as loopback, wired().send("GET", loopback.url, headers={}) as incoming:
        assert await incoming.whole(10) == b"x" * 10


async def test_a_redirect_is_an_answer(wired):
    """It is handed out, and nobody goes there."""
    async with Loopback(body(200, {})) as other, Loopback(body(307, {}, location=other.url)) as loopback:
        assert (await fetched(wired(), loopback.url))[0] == 307
        assert other.asked == []


async def test_errors_name_the_host_and_no_header(wired):
    """Nobody there, a URL that is none, a header that cannot be sent."""
    async with Loopback(saying()) as gone:
        url = gone.url
    with pytest.raises(WireError, match=r"127\.0\.0\.1 failed: ConnectError") as caught:
        await fetched(wired(), url)
    assert caught.value.retryable
    async with Loopback(saying(b"nonsense\r\n\r\n")) as loopback:
        with pytest.raises(WireError, match="RemoteProtocolError") as caught:
            await fetched(wired(), loopback.url)
    assert caught.value.retryable
    with pytest.raises(WireError, match="could not be sent") as caught:
        async with wired().send("POST", "gopher://host/", headers={"x-key": "a-key"}):
            pass
    assert not caught.value.retryable


async def test_cancelled_at_once(wired):
    """Whoever waits for an answer and is cancelled does not wait for it."""
    async with Loopback(stopping(head(), b"x")) as loopback:
        task = asyncio.ensure_future(fetched(wired(), loopback.url))
        while not loopback.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(PROMPT_SECONDS):
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_proxy_from_the_environment(monkeypatch):
    """The client that is made here asks the proxy for the whole address, and goes past it where it is told to."""
    async with Loopback(body(200, {})) as proxy, Loopback(body(200, {})) as near:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("http_proxy", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        wire = Wire()
        assert (await fetched(wire, "http://far.invalid/v1/x"))[0] == 200
        assert (await fetched(wire, near.url))[0] == 200
        await wire.aclose()
    assert [asked.path for asked in proxy.asked] == ["http://far.invalid/v1/x"]
    assert len(near.asked) == 1


async def test_an_address_is_connected_to(wired):
    """Whatever the host's name means elsewhere; the server is told the name, and the path is as it was."""
    async with Loopback(body(200, {})) as loopback:
        url = f"http://name.example:{loopback.port}/a%20b?c=d%2F"
        async with wired().send("GET", url, headers={"x-key": "k"}, address="127.0.0.1") as incoming:
            assert incoming.status == 200
    (asked,) = loopback.asked
    assert (asked.path, asked.headers["host"], asked.headers["x-key"]) == ("/a%20b?c=d%2F", f"name.example:{loopback.port}", "k")


async def test_a_direct_wire_keeps_nothing(monkeypatch):
    """No proxy, no cookie, no connection: each request is the first one."""
    talked = []

    async def answer(reader, writer):
        heads = []
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            talked.append(heads)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with Loopback(body(200, {})) as proxy:
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        direct = Wire(direct=True)
        for _ in range(2):
            async with direct.send("GET", url, headers={}) as incoming:
                assert await incoming.whole() == b""
        await direct.aclose()
        assert proxy.asked == []
    while len(talked) < 2:
        await asyncio.sleep(0.01)
    server.close()
    assert [len(heads) for heads in talked] == [1, 1]
    assert all(b"cookie" not in head.lower() for heads in talked for head in heads)


@pytest.mark.parametrize(
    ("name", "ascii_"), [("bücher.example", "xn--bcher-kva.example"), ("plain.example", "plain.example"), ("a\u200bb.example", None), ("ⓐ" * 70 + ".example", None)]
)
def test_names_in_other_scripts(name, ascii_):
    """As they go over the wire, or None where they cannot."""
    assert ascii_name(name) == ascii_


async def test_certificates_from_the_environment(monkeypatch, tmp_path):
    """A certificate that nobody vouches for is refused; SSL_CERT_FILE vouches for it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [needs("openssl", "apt install openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    made = await asyncio.create_subprocess_exec(*command, "-days", "2", "-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1", stderr=asyncio.subprocess.DEVNULL)
    assert await made.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def answer(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head(length=2) + b"ok")
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    stranger, friend = Wire(), Wire()
    with pytest.raises(WireError, match="certificate"):
        await fetched(stranger, url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert await fetched(friend, url) == (200, b"ok")
    await stranger.aclose()
    await friend.aclose()
    server.close()
