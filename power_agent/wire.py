"""The one room that knows httpx: a request goes out, and what comes back is bounded in time and in size.

Nothing here knows a provider. A client of the user's own is used as it is, as long as it has httpx's API (`httpx2`, its successor,
does); without one a client is made when it is first needed, with the proxies and certificates that the environment names. Errors
are told apart by their names, because each such library has classes of its own. No redirect is followed: it would carry
the key to wherever a server points.

A direct wire is for addresses that somebody judged: it connects to exactly that address, past all proxies, and the certificate is still the
named host's. It keeps no connection, because the next request to the same address may be for another host, and no cookie.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from power_agent.errors import WireError
from power_agent.framing import Lines, ServerEvent, ServerEvents, Unpacking
from power_agent.limits import BETWEEN_BYTES_SECONDS, CONNECT_SECONDS, FIRST_BYTE_SECONDS, MAX_BODY_BYTES, MAX_WIRE_EVENT_BYTES, WHOLE_ANSWER_SECONDS
from power_agent.word import Word, word

T = TypeVar("T")


@word(kw_only=True)
class Bounds(Word):
    """How long and how large an answer may be."""

    connect_seconds: float = CONNECT_SECONDS
    first_byte_seconds: float = FIRST_BYTE_SECONDS
    between_bytes_seconds: float = BETWEEN_BYTES_SECONDS
    whole_seconds: float = WHOLE_ANSWER_SECONDS
    body_bytes: int = MAX_BODY_BYTES
    event_bytes: int = MAX_WIRE_EVENT_BYTES


class Wire:
    """A client and its bounds. Closing it closes the client only if it was made here."""

    def __init__(self, client: Any = None, *, bounds: Bounds = Bounds(), direct: bool = False) -> None:  # noqa: B008  frozen
        self.bounds = bounds
        self._direct = direct
        self._given = client
        self._made: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if self._made is None or self._loop is not loop:  # connections belong to the loop they were made in
            import httpx  # noqa: PLC0415  a third of a second, paid by who asks

            self._made, self._loop = _direct_client() if self._direct else httpx.AsyncClient(follow_redirects=False), loop
        return self._made

    async def aclose(self) -> None:
        """Close the connections that were made here."""
        client, self._made = self._made, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    @asynccontextmanager
    async def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", address: str | None = None) -> AsyncIterator[Incoming]:
        """Send a request; what comes back is read inside the block. Raises `WireError`. With an `address` it is connected to, whatever
        the host's name may mean elsewhere.
        """
        bounds, client = self.bounds, self._client()
        deadline = asyncio.get_running_loop().time() + bounds.whole_seconds
        every = bounds.whole_seconds
        where = urlsplit(url).hostname or url[:80]
        try:
            target, named, extensions = (url, {}, {}) if address is None else _at(url, address)
            heads, timeout = {"accept-encoding": "gzip", **named, **headers}, (bounds.connect_seconds, every, every, every)
            request = client.build_request(method, target, headers=heads, content=body, timeout=timeout, extensions=extensions)
        except Exception as error:  # noqa: BLE001  told apart by name
            raise _told(error, where) from None
        response = await _timed(client.send(request, stream=True, follow_redirects=False), bounds.first_byte_seconds, deadline, where, "did not begin to answer")
        try:
            yield Incoming(response, bounds, deadline, where)
        finally:
            await response.aclose()


def _direct_client() -> Any:
    import httpx  # noqa: PLC0415  a third of a second, paid by who asks

    forgets = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    alone = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(follow_redirects=False, trust_env=False, verify=httpx.create_ssl_context(), cookies=forgets, limits=alone)


def _at(url: str, address: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return a URL that leads to an address, and what still says which host is meant: to the server, and in the certificate."""
    parts = urlsplit(url)
    place = f"[{address}]" if ":" in address else address
    there = urlunsplit(parts._replace(netloc=place if parts.port is None else f"{place}:{parts.port}"))
    return there, {"host": parts.netloc}, {"sni_hostname": parts.hostname}


def ascii_name(name: str) -> str | None:
    """Return a host's name as it goes over the wire (`xn--…`), None where there is no such spelling."""
    import httpx  # noqa: PLC0415  only for names in other scripts

    try:
        return httpx.URL(f"http://{name}/").raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        return None


