"""A model that says what it was told to say: for tests, examples and the demo. No network, no key.

The script is a list of answers taken in order, or a function from the request to an answer. In a log that is resumed a list goes
on where the kept answers end, because the position is read off the request, not remembered here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from power_agent.errors import ModelError
from power_agent.events import Finish
from power_agent.messages import AnswerPart, Call, Message, Reasoning, Text, Usage
from power_agent.ports import Glimpse, ModelReply, ModelRequest
from power_agent.word import Word, word


@word()
class Answer(Word):
    """An answer in full. `check` is called with the request first; `seconds` go by before it; `chunks` is how many pieces the
    text comes in.
    """

    text: str = ""
    calls: Sequence[Call] = ()
    reasoning: str = ""
    usage: Usage | None = None
    finish: Finish | None = None
    seconds: float = 0.0
    chunks: int = 1
    check: Callable[[ModelRequest], None] | None = None


Line = str | Sequence[Call] | Answer | BaseException
Script = Sequence[Line] | Callable[[ModelRequest], Line | Awaitable[Line]]


class ScriptedModel:
    """Answers from a script: a `str` is a final text, a list of `Call` asks for tools, an `Answer` says everything, an exception
    is raised (`ModelError("busy", retryable=True)`). What it was asked stands in `requests`.
    """

    def __init__(self, script: Script, *, name: str = "scripted:model") -> None:
        self.name = name
        self.requests: list[ModelRequest] = []
        self._script = script
        self._heard: dict[str, tuple[tuple[Message, ...], int]] = {}

    def __repr__(self) -> str:
        return f"ScriptedModel({self.name!r})"

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        """Say the next line."""
        self.requests.append(request)
        line = await self._line(request)
        if isinstance(line, BaseException):
            raise line
        if isinstance(line, str):
            line = Answer(line)
        elif not isinstance(line, Answer):
            line = Answer(calls=line)
        if line.check is not None:
            line.check(request)
        await asyncio.sleep(line.seconds)
        return self._said(request, line, glimpse)

    async def _line(self, request: ModelRequest) -> Line:
        if callable(self._script):
            line = self._script(request)
            return cast("Line", await cast("Any", line) if asyncio.iscoroutine(line) else line)
        if request.replies >= len(self._script):
            raise ModelError(f"The script has {len(self._script)} lines; line {request.replies + 1} was asked for.", unspent=True)
        return self._script[request.replies]

    def _said(self, request: ModelRequest, line: Answer, glimpse: Glimpse) -> ModelReply:
        size = -(-len(line.text) // max(line.chunks, 1)) or 1
        for start in range(0, len(line.text), size):
            glimpse("text", line.text[start : start + size])
        parts: list[AnswerPart] = [Reasoning(line.reasoning)] if line.reasoning else []
        parts += [Text(line.text)] if line.text else []
        parts += line.calls
        finish: Finish = line.finish or ("calls" if line.calls else "stop")
        usage = line.usage or Usage(self._read(request), _words(parts))
        return ModelReply(parts=tuple(parts), finish=finish, usage=usage, model=self.name)

    def _read(self, request: ModelRequest) -> int:
        """Return how many words a request has; those of a conversation that goes on are counted once."""
        seen, words = self._heard.get(request.session, ((), 0))
        if request.messages[: len(seen)] != seen:
            seen, words = (), 0
        words += sum(_words(message.parts) for message in request.messages[len(seen) :])
        self._heard[request.session] = (request.messages, words)
        return words


def _words(parts: Sequence[object]) -> int:
    """Count tokens the way a child would: by words."""
    return sum(len(str(part).split()) for part in parts)
