"""Anthropic Messages: `POST /v1/messages`.

Roles alternate; results of tools open the user's turn behind the calls; signed thoughts, citations and blocks of server tools go
back as they came. Marks for the prompt cache stand behind the tools, behind the system prompt and at the end of the last two
turns of the user, so that the end of the former request is always one of them. A mark is no part of what is cached: apart from the
marks, a request extends the former one byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from power_agent.errors import InvalidInput, ModelError
from power_agent.events import Finish
from power_agent.messages import AnswerPart, AnyPart, Attachment, Call, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.failures import broken_off, failure
from power_agent.models.format import Piece, Sending, Shaping, arguments_of, base64_of, body_of, count_of
from power_agent.models.gleaning import EMPTY, closed, contents_of, index_of, is_text, joined, kept, kind_of, list_of, name_of, object_of, own, text_of
from power_agent.models.settings import Settings, merged
from power_agent.ports import ModelReply, ModelRequest

Block = dict[str, Any]

ANSWER_TOKENS = 32_000
"""How long an answer may get when nobody says so: the format demands a number, and every model of the last generations takes it."""
VERSION = "2023-06-01"

_MARK = {"type": "ephemeral"}
_IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
_THOUGHTS = {"thinking", "redacted_thinking"}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_EFFORTS = {"minimal": "low"}
_FINISH: Mapping[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
    "pause_turn": "other",
}


class Anthropic:
    """The wire format of Anthropic's Messages API and of those who speak it too."""

    name = "anthropic"

    def authorise(self, key: str) -> Mapping[str, str]:
        """Return the header that carries the key."""
        return {"x-api-key": key}

    def shapes(self, request: ModelRequest) -> Shaping:
        """Take it through a tool, which every model knows; none can be forced to call one while it thinks."""
        settings = Settings.of(request.settings)
        return "forced" if settings.reasoning_effort is None and settings.reasoning_tokens is None else "offered"

    def read(self, request: ModelRequest, *, stream: bool) -> AnthropicReading:  # noqa: ARG002  an answer tells by itself how it comes
        """Begin to read an answer."""
        return AnthropicReading()

    def refused(self, status: int, body: Any, text: str) -> ModelError:
        """Translate an HTTP error."""
        return _reported(body, text, status)

    def write(self, model: str, request: ModelRequest, *, stream: bool) -> Sending:
        """Translate a request; the messages come last, so that everything before them stays the same."""
        settings = Settings.of(request.settings)
        tools = [*(_tool(spec) for spec in request.tools), *list_of(settings.extra.get("tools"))]
        head: Block = {"model": model, "max_tokens": settings.max_output_tokens or ANSWER_TOKENS + (settings.reasoning_tokens or 0), "stream": stream}
        head |= _options(settings, request, bool(tools))
        if tools:
            head["tools"] = [*tools[:-1], {**tools[-1], "cache_control": _MARK}]
        if request.system and request.system.strip():
            head["system"] = [{"type": "text", "text": request.system, "cache_control": _MARK}]
        turns = _turns(request)
        for turn in [turn for turn in turns if turn["role"] == "user"][-2:]:
            turn["content"][-1] = {**turn["content"][-1], "cache_control": _MARK}
        extra = {name: value for name, value in settings.extra.items() if name != "tools"}
        body = {**merged(head, extra), "messages": turns}
        return Sending(path="/v1/messages", body=body_of(body), framing="events" if stream else "whole", headers={"anthropic-version": VERSION})


# -- our request → wire ------------------------------------------------------------------------------------------------


def _options(settings: Settings, request: ModelRequest, tools: bool) -> Block:
    options: Block = {}
    if settings.temperature is not None:
        options["temperature"] = settings.temperature
    if settings.top_p is not None:
        options["top_p"] = settings.top_p
    if settings.stop:
        options["stop_sequences"] = list(settings.stop)
    options |= _thinking(settings, request)
    chosen, parallel = settings.chosen_tool, settings.parallel_tool_calls
    if tools and (settings.tool_choice is not None or parallel is not None):
        choice: Block = {"type": "tool", "name": chosen} if chosen else {"type": _CHOICES[settings.tool_choice or "auto"]}
        if parallel is not None and choice["type"] != "none":
            choice["disable_parallel_tool_use"] = not parallel
        options["tool_choice"] = choice
    return options


