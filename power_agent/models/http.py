"""A model behind HTTP: a wire format, an address, a key and a client. One attempt per `ask`; trying again is the drive's business.

    write → send → (status that is no success? → refused) → read piece by piece, telling glimpses → the whole answer

A stream that ends before the provider said that the answer is whole is no answer. The key stands in the headers that are sent
and nowhere else: not in an error, not in a `repr`, not in what a server says back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

from power_agent.clock import SystemClock
from power_agent.errors import InvalidInput, ModelError, WireError
from power_agent.foreign import ForeignError, parsed
from power_agent.limits import LINGER_SECONDS, MAX_BACKOFF_SECONDS, MAX_ERROR_BYTES
from power_agent.messages import Attachment, Message, Usage
from power_agent.models.crossing import carried, crossed, spoken
from power_agent.models.format import Format, Framing, Reading, Sending
from power_agent.models.gleaning import kind_of
from power_agent.models.handing import handed_in, with_tool
from power_agent.models.pace import Pace, taken
from power_agent.models.prices import Card
from power_agent.ports import Clock, Glimpse, Model, ModelReply, ModelRequest
from power_agent.secrets import Secret, Secrets
from power_agent.wire import Bounds, Incoming, Wire
from power_agent.word import Word, replace, word

T = TypeVar("T")

_LAST_WORD = "[DONE]"
_SECRET_HEADERS = ("auth", "key", "token", "secret", "cookie", "password")


@word(kw_only=True)
class Service(Word):
    """Who answers, where a format is spoken by several: `speaker` names them in the log; `path` and `key_header` stand in for the format's."""

    speaker: str | None = None
    path: str | None = None
    key_header: str | None = None


class Kin(Protocol):
    """Models of the same provider, with the same key, by their names."""

    def get(self, name: str) -> Model | None:
        """Return the one of that name; None: it is of another provider."""
        ...

    async def aclose(self) -> None:
        """Close them."""
        ...


