"""The model looks into what its context no longer shows: finds words in the log of its own session, and reads events there.

Offered only where something was folded away or cut, which is a question the log answers. Reading has no effects and may be repeated.
Every answer is bounded; a longer one says how to read on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from power_agent import events as e
from power_agent.errors import BadArguments
from power_agent.events import Recovery
from power_agent.limits import MAX_RECALL_HITS, READ_CHUNK_EVENTS, RECALL_CHARACTERS, RECALL_EXCERPT_CHARACTERS
from power_agent.messages import Attachment, Call, Text
from power_agent.ports import ProbeAnswer, Store, Tool, ToolContext, Tools, ToolSpec, Unknown
from power_agent.sink import opened
from power_agent.state import SessionState
from power_agent.word import replace

SPOKEN = ("input.received", "model.answered", "call.succeeded", "call.failed", "context.compacted", "note.added")
SEARCH = ToolSpec(
    name="recall_search",
    description=(
        "Find words in the earlier part of this conversation that is not shown any more: messages, calls and outputs of tools. Gives the newest events with the most of the words."
    ),
    parameters={
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "Words to look for; upper and lower case are the same."},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_RECALL_HITS, "description": "How many events to give."},
        },
        "required": ["query"],
        "additionalProperties": False,
    },
)
READ = ToolSpec(
    name="recall_read",
    description="Read events of this conversation by their seq: one, or a range. Long ones come in parts.",
    parameters={
        "type": "object",
        "properties": {
            "seq": {"type": "integer", "minimum": 1, "description": "The first event."},
            "upto": {"type": "integer", "minimum": 1, "description": "The last event; without it only the first."},
            "call": {"type": "string", "description": "Only the events of this call, for example t3r1c2."},
            "start": {"type": "integer", "minimum": 0, "description": "How many characters to skip, to read on."},
        },
        "required": ["seq"],
        "additionalProperties": False,
    },
)


def to_recall(state: SessionState) -> bool:
    """Say whether there is something that the context does not show in full."""
    return bool(state.compactions or state.cuts)


class Recall:
    """The tools of one loop, and those two where a session has something to recall. A tool of the user's with such a name comes first."""

    def __init__(self, tools: Tools, store: Store) -> None:
        self._tools = tools
        own = (_Search(store), _Read(store))
        self._own: dict[str, Tool] = {one.spec.name: one for one in own if tools.get(one.spec.name) is None}

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name."""
        return self._tools.get(name) or self._own.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loop's own tools."""
        return self._tools.names

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What every session's model is shown."""
        return self._tools.specs

    @property
    def refs(self) -> tuple[e.ToolRef, ...]:
        """What the log says about them."""
        return self._tools.refs

    @property
    def standing(self) -> Collection[str]:
        """The names of those that cannot come and go."""
        return self._tools.standing

    @property
    def own_specs(self) -> tuple[ToolSpec, ...]:
        """How the tools for recalling are shown."""
        return tuple(one.spec for one in self._own.values())

    def specs_for(self, state: SessionState) -> tuple[ToolSpec, ...]:
        """Return what a session's model is shown: a function of the log and the configuration."""
        return (*self.specs, *self.own_specs) if to_recall(state) else self.specs