class Incoming:
    """An answer that is on its way: its status and headers are there, its body is read once, in one of three ways."""

    def __init__(self, response: Any, bounds: Bounds, deadline: float, where: str) -> None:
        self.status: int = response.status_code
        self.headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._bounds = bounds
        self._deadline = deadline
        self._where = where

    def linger(self, seconds: float) -> None:
        """Wait only so long for the rest: what matters has come."""
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)

    @property
    def kind(self) -> str:
        """The media type, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def blocks(self, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the body, unpacked; with a limit stop there instead of raising."""
        size, seconds = 0, self._bounds.first_byte_seconds
        there = getattr(self._response, "is_stream_consumed", False)  # a transport made for tests hands over answers that were read
        unpacking = Unpacking("" if there else self.headers.get("content-encoding", ""))
        raw = _once(self._response.content) if there else self._response.aiter_raw()
        try:
            while (data := await _timed(anext(raw, None), seconds, self._deadline, self._where, "fell silent")) is not None:
                seconds = self._bounds.between_bytes_seconds if data else seconds
                for block in unpacking.feed(data):
                    size += len(block)
                    if limit is not None and size >= limit:
                        yield block[: len(block) - (size - limit)]
                        return
                    if size > self._bounds.body_bytes:
                        raise WireError(f"{self._where} sent more than {self._bounds.body_bytes} bytes.")
                    yield block
            unpacking.end()
        finally:
            await raw.aclose()

    async def whole(self, limit: int | None = None) -> bytes:
        """Return the body; with a limit, how it begins."""
        async with aclosing(self.blocks(limit)) as blocks:
            return b"".join([block async for block in blocks])

    async def events(self) -> AsyncGenerator[ServerEvent, None]:
        """Yield server-sent events."""
        events = ServerEvents(self._bounds.event_bytes)
        async with aclosing(self.blocks()) as blocks:
            async for block in blocks:
                for event in events.feed(block):
                    yield event
        for event in events.end():
            yield event

    async def lines(self) -> AsyncGenerator[str, None]:
        """Yield lines that are not blank."""
        lines = Lines(self._bounds.event_bytes, newline_only=True)
        async with aclosing(self.blocks()) as blocks:
            async for block in blocks:
                for line in lines.feed(block):
                    if line.strip():
                        yield line.decode("utf-8", "replace")
        if rest := lines.rest().strip():
            yield rest.decode("utf-8", "replace")


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


async def _timed(work: Awaitable[T], seconds: float, deadline: float, where: str, what: str) -> T:
    """Wait, but no longer than this wait and the whole may take."""
    left = deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(max(min(seconds, left), 0.0)):
            return await work
    except TimeoutError:
        if left <= seconds:
            raise WireError(f"{where} did not end its answer in time.", retryable=True) from None
        raise WireError(f"{where} {what} for {seconds:g} s.", retryable=True) from None
    except Exception as error:  # noqa: BLE001  told apart by name
        raise _told(error, where) from None


_OURS = frozenset({"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "CookieConflict", "TypeError", "ValueError"})
"""Mistakes in what was to be sent. Their texts may quote a header, so they are not repeated."""


def _told(error: Exception, where: str) -> Exception:
    """Return an error of a client's as ours, by its name; what is no error of a client's is returned as it came."""
    names = [kind.__name__ for kind in type(error).__mro__]
    if _OURS & set(names):
        return WireError(f"The request to {where} could not be sent: {names[0]}.", hint="Check the base URL, the headers and the key.", unspent=True)
    if "ConnectTimeout" in names:
        return WireError(f"{where} could not be reached in time.", retryable=True, unspent=True)
    if "StreamError" in names:
        return WireError(f"What {where} answered cannot be read: {names[0]}.", retryable=True)
    if "TransportError" in names or isinstance(error, OSError):
        said = " ".join(str(error).split())[:200]
        return WireError(f"The connection to {where} failed: {names[0]}{f' ({said})' if said else ''}.", retryable=True, unspent="ConnectError" in names)
    return error
