"""OpenAI Chat Completions, and the many servers that speak it.

Written: `tools`, settings, `messages` last, so that a longer conversation begins with the bytes of a shorter one. Read: deltas, or
one body. Other servers repeat the id and the name in every delta, leave the index or the id out, send a call in one piece, think
in `reasoning_content` or `reasoning`: all of it is read. An item of reasoning goes back only as the field it came in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from power_agent.errors import InvalidInput, ModelError
from power_agent.events import Finish
from power_agent.messages import AnswerPart, Attachment, Call, ContentPart, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.dialect import OPENAI, Dialect, placed
from power_agent.models.failures import broken_off, reported
from power_agent.models.format import Piece, Reading, Sending, Shaping, arguments_of, base64_of, body_of, count_of, mended
from power_agent.models.gleaning import closed, is_strict, list_of, name_of, nano_usd_of, object_of
from power_agent.models.settings import Settings, merged, unsayable
from power_agent.ports import ModelReply, ModelRequest

NAME = "openai-chat"
_FINISHES: dict[str, Finish] = {"stop": "stop", "tool_calls": "calls", "function_call": "calls", "length": "length", "content_filter": "filtered"}
_THOUGHTS = ("reasoning_content", "reasoning")
_SOUNDS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


class OpenAIChat:
    """The format `openai-chat`, in the dialect of whoever listens."""

    name = NAME

    def __init__(self, dialect: Dialect = OPENAI) -> None:
        self._dialect = dialect

    def write(self, model: str, request: ModelRequest, *, stream: bool) -> Sending:
        """Translate a request."""
        settings, dialect = Settings.of(request.settings), self._dialect
        head: dict[str, Any] = {"model": model}
        if stream:
            head |= {"stream": True, **({"stream_options": {"include_usage": True}} if dialect.counts else {})}
        head |= _settings(settings, dialect)
        if request.output is not None:
            shape = request.output
            head["response_format"] = {"type": "json_schema", "json_schema": {"name": shape.name, "schema": shape.schema, "strict": is_strict(shape.schema)}}
        tools = [*(_tool(spec.name, spec.description, spec.parameters) for spec in request.tools), *list_of(settings.extra.get("tools"))]
        if tools:
            head["tools"] = tools
            if settings.tool_choice is not None:
                head["tool_choice"] = _choice(settings, dialect)
            if settings.parallel_tool_calls is not None and dialect.parallel:
                head["parallel_tool_calls"] = settings.parallel_tool_calls
        messages = [{"role": "system", "content": request.system}] if request.system else []
        messages += [said for message in request.messages for said in _messages(message, request, dialect)]
        if dialect.bridge is not None:
            messages = _bridged(messages, dialect.bridge)
        extra = {name: value for name, value in settings.extra.items() if name != "tools"}
        body = body_of({**merged(head, extra), "messages": messages})
        return Sending(path="/chat/completions", body=body, framing="events" if stream else "whole", headers={})

    def authorise(self, key: str) -> Mapping[str, str]:
        """Return the header that carries the key."""
        return {"authorization": f"Bearer {key}"}

    def shapes(self, request: ModelRequest) -> Shaping:  # noqa: ARG002  always the same way
        """Ask for it in `response_format`, where the server knows that."""
        return "said" if self._dialect.shapes else "forced" if self._dialect.required is not None else "offered"

    def read(self, request: ModelRequest, *, stream: bool) -> Reading:  # noqa: ARG002  the answer says all there is to know
        """Begin to read an answer; a body and a stream are told apart by their fields."""
        return ChatReading(self._dialect)

    def refused(self, status: int, body: Any, text: str) -> ModelError:
        """Translate an HTTP error."""
        return reported(body, text, status)


# -- our request → wire ------------------------------------------------------------------------------------------------


def _settings(settings: Settings, dialect: Dialect) -> dict[str, Any]:
    said = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        dialect.limit: settings.max_output_tokens,
        "stop": list(settings.stop) or None,
        **placed(*_thinking(settings, dialect)),
    }
    if dialect.seed is not None:
        said[dialect.seed] = settings.seed
    return {name: value for name, value in said.items() if value is not None}


def _thinking(settings: Settings, dialect: Dialect) -> tuple[tuple[str, ...], Any]:
    """Return where it stands how much is to be thought, and how much: the budget counts where both are set and known."""
    if dialect.budget and settings.reasoning_tokens is not None:
        return dialect.budget, settings.reasoning_tokens
    return dialect.effort, settings.reasoning_effort


def _choice(settings: Settings, dialect: Dialect) -> Any:
    """Say which tool, if any, is to be called."""
    if settings.chosen_tool is not None:
        return {"type": "function", "function": {"name": settings.chosen_tool}}
    if settings.tool_choice != "required":
        return settings.tool_choice
    if dialect.required is None:
        raise unsayable(f"{NAME} as this service speaks it", "tool_choice", settings.tool_choice)
    return dialect.required


def _tool(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": closed(parameters)}}


def _bridged(messages: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Let the assistant say something wherever a person would speak right behind a tool."""
    said: list[dict[str, Any]] = []
    for message in messages:
        if said and message["role"] == "user" and said[-1]["role"] == "tool":
            said.append({"role": "assistant", "content": words})
        said.append(message)
    return said