class OwnTool:
    """What the loop's own tools have in common: they run here, change nothing, and may run again."""

    spec: ToolSpec
    recovery: Recovery = "rerun"
    repeats = True
    """What it returns the session has seen before: it is to be trusted as far as that was."""
    seconds: float | None = None
    external = False
    threaded = False

    def runs(self, idempotency_key: str) -> bool:  # noqa: ARG002
        """Whether an attempt was left behind: none ever is."""
        return False

    async def ask_probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:  # noqa: ARG002
        """Nobody asks: it may run again."""
        return Unknown()

    def check(self, arguments: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Return the arguments, or say what is wrong with them."""
        known: Mapping[str, Any] = self.spec.parameters["properties"]  # type: ignore[assignment]
        required: Sequence[str] = self.spec.parameters["required"]  # type: ignore[assignment]
        wrong = [f"{name!r} is not a parameter" for name in arguments if name not in known]
        wrong += [f"{name!r} is missing" for name in required if name not in arguments]
        for name, value in arguments.items():
            kind = known.get(name, {}).get("type")
            fits = isinstance(value, str) if kind == "string" else isinstance(value, int) and not isinstance(value, bool) and value >= known.get(name, {}).get("minimum", 0)
            if kind is not None and not fits:
                wrong.append(f"{name!r} is not a possible {kind}")
        if wrong:
            raise BadArguments(f"{self.spec.name}: {'; '.join(wrong)}. It was not run.")
        return dict(arguments)


class _Looking(OwnTool):
    """Looks into the log."""

    def __init__(self, store: Store) -> None:
        self._store = store


class _Search(_Looking):
    """Finds words."""

    spec = SEARCH

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        words, limit = set(arguments["query"].casefold().split()), min(arguments.get("limit", MAX_RECALL_HITS), MAX_RECALL_HITS)
        best: list[tuple[int, int, str]] = []
        after, own = 0, set[str]()
        while words:
            records = await self._store.read(context.session, after=after, limit=READ_CHUNK_EVENTS, kinds=SPOKEN)
            if not records:
                break
            after = records[-1].seq
            for record in records:
                text = _of_others(opened(record).event, own)
                found = sum(word in text.casefold() for word in words)
                if found:
                    best.append((found, record.seq, _excerpt(text, words)))
            best = sorted(best, reverse=True)[:limit]
        if not best:
            return f"Nothing in this conversation contains {arguments['query']!r}."
        return "\n\n".join(f"seq {seq}: {text}" for _, seq, text in best)


class _Read(_Looking):
    """Reads events."""

    spec = READ

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        seq, start, call = arguments["seq"], arguments.get("start", 0), arguments.get("call")
        upto = max(arguments.get("upto", seq), seq)
        wanted, passed, text = start + RECALL_CHARACTERS, 0, list[str]()
        for record in await self._store.read(context.session, after=seq - 1, upto=min(upto, seq + READ_CHUNK_EVENTS)):
            event = opened(record).event
            if event is None or record.kind not in SPOKEN or (call is not None and getattr(event, "call", None) != call):
                continue
            piece = f"seq {record.seq}: {await self._whole(context.session, event)}\n\n"
            text.append(piece)
            passed += len(piece)
            if passed > wanted:
                break
        whole = "".join(text).rstrip()
        if start >= len(whole):
            return "There is nothing (more) to read there."
        more = f"\n[… read on with start={wanted} …]" if len(whole) > wanted else ""
        return whole[start:wanted] + more

    async def _whole(self, session: str, event: e.Event) -> str:
        """Return the words of an event, also where they were too many for the context."""
        cut = getattr(event, "cut", None)
        stored = await self._store.blob(session, cut.blob) if cut is not None else None
        return told(event) if stored is None else f"output: {stored.decode(errors='replace')}"


def _of_others(event: e.Event | None, own: set[str]) -> str:
    """Return the words of an event, without those of looking things up: they would be found before what was looked for."""
    if isinstance(event, e.ModelAnswered):
        looked_up = {part.id for part in event.parts if isinstance(part, Call) and part.name in {SEARCH.name, READ.name}}
        own |= looked_up
        event = replace(event, parts=tuple(part for part in event.parts if not isinstance(part, Call) or part.id not in looked_up))
    return "" if event is None or getattr(event, "call", None) in own else told(event)


def told(event: e.Event) -> str:
    """Return the words of an event."""
    match event:
        case e.InputReceived(parts=parts):
            return f"user: {_words(parts)}"
        case e.ModelAnswered(parts=parts):
            return f"assistant: {_words(parts)}"
        case e.CallSucceeded(output=output, parts=parts, cut=cut):
            shown = (
                f"{cut.head}\n…\n{cut.tail}"
                if cut is not None
                else _words(parts)
                if parts is not None
                else output
                if isinstance(output, str)
                else json.dumps(output, ensure_ascii=False)
            )
            return f"output of call {event.call}: {shown}"
        case e.CallFailed(failure=failure):
            return f"call {event.call} failed: {failure.message}"
        case e.ContextCompacted(summary=summary):
            return f"summary: {summary}" if summary else ""
        case e.NoteAdded(text=text):
            return f"note: {text}"
    return ""


def _words(parts: Sequence[object]) -> str:
    shown = []
    for part in parts:
        match part:
            case Text(text=text):
                shown.append(text)
            case Call():
                shown.append(f"[call {part.id}: {part.name}({part.malformed or json.dumps(part.arguments, ensure_ascii=False)})]")
            case Attachment():
                shown.append(f"[attachment {part.name or part.url or part.blob}, {part.media_type}]")
    return "\n".join(shown)


def _excerpt(text: str, words: set[str]) -> str:
    """Return the surroundings of the first word that was found."""
    folded = text.casefold()
    at = min(place for word in words if (place := folded.find(word)) >= 0)
    start = max(at - RECALL_EXCERPT_CHARACTERS // 3, 0)
    end = start + RECALL_EXCERPT_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
