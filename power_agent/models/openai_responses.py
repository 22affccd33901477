"""OpenAI Responses: `POST /responses`, without anything kept on the provider's side.

One item of theirs is one part of ours, and `raw` is the item: reasoning (encrypted), messages with their citations and phase, and
items nobody here knows go back as they came. Left out is what the provider would refuse: reasoning that only it could look up, or
behind which nothing follows, and calls of a kind that is not answered here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from power_agent.errors import InvalidInput, ModelError
from power_agent.events import Finish
from power_agent.messages import AnswerPart, AnyPart, Attachment, Call, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.failures import broken_off, reported
from power_agent.models.format import Piece, Sending, Shaping, arguments_of, body_of, count_of
from power_agent.models.gleaning import EMPTY, closed, data_url, index_of, is_strict, joined, kept, kind_of, list_of, name_of, object_of, own, text_of
from power_agent.models.settings import Settings, merged, unsayable
from power_agent.ports import ModelReply, ModelRequest

Item = dict[str, Any]

_NO_REASONING = ("chatgpt-4", "gpt-3", "gpt-4")
"""Beginnings of models that refuse to be asked for encrypted reasoning because they have none."""
_GLIMPSES = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
}
_ENDS = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
_CUT: Mapping[str, Finish] = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "filtered"}


class OpenAIResponses:
    """The wire format of OpenAI's Responses API."""

    name = "openai-responses"

    def authorise(self, key: str) -> Mapping[str, str]:
        """Return the header that carries the key."""
        return {"authorization": f"Bearer {key}"}

    def shapes(self, request: ModelRequest) -> Shaping:  # noqa: ARG002  always the same way
        """Ask for it in `text.format`."""
        return "said"

    def read(self, request: ModelRequest, *, stream: bool) -> ResponsesReading:  # noqa: ARG002  an answer tells by itself how it comes
        """Begin to read an answer."""
        return ResponsesReading()

    def refused(self, status: int, body: Any, text: str) -> ModelError:
        """Translate an HTTP error."""
        return reported(body, text, status)

    def write(self, model: str, request: ModelRequest, *, stream: bool) -> Sending:
        """Translate a request; the items come last, so that everything before them stays the same."""
        settings = Settings.of(request.settings)
        tools = [*(_tool(spec) for spec in request.tools), *list_of(settings.extra.get("tools"))]
        head: Item = {"model": model, "stream": stream, "store": False}
        if not model.startswith(_NO_REASONING):
            head["include"] = ["reasoning.encrypted_content"]
        head |= _options(settings, bool(tools))
        if tools:
            head["tools"] = tools
        if request.output is not None:
            shape = request.output
            head["text"] = {"format": {"type": "json_schema", "name": shape.name, "schema": shape.schema, "strict": is_strict(shape.schema)}}
        if request.system:
            head["instructions"] = request.system
        extra = {name: value for name, value in settings.extra.items() if name != "tools"}
        body = {**merged(head, extra), "input": [item for message in request.messages for item in _items(request, message)]}
        return Sending(path="/responses", body=body_of(body), framing="events" if stream else "whole", headers={})


# -- our request → wire ------------------------------------------------------------------------------------------------


def _options(settings: Settings, tools: bool) -> Item:
    if settings.stop:
        raise unsayable(OpenAIResponses.name, "stop", settings.stop)
    said = {"temperature": settings.temperature, "top_p": settings.top_p, "max_output_tokens": settings.max_output_tokens}
    options: Item = {name: value for name, value in said.items() if value is not None}
    if settings.reasoning_effort is not None:
        options["reasoning"] = {"effort": settings.reasoning_effort}
    if tools and settings.tool_choice is not None:
        chosen = settings.chosen_tool
        options["tool_choice"] = {"type": "function", "name": chosen} if chosen else settings.tool_choice
    if tools and settings.parallel_tool_calls is not None:
        options["parallel_tool_calls"] = settings.parallel_tool_calls
    return options


def _tool(spec: Any) -> Item:
    return {"type": "function", "name": spec.name, "description": spec.description, "parameters": closed(spec.parameters), "strict": False}


def _items(request: ModelRequest, message: Message) -> list[Item]:
    if message.role == "assistant":
        return _answer(message)
    if message.role == "tool":
        return [_result(request, part) for part in message.parts if isinstance(part, Output)]
    contents = _contents(request, message.parts) or [{"type": "input_text", "text": EMPTY}]
    return [{"type": "message", "role": "user", "content": contents}]


def _answer(message: Message) -> list[Item]:
    items = [item for part in message.parts if (item := _spoken(message, part)) is not None]
    answered = {text_of(item.get("call_id")) for item in items if text_of(item.get("type")).endswith("_output")}
    items = [item for item in items if item.get("type") == "function_call" or "call_id" not in item or text_of(item["call_id"]) in answered]
    while items and items[-1].get("type") == "reasoning":
        items.pop()
    return items


