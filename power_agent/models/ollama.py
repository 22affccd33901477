"""Ollama's own chat format: one JSON object a line, calls without ids, arguments as objects.

A context that is too long is not refused but cut from its beginning by the server, unless `num_ctx` (in `extra`, under `options`)
is large enough; nothing on the wire tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from power_agent.errors import InvalidInput, ModelError
from power_agent.events import Finish
from power_agent.messages import AnswerPart, Attachment, Call, ContentPart, Message, Output, Reasoning, Text, Usage
from power_agent.models.failures import broken_off, reported
from power_agent.models.format import Piece, Reading, Sending, Shaping, arguments_of, base64_of, body_of, count_of, mended
from power_agent.models.gleaning import closed, list_of, name_of
from power_agent.models.settings import Settings, merged, unsayable
from power_agent.ports import ModelReply, ModelRequest, ToolSpec
from power_agent.word import replace

NAME = "ollama"
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}
_NO_MODEL = re.compile(r"model\b.{0,80}\bnot found", re.IGNORECASE)
_FINAL = re.compile(r"model\b.{0,80}\bnot found|does not support|\binvalid\b|unauthorized", re.IGNORECASE)


class Ollama:
    """The format `ollama`."""

    name = NAME

    def write(self, model: str, request: ModelRequest, *, stream: bool) -> Sending:
        """Translate a request."""
        settings = Settings.of(request.settings)
        if settings.tool_choice not in {None, "auto", "none"}:
            raise unsayable(NAME, "tool_choice", settings.tool_choice)
        head: dict[str, Any] = {"model": model, "stream": stream}
        if request.output is not None:
            head["format"] = request.output.schema
        if options := _options(settings):
            head["options"] = options
        if settings.reasoning_effort is not None:
            head["think"] = False if settings.reasoning_effort == "none" else settings.reasoning_effort
        tools = [*(_tool(spec) for spec in request.tools), *list_of(settings.extra.get("tools"))]
        if tools and settings.tool_choice != "none":
            head["tools"] = tools
        messages: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
        messages += [said for message in request.messages for said in _messages(message, request)]
        extra = {name: value for name, value in settings.extra.items() if name != "tools"}
        body = body_of({**merged(head, extra), "messages": messages})
        return Sending(path="/api/chat", body=body, framing="lines" if stream else "whole", headers={})

    def authorise(self, key: str) -> Mapping[str, str]:
        """Return the header that carries the key, for servers behind one."""
        return {"authorization": f"Bearer {key}"}

    def shapes(self, request: ModelRequest) -> Shaping:
        """Ask for it in `format`, which leaves no room for calls; no call can be forced."""
        return "offered" if request.tools else "said"

    def read(self, request: ModelRequest, *, stream: bool) -> Reading:  # noqa: ARG002  a body is a stream of one line
        """Begin to read an answer."""
        return OllamaReading()

    def refused(self, status: int, body: Any, text: str) -> ModelError:
        """Translate an HTTP error."""
        return _error(status, body, text)


def _error(status: int | None, body: Any, text: str) -> ModelError:
    error = reported(body, text, status)
    if status is None and _FINAL.search(error.message):  # errors have no words of their own here, only sentences
        error.retryable = False
    if status == 404 or _NO_MODEL.search(error.message):  # noqa: PLR2004  not found
        error.hint = "Fetch the model with `ollama pull`."
    return error


# -- our request → wire ------------------------------------------------------------------------------------------------


def _options(settings: Settings) -> dict[str, Any]:
    said = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "num_predict": settings.max_output_tokens,
        "stop": list(settings.stop) or None,
        "seed": settings.seed,
    }
    return {name: value for name, value in said.items() if value is not None}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    return {"type": "function", "function": {"name": spec.name, "description": spec.description, "parameters": closed(spec.parameters)}}


def _messages(message: Message, request: ModelRequest) -> list[dict[str, Any]]:
    if message.role == "user":
        return [_spoken("user", [part for part in message.parts if isinstance(part, Text | Attachment)], request)]
    if message.role == "assistant":
        return [_assistant(message)]
    return [_output(part, request) for part in message.parts if isinstance(part, Output)]


def _spoken(role: str, parts: list[ContentPart], request: ModelRequest) -> dict[str, Any]:
    said: dict[str, Any] = {"role": role, "content": "\n".join(part.text for part in parts if isinstance(part, Text))}
    pictures = [part for part in parts if isinstance(part, Attachment)]
    for part in pictures:
        if not part.media_type.lower().startswith("image/"):
            raise InvalidInput(f"The format {NAME} cannot carry {part.media_type}.", hint="Send its text instead.")
    if pictures:
        said["images"] = [base64_of(request, part) for part in pictures]
    return said


def _output(output: Output, request: ModelRequest) -> dict[str, Any]:
    said = _spoken("tool", list(output.content), request)
    if output.failed:
        said["content"] = f"Error: {said['content']}"
    return {**said, "tool_name": name_of(output.name)}


def _assistant(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": "".join(part.text for part in message.parts if isinstance(part, Text))}
    thought = "".join(part.reasoning for part in message.parts if isinstance(part, Reasoning))
    if thought and message.format == NAME:
        said["thinking"] = thought
    if message.calls:
        said["tool_calls"] = [{"function": {"name": name_of(call.name), "arguments": call.arguments}} for call in message.calls]
    return said


# -- wire → our answer -------------------------------------------------------------------------------------------------


class OllamaReading:
    """One answer: lines up to the one that says `done`."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[Call] = []
        self._why = "stop"
        self._usage = Usage()
        self._model: str | None = None
        self.done = False

    @property
    def begun(self) -> bool:
        """Whether anything of an answer came."""
        return any(self._text) or any(self._thoughts) or bool(self._calls)

    def take(self, data: Any, event: str = "") -> Iterable[Piece]:  # noqa: ARG002  lines have no names
        """Take a line."""
        if not isinstance(data, dict):
            return
        if data.get("error"):
            raise _error(None, data, "")
        self._model = data["model"] if isinstance(data.get("model"), str) else self._model
        said = data.get("message")
        if isinstance(said, dict):
            yield from self._said(said)
        if data.get("done") is True:
            self.done = True
            self._why = str(data.get("done_reason") or "stop")
            self._usage = Usage(input=count_of(data.get("prompt_eval_count")), output=count_of(data.get("eval_count")))

    def _said(self, said: dict[str, Any]) -> Iterable[Piece]:
        for kind, name, into in (("reasoning", "thinking", self._thoughts), ("text", "content", self._text)):
            text = said.get(name)
            if isinstance(text, str) and text:
                into.append(text)
                yield kind, text
        calls = said.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                made = _call(call)
                self._calls.append(made)
                yield "arguments", made.malformed or json.dumps(made.arguments, ensure_ascii=False)

    def reply(self) -> ModelReply:
        """Return the whole answer."""
        if not self.done:
            raise broken_off()
        parts: list[AnswerPart] = [Reasoning(mended("".join(self._thoughts)))] if self._thoughts else []
        if text := mended("".join(self._text)):
            parts.append(Text(text))
        finish = _FINISHES.get(self._why, "other")
        if finish == "length" and self._calls and not self._calls[-1].arguments and self._calls[-1].malformed is None:
            self._calls[-1] = replace(self._calls[-1], malformed="")  # cut before its arguments: that is not the same as none
        parts += self._calls
        return ModelReply(parts=tuple(parts), finish="calls" if self._calls and finish == "stop" else finish, usage=self._usage, format=NAME, model=self._model)


def _call(call: dict[str, Any]) -> Call:
    function, id_ = call["function"], call.get("id")
    arguments, malformed = function.get("arguments"), None
    if isinstance(arguments, str):
        arguments, malformed = arguments_of(arguments)
    elif arguments is None:
        arguments = {}
    elif not isinstance(arguments, dict):
        arguments, malformed = {}, json.dumps(arguments)
    name = function.get("name")
    return Call(name if isinstance(name, str) and name else "unnamed", arguments, provider_id=id_ if isinstance(id_, str) and id_ else None, malformed=malformed)
