"""Google Gemini: `generateContent`, and `streamGenerateContent` as events.

An answer is a list of parts without types; what a part is, its fields say. A signature of a thought may stand at any part and goes
back at exactly that part, which is why parts with one are never joined to others. Calls may lack an id: their results then
follow in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from power_agent.errors import InvalidInput, ModelError
from power_agent.events import Finish
from power_agent.limits import MAX_BACKOFF_SECONDS
from power_agent.messages import AnswerPart, AnyPart, Attachment, Call, Message, Opaque, Output, Reasoning, Text, Usage
from power_agent.models.failures import broken_off, failure, status_of
from power_agent.models.format import Piece, Sending, Shaping, base64_of, body_of, count_of
from power_agent.models.gleaning import EMPTY, closed, joined, kept, kind_of, list_of, name_of, object_of, own, text_of
from power_agent.models.settings import Settings, merged
from power_agent.ports import ModelReply, ModelRequest
from power_agent.word import replace

Part = dict[str, Any]

UNSIGNED = "skip_thought_signature_validator"
"""The provider's own word for a call that another model made: from its third generation on it refuses calls without a signature."""

_SIGNATURES_OPTIONAL = ("gemini-1", "gemini-2")
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_FINISH: Mapping[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "filtered",
    "RECITATION": "filtered",
    "BLOCKLIST": "filtered",
    "PROHIBITED_CONTENT": "filtered",
    "SPII": "filtered",
    "ESCALATION": "filtered",
    "MODEL_ARMOR": "filtered",
    "IMAGE_SAFETY": "filtered",
    "IMAGE_PROHIBITED_CONTENT": "filtered",
    "IMAGE_RECITATION": "filtered",
}
_STUMBLES = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"}
"""The model said something the provider could not read and does not show: another attempt may come out well."""
_ASIDES = ("citationMetadata", "groundingMetadata", "urlContextMetadata")
"""Fields beside the parts that are kept and cannot go back."""


class Gemini:
    """The wire format of Google's Gemini API."""

    name = "gemini"

    def authorise(self, key: str) -> Mapping[str, str]:
        """Return the header that carries the key."""
        return {"x-goog-api-key": key}

    def shapes(self, request: ModelRequest) -> Shaping:
        """Ask for it in `responseJsonSchema`, which not every model takes beside functions."""
        return "forced" if request.tools else "said"

    def read(self, request: ModelRequest, *, stream: bool) -> GeminiReading:  # noqa: ARG002  both ways bring the same objects
        """Begin to read an answer."""
        return GeminiReading()

    def refused(self, status: int, body: Any, text: str) -> ModelError:
        """Translate an HTTP error."""
        return _reported(body, text, status)

    def write(self, model: str, request: ModelRequest, *, stream: bool) -> Sending:
        """Translate a request; the contents come last, so that everything before them stays the same."""
        settings = Settings.of(request.settings)
        head: Part = {}
        generation = _generation(settings)
        if request.output is not None:
            generation |= {"responseMimeType": "application/json", "responseJsonSchema": request.output.schema}
        if generation:
            head["generationConfig"] = generation
        functions = [{"functionDeclarations": [_function(spec) for spec in request.tools]}] if request.tools else []
        tools = [*functions, *list_of(settings.extra.get("tools"))]
        if tools:
            head["tools"] = tools
        if functions and settings.tool_choice is not None:
            head["toolConfig"] = {"functionCallingConfig": _calling(settings)}
        if request.system:
            head["systemInstruction"] = {"parts": [{"text": request.system}]}
        extra = {name: value for name, value in settings.extra.items() if name != "tools"}
        body = {**merged(head, extra), "contents": _Contents(request, model).all()}
        place = model if "/" in model else f"models/{model}"
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return Sending(path=f"/{quote(place, safe='/@.-_')}:{verb}", body=body_of(body), framing="events" if stream else "whole", headers={})


# -- our request → wire ------------------------------------------------------------------------------------------------


def _generation(settings: Settings) -> Part:
    said = {
        "temperature": settings.temperature,
        "topP": settings.top_p,
        "maxOutputTokens": settings.max_output_tokens,
        "stopSequences": list(settings.stop) or None,
        "seed": settings.seed,
    }
    generation: Part = {name: value for name, value in said.items() if value is not None}
    if settings.reasoning_tokens is not None:
        generation["thinkingConfig"] = {"thinkingBudget": settings.reasoning_tokens}
    elif settings.reasoning_effort == "none":
        generation["thinkingConfig"] = {"thinkingBudget": 0}
    elif settings.reasoning_effort is not None:
        generation["thinkingConfig"] = {"thinkingLevel": settings.reasoning_effort}
    return generation


def _calling(settings: Settings) -> Part:
    chosen = settings.chosen_tool
    if chosen is not None:
        return {"mode": "ANY", "allowedFunctionNames": [chosen]}
    return {"mode": _MODES[settings.tool_choice or "auto"]}


