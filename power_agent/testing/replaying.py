"""A model that answers from a recorded session, and fails at the first request that differs. The log is the recording.

    power-agent export @last tests/refund.jsonl          # record: run it once with a real model, then export

    async def test_refunds(replay):                      # and from then on, without a network and without a key
        agent = StatefulAgentLoop(replay("tests/refund.jsonl"), tools=[refund], store=":memory:", system=PROMPT)
        async with agent as loop:
            assert (await loop.send("Refund order 42.")).text == "Done."

Requests are compared as the log says they were: system prompt, tools, settings, each part of each message. Tools are run, so what they
return is part of the next comparison. What went wrong in life (a retry after an overload, a crash) is not played again; a request
that failed for good fails again. Requests for summaries are not in the log; they are answered in their order, without a comparison.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from power_agent import events as e
from power_agent.cleaning import as_said
from power_agent.context import render
from power_agent.errors import ImportRefused, ModelError, ReplayDiverged
from power_agent.events import Envelope
from power_agent.messages import Attachment, Call, Message, Opaque, Output, Reasoning, Text
from power_agent.parcel import Header, items
from power_agent.ports import Glimpse, ModelReply, ModelRequest, Record, Store
from power_agent.recall import READ, SEARCH
from power_agent.sink import opened
from power_agent.state import SessionState, evolve
from power_agent.state.found import SEARCH as FIND
from power_agent.store.verify import ChainReader
from power_agent.surroundings import with_surroundings
from power_agent.tools.toolbox import spec_digest
from power_agent.word import Word, replace, word

SHOWN_LINES = 40
"""Of a difference; a whole file that was not expected need not be read."""


@word(kw_only=True, slots=False)
class Recorded(Word):
    """A request as it was recorded, and what came of it in the end."""

    seq: int
    turn: int
    round: int
    model: str
    system: str | None
    tools: Mapping[str, str]
    settings: Mapping[str, JsonValue]
    messages: tuple[Message, ...]
    answer: e.ModelAnswered | e.ModelFailed | None = None

    def __str__(self) -> str:
        return f"event {self.seq}, turn {self.turn}, round {self.round}"


class ReplayModel:
    """Answers what was answered. `diverged` is the first difference that was found, if there is one; `requests` what was asked.

    Where it stands it reads off the request, so that a session that was resumed goes on where its log ends. Where the recorded
    model's window made the loop compact the context, set `context_window` to the same.
    """

    context_window: int | None = None

    def __init__(self, history: Iterable[Envelope]) -> None:
        self._requests, self._summaries = _requests(history)
        self._summarised = 0
        self._furthest = 0
        self.session = ""
        self.name = self._requests[0].model if self._requests else "replay"
        self._names = {one.model for one in self._requests}
        self.requests: list[ModelRequest] = []
        self.diverged: ReplayDiverged | None = None

    def __repr__(self) -> str:
        return f"ReplayModel({self.session!r}, {len(self._requests)} requests)"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read an export; each hash of it is checked."""
        history, reader = list[Envelope](), ChainReader()
        with Path(path).open("rb") as file:
            for item in items(file):
                if isinstance(item, Header) and item.redacted:
                    raise ImportRefused(f"{path} is redacted; there is nothing in it to answer.", hint="Export the session without --redacted.")
                if not isinstance(item, Record):
                    continue
                if wrong := reader.take(item):
                    raise ImportRefused(f"{path}, event {item.seq}: {wrong}")
                history.append(opened(item))
        made = cls(history)
        made.session = reader.state.session
        return made

    @classmethod
    async def of(cls, store: Store, session: str) -> Self:
        """Read a session of a store."""
        made = cls([opened(record) for record in await store.read(session)])
        made.session = session
        return made

    @property
    def left(self) -> int:
        """How many recorded requests were not made yet."""
        return len(self._requests) - self._furthest

    def check(self) -> None:
        """Fail when something differed, or when less was asked than was recorded."""
        if self.diverged is not None:
            raise AssertionError(self.diverged.message)
        if self.left:
            raise AssertionError(f"The recording goes on: {self.left} of {len(self._requests)} requests were never made. The next is at {self._requests[self._furthest]}.")

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        """Compare a request with the recorded one, and answer what was answered; raise `ReplayDiverged` where they differ."""
        self.requests.append(request)
        if request.purpose == "summary":
            return self._summary()
        if request.replies >= len(self._requests):
            raise self._differs(None, f"There is one request more than the {len(self._requests)} that were recorded. It ends with:\n{_last(request)}")
        recorded = self._requests[request.replies]
        if difference := next(_differences(recorded, request, self._names), None):
            raise self._differs(recorded, difference)
        self._furthest = max(self._furthest, request.replies + 1)
        answer = recorded.answer
        if isinstance(answer, e.ModelFailed):
            raise ModelError(as_said(answer.failure.message))
        if answer is None:
            raise self._differs(recorded, "Nothing came of this request: the recording ends here.")
        for part in answer.parts:
            if isinstance(part, Text):
                glimpse("text", part.text)
        return _reply(answer)

    def _summary(self) -> ModelReply:
        if self._summarised >= len(self._summaries):
            raise self._differs(None, f"A summary was asked for; {len(self._summaries)} were recorded.")
        self._summarised += 1
        return _reply(self._summaries[self._summarised - 1])

    def _differs(self, recorded: Recorded | None, what: str) -> ReplayDiverged:
        where = f" at request {self._requests.index(recorded) + 1} of {len(self._requests)} ({recorded})" if recorded is not None else ""
        error = ReplayDiverged(f"It goes another way than the recording of session {self.session!r}{where}.\n{what}", seq=recorded.seq if recorded is not None else 0)
        self.diverged = self.diverged or error
        return error


