"""A session as messages that a provider takes: for `chat.completions.create(model=…, **it)`, or `messages.create(model=…, max_tokens=…, **it)`.

The translators are the ones that speak to the providers (`models/`), so that what is written here is what they would be sent, but
for the marks of a cache. The whole conversation is told, also what a compaction folded away, each call answered once. What the
format cannot carry is named in a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from power_agent.context import NOTE
from power_agent.editions.atif import named
from power_agent.editions.edition import About, Writer
from power_agent.editions.retelling import Heard, Noted, Spoken, Telling
from power_agent.errors import InvalidInput
from power_agent.events import Envelope
from power_agent.messages import Attachment, Message, Output, Text
from power_agent.models.anthropic import Anthropic
from power_agent.models.format import Format
from power_agent.models.openai_chat import OpenAIChat
from power_agent.ports import ModelRequest
from power_agent.word import replace

Turn = dict[str, Any]


def lists(kind: str) -> Callable[[About], Writer]:
    """Return what writes the lists of one provider."""
    return partial(Messages, OpenAIChat() if kind == "openai" else Anthropic())


class Messages:
    """Writes one list. A message is held back until the next one is known: two of the same role become one where roles alternate."""

    needs: Literal["event", "tellings", "nothing"] = "tellings"

    def __init__(self, form: Format, about: About) -> None:
        self._form = form
        self._alternates = form.name == Anthropic.name
        self._about = about
        self._held: Turn | None = None
        self._written = 0

    def begin(self) -> Iterator[str]:
        """Write the prompt, where it belongs in this format."""
        system = self._about.config.system
        if self._alternates:
            yield "{" + (f'"system":{_json(system)},' if system else "") + '"messages":['
            return
        yield '{"messages":['
        if system:
            yield from self._written_out({"role": "system", "content": system})

    def take(self, _kept: Envelope, tellings: Sequence[Telling], blobs: Mapping[str, bytes]) -> Iterator[str]:
        """Write what was said."""
        for telling in tellings:
            for turn in self._turns(_said(telling), blobs):
                if self._held is None:
                    self._held = turn
                elif self._alternates and self._held["role"] == turn["role"]:
                    self._held["content"] += turn["content"]
                else:
                    yield from self._written_out(self._held)
                    self._held = turn

    def end(self, tellings: Sequence[Telling], blobs: Mapping[str, bytes]) -> Iterator[str]:
        """Write the last message."""
        yield from self.take(Envelope("", 0, 0, 0, None), tellings, blobs)
        if self._held is not None:
            yield from self._written_out(self._held)
        yield "]}\n"

    def _written_out(self, turn: Turn) -> Iterator[str]:
        self._written += 1
        yield ("," if self._written > 1 else "") + "\n" + _json(turn)

    def _turns(self, messages: tuple[Message, ...], blobs: Mapping[str, bytes]) -> list[Turn]:
        """Let the translator of the format say messages."""
        if not messages:
            return []
        messages = tuple(replace(message, parts=tuple(self._carried(part, blobs) for part in message.parts)) for message in messages)
        turns: list[Turn] = self._body(messages, blobs)["messages"]
        for turn in turns:
            for block in turn["content"] if isinstance(turn.get("content"), list) else ():
                block.pop("cache_control", None)
        return turns

    def _body(self, messages: tuple[Message, ...], blobs: Mapping[str, bytes]) -> Any:
        request = ModelRequest(model="", system=None, messages=messages, attachments=blobs)
        return json.loads(self._form.write("", request, stream=False).body)

    def _carried(self, part: Any, blobs: Mapping[str, bytes]) -> Any:
        """Return a part as it is, or in words where the format cannot carry it."""
        if isinstance(part, Output):
            return replace(part, content=tuple(self._carried(one, blobs) for one in part.content))
        if isinstance(part, Attachment):
            try:
                self._body((Message("user", (part,)),), blobs)
            except InvalidInput:
                return Text(named(part))
        return part


def _said(telling: Telling) -> tuple[Message, ...]:
    match telling:
        case Heard(parts=parts):
            return (Message("user", parts),)
        case Noted(text=text):
            return (Message("user", (Text(NOTE.format(text=text)),)),)
        case Spoken():
            return telling.messages()
        case _:
            return ()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
