"""What a provider's cache knows a request by, as one short word: the digest of everything the request says, message by message.

A later request that begins with the former one continues its chain: the digest of its first messages is the digest that was
recorded. So the log itself can show where a cache was lost, and that a resume elsewhere did not lose it. What comes after the first
request is hashed once: what was hashed is remembered, compared and continued, and after a restart hashed anew.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from operator import is_

from power_agent.messages import Message
from power_agent.ports import ModelRequest
from power_agent.tongue import writer

_DIGEST_BYTES = 8


class Prefix:
    """The chain of one session's requests, as far as this process has seen it; kept beside the transcript it belongs to."""

    def __init__(self) -> None:
        self._head = ""
        self._head_of: tuple[object, ...] = ()
        self._head_text = ""
        self._seen: tuple[Message, ...] = ()
        self._chain = hashlib.sha256()

    def digest(self, request: ModelRequest) -> str:
        """Return the digest of a request. What was seen is compared, not written out again: messages that were rendered once are the
        same objects.
        """
        head, messages = self._headed(request), request.messages
        if head != self._head or messages[: len(self._seen)] != self._seen:
            self._head, self._seen, self._chain = head, (), hashlib.sha256(head.encode())
        for message in messages[len(self._seen) :]:
            self._chain.update(b"\n" + _writer()(message, exclude_defaults=True))
        self._seen = messages
        return urlsafe_b64encode(self._chain.digest()[:_DIGEST_BYTES]).decode().rstrip("=")

    def _headed(self, request: ModelRequest) -> str:
        """Return what stands before the messages; the same things are not written out again."""
        of = request.model, request.system, request.settings, *request.tools
        if len(of) != len(self._head_of) or not all(map(is_, of, self._head_of)):
            self._head_of, self._head_text = of, _head(request)
        return self._head_text


def _head(request: ModelRequest) -> str:
    tools = [[spec.name, spec.description, spec.parameters] for spec in request.tools]
    shape = [request.output.name, request.output.schema] if request.output is not None else []
    return json.dumps([request.model, request.system, tools, request.settings, *shape], separators=(",", ":"), default=str)


@cache
def _writer() -> Callable[..., bytes]:
    return writer(Message)
