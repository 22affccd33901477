"""Anthropic, OpenAI Responses and Gemini from their providers' side, written from the public documentation and without a word of the formats' own code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from servers import halves

from power_agent.messages import Call
from power_agent.testing.speaking import Said

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def event(value: Mapping[str, Any]) -> bytes:
    """Write a server-sent event that is named by its type."""
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def written(call: Call, said: Said) -> str | None:
    """How far the last call's arguments came, where the answer was cut inside them."""
    return said.cut_arguments if call is said.calls[-1] else None


class AnthropicServer:
    """Anthropic Messages."""

    media_type = "text/event-stream"
    tail = 1
    finishes = {"stop": "end_turn", "calls": "tool_use", "length": "max_tokens", "refused": "refusal"}  # noqa: RUF012

    def _blocks(self, said: Said) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each block as it begins, and its deltas."""
        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        if said.reasoning:
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in halves(said.reasoning)]
            blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, [*deltas, {"type": "signature_delta", "signature": "EqQB+/=="}]))
        if said.text:
            blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in halves(said.text)]))
        for call in said.calls:
            identity = {"id": call.provider_id} if call.provider_id is not None else {}
            text = written(call, said)
            pieces = ["", *halves(json.dumps(call.arguments) if text is None else text)]
            blocks.append(({"type": "tool_use", **identity, "name": call.name, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]))
        return blocks

    def whole(self, said: Said) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for block, deltas in self._blocks(said):
            whole = dict(block)
            for name in ("thinking", "signature", "text"):
                if name in whole:
                    whole[name] = "".join(delta.get(name, "") for delta in deltas)
            content.append(whole)
        for block, call in zip([block for block in content if block["type"] == "tool_use"], said.calls, strict=True):
            block["input"] = call.arguments
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m-1",
            "content": content,
            "stop_reason": self.finishes[said.finish],
            "stop_sequence": None,
            "usage": {"input_tokens": said.usage.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": said.usage.output},
        }

    def stream(self, said: Said) -> list[bytes]:
        begun = {**self.whole(Said()), "stop_reason": None, "usage": {"input_tokens": said.usage.input, "output_tokens": 1}}
        values: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
        for index, (block, deltas) in enumerate(self._blocks(said)):
            values.append({"type": "content_block_start", "index": index, "content_block": block})
            values += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            values.append({"type": "content_block_stop", "index": index})
        ended = {"stop_reason": self.finishes[said.finish], "stop_sequence": None}
        values += [{"type": "message_delta", "delta": ended, "usage": {"output_tokens": said.usage.output}}, {"type": "message_stop"}]
        return [event(value) for value in values]

    def error(self, message: str, *, too_long: bool = False) -> dict[str, Any]:
        said = f"prompt is {message}: 216342 tokens > 200000 maximum" if too_long else message
        return {"type": "error", "error": {"type": "invalid_request_error" if too_long else "api_error", "message": said}, "request_id": "req_1"}

    def stream_error(self, message: str) -> bytes:
        return event({"type": "error", "error": {"type": "overloaded_error", "message": message}})

    def check(self, body: Mapping[str, Any]) -> None:
        assert isinstance(body["model"], str)
        assert isinstance(body["max_tokens"], int)
        assert json.dumps(body).count("cache_control") <= 4
        roles = [message["role"] for message in body["messages"]]
        assert roles == [("user", "assistant")[place % 2] for place in range(len(roles))]
        assert roles[-1] == "user"
        waiting: list[str] = []
        seen: set[str] = set()
        for message in body["messages"]:
            assert message["content"]
            results = [block for block in message["content"] if block["type"] == "tool_result"]
            assert results == message["content"][: len(results)], "results come first"
            assert sorted(result["tool_use_id"] for result in results) == sorted(waiting)
            waiting = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
            assert not seen & set(waiting)
            assert len(set(waiting)) == len(waiting)
            seen |= set(waiting)
            for block in message["content"]:
                self._check(block, message["role"])
        assert not waiting

    def _check(self, block: Mapping[str, Any], role: str) -> None:
        match block["type"]:
            case "text":
                assert block["text"].strip()
            case "tool_use":
                assert role == "assistant"
                assert _NAME.fullmatch(block["id"])
                assert _NAME.fullmatch(block["name"])
                assert isinstance(block["input"], dict)
            case "thinking":
                assert role == "assistant"
                assert block["signature"] == "EqQB+/=="
            case "tool_result":
                assert block["content"]
            case "image":
                assert block["source"]["media_type"] in {"image/jpeg", "image/png", "image/gif", "image/webp"}
            case kind:
                raise AssertionError(kind)

    def results(self, body: Mapping[str, Any]) -> list[str]:
        blocks = [block for message in body["messages"] for block in message["content"] if block["type"] == "tool_result"]
        return [block["content"] if isinstance(block["content"], str) else json.dumps(block["content"]) for block in blocks]


class ResponsesServer:
    """OpenAI Responses, with nothing kept on its side."""

    media_type = "text/event-stream"
    tail = 1

    def _items(self, said: Said) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        if said.reasoning:
            items.append({"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": said.reasoning}], "encrypted_content": "gAAA+/=="})
        if said.text:
            content = {"type": "output_text", "annotations": [], "text": said.text}
            items.append({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [content]})
        for number, call in enumerate(said.calls):
            identity = {"call_id": call.provider_id} if call.provider_id is not None else {}
            text = written(call, said)
            status = "completed" if text is None else "incomplete"
            text = json.dumps(call.arguments) if text is None else text
            items.append({"id": f"fc_{number}", "type": "function_call", "status": status, "arguments": text, **identity, "name": call.name})
        return items

    def whole(self, said: Said) -> dict[str, Any]:
        cut = said.finish == "length"
        return {
            "id": "resp_1",
            "object": "response",
            "status": "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": "m-1",
            "output": self._items(said),
            "usage": {
                "input_tokens": said.usage.input,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": said.usage.output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 0,
            },
        }

    def stream(self, said: Said) -> list[bytes]:
        begun = {**self.whole(Said()), "status": "in_progress", "usage": None}
        values: list[dict[str, Any]] = [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
        for place, item in enumerate(self._items(said)):
            where = {"item_id": item["id"], "output_index": place}
            empty: dict[str, Any] = {"message": {"content": []}, "reasoning": {"summary": []}, "function_call": {"arguments": ""}}[item["type"]]
            values.append({"type": "response.output_item.added", "output_index": place, "item": {**item, **empty, "status": "in_progress"}})
            match item["type"]:
                case "message":
                    kind, pieces = "response.output_text.delta", halves(said.text)
                case "reasoning":
                    kind, pieces = "response.reasoning_summary_text.delta", halves(said.reasoning)
                case _:
                    kind, pieces = "response.function_call_arguments.delta", halves(item["arguments"])
            values += [{"type": kind, **where, "delta": piece} for piece in pieces]
            values.append({"type": "response.output_item.done", "output_index": place, "item": item})
        response = self.whole(said)
        values.append({"type": f"response.{response['status']}", "response": response})
        return [event({**value, "sequence_number": number}) for number, value in enumerate(values)]

    def error(self, message: str, *, too_long: bool = False) -> dict[str, Any]:
        said = f"Your input exceeds the context window of this model: {message}." if too_long else message
        return {"error": {"message": said, "type": "invalid_request_error", "param": "input", "code": "context_length_exceeded" if too_long else None}}

    def stream_error(self, message: str) -> bytes:
        return event({"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 9})

    def check(self, body: Mapping[str, Any]) -> None:
        assert isinstance(body["model"], str)
        assert body["store"] is False
        assert body["input"]
        called, answered = list[str](), list[str]()
        for place, item in enumerate(body["input"]):
            match item["type"]:
                case "message":
                    self._check(item)
                case "function_call":
                    assert item["call_id"]
                    assert _NAME.fullmatch(item["name"])
                    assert isinstance(json.loads(item["arguments"]), dict)
                    called.append(item["call_id"])
                case "function_call_output":
                    assert item["call_id"] in called, "a result without its call"
                    assert item["output"]
                    answered.append(item["call_id"])
                case "reasoning":
                    assert item["encrypted_content"] == "gAAA+/=="
                    assert body["input"][place + 1]["type"] in {"message", "function_call", "reasoning"}
                    assert body["input"][place + 1].get("role") != "user"
                case kind:
                    raise AssertionError(kind)
        assert len(set(called)) == len(called)
        assert sorted(called) == sorted(answered)

    def _check(self, item: Mapping[str, Any]) -> None:
        if isinstance(item["content"], str):
            assert item["content"]
            return
        kinds = {content["type"] for content in item["content"]}
        allowed = {"output_text", "refusal"} if item["role"] == "assistant" else {"input_text", "input_image", "input_file"}
        assert kinds
        assert kinds <= allowed

    def results(self, body: Mapping[str, Any]) -> list[str]:
        outputs = [item["output"] for item in body["input"] if item["type"] == "function_call_output"]
        return [output if isinstance(output, str) else json.dumps(output) for output in outputs]


class GeminiServer:
    """Gemini. It sends calls whole; one that did not get done has no arguments."""

    media_type = "text/event-stream"
    tail = 1

    def _parts(self, said: Said, *, split: bool) -> list[dict[str, Any]]:
        cut = halves if split else lambda text: [text] if text else []
        parts: list[dict[str, Any]] = [{"text": piece, "thought": True} for piece in cut(said.reasoning)]
        parts += [{"text": piece} for piece in cut(said.text)]
        for number, call in enumerate(said.calls):
            function: dict[str, Any] = {"id": call.provider_id} if call.provider_id is not None else {}
            function |= {"name": call.name}
            if written(call, said) is None:
                function["args"] = call.arguments
            parts.append({"functionCall": function, **({"thoughtSignature": "Eq+/"} if number == 0 else {})})
        return parts

    def _answer(self, parts: list[dict[str, Any]], said: Said | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        value: dict[str, Any] = {"candidates": [candidate], "modelVersion": "m-1", "responseId": "r"}
        if said is not None:
            candidate["finishReason"] = {"stop": "STOP", "calls": "STOP", "length": "MAX_TOKENS", "filtered": "SAFETY"}[said.finish]
            value["usageMetadata"] = {"promptTokenCount": said.usage.input, "candidatesTokenCount": said.usage.output, "totalTokenCount": 0}
        return value

    def whole(self, said: Said) -> dict[str, Any]:
        return self._answer(self._parts(said, split=False), said)

    def stream(self, said: Said) -> list[bytes]:
        values = [*(self._answer([part], None) for part in self._parts(said, split=True)), self._answer([{"text": ""}], said)]
        return [b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n" for value in values]

    def error(self, message: str, *, too_long: bool = False) -> dict[str, Any]:
        said = f"The input token count (1048577) exceeds the maximum number of tokens allowed (1048576): {message}" if too_long else message
        return {"error": {"code": 0, "message": said, "status": "INVALID_ARGUMENT" if too_long else "UNKNOWN"}}

    def stream_error(self, message: str) -> bytes:
        return b"data: " + json.dumps({"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}}).encode() + b"\n\n"

    def check(self, body: Mapping[str, Any]) -> None:
        waiting: list[tuple[Any, str]] = []
        assert body["contents"][0]["role"] == "user"
        assert body["contents"][-1]["role"] == "user"
        for content in body["contents"]:
            assert content["parts"]
            assert all(len(part.keys() - {"thought", "thoughtSignature"}) == 1 for part in content["parts"])
            functions = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
            answers = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
            assert [(answer.get("id"), answer["name"]) for answer in answers] == waiting, "each call is answered, in order"
            assert all(isinstance(answer["response"], dict) for answer in answers)
            assert not functions or content["role"] == "model"
            assert all(isinstance(function.get("args", {}), dict) and _NAME.fullmatch(function["name"]) for function in functions)
            waiting = [(function.get("id"), function["name"]) for function in functions]
            ids = [id_ for id_, _ in waiting if id_ is not None]
            assert len(set(ids)) == len(ids)
        assert not waiting

    def results(self, body: Mapping[str, Any]) -> list[str]:
        parts = [part for content in body["contents"] for part in content["parts"] if "functionResponse" in part]
        return [json.dumps(part["functionResponse"]["response"], ensure_ascii=False) for part in parts]