def _messages(message: Message, request: ModelRequest, dialect: Dialect) -> Iterable[dict[str, Any]]:
    """Say one message of ours: results of tools are one message each, and what they cannot hold follows as the user's."""
    if message.role == "user":
        return [{"role": "user", "content": _content([part for part in message.parts if isinstance(part, Text | Attachment)], request)}]
    if message.role == "assistant":
        return [_assistant(message, dialect)]
    outputs = [part for part in message.parts if isinstance(part, Output)]
    said = [{"role": "tool", "tool_call_id": dialect.call_id(output.provider_id or output.call), "content": _output_text(output)} for output in outputs]
    shown: list[ContentPart] = []
    for output in outputs:
        attached = [part for part in output.content if isinstance(part, Attachment)]
        shown += [Text(f"[Attached by {output.name or output.call}]"), *attached] if attached else []
    return [*said, {"role": "user", "content": _content(shown, request)}] if shown else said


def _output_text(output: Output) -> str:
    text = "\n".join(part.text for part in output.content if isinstance(part, Text))
    if not text:
        text = "(see the attachment that follows)"
    return f"Error: {text}" if output.failed else text


def _content(parts: list[ContentPart], request: ModelRequest) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in parts):
        return "\n".join(part.text for part in parts if isinstance(part, Text))
    return [{"type": "text", "text": part.text} if isinstance(part, Text) else _attached(part, request) for part in parts]


def _attached(part: Attachment, request: ModelRequest) -> dict[str, Any]:
    kind = part.media_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": part.url if part.blob is None and part.url else f"data:{kind};base64,{base64_of(request, part)}"}}
    if kind in _SOUNDS:
        return {"type": "input_audio", "input_audio": {"data": base64_of(request, part), "format": _SOUNDS[kind]}}
    if kind == "application/pdf":
        return {"type": "file", "file": {"filename": part.name or "document.pdf", "file_data": f"data:{kind};base64,{base64_of(request, part)}"}}
    raise InvalidInput(f"The format {NAME} cannot carry {kind or 'an attachment without a type'}.", hint="Send its text instead.")


def _assistant(message: Message, dialect: Dialect) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant"}
    said["content"] = "".join(part.text for part in message.parts if isinstance(part, Text)) or None
    if message.format == NAME:
        for part in message.parts:
            thought = part.raw if isinstance(part, Reasoning) and dialect.thoughts_back else None
            raw = part.opaque if isinstance(part, Opaque) else thought
            said |= json.loads(raw) if raw is not None else {}
    if message.calls:
        said["tool_calls"] = [
            {"id": dialect.call_id(call.provider_id or call.id), "type": "function", "function": {"name": name_of(call.name), "arguments": _arguments(call)}}
            for call in message.calls
        ]
        if dialect.thoughts_due and not said.get("reasoning_content"):
            said["reasoning_content"] = f"This needs {', '.join(f'{call.name} ({call.id})' for call in message.calls)}."
    elif said["content"] is None:
        said["content"] = ""
    return said


def _arguments(call: Call) -> str:
    """Write the arguments; such as were no object would be refused by the next server, so what was understood goes back."""
    return json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))


# -- wire → our answer -------------------------------------------------------------------------------------------------