def _reply(answer: e.ModelAnswered) -> ModelReply:
    """Return an answer as the model gave it: the ids of calls are given anew."""
    parts = tuple(replace(part, id="") if isinstance(part, Call) else part for part in as_said(answer.parts))
    price = {"cost_nano_usd": answer.cost_nano_usd, "price_source": answer.price_source}
    return ModelReply(parts=parts, finish=answer.finish, usage=answer.usage, format=answer.format, model=answer.model, **price)  # type: ignore[arg-type]


# -- what was recorded -------------------------------------------------------------------------------------------------


def _requests(history: Iterable[Envelope]) -> tuple[list[Recorded], list[e.ModelAnswered]]:
    """Return the requests of a history with what came of each in the end, and the summaries."""
    state, found, summaries = SessionState(""), list[Recorded](), list[e.ModelAnswered]()
    open_: Recorded | None = None
    for kept in history:
        purpose = state.request.purpose if state.request is not None else ""
        state = evolve(state, kept)
        match kept.event:
            case e.ModelAsked(purpose="turn") as asked:
                again = open_ is not None and (open_.turn, open_.round) == (asked.turn, asked.round)
                found[-1:] = [] if again else found[-1:]
                open_ = _recorded(kept.seq, asked, state)
                found.append(open_)
            case e.GuardDecided(at="model", verdict="changed", change=dict() as change) if open_ is not None:
                settings = {**open_.settings, **(change.get("settings") or {})}
                open_ = found[-1] = replace(open_, system=change.get("system", open_.system), settings=settings)
            case e.ModelAnswered() as answer if purpose == "summary":
                summaries.append(answer)
            case e.ModelAnswered() | e.ModelFailed() as answer if purpose == "turn" and open_ is not None:
                open_ = found[-1] = replace(open_, answer=answer)
    return found, summaries


def _recorded(seq: int, asked: e.ModelAsked, state: SessionState) -> Recorded:
    config = state.turn.config if state.turn is not None else state.config
    messages = with_surroundings(render(state).messages, asked.context)
    tools = {tool.name: tool.digest for tool in config.tools}
    settings = dict(config.settings)
    return Recorded(seq=seq, turn=asked.turn, round=asked.round, model=asked.model, system=config.system, tools=tools, settings=settings, messages=messages)


# -- how it differs ----------------------------------------------------------------------------------------------------