class HTTPModel:
    """Speaks one format with one server. `headers` are sent with every request; a `client` of your own is not closed here.

    `card` knows what the model costs and holds, `pace` how often it may be asked.
    """

    def __init__(  # noqa: PLR0913  what a connection is made of
        self,
        form: Format,
        model: str,
        *,
        base_url: str,
        key: str | Secret | None = None,
        headers: Mapping[str, str] | None = None,
        client: Any = None,
        stream: bool = True,
        name: str | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008  frozen
        clock: Clock | None = None,
        service: Service = Service(),  # noqa: B008  frozen
        card: Card | None = None,
        pace: Pace | None = None,
        kin: Kin | None = None,
    ) -> None:
        self.name = name or f"{form.name}:{model}"
        self.base_url = _address(base_url)
        self._format = form
        self._model = model
        self._stream = stream
        self._wire = Wire(client, bounds=bounds)
        self._clock = clock or SystemClock()
        self._service = service
        self._card = card or Card()
        self.pace = pace
        self._kin = kin
        self._key = key if isinstance(key, Secret) or key is None else Secret(key)
        self._headers = {str(name).lower(): Secret(str(value), f"header {name}") for name, value in (headers or {}).items()}
        hidden = {name: Secret(_bare(value)) for name, value in self._headers.items() if any(word in name for word in _SECRET_HEADERS)}
        self.secrets = hidden if self._key is None else {"model-key": Secret(_bare(self._key)), **hidden}
        """What whoever keeps a log should hide."""
        self.endpoint = (self.base_url, self.name, hash(tuple(one.reveal() for one in self.secrets.values())))
        """What tells it from others in this process: two loops that ask the same model with the same key share what they find out."""
        self._hide = Secrets(patterns=False).and_also(self.secrets).cover

    def __repr__(self) -> str:
        return f"HTTPModel({self.name!r}, {self.base_url!r})"

    @property
    def context_window(self) -> int | None:
        """How many tokens a request and its answer may have; None: nobody knows."""
        return self._card.context_window

    @property
    def max_output_tokens(self) -> int | None:
        """How long an answer may get; None: nobody knows."""
        return self._card.max_output_tokens

    @property
    def accepts(self) -> tuple[str, ...] | None:
        """What may be attached; None: nobody knows."""
        return self._card.accepts

    def refuses(self, part: Attachment) -> str | None:
        """Say why something cannot be attached, by what is known of the model and by what the format can carry; None: nothing speaks against it."""
        said = kind_of(part)
        kind = "pdf" if said == "application/pdf" else said.partition("/")[0]
        if self.accepts is not None and kind in {"image", "audio", "video", "pdf"} and not {kind, said} & set(self.accepts):
            return f"it takes {', '.join(self.accepts) or 'text only'}"
        request = ModelRequest(model=self.name, system=None, messages=(Message("user", (part,)),), attachments={part.blob: b" "} if part.blob else {})
        try:
            self._format.write(self._model, request, stream=False)
        except InvalidInput as error:
            return error.message.rstrip(".")
        return None

    def cost(self, usage: Usage) -> int | None:
        """Return what a request of that usage costs, in 10⁻⁹ dollars; None: nobody knows."""
        return self._card.cost(usage)

    async def aclose(self) -> None:
        """Close the connections, unless they belong to a client that was passed in."""
        await self._wire.aclose()
        if self._kin is not None:
            await self._kin.aclose()

    def another(self, name: str) -> Model | None:
        """Return the model of that name, if it is of the same provider."""
        return self if name == self.name else None if self._kin is None else self._kin.get(name)

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        """Ask once. Raises `ModelError` and nothing else but a cancellation."""
        try:
            async with taken(self.pace, request) as turn:
                reply = self._priced(await self._ask(request, glimpse))
                turn.used(reply.usage)
                return reply
        except ModelError as error:
            raise self._hidden(error) from None
        except (InvalidInput, WireError) as error:
            unspent = isinstance(error, InvalidInput) or getattr(error, "unspent", False)
            raise self._hidden(ModelError(error.message, hint=error.hint, retryable=error.retryable, unspent=unspent)) from None

    async def _ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        if request.output is not None and (way := self._format.shapes(request)) != "said":
            return handed_in(request, await self._ask(with_tool(request, forced=way == "forced"), glimpse))
        form, service = self._format, self._service
        messages = carried(crossed(request.messages, form.name, service.speaker), self.refuses)
        sending = form.write(self._model, replace(request, messages=messages), stream=self._stream)
        async with self._wire.send("POST", _joined(self.base_url, service.path or sending.path), headers=self._all_headers(sending), body=sending.body) as incoming:
            if not 200 <= incoming.status <= 299:  # noqa: PLR2004  success, as HTTP has it
                error = await self._refused(incoming)
                error.unspent = True
                raise error
            framing = sending.framing
            if framing != "whole" and incoming.kind == "application/json":  # it does not stream, whatever it was asked
                framing = "whole"
            reading = self._format.read(request, stream=framing != "whole")
            try:
                return await self._read(incoming, framing, reading, glimpse)
            except ModelError as error:
                error.unspent = error.unspent and not reading.begun
                raise self._timed(error, incoming) from None

    def _priced(self, reply: ModelReply) -> ModelReply:
        """Return a reply that says whose it is and what it cost, if anybody knows; what the provider says of it counts."""
        said = reply if self._service.speaker is None else replace(reply, format=spoken(self._format.name, self._service.speaker))
        cost = self._card.cost(reply.usage) if reply.cost_nano_usd is None and reply.usage.total else None
        return said if cost is None else replace(said, cost_nano_usd=cost, price_source=self._card.price_source)

    def _all_headers(self, sending: Sending) -> dict[str, str]:
        accept = {"events": "text/event-stream", "lines": "application/x-ndjson", "whole": "application/json"}[sending.framing]
        headers = {"content-type": "application/json", "accept": accept, "user-agent": "power-agent"}
        headers |= {name.lower(): value for name, value in sending.headers.items()}
        if self._key is not None:
            key, header = self._key.reveal(), self._service.key_header
            headers |= {header: key} if header is not None else {name.lower(): value for name, value in self._format.authorise(key).items()}
        return headers | {name: value.reveal() for name, value in self._headers.items()}

    # -- an answer -----------------------------------------------------------------------------------------------------

    async def _read(self, incoming: Incoming, framing: Framing, reading: Reading, glimpse: Glimpse) -> ModelReply:
        if framing == "whole":
            self._take(reading, await self._whole(incoming), "", glimpse)
        else:
            await self._read_stream(incoming, framing, reading, glimpse)
        if not reading.done:
            raise ModelError("The answer ended before it was whole.", retryable=True)
        return _trusted(reading.reply)

    async def _read_stream(self, incoming: Incoming, framing: Framing, reading: Reading, glimpse: Glimpse) -> None:
        """Take what comes until the last word; trouble behind a whole answer changes nothing any more."""
        try:
            async with aclosing(_pieces(incoming, framing)) as pieces:
                async for event, text in pieces:
                    self._take(reading, text if text == _LAST_WORD else _json(text), event, glimpse)
                    if text == _LAST_WORD:
                        return
                    if reading.done:
                        incoming.linger(LINGER_SECONDS)
        except WireError:
            if not reading.done:
                raise

    async def _whole(self, incoming: Incoming) -> Any:
        return _json((await incoming.whole()).decode("utf-8", "replace"))

    def _take(self, reading: Reading, data: Any, event: str, glimpse: Glimpse) -> None:
        for kind, text in _trusted(lambda: list(reading.take(data, event))):
            glimpse(kind, text)

    # -- a refusal -----------------------------------------------------------------------------------------------------

    async def _refused(self, incoming: Incoming) -> ModelError:
        if 300 <= incoming.status <= 399:  # noqa: PLR2004  redirects, as HTTP has them
            return ModelError(f"The server answered with a redirect ({incoming.status}), which is not followed.", hint="Set base_url to where the server really is.")
        try:
            text = self._hide((await incoming.whole(MAX_ERROR_BYTES)).decode("utf-8", "replace"))
        except WireError:  # the status says enough
            text = ""
        try:
            body = parsed(text)
        except ForeignError:
            body = None
        error = _trusted(lambda: self._format.refused(incoming.status, body, text[:1_000]))
        advice = incoming.headers.get("x-should-retry", "").strip().lower()
        if advice in {"true", "false"}:
            error.retryable = advice == "true"
        return self._timed(error, incoming)

    def _timed(self, error: ModelError, incoming: Incoming) -> ModelError:
        """Add how long the server asks to wait, where its body did not say."""
        if error.retryable and error.retry_after is None:
            error.retry_after = retry_after(incoming.headers, self._clock.now())
        return error

    def _hidden(self, error: ModelError) -> ModelError:
        """Return the error without a secret in it, and without what it was made from."""
        fields = {name: self._hide(value) if isinstance(value, str) else value for name, value in error.fields.items()}
        return type(error)(self._hide(error.message), hint=self._hide(error.hint), retryable=error.retryable, retry_after=error.retry_after, unspent=error.unspent, **fields)