def _thinking(settings: Settings, request: ModelRequest) -> Block:
    if settings.reasoning_tokens is not None:
        return {} if _thoughtless(request) else {"thinking": {"type": "enabled", "budget_tokens": settings.reasoning_tokens}}
    effort = settings.reasoning_effort
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": _EFFORTS.get(effort, effort)}}


def _thoughtless(request: ModelRequest) -> bool:
    """Say whether the calls that are being answered began without a signed thought (another format made them): the provider refuses
    to go on with them while a budget for thoughts is set.
    """
    first: Message | None = None
    for message in reversed(request.messages):
        if message.role == "user":
            break
        if message.role == "assistant":
            first = message
    return first is not None and not any(isinstance(part, Reasoning) and _spoken(first, part) for part in first.parts)


def _tool(spec: Any) -> Block:
    return {"name": spec.name, "description": spec.description, "input_schema": closed(spec.parameters)}


def _turns(request: ModelRequest) -> list[Block]:
    turns: list[Block] = []
    for message in request.messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _answer(message) if role == "assistant" else _told(request, message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _answer(message: Message) -> list[Block]:
    blocks = [block for part in message.parts if (block := _spoken(message, part)) is not None]
    if not message.calls:  # with calls, a server tool may be waiting for their results
        answered = {text_of(block.get("tool_use_id")) for block in blocks}
        blocks = [block for block in blocks if not (text_of(block.get("type")).endswith("_tool_use") and text_of(block.get("id")) not in answered)]
    while blocks and blocks[-1].get("type") in _THOUGHTS:  # refused where nothing follows from them
        blocks.pop()
    return blocks


def _spoken(message: Message, part: AnyPart) -> Block | None:
    """Return a part of an answer as a block, or None when it cannot go back."""
    match part:
        case Text(text=text, raw=raw):
            return (own(message, raw, Anthropic.name) or {"type": "text", "text": text}) if text.strip() else None
        case Reasoning(raw=raw):
            return own(message, raw, Anthropic.name)
        case Opaque(opaque=raw):
            return own(message, raw, Anthropic.name)
        case Call(name=name, arguments=arguments, raw=raw):
            made = own(message, raw, Anthropic.name) or {"type": "tool_use"}
            return {**made, "id": part.provider_id or part.id, "name": name_of(name), "input": dict(arguments)}
        case _:
            return None


def _told(request: ModelRequest, message: Message) -> list[Block]:
    if message.role == "tool":
        return [_result(request, part) for part in message.parts if isinstance(part, Output)]
    return _contents(request, message.parts) or [{"type": "text", "text": EMPTY}]


def _result(request: ModelRequest, output: Output) -> Block:
    blocks = _contents(request, output.content)
    plain = len(blocks) == 1 and blocks[0]["type"] == "text"
    block: Block = {"type": "tool_result", "tool_use_id": output.provider_id or output.call, "content": blocks[0]["text"] if plain else blocks or EMPTY}
    return {**block, "is_error": True} if output.failed else block


def _contents(request: ModelRequest, parts: Iterable[AnyPart]) -> list[Block]:
    blocks: list[Block] = []
    for part in parts:
        if isinstance(part, Text) and part.text.strip():
            blocks.append({"type": "text", "text": part.text})
        elif isinstance(part, Attachment):
            blocks.append(_attached(request, part))
    return blocks


def _attached(request: ModelRequest, part: Attachment) -> Block:
    kind = kind_of(part)
    title = {"title": part.name} if part.name else {}
    by_address = {"type": "url", "url": part.url} if part.blob is None and part.url is not None else None
    if kind in _IMAGES or (by_address and kind.startswith("image/")):
        return {"type": "image", "source": by_address or {"type": "base64", "media_type": kind, "data": base64_of(request, part)}}
    if kind == "application/pdf":
        return {"type": "document", "source": by_address or {"type": "base64", "media_type": kind, "data": base64_of(request, part)}, **title}
    if is_text(part) and not by_address:
        return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": contents_of(request, part)}, **title}
    raise InvalidInput(f"The format anthropic cannot carry {kind}.", hint="It takes JPEG, PNG, GIF and WebP images, PDF documents and plain text.")


# -- wire → our answer -------------------------------------------------------------------------------------------------


class _Growing:
    """A block that is on its way: as it began, and what was added since."""

    def __init__(self, block: Block) -> None:
        self.block = dict(block)
        self.pieces: list[str] = []
        self.arguments: list[str] = []
        self.whole = False

    def add(self, delta: Block) -> Piece | None:
        kind = text_of(delta.get("type"))
        if kind == "input_json_delta":
            self.arguments.append(text_of(delta.get("partial_json")))
            return ("arguments", self.arguments[-1]) if self.block.get("type") == "tool_use" else None
        if kind in {"text_delta", "thinking_delta"}:
            self.pieces.append(text_of(delta.get("text" if kind == "text_delta" else "thinking")))
            return "text" if kind == "text_delta" else "reasoning", self.pieces[-1]
        if kind == "citations_delta":
            self.block["citations"] = [*list_of(self.block.get("citations")), delta.get("citation")]
            return None
        for name, value in delta.items():  # a signature, or a kind that is not known: text is set once or grows, all else is replaced
            if name != "type":
                known = self.block.get(name)
                grows = isinstance(known, str) and isinstance(value, str) and name != "signature"
                self.block[name] = known + value if grows else value
        return None

    def finished(self) -> Block:
        """Return the block as it would have come in one piece; a call's arguments stay text."""
        kind = text_of(self.block.get("type"))
        if self.pieces and kind in {"text", "thinking"}:
            return {**self.block, kind: joined([text_of(self.block.get(kind)), *self.pieces])}
        if self.arguments and kind != "tool_use":
            arguments, malformed = arguments_of(joined(self.arguments))
            return self.block if malformed else {**self.block, "input": arguments}
        return self.block


class AnthropicReading:
    """An answer on its way, as events or whole: each JSON value tells what it is."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Growing] = {}
        self._usage: Block = {}
        self._reason: str | None = None
        self._model: str | None = None
        self._done = False

    @property
    def begun(self) -> bool:
        """Whether anything of an answer came."""
        return bool(self._blocks)

    @property
    def done(self) -> bool:
        """Whether the provider said that the message was whole."""
        return self._done

    def take(self, data: Any, event: str = "") -> Iterable[Piece]:
        """Take an event, or a whole message."""
        if not isinstance(data, dict):
            return ()
        kind = text_of(data.get("type")) or event
        if kind == "error" or (not kind and "error" in data):
            raise _reported(data, "", None)
        if kind == "message_start":
            self._begin(object_of(data.get("message")))
        elif kind == "message":
            return self._whole(data)
        elif kind == "message_delta":
            self._end(object_of(data.get("delta")), object_of(data.get("usage")))
        elif kind == "message_stop":
            self._done = True
        elif kind.startswith("content_block_"):
            return self._block(kind, data)
        return ()

    def reply(self) -> ModelReply:
        """Return the whole answer."""
        if not self._done:
            raise broken_off()
        growing = list(self._blocks.values())
        cut = _FINISH.get(self._reason or "") == "length"
        parts = [part for block in growing if (part := _part(block, cut=cut and block is growing[-1])) is not None]
        return ModelReply(parts=tuple(parts), finish=_finish(self._reason, parts), usage=_usage(self._usage), format=Anthropic.name, model=self._model)

    def _begin(self, message: Block) -> None:
        self._model = text_of(message.get("model")) or None
        self._end(message, object_of(message.get("usage")))

    def _end(self, delta: Block, usage: Block) -> None:
        self._reason = text_of(delta.get("stop_reason")) or self._reason
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _whole(self, message: Block) -> Iterable[Piece]:
        self._begin(message)
        for place, block in enumerate(list_of(message.get("content"))):
            self._blocks[place] = _Growing(object_of(block))
            self._blocks[place].whole = True
        self._done = True
        return [("text", text) for growing in self._blocks.values() if (text := text_of(growing.block.get("text")))]

    def _block(self, kind: str, data: Block) -> Iterable[Piece]:
        place = index_of(data.get("index"), len(self._blocks) - (kind != "content_block_start"))
        if kind == "content_block_start":
            growing = self._blocks[place] = _Growing(object_of(data.get("content_block")))
            text = text_of(growing.block.get("text"))
            return [("text", text)] if text else ()
        known = self._blocks.get(place)
        if kind == "content_block_delta":
            delta = object_of(data.get("delta"))
            if known is None:  # its beginning is missing: the delta tells what it is, if it is not a call, which would have no name
                known = self._blocks[place] = _Growing({"type": text_of(delta.get("type")).removesuffix("_delta")})
            piece = known.add(delta)
            return [piece] if piece is not None and piece[1] else ()
        if known is not None:
            known.whole = True
        return ()


def _part(growing: _Growing, *, cut: bool) -> AnswerPart | None:
    block = growing.finished()
    match block.get("type"):
        case "text":
            text = text_of(block.get("text"))
            extras = any(value for name, value in block.items() if name not in {"type", "text"})
            return Text(text, kept(block) if extras else None) if text else None
        case "thinking":
            signed = text_of(block.get("signature")) and isinstance(block.get("thinking"), str)
            return Reasoning(text_of(block.get("thinking")), kept(block) if signed else None)
        case "redacted_thinking":
            return Reasoning("", kept(block)) if text_of(block.get("data")) else None
        case "tool_use":
            return _call(growing, cut=cut)
        case "input_json":
            return None
        case str(kind) if kind:
            return Opaque(kept(block))
        case _:
            return None


def _call(growing: _Growing, *, cut: bool) -> Call:
    block, text = growing.block, joined(growing.arguments)
    wanted = block.get("input")
    if text.strip():
        arguments, malformed = arguments_of(text)
    else:  # they came with the block, or there are none
        arguments, malformed = (wanted, None) if isinstance(wanted, dict) else ({}, None if wanted is None else kept(wanted))
        text = kept(wanted) if wanted else ""
    if cut and malformed is None and not (growing.whole and growing.arguments and text.strip()):
        arguments, malformed = {}, text  # the length ended here, and nothing proves that these were all
    extras = {name: value for name, value in block.items() if name not in {"type", "id", "name", "input"} and value is not None}
    raw = kept({"type": "tool_use", "id": block.get("id"), "name": block.get("name"), "input": arguments, **extras}) if extras else None
    return Call(text_of(block.get("name")), arguments, provider_id=text_of(block.get("id")) or None, malformed=malformed, raw=raw)


def _finish(reason: str | None, parts: list[AnswerPart]) -> Finish:
    finish = _FINISH.get(reason or "", "other")
    if finish in {"stop", "other", "calls"}:
        return "calls" if any(isinstance(part, Call) for part in parts) else "stop" if finish == "calls" else finish
    return finish


def _usage(said: Block) -> Usage:
    cached, written = count_of(said.get("cache_read_input_tokens")), count_of(said.get("cache_creation_input_tokens"))
    output = count_of(said.get("output_tokens"))
    reasoning = min(output, count_of(object_of(said.get("output_tokens_details")).get("thinking_tokens")))
    return Usage(count_of(said.get("input_tokens")) + cached + written, output, cached, written, reasoning)


def _reported(body: Any, text: str, status: int | None) -> ModelError:
    error = object_of(object_of(body).get("error"))
    return failure(text_of(error.get("message")) or text_of(object_of(body).get("message")) or text, status=status, word=text_of(error.get("type")))