class _Slot:
    """A call that is on its way."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []


class ChatReading:
    """One answer. A finish reason, or the last word of the stream, makes it whole."""

    def __init__(self, dialect: Dialect = OPENAI) -> None:
        self._dialect = dialect
        self._cost: int | None = None
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._thoughts: dict[str, list[str]] = {}
        self._kept: dict[str, Any] = {}
        self._slots: dict[object, _Slot] = {}
        self._finish: str | None = None
        self._usage = Usage()
        self._model: str | None = None
        self.done = False

    @property
    def begun(self) -> bool:
        """Whether anything of an answer came."""
        return any(self._text) or any(self._refusal) or bool(self._thoughts or self._kept or self._slots)

    def take(self, data: Any, event: str = "") -> Iterable[Piece]:
        """Take a chunk, or a whole body."""
        if data == "[DONE]":
            self.done = True
            return
        if not isinstance(data, dict):
            return
        if data.get("error") or event == "error":
            raise reported(data, "", None)
        self._model = data["model"] if isinstance(data.get("model"), str) else self._model
        self._count(data.get("usage"))
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):
                yield from self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> Iterable[Piece]:
        whole = isinstance(choice.get("message"), dict)
        said = choice["message"] if whole else choice.get("delta")
        if isinstance(said, dict):
            yield from self._said(said, whole=whole)
        if choice.get("finish_reason"):
            self._finish, self.done = str(choice["finish_reason"]), True

    def _said(self, said: dict[str, Any], *, whole: bool) -> Iterable[Piece]:
        for name in _THOUGHTS:
            if isinstance(said.get(name), str) and said[name]:
                self._thoughts.setdefault(name, []).append(said[name])
                yield "reasoning", said[name]
                break  # some servers say the same in both
        for text in _texts(said.get("content")):
            self._text.append(text)
            yield "text", text
        if isinstance(said.get("refusal"), str) and said["refusal"]:
            self._refusal.append(said["refusal"])
            yield "text", said["refusal"]
        for name in ("reasoning_details", "annotations"):
            if isinstance(said.get(name), list):
                self._kept.setdefault(name, []).extend(said[name])
        calls = said.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                yield from self._called({**call, "index": position} if whole else call, position)

    def _called(self, call: dict[str, Any], position: int) -> Iterable[Piece]:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        slot = self._slot(call, function, position)
        slot.id = slot.id or _text(call.get("id"))
        name = _text(function.get("name"))
        slot.name = slot.name if name in {"", slot.name} else slot.name + name  # repeated whole, or sent in pieces
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        if isinstance(arguments, str) and arguments:
            slot.pieces.append(arguments)
            yield "arguments", arguments

    def _slot(self, call: dict[str, Any], function: dict[str, Any], position: int) -> _Slot:
        """Find the call that a delta belongs to: by its index, by its id, or the last one."""
        index, name, id_ = call.get("index"), _text(function.get("name")), _text(call.get("id"))
        if not isinstance(index, int):
            last = next(reversed(self._slots.values()), None)
            same = last is not None and (id_ == last.id if id_ else not name)
            if last is not None and same:
                return last
            index = ("unnumbered", len(self._slots), position)
        elif index in self._slots and id_ and name and self._slots[index].id not in {"", id_}:
            index = (index, id_)  # a new call under a number that was used before
        elif index in self._slots and not id_:
            index = next(key for key in reversed(self._slots) if key == index or (isinstance(key, tuple) and key[0] == index))
        return self._slots.setdefault(index, _Slot())

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        asked, answered = object_of(usage.get("prompt_tokens_details")), object_of(usage.get("completion_tokens_details"))
        taken, given, thought = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens")), count_of(answered.get("reasoning_tokens"))
        cached = (asked.get("cached_tokens"), usage.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"))
        self._usage = Usage(
            input=taken,
            output=given + thought if self._dialect.thoughts_apart else given,
            cached=min(taken, max(map(count_of, cached))),
            cache_written=min(taken, count_of(asked.get("cache_write_tokens"))),
            reasoning=thought,
        )
        self._cost = nano_usd_of(usage.get("cost")) if self._dialect.tells_cost else None

    def reply(self) -> ModelReply:
        """Return the whole answer."""
        if not self.done:
            raise broken_off()
        parts: list[AnswerPart] = []
        for name, pieces in self._thoughts.items():
            thought = mended("".join(pieces))
            parts.append(Reasoning(thought, json.dumps({name: thought}, ensure_ascii=False) if name == "reasoning_content" else None))
        if "reasoning_details" in self._kept:
            parts.append(Opaque(json.dumps({"reasoning_details": self._kept["reasoning_details"]}, ensure_ascii=False)))
        if text := mended("".join(self._text) + "".join(self._refusal)):
            raw = json.dumps({"annotations": self._kept["annotations"]}, ensure_ascii=False) if self._kept.get("annotations") else None
            parts.append(Text(text, raw))
        slots = [slot for slot in self._slots.values() if slot.name or slot.pieces]
        parts += [_call(slot, cut=self._finish == "length" and slot is slots[-1]) for slot in slots]
        told = None if self._cost is None else "the provider"
        finish, usage = self._ended(parts), self._usage
        return ModelReply(parts=tuple(parts), finish=finish, usage=usage, format=NAME, model=self._model, cost_nano_usd=self._cost, price_source=told)

    def _ended(self, parts: list[AnswerPart]) -> Finish:
        if self._refusal:
            return "refused"
        finish = _FINISHES.get(self._finish or "stop", "other")
        called = any(isinstance(part, Call) for part in parts)
        if finish in {"stop", "calls"}:
            return "calls" if called else "stop"
        return finish


def _call(slot: _Slot, *, cut: bool) -> Call:
    """Return a call; where the answer was cut before its arguments began, it has none, which is not the same as empty ones."""
    text = mended("".join(slot.pieces))
    arguments, malformed = arguments_of(text)
    malformed = text if cut and not text.strip() else malformed
    return Call(slot.name or "unnamed", arguments, provider_id=slot.id or None, malformed=malformed)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(content: Any) -> list[str]:
    """Read content: a text, or parts of which some have one."""
    if isinstance(content, str):
        return [content] if content else []
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