def _bare(secret: Secret) -> str:
    """Return what of a header's value is the secret."""
    return secret.reveal().removeprefix("Bearer ").removeprefix("Basic ")


def _address(base_url: object) -> str:
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        raise InvalidInput(f"{base_url!r:.100} is no base URL.", hint="It begins with https:// (or http:// for a server of your own).")
    return base_url.rstrip("/")


def _joined(address: str, path: str) -> str:
    """Return where a request goes: `…/v1` and `/v1/messages` are `…/v1/messages`, for some write the version behind the address and some do not."""
    first = "/" + path.split("/", 2)[1]
    return address.removesuffix(first) + path if path != first else address + path


async def _pieces(incoming: Incoming, framing: Framing) -> AsyncGenerator[tuple[str, str], None]:
    """Yield the stream's pieces: an event's name, if the framing has such, and its text."""
    if framing == "lines":
        async with aclosing(incoming.lines()) as lines:
            async for line in lines:
                yield "", line
        return
    async with aclosing(incoming.events()) as events:
        async for event in events:
            yield event.name, event.data.strip()


def _json(text: str) -> Any:
    try:
        return parsed(text)
    except ForeignError as error:
        raise ModelError(f"The server's answer cannot be read. {error}", retryable=True) from None


def _trusted(work: Callable[[], T]) -> T:
    """Let a format read what a stranger sent: what it trips over is the answer's fault, and another answer may do."""
    try:
        return work()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"The server's answer has a shape that cannot be read: {type(error).__name__}: {error}"[:500], retryable=True) from error


def retry_after(headers: Mapping[str, str], now: int) -> float | None:
    """Return the seconds that a server asks to wait, never below 0 and never above an hour; None when it says nothing that can be read.

    A date is measured against the server's own clock where it tells it.
    """
    for name, unit in (("retry-after-ms", 1_000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if seconds == seconds:  # noqa: PLR0124  not NaN
            return min(max(seconds, 0.0), float(MAX_BACKOFF_SECONDS))
    until = _date(headers.get("retry-after"))
    if until is None:
        return None
    since = _date(headers.get("date")) or datetime.fromtimestamp(now / 1000, UTC)
    return min(max((until - since).total_seconds(), 0.0), float(MAX_BACKOFF_SECONDS))


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
