"""Gatekeepers: what each provider checks in a request before it takes it."""

from __future__ import annotations

import json
from typing import Any


def anthropic(made: dict[str, Any]) -> None:
    """What the provider checks: roles in turn, content that is not empty, each call answered directly, ids once, at most four marks."""
    turns = made["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    ids: set[str] = set()
    due: list[Any] = []
    for turn in turns:
        blocks = turn["content"]
        assert blocks
        if turn["role"] == "user":
            assert [one["tool_use_id"] for one in blocks[: len(due)]] == due
            assert all(one["type"] in {"text", "image", "document"} for one in blocks[len(due) :])
        due = []
        for one in blocks:
            assert one["type"] != "text" or one["text"].strip()
            if one["type"] == "tool_use":
                assert one["id"] not in ids
                assert one["name"]
                assert isinstance(one["input"], dict)
                ids.add(one["id"])
                due.append(one["id"])
            if one["type"] == "thinking":
                assert one["signature"]
        assert blocks[-1]["type"] != "thinking"
    assert json.dumps(made).count("cache_control") <= 4


def openai_responses(made: dict[str, Any]) -> None:
    """What the provider checks: each call answered directly, ids once, reasoning that leads to something, content that is not empty."""
    ids: set[str] = set()
    due: list[Any] = []
    items = made["input"]
    for item, following in zip(items, [*items[1:], {}], strict=True):
        kind = item["type"]
        if kind == "function_call_output":
            due.remove(item["call_id"])
            assert item["output"]
            continue
        if kind == "function_call":
            assert item["call_id"] not in ids
            assert isinstance(json.loads(item["arguments"]), dict)
            ids.add(item["call_id"])
            due.append(item["call_id"])
        elif item.get("role") == "user":
            assert not due
        assert kind != "custom_tool_call"
        assert kind != "message" or item["content"]
        assert kind != "reasoning" or following.get("type") not in {None, "function_call_output"}
        assert kind != "reasoning" or following.get("role") != "user"
    assert not due


def gemini(made: dict[str, Any]) -> None:
    """What the provider checks: as many results as calls, by name and directly behind them, parts that are not empty."""
    contents = made["contents"]
    due: list[Any] = []
    assert contents[0]["role"] == contents[-1]["role"] == "user"
    for content in contents:
        assert content["parts"]
        results = [(part["functionResponse"].get("id"), part["functionResponse"]["name"]) for part in content["parts"] if "functionResponse" in part]
        assert results == due
        assert all(part["functionResponse"]["response"] for part in content["parts"] if "functionResponse" in part)
        due = [(part["functionCall"].get("id"), part["functionCall"]["name"]) for part in content["parts"] if "functionCall" in part]
        assert not due or content["role"] == "model"
        ids = [wire_id for wire_id, _ in due if wire_id]
        assert len(ids) == len(set(ids))
        assert all(part.get("text") != "" or part["thoughtSignature"] for part in content["parts"])
        assert not any("groundingMetadata" in part for part in content["parts"])
    assert not due


GATEKEEPERS = {"anthropic": anthropic, "openai-responses": openai_responses, "gemini": gemini}
