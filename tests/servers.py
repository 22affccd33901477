"""The wire formats from their providers' side, written from the public documentation and without a word of the formats' own code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from power_agent.messages import Call
from power_agent.testing.speaking import Said


def halves(text: str) -> list[str]:
    """Cut a text in two, so that it comes in pieces."""
    return [piece for piece in (text[: len(text) // 2], text[len(text) // 2 :]) if piece]


def arguments(call: Call, said: Said) -> str:
    """Return a call's arguments as text, cut where the answer was."""
    return said.cut_arguments if said.cut_arguments is not None and call is said.calls[-1] else json.dumps(call.arguments)


class ChatServer:
    """OpenAI Chat Completions. `repeats`: the id and the name come with every delta."""

    media_type = "text/event-stream"
    tail = 3
    finishes = {"stop": "stop", "calls": "tool_calls", "length": "length", "filtered": "content_filter"}  # noqa: RUF012

    def __init__(self, *, repeats: bool = False) -> None:
        self.repeats = repeats

    def _call(self, call: Call, text: str) -> dict[str, Any]:
        identity = {"id": call.provider_id} if call.provider_id is not None else {}
        return {**identity, "type": "function", "function": {"name": call.name, "arguments": text}}

    def _usage(self, said: Said) -> dict[str, Any]:
        return {"prompt_tokens": said.usage.input, "completion_tokens": said.usage.output, "total_tokens": 0, "prompt_tokens_details": {"cached_tokens": said.usage.cached}}

    def whole(self, said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message["tool_calls"] = [self._call(call, arguments(call, said)) for call in said.calls]
        choice = {"index": 0, "message": message, "finish_reason": self.finishes[said.finish], "logprobs": None}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": self._usage(said)}

    def stream(self, said: Said) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in halves(said.reasoning)]
        deltas += [{"content": piece} for piece in halves(said.text)]
        for index, call in enumerate(said.calls):
            for number, piece in enumerate(halves(arguments(call, said)) or [""]):
                delta = self._call(call, piece) if number == 0 or self.repeats else {"function": {"arguments": piece}}
                deltas.append({"tool_calls": [{"index": index, **delta}]})
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": self.finishes[said.finish]}]})
        chunks.append({"choices": [], "usage": self._usage(said)})
        return [b"data: " + json.dumps({"id": "x", "model": "m-1", **chunk}, ensure_ascii=False).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]

    def error(self, message: str, *, too_long: bool = False) -> dict[str, Any]:
        return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "context_length_exceeded" if too_long else None}}

    def stream_error(self, message: str) -> bytes:
        return b"data: " + json.dumps({"error": {"message": message, "type": "server_error"}}).encode() + b"\n\n"

    def check(self, body: Mapping[str, Any]) -> None:
        assert isinstance(body["model"], str)
        assert body["messages"]
        waiting: list[str] = []
        for message in body["messages"]:
            role = message["role"]
            if role == "tool":
                waiting.remove(message["tool_call_id"])
                assert isinstance(message["content"], str)
                continue
            assert not waiting, f"without a result: {waiting}"
            assert role in {"system", "user", "assistant"}
            if role == "assistant":
                calls = message.get("tool_calls", [])
                assert calls or isinstance(message["content"], str)
                waiting = [call["id"] for call in calls]
                assert len(set(waiting)) == len(waiting)
                assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
            else:
                assert message["content"]
        assert not waiting

    def results(self, body: Mapping[str, Any]) -> list[str]:
        return [message["content"] for message in body["messages"] if message["role"] == "tool"]


class OllamaServer:
    """Ollama's chat."""

    media_type = "application/x-ndjson"
    tail = 1

    def _call(self, call: Call, said: Said) -> dict[str, Any]:
        identity = {"id": call.provider_id} if call.provider_id is not None else {}
        cut = said.cut_arguments is not None and call is said.calls[-1]
        return {**identity, "function": {"name": call.name, "arguments": said.cut_arguments if cut else call.arguments}}

    def _end(self, said: Said) -> dict[str, Any]:
        return {"done": True, "done_reason": "length" if said.finish == "length" else "stop", "prompt_eval_count": said.usage.input, "eval_count": said.usage.output}

    def whole(self, said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.reasoning:
            message["thinking"] = said.reasoning
        if said.calls:
            message["tool_calls"] = [self._call(call, said) for call in said.calls]
        return {"model": "m-1", "created_at": "now", "message": message, **self._end(said)}

    def stream(self, said: Said) -> list[bytes]:
        messages: list[dict[str, Any]] = [{"content": "", "thinking": piece} for piece in halves(said.reasoning)]
        messages += [{"content": piece} for piece in halves(said.text)]
        messages += [{"content": "", "tool_calls": [self._call(call, said)]} for call in said.calls]
        lines = [{"message": {"role": "assistant", **message}, "done": False} for message in messages]
        lines.append({"message": {"role": "assistant", "content": ""}, **self._end(said)})
        return [json.dumps({"model": "m-1", **line}, ensure_ascii=False).encode() + b"\n" for line in lines]

    def error(self, message: str, *, too_long: bool = False) -> dict[str, Any]:
        return {"error": f"the request exceeds the available context size: {message}; context length 4096" if too_long else message}

    def stream_error(self, message: str) -> bytes:
        return json.dumps({"error": message}).encode() + b"\n"

    def check(self, body: Mapping[str, Any]) -> None:
        assert isinstance(body["stream"], bool)
        waiting = 0
        for message in body["messages"]:
            assert isinstance(message["content"], str)
            if message["role"] == "tool":
                assert message["tool_name"]
                waiting -= 1
                continue
            assert waiting == 0
            assert message["role"] in {"system", "user", "assistant"}
            waiting = len(message.get("tool_calls", []))
            assert all(isinstance(call["function"]["arguments"], dict) for call in message.get("tool_calls", []))
        assert waiting == 0

    def results(self, body: Mapping[str, Any]) -> list[str]:
        return [message["content"] for message in body["messages"] if message["role"] == "tool"]