def _function(spec: Any) -> Part:
    return {"name": spec.name, "description": spec.description, "parametersJsonSchema": closed(spec.parameters)}


class _Contents:
    """The contents of one request; remembers which calls go by an id."""

    def __init__(self, request: ModelRequest, model: str) -> None:
        self._request = request
        self._must_sign = model.rpartition("/")[2].startswith("gemini-") and not model.rpartition("/")[2].startswith(_SIGNATURES_OPTIONAL)
        self._ids: dict[str, str | None] = {}

    def all(self) -> list[Part]:
        contents: list[Part] = []
        for message in self._request.messages:
            if message.role == "assistant":
                parts = self._answer(message)
                if parts:
                    contents.append({"role": "model", "parts": parts})
            else:
                contents.append({"role": "user", "parts": self._results(message) if message.role == "tool" else self._told(message.parts) or [{"text": EMPTY}]})
        return contents

    def _answer(self, message: Message) -> list[Part]:
        parts: list[Part] = []
        first = True
        for one in message.parts:
            part = self._call(message, one) if isinstance(one, Call) else _spoken(message, one)
            if part is None:
                continue
            if isinstance(one, Call):
                if first and self._must_sign and "thoughtSignature" not in part:  # of calls side by side only the first has one
                    part = {**part, "thoughtSignature": UNSIGNED}
                first = False
            parts.append(part)
        return parts

    def _call(self, message: Message, call: Call) -> Part:
        made = own(message, call.raw, Gemini.name) or {}
        function = {name: value for name, value in object_of(made.get("functionCall")).items() if name != "id" or value}
        named: Part = {"id": call.provider_id or call.id} if function.get("id") else {}
        self._ids[call.id] = text_of(named.get("id")) or None
        arguments: Part = {} if function and call.malformed is None else {"args": dict(call.arguments)}
        return {**made, "functionCall": {**function, **named, "name": name_of(call.name), **arguments}}

    def _results(self, message: Message) -> list[Part]:
        """Answer each call, in order; what a result shows follows behind all of them, because only they may stand together."""
        results: list[Part] = []
        shown: list[Part] = []
        for output in message.parts:
            if not isinstance(output, Output):
                continue
            attached = [part for part in output.content if isinstance(part, Attachment)]
            text = "\n".join(part.text for part in output.content if isinstance(part, Text)) or ("(see the attachment below)" if attached else EMPTY)
            wire_id = self._ids.get(output.call)
            named: Part = {"id": wire_id} if wire_id else {}
            results.append({"functionResponse": {**named, "name": name_of(output.name), "response": {"error" if output.failed else "output": text}}})
            if attached:
                shown += [{"text": f"[Attached by {output.name or output.call}]"}, *self._told(attached)]
        return [*results, *shown]

    def _told(self, parts: Iterable[AnyPart]) -> list[Part]:
        told: list[Part] = []
        for part in parts:
            if isinstance(part, Text) and part.text:
                told.append({"text": part.text})
            elif isinstance(part, Attachment):
                told.append(self._attached(part))
        return told

    def _attached(self, part: Attachment) -> Part:
        kind = kind_of(part)
        if not kind.startswith(("image/", "audio/", "video/", "text/", "application/pdf", "application/json")):
            raise InvalidInput(f"The format gemini cannot carry {kind}.", hint="It takes images, sound, video, PDF documents and text.")
        if part.blob is None and part.url is not None:
            return {"fileData": {"mimeType": kind, "fileUri": part.url}}
        return {"inlineData": {"mimeType": kind, "data": base64_of(self._request, part)}}


def _spoken(message: Message, part: AnyPart) -> Part | None:
    """Return a part of an answer that is no call, or None when it cannot go back."""
    match part:
        case Text(text=text, raw=raw):
            return own(message, raw, Gemini.name) or ({"text": text} if text else None)
        case Reasoning(raw=raw):
            return own(message, raw, Gemini.name)
        case Opaque(opaque=raw):
            item = own(message, raw, Gemini.name)
            return None if item is None or any(name in item for name in _ASIDES) else item
        case _:
            return None


# -- wire → our answer -------------------------------------------------------------------------------------------------