def _spoken(message: Message, part: AnyPart) -> Item | None:
    """Return a part of an answer as an item, or None when it cannot go back."""
    match part:
        case Text(text=text, raw=raw):
            plain = {"type": "message", "role": "assistant", "content": text} if text else None
            return own(message, raw, OpenAIResponses.name) or plain
        case Reasoning(raw=raw) | Opaque(opaque=raw):
            return own(message, raw, OpenAIResponses.name)
        case Call(raw=raw):
            wire_id, name = part.provider_id or part.id, name_of(part.name)
            made = own(message, raw, OpenAIResponses.name)
            if made is not None and isinstance(made.get("arguments"), str):
                return {**made, "call_id": wire_id, "name": name}
            return {"type": "function_call", "call_id": wire_id, "name": name, "arguments": body_of(part.arguments).decode()}
        case _:
            return None


def _result(request: ModelRequest, output: Output) -> Item:
    contents = _contents(request, output.content)
    plain = all(content["type"] == "input_text" for content in contents)
    said = ("\n".join(content["text"] for content in contents) or EMPTY) if plain else contents
    if output.failed:  # the format has no field for it
        said = f"Error: {said}" if isinstance(said, str) else [{"type": "input_text", "text": "Error:"}, *said]
    return {"type": "function_call_output", "call_id": output.provider_id or output.call, "output": said}


def _contents(request: ModelRequest, parts: Iterable[AnyPart]) -> list[Item]:
    contents: list[Item] = []
    for part in parts:
        if isinstance(part, Text) and part.text:
            contents.append({"type": "input_text", "text": part.text})
        elif isinstance(part, Attachment):
            contents.append(_attached(request, part))
    return contents


def _attached(request: ModelRequest, part: Attachment) -> Item:
    kind = kind_of(part)
    address = data_url(request, part)
    if kind.startswith("image/"):
        return {"type": "input_image", "detail": "auto", "image_url": address}
    if kind.startswith(("application/", "text/")):
        if part.blob is None:
            return {"type": "input_file", "file_url": address}
        return {"type": "input_file", "filename": part.name or f"document.{kind.rpartition('/')[2]}", "file_data": address}
    raise InvalidInput(f"The format {OpenAIResponses.name} cannot carry {kind}.", hint="It takes images and documents.")


# -- wire → our answer -------------------------------------------------------------------------------------------------


class _Growing:
    """An item that is on its way: where it stands, as it was added, the pieces since, and whether it came whole."""

    def __init__(self, place: int, item: Item) -> None:
        self.place = place
        self.item = item
        self.pieces: dict[str, list[str]] = {"text": [], "reasoning": [], "arguments": []}
        self.whole = False

    def finish(self, item: Item) -> None:
        self.item, self.whole = item, True


class ResponsesReading:
    """An answer on its way, as events or whole: each JSON value tells what it is."""

    def __init__(self) -> None:
        self._items: list[_Growing] = []
        self._response: Item = {}
        self._done = False

    @property
    def begun(self) -> bool:
        """Whether anything of an answer came."""
        return bool(self._items)

    @property
    def done(self) -> bool:
        """Whether the provider said that the response had ended."""
        return self._done

    def take(self, data: Any, event: str = "") -> Iterable[Piece]:
        """Take an event, or a whole response."""
        if not isinstance(data, dict):
            return ()
        kind = text_of(data.get("type")) or event
        if kind == "error" or (not kind and "output" not in data and data.get("error")):
            raise reported(data, "", None)
        if kind in _ENDS:
            self._end(object_of(data.get("response")))
        elif kind == "response.output_item.added":
            self._items.append(_Growing(index_of(data.get("output_index"), len(self._items)), object_of(data.get("item"))))
        elif kind == "response.output_item.done":
            self._growing(data, "").finish(object_of(data.get("item")))
        elif kind in _GLIMPSES:
            return self._grow(_GLIMPSES[kind], data)
        elif not kind.startswith("response."):
            return self._whole(data)
        return ()

    def reply(self) -> ModelReply:
        """Return the whole answer."""
        if not self._done:
            raise broken_off()
        cut = self._response.get("status") == "incomplete"
        grown = sorted(self._items, key=lambda one: one.place)
        parts = [part for one in grown if (part := _part(one, cut=cut and one is grown[-1])) is not None]
        model = text_of(self._response.get("model")) or None
        return ModelReply(parts=tuple(parts), finish=self._finish(parts), usage=_usage(object_of(self._response.get("usage"))), format=OpenAIResponses.name, model=model)

    def _growing(self, data: Item, kind: str) -> _Growing:
        """Return the item an event speaks of: the last one at its place that is not whole yet, for places and ids may repeat."""
        place = index_of(data.get("output_index"), self._items[-1].place if self._items else 0)
        for growing in reversed(self._items):
            if growing.place == place and not growing.whole:
                return growing
        self._items.append(_Growing(place, {"type": {"text": "message", "reasoning": "reasoning"}.get(kind, "")}))  # its beginning was lost
        return self._items[-1]

    def _grow(self, kind: str, data: Item) -> Iterable[Piece]:
        delta = text_of(data.get("delta"))
        self._growing(data, kind).pieces[kind].append(delta)
        return [(kind, delta)] if delta else ()

    def _whole(self, response: Item) -> Iterable[Piece]:
        if "output" not in response and "status" not in response:
            return ()  # of a kind that is not known
        self._end(response)
        return [("text", text) for growing in self._items if (text := _said(growing)[0])]

    def _end(self, response: Item) -> None:
        status = text_of(response.get("status"))
        if status in {"failed", "cancelled"} or response.get("error"):
            raise reported(response, f"The response is {status}.", None)
        if status in {"queued", "in_progress"}:
            raise broken_off()
        self._response, self._done = response, True
        done = {text_of(growing.item.get("id")): growing.item for growing in self._items if growing.whole and growing.item.get("encrypted_content")}
        final = [object_of(item) for item in list_of(response.get("output"))]
        if final:  # some servers leave it empty behind a stream; then what was done in the stream counts
            self._items = [_Growing(place, item) for place, item in enumerate(final)]
            for growing in self._items:
                growing.finish(growing.item if growing.item.get("encrypted_content") else done.get(text_of(growing.item.get("id")), growing.item))

    def _finish(self, parts: list[AnswerPart]) -> Finish:
        if self._response.get("status") == "incomplete":
            return _CUT.get(text_of(object_of(self._response.get("incomplete_details")).get("reason")), "other")
        if any(_said(growing)[1] for growing in self._items):
            return "refused"
        return "calls" if any(isinstance(part, Call) for part in parts) else "stop"


