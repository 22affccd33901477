"""What a wire format is: two pure translators. The pipe between them (`http.py`) is the same for all.

    our request   →  `Format.write`   →  the body that is sent
    what came     →  `Reading.take`   →  glimpses on the way, and at the end our answer

No translator awaits, reads a clock or opens a socket: each is tested on bytes alone. Strict in writing: the same request gives the
same bytes, and a later request extends an earlier one. Liberal in reading: what is not known is kept as it came.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

from power_agent.errors import InvalidInput, ModelError
from power_agent.foreign import ForeignError, parsed
from power_agent.messages import Attachment
from power_agent.ports import ModelReply, ModelRequest
from power_agent.word import Word, word

Framing = Literal["events", "lines", "whole"]
"""How an answer comes: as server-sent events, as one JSON object a line, or as one JSON body."""

Shaping = Literal["said", "forced", "offered"]
"""How an answer comes to have a shape: the format can say it; or it is handed in through a tool, which must or may be called."""

Piece = tuple[str, str]
"""A glimpse: its kind (`text`, `reasoning`, `arguments`) and what was added."""


@word(kw_only=True)
class Sending(Word):
    """A request on the wire: the path behind the base address, the exact body, and how the answer will come."""

    path: str
    body: bytes
    framing: Framing
    headers: Mapping[str, str]


class Reading(Protocol):
    """One answer that is on its way. Made anew for each attempt."""

    def take(self, data: Any, event: str = "") -> Iterable[Piece]:
        """Take one JSON value as the framing delivered it (`event` is an SSE event's name); return what to glimpse.

        The one line of SSE that is no JSON, `[DONE]`, comes as that text, and is the last. Values of a shape that is not known
        are passed over. Raises `ModelError` for an error that was reported inside the stream.
        """
        ...

    @property
    def begun(self) -> bool:
        """Whether anything of an answer came, shown or not: an error behind it may have cost something."""
        ...

    @property
    def done(self) -> bool:
        """Whether the provider said that this was the whole answer."""
        ...

    def reply(self) -> ModelReply:
        """Return the whole answer; raise a retryable `ModelError` when it ended before it was whole."""
        ...


class Format(Protocol):
    """One wire format."""

    name: str
    """Kept with each answer (`model.answered.format`, with the speaker's name where the format is others', too): raw items go back only in
    the format they came from, and to whom they came from.
    """

    def write(self, model: str, request: ModelRequest, *, stream: bool) -> Sending:
        """Translate a request; raise `InvalidInput` where the format cannot say it (a content type, for example)."""
        ...

    def authorise(self, key: str) -> Mapping[str, str]:
        """Return the headers that carry the key."""
        ...

    def shapes(self, request: ModelRequest) -> Shaping:
        """Say how the model is brought to answer this request in the shape `request.output`."""
        ...

    def read(self, request: ModelRequest, *, stream: bool) -> Reading:
        """Begin to read the answer to a request."""
        ...

    def refused(self, status: int, body: Any, text: str) -> ModelError:
        """Translate an HTTP error whose body is JSON (`body`) or is not (`None`, and `text` says how it began).

        `may_help(status)` says whether another attempt may help; what the pipe reads off the headers (`Retry-After`) it adds itself.
        """
        ...


# -- what every format needs the same way ------------------------------------------------------------------------------


def body_of(value: Mapping[str, Any]) -> bytes:
    """Write a body: the order is the writer's own, nothing is escaped that need not be, and what is not JSON is refused."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"The request cannot be written as JSON: {error}") from error


def base64_of(request: ModelRequest, part: Attachment) -> str:
    """Return the bytes of an attachment as base64; raise `InvalidInput` when they did not come with the request."""
    content = request.attachments.get(part.blob or "")
    if content is None:
        raise InvalidInput(f"The bytes of the attachment {part.name or part.blob or part.url!r} are not at hand.", hint="Attach the bytes themselves.")
    return b64encode(content).decode()


def arguments_of(text: str) -> tuple[dict[str, Any], str | None]:
    """Read a call's arguments: the object, or an empty one and the text as it came when it is none. No text at all means no arguments."""
    if not text.strip():
        return {}, None
    try:
        value = parsed(text)
    except ForeignError:
        return {}, text
    return (value, None) if isinstance(value, dict) else ({}, text)


def count_of(value: Any) -> int:
    """Read a number of tokens; what is missing, negative or absurd counts as none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < ABSURD_TOKENS else 0


def may_help(status: int) -> bool:
    """Say whether the same request may be answered later: timed out, in conflict, too many, or the server's own trouble (529: overloaded)."""
    return status in {408, 409, 425, 429} or 500 <= status <= 599  # noqa: PLR2004  the statuses of HTTP, in the order of the sentence


def mended(text: str) -> str:
    """Put together the halves of a surrogate pair that came in two pieces; what is really half stays."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


ABSURD_TOKENS = 10**10
"""More tokens than any request has: a broken counter, not a number."""