class GeminiReading:
    """An answer on its way: each object brings further parts of the one candidate."""

    def __init__(self) -> None:
        self._parts: list[AnswerPart] = []
        self._growing: list[str] = []
        self._thought = False
        self._reason = ""
        self._said = ""
        self._blocked = ""
        self._asides: Part = {}
        self._usage: Part = {}
        self._model: str | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of an answer came."""
        return bool(self._parts or self._growing)

    @property
    def done(self) -> bool:
        """Whether the provider said why it ended."""
        return bool(self._reason or self._blocked)

    def take(self, data: Any, event: str = "") -> Iterable[Piece]:  # noqa: ARG002  events have no names here
        """Take one object of a stream, or the whole answer."""
        if isinstance(data, list):
            return [piece for one in data for piece in self.take(one)]
        if not isinstance(data, dict):
            return ()
        if data.get("error"):
            raise _reported(data, "", None)
        self._model = text_of(data.get("modelVersion")) or self._model
        self._usage |= {name: value for name, value in object_of(data.get("usageMetadata")).items() if value is not None}
        self._blocked = text_of(object_of(data.get("promptFeedback")).get("blockReason")) or self._blocked
        candidates = [one for one in map(object_of, list_of(data.get("candidates"))) if not one.get("index")]
        return [piece for candidate in candidates for piece in self._candidate(candidate)]

    def reply(self) -> ModelReply:
        """Return the whole answer."""
        if not self.done:
            raise broken_off()
        self._settle()
        calls = any(isinstance(part, Call) for part in self._parts)
        if self._reason in _STUMBLES and not calls:
            raise ModelError(f"The model stumbled: {self._reason}: {self._said}"[:600].rstrip(": "), retryable=True)
        last = self._parts[-1] if self._parts else None
        if self._reason == "MAX_TOKENS" and isinstance(last, Call) and not last.arguments:
            self._parts[-1] = replace(last, malformed=last.malformed or "")  # cut before its arguments: that is not the same as none
        finish: Finish = _FINISH.get(self._reason, "other") if self._reason else "filtered"
        if calls and finish in {"stop", "other"}:
            finish = "calls"
        asides = [Opaque(kept({name: self._asides[name]})) for name in _ASIDES if self._asides.get(name)]
        return ModelReply(parts=(*self._parts, *asides), finish=finish, usage=_usage(self._usage), format=Gemini.name, model=self._model)

    def _candidate(self, candidate: Part) -> Iterable[Piece]:
        self._reason = text_of(candidate.get("finishReason")).replace("FINISH_REASON_UNSPECIFIED", "") or self._reason
        self._said = text_of(candidate.get("finishMessage")) or self._said
        self._asides |= {name: candidate[name] for name in _ASIDES if candidate.get(name)}
        parts = list_of(object_of(candidate.get("content")).get("parts"))
        return [piece for part in parts if isinstance(part, dict) for piece in self._part(part)]

    def _part(self, part: Part) -> Iterable[Piece]:
        if "functionCall" in part:
            self._settle()
            call = _call(part)
            self._parts.append(call)
            return [("arguments", kept(call.arguments))]
        text, thought = part.get("text"), part.get("thought") is True
        if not isinstance(text, str):
            self._settle()
            if part:
                self._parts.append(Opaque(kept(part)))
            return ()
        if thought != self._thought:
            self._settle()
            self._thought = thought
        if set(part) <= {"text", "thought"}:
            self._growing.append(text)
        else:  # something stands beside the text, most often a signature: the part stays by itself
            self._settle()
            if text or part.get("thoughtSignature"):
                self._parts.append(_signed(part, text, thought=thought))
        return [("reasoning" if thought else "text", text)] if text else ()

    def _settle(self) -> None:
        """What grew so far is a part."""
        text = joined(self._growing)
        self._growing = []
        if text:
            self._parts.append(Reasoning(text) if self._thought else Text(text))


def _signed(part: Part, text: str, *, thought: bool) -> AnswerPart:
    if thought:
        return Reasoning(text, kept(part))
    return Text(text, kept(part)) if text else Opaque(kept(part))


def _call(part: Part) -> Call:
    function = object_of(part.get("functionCall"))
    arguments = function.get("args")
    malformed = None if arguments is None or isinstance(arguments, dict) else kept(arguments)
    if function.get("willContinue"):
        malformed = malformed or kept(function)  # arguments in instalments were not asked for, and are not whole
    wire_id = text_of(function.get("id")) or None
    return Call(text_of(function.get("name")), {} if malformed is not None else arguments or {}, provider_id=wire_id, malformed=malformed, raw=kept(part))


def _usage(said: Part) -> Usage:
    taken = count_of(said.get("promptTokenCount")) + count_of(said.get("toolUsePromptTokenCount"))
    thoughts = count_of(said.get("thoughtsTokenCount"))
    cached = min(taken, count_of(said.get("cachedContentTokenCount")))
    return Usage(taken, count_of(said.get("candidatesTokenCount")) + thoughts, cached, 0, thoughts)


def _reported(body: Any, text: str, status: int | None) -> ModelError:
    error = object_of(object_of(body[0] if isinstance(body, list) and body else body).get("error"))
    waits = [text_of(object_of(detail).get("retryDelay")) for detail in list_of(error.get("details"))]
    word, said = text_of(error.get("status")), text_of(error.get("message")) or text
    status = status if status is not None or word else status_of(error.get("code"))  # the word says the same, and more
    return failure(said, status=status, word=word, retry_after=_seconds(next(filter(None, waits), "")))


def _seconds(delay: str) -> float | None:
    """Read a length of time as the provider writes it: `34.5s`."""
    number, unit = delay[:-1], delay[-1:]
    try:
        seconds = float(number) if unit == "s" else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds <= MAX_BACKOFF_SECONDS else None
