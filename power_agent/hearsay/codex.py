"""A rollout of Codex (`~/.codex/sessions/…/rollout-*.jsonl`), read as an account.

Two shapes are known: records with a `payload`, and the older one in which the items stand bare behind a first line. Items that
the model made stand one after the other until something answers them; together they are one answer. What `event_msg` repeats of
them is passed over, except the counts of tokens. Encrypted thoughts keep their text as it came and are never sent.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from power_agent.foreign import ForeignError, parsed
from power_agent.hearsay.account import Account, Answered, Folded, Heard, Item, Records, Resulted, Shown, Strange, at_of, count_of, dict_of, list_of, text_of
from power_agent.messages import AnswerPart, Attachment, Call, Reasoning, Text, Usage
from power_agent.uploads import Upload
from power_agent.word import replace

FORM = "codex"
ENVELOPES = frozenset({"session_meta", "response_item", "event_msg", "turn_context", "compacted"})
ITEMS = frozenset({"message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "local_shell_call"})
ECHOES = frozenset({"user_message", "agent_message", "agent_reasoning", "agent_reasoning_raw_content", "agent_reasoning_section_break", "task_started", "task_complete"})
"""Events that say once more what an item says."""
_DATA = re.compile(r"data:([\w.+/-]+);base64,", re.ASCII)
Record = dict[str, Any]


def is_one(record: Record) -> bool:
    """Say whether a record is of this kind of file."""
    return (text_of(record.get("type")) in ENVELOPES and isinstance(record.get("payload"), dict)) or (text_of(record.get("type")) in ITEMS and "message" not in record)


def read(lines: Iterable[bytes]) -> Account:
    """Read a file. What is not understood is kept, record by record."""
    reading = _Reading()
    for place, (record, line) in enumerate(Records(lines)):
        reading.take(record or {}, line, first=place == 0)
    reading.flush()
    return Account(form=FORM, items=tuple(reading.items), session=reading.session or None, model=reading.model or None, system=reading.system or None, about=reading.about)


class _Reading:
    """What was read so far, and the answer that is being put together."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.session = self.model = self.system = ""
        self.about: dict[str, Any] = {}
        self._parts: list[AnswerPart] = []
        self._at: int | None = None

    def take(self, record: Record, line: str, *, first: bool) -> None:
        """Take a record."""
        kind, payload, at = record.get("type"), dict_of(record.get("payload")), at_of(record.get("timestamp"))
        if kind == "session_meta" or (first and kind is None and "id" in record):
            self._meta(payload or record)
        elif kind == "turn_context":
            self.model = text_of(payload.get("model")) or self.model
        elif kind == "compacted" and text_of(payload.get("message")):
            self.flush()
            self.items.append(Folded(at=at, summary=payload["message"]))
        elif kind == "event_msg" and text_of(payload.get("type")) in ECHOES:
            return
        elif kind == "event_msg" and payload.get("type") == "token_count":
            self._count(dict_of(payload.get("info")))
        elif not self._item(payload if kind == "response_item" else record, at):
            self.items.append(Strange(record=line))

    def flush(self) -> None:
        """End the answer that is being put together."""
        if self._parts:
            self.items.append(Answered(at=self._at, parts=tuple(self._parts), model=self.model or None))
            self._parts = []

    def _meta(self, meta: Record) -> None:
        self.session = text_of(meta.get("id")) or self.session
        self.system = text_of(meta.get("instructions")) or text_of(dict_of(meta.get("base_instructions")).get("text")) or self.system
        self.about |= {name: meta[name] for name in ("cwd", "cli_version", "originator", "model_provider") if isinstance(meta.get(name), str)}

    def _count(self, info: Record) -> None:
        """Let the last answer have the tokens that were counted for it."""
        last = dict_of(info.get("last_token_usage"))
        names = ("input_tokens", "output_tokens", "cached_input_tokens", "", "reasoning_output_tokens")
        usage = Usage(*(count_of(last.get(name)) for name in names))
        if not usage.total:
            return
        self.flush()
        for place in range(len(self.items) - 1, -1, -1):
            answered = self.items[place]
            if isinstance(answered, Answered):
                if not answered.usage.total:
                    self.items[place] = replace(answered, usage=usage)
                return

    def _item(self, item: Record, at: int | None) -> bool:
        match item.get("type"):
            case "message" if item.get("role") == "assistant":
                self._made(at, *(part for part in _content(item.get("content")) if isinstance(part, Text)))
            case "message" if text_of(item.get("role")) in {"user", "developer", "system"}:
                self.flush()
                parts = _content(item.get("content"))
                self.items += [Heard(at=at, parts=parts, by=None if item["role"] == "user" else "harness")] if parts else []
            case "reasoning":
                said = [text_of(one.get("text")) for one in (*list_of(item.get("summary")), *list_of(item.get("content")))]
                self._made(at, Reasoning("\n".join(one for one in said if one), json.dumps(item, ensure_ascii=False)))
            case "function_call":
                self._made(at, _call(text_of(item.get("name")), item.get("arguments"), item))
            case "custom_tool_call":
                self._made(at, _call(text_of(item.get("name")), {"input": item.get("input")}, item))
            case "local_shell_call":
                self._made(at, _call("local_shell", dict_of(item.get("action")), item))
            case "function_call_output" | "custom_tool_call_output":
                self.flush()
                self.items.append(_result(item, at))
            case _:
                return False
        return True

    def _made(self, at: int | None, *parts: AnswerPart) -> None:
        self._parts += parts
        self._at = at if at is not None else self._at


def _call(name: str, arguments: Any, item: Record) -> Call:
    malformed = None
    if isinstance(arguments, str):
        try:
            arguments, malformed = parsed(arguments or "{}"), arguments
        except ForeignError:
            malformed = arguments
    malformed = None if isinstance(arguments, dict) else malformed if malformed is not None else json.dumps(arguments, ensure_ascii=False)
    there = text_of(item.get("call_id")) or text_of(item.get("id"))
    return Call(name or "unnamed", dict_of(arguments), there, there, malformed)


def _result(item: Record, at: int | None) -> Resulted:
    """Read an output: a text, content, a text with whether it was a success, or a JSON text of an older shell."""
    output: Any = item.get("output")
    failed = False
    if isinstance(output, dict):
        failed, output = output.get("success") is False, output.get("content")
    if isinstance(output, str) and output.startswith('{"output":'):
        with suppress(ForeignError):
            failed = failed or count_of(dict_of(dict_of(parsed(output)).get("metadata")).get("exit_code")) != 0
    return Resulted(at=at, id=text_of(item.get("call_id")), parts=_content(output), failed=failed)


def _content(value: Any) -> tuple[Shown, ...]:
    if isinstance(value, str):
        return (Text(value),) if value else ()
    parts: list[Shown] = []
    for one in list_of(value):
        if text := text_of(one.get("text")):
            parts.append(Text(text))
        elif address := text_of(one.get("image_url")):
            parts.append(_picture(address))
    return tuple(parts)


def _picture(address: str) -> Shown:
    found = _DATA.match(address)
    if found is None:
        return Attachment("image/*", url=address)
    try:
        return Upload(b64decode(address[found.end() :], validate=True), found[1])
    except ValueError:
        return Text(f"[{found[1]}, which could not be read]")