def _said(growing: _Growing) -> tuple[str, bool]:
    """Return the text of a message, and whether it is a refusal."""
    item = growing.item
    if item.get("type") != "message":
        return "", False
    contents = [object_of(content) for content in list_of(item.get("content"))]
    refusals = [text_of(content.get("refusal")) for content in contents if content.get("type") == "refusal"]
    text = "".join(text_of(content.get("text")) or text_of(content.get("refusal")) for content in contents)
    return text or joined(growing.pieces["text"]), bool(refusals)


def _sound(message: Item) -> bool:
    """Say whether a message has the shape in which it can go back."""
    contents = list_of(message.get("content"))
    texts = (object_of(content).get("text", object_of(content).get("refusal")) for content in contents)
    return bool(contents) and message.get("role") == "assistant" and all(isinstance(text, str) for text in texts)


def _part(growing: _Growing, *, cut: bool) -> AnswerPart | None:
    item = growing.item
    match item.get("type"):
        case "message":
            text = joined([_said(growing)[0]])
            return Text(text, kept(item) if _sound(item) else None) if text else None
        case "reasoning":
            return _reasoning(growing)
        case "function_call":
            return _call(growing, cut=cut)
        case str(kind) if kind:
            return Opaque(kept(item))
        case _:
            return None


def _reasoning(growing: _Growing) -> Reasoning | None:
    item = growing.item
    pieces = [text_of(object_of(piece).get("text")) for piece in [*list_of(item.get("summary")), *list_of(item.get("content"))]]
    text = "\n\n".join(piece for piece in pieces if piece) or joined(growing.pieces["reasoning"])
    alone = text_of(item.get("encrypted_content")) or list_of(item.get("content"))  # else only the provider could look it up, and it keeps nothing
    return Reasoning(joined([text]), kept(item) if alone else None) if text or alone else None


def _call(growing: _Growing, *, cut: bool) -> Call:
    item = growing.item
    said = item.get("arguments")
    text = said if isinstance(said, str) and said else joined(growing.pieces["arguments"]) if not said else kept(said)
    arguments, malformed = arguments_of(text)
    broken = item.get("status") == "incomplete" or (cut and not (growing.whole and item.get("status") == "completed"))
    if malformed is None and (broken or (cut and not text.strip())):
        arguments, malformed = {}, text
    wire_id = text_of(item.get("call_id")) or None
    whole = malformed is None and said == text and text.strip()
    return Call(text_of(item.get("name")), arguments, provider_id=wire_id, malformed=malformed, raw=kept(item) if whole else None)


def _usage(said: Item) -> Usage:
    inputs, outputs = object_of(said.get("input_tokens_details")), object_of(said.get("output_tokens_details"))
    taken, given = count_of(said.get("input_tokens")), count_of(said.get("output_tokens"))
    cached, written = min(taken, count_of(inputs.get("cached_tokens"))), min(taken, count_of(inputs.get("cache_write_tokens")))
    return Usage(taken, given, cached, written, min(given, count_of(outputs.get("reasoning_tokens"))))