def _differences(recorded: Recorded, request: ModelRequest, names: Collection[str]) -> Iterator[str]:
    """Yield what differs, the first thing first. Of a chain any model may have answered, here one does: any of their `names` is right."""
    if request.model not in names:
        yield f"The model was {recorded.model}, and is {request.model}."
    if recorded.system != request.system:
        yield _differing("The system prompt differs:", recorded.system or "", request.system or "")
    yield from _of_tools(recorded.tools, {spec.name: spec_digest(spec) for spec in request.tools})
    settings = dict(request.settings or {})
    if dict(recorded.settings) != settings:
        yield _differing("The settings differ:", _json(recorded.settings), _json(settings))
    for place, (was, now) in enumerate(zip(recorded.messages, request.messages, strict=False), 1):
        yield from _of_message(f"Message {place} of {len(request.messages)}", was, now)
    was_many, are_many = len(recorded.messages), len(request.messages)
    if was_many != are_many:
        more, which = (request.messages, "more") if are_many > was_many else (recorded.messages, "less")
        extra = "\n".join(_of_role(message) for message in more[min(was_many, are_many) :])
        yield f"There were {was_many} messages, and are {are_many}. What is {which}:\n{_bounded(extra.splitlines())}"


def _of_tools(recorded: Mapping[str, str], shown: Mapping[str, str]) -> Iterator[str]:
    """Compare tools. None at all are offered in a last request; those that look into what was folded away come by themselves. Of tools
    that are looked for a few are shown, as far as they were found.
    """
    now = {name: digest for name, digest in shown.items() if name not in {READ.name, SEARCH.name, FIND} or name in recorded}
    missing = recorded.keys() - now.keys() if FIND not in shown or FIND in recorded else set[str]()
    if not shown or now == recorded:
        return
    parts = [f"{word}: {', '.join(sorted(names))}" for word, names in (("missing", missing), ("new", now.keys() - recorded.keys())) if names]
    changed = [name for name in recorded if name in now and now[name] != recorded[name]]
    parts += [f"with another description or schema: {', '.join(changed)}"] if changed else []
    if parts:
        yield f"The tools differ: {'; '.join(parts)}."


def _of_message(where: str, was: Message, now: Message) -> Iterator[str]:
    if was.role != now.role:
        yield _differing(f"{where} was of the {was.role}, and is of the {now.role}:", _of_role(was), _of_role(now))
    for place, (one, other) in enumerate(zip(was.parts, now.parts, strict=False), 1):
        if one != other:
            yield _differing(f"{where} ({now.role}), part {place} ({type(other).__name__.lower()}) differs:", _of_part(one), _of_part(other))
    if len(was.parts) != len(now.parts):
        yield _differing(f"{where} ({now.role}) had {len(was.parts)} parts, and has {len(now.parts)}:", _of_role(was), _of_role(now))


def _of_role(message: Message) -> str:
    return f"{message.role}:\n" + "\n".join(_of_part(part) for part in message.parts)


def _of_part(part: Any) -> str:
    """Write a part so that a difference can be read."""
    match part:
        case Text(text=text):
            return text
        case Reasoning(reasoning=text, raw=raw):
            return f"(thought) {text}" + (f"\n{raw}" if raw else "")
        case Call():
            return f"{part.id}: {part.name}({part.malformed if part.malformed is not None else _json(part.arguments)})"
        case Output():
            return f"{part.call} {'failed' if part.failed else 'returned'}:\n" + "\n".join(_of_part(one) for one in part.content)
        case Attachment():
            return f"(attachment) {part.media_type} {part.blob or part.url} {part.name or ''}".rstrip()
        case Opaque(opaque=text):
            return text
    return repr(part)


def _last(request: ModelRequest) -> str:
    return _bounded(_of_role(request.messages[-1]).splitlines()) if request.messages else "(nothing)"


def _differing(what: str, was: str, now: str) -> str:
    lines = list(difflib.unified_diff(was.splitlines(), now.splitlines(), "recorded", "now", lineterm="", n=2))
    if not lines:  # the same words in other parts, or other ends of lines
        lines = [f"- {was!r}", f"+ {now!r}"]
    return f"{what}\n{_bounded(lines)}"


def _bounded(lines: Sequence[str]) -> str:
    more = len(lines) - SHOWN_LINES
    return "\n".join(line[:400] for line in lines[:SHOWN_LINES]) + (f"\n… {more} lines more" if more > 0 else "")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=str)
