"""An event in one line for a person, and in full for a program."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, cast

from power_agent import events as e
from power_agent.cli.saying import Part, one_line, plain
from power_agent.events import Envelope
from power_agent.messages import Attachment, Call, Opaque, Reasoning, Text, Usage
from power_agent.word import Word

STYLES = {
    "input": "green",
    "model": "cyan",
    "call": "yellow",
    "turn": "bold",
    "cancel": "red",
    "session": "magenta",
    "owner": "dim",
    "note": "dim",
    "context": "magenta",
    "guard": "red",
}
LOUD = {"call.failed": "red", "call.doubted": "bold red", "call.denied": "red", "call.approval_asked": "bold yellow", "model.failed": "red"}
STANDING = {"waiting": "bold yellow", "doubted": "bold red", "interrupted": "yellow", "running": "green", "failed": "red", "limit": "yellow"}


def when(at: int) -> str:
    """Return a moment in the person's own time."""
    return dt.datetime.fromtimestamp(at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def exactly(at: int) -> str:
    """Return a moment for a program."""
    return dt.datetime.fromtimestamp(at / 1000, tz=dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def until(deadline: int | None) -> str | None:
    """Return a moment that need not come, for a program."""
    return None if deadline is None else exactly(deadline)


def lasted(ms: float) -> str:
    """Return a duration in the unit that a person would use."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms:.0f} ms"


def ago(at: int, now: int) -> str:
    """Return how long ago something was."""
    return "now" if now - at < 1000 else f"{lasted(now - at)} ago"  # noqa: PLR2004  below a second


def due(deadline: int, now: int) -> str:
    """Say until when somebody is asked, or that nobody is any more."""
    if now < deadline:
        return f"until {when(deadline)}, {lasted(deadline - now)} from now; then it is denied"
    return f"its time ran out {when(deadline)}, {ago(deadline, now)}; the next resume denies it"


def arguments(values: Mapping[str, Any]) -> str:
    """Return a call's arguments as somebody would type them."""
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def said(parts: Iterable[object]) -> str:
    """Return parts of a message on one line."""
    told = []
    for part in parts:
        match part:
            case Text(text=text):
                told.append(text)
            case Reasoning(reasoning=reasoning):
                told.append(f"({reasoning})" if reasoning else "(reasoning)")
            case Call():
                told.append(f"→ {part.name}({part.malformed or arguments(part.arguments)})")
            case Attachment():
                told.append(f"[{part.name or part.url or 'attachment'}, {part.media_type}]")
            case Opaque():
                told.append("[an item of the provider's]")
    return " ".join(told)


def told(event: e.Event | None, tools: Mapping[str, str] | None = None) -> str:  # noqa: C901, PLR0912  one line for each kind of event
    """Return what happened, on one line. `tools` knows the tool of each call."""
    text: str | None
    match event:
        case None:
            text = "(erased)"
        case e.SessionOpened(config=config, parent=parent):
            text = ", ".join(([config.model] if config and config.model else []) + ([f"from {parent.session} at {parent.seq}"] if parent else []))
        case e.SessionConfigured(config=config, title=title):
            text = title or (config.model if config else "")
        case e.OwnerChanged():
            text = f"the last owner had {'released it' if event.why == 'released' else 'died' if event.why == 'dead' else 'let its lease run out'}"
        case e.InputReceived():
            text = said(event.parts) + (f"  [{event.mode}]" if event.mode != "turn" else "") + (f"  (by {event.by})" if event.by else "")
        case e.TurnStarted():
            text = f"turn {event.turn}" + (f", goes on from turn {event.continues}" if event.continues else "")
        case e.TurnEnded():
            why = event.reason or (event.failure.message if event.failure else "")
            text = f"turn {event.turn} {event.status}" + (f": {why}" if why else "")
        case e.ModelAsked():
            text = f"{event.model}, round {event.round}" + (f", attempt {event.attempt}" if event.attempt > 1 else "") + (", for a summary" if event.purpose == "summary" else "")
        case e.ModelAnswered():
            text = said(event.parts)
        case e.ModelFailed():
            text = f"{event.failure.message}" + (" (will be tried again)" if event.not_before else "")
        case e.CallEvent():
            tool = (tools or {}).get(event.call)
            text = f"{event.call}{f' {tool}' if tool else ''}{_call(event)}"
        case e.ContextCompacted():
            text = f"events {event.from_seq} to {event.to_seq}: {event.summary or event.strategy}"
        case e.GuardDecided():
            text = f"{event.guard} {event.verdict} {event.subject or event.at}: {event.reason or ''}"
        case _:
            text = " ".join(str(value) for name in ("text", "reason", "by", "why") if (value := getattr(event, name, None)))
    return one_line(text or "")


def _call(event: e.CallEvent) -> str:
    match event:
        case e.CallApprovalAsked():
            return f": {event.question or event.rule}" + (" (its result is handed in)" if event.external else "")
        case e.CallStarted():
            return (f", attempt {event.attempt}" if event.attempt > 1 else "") + (f" ({event.recovery})" if event.recovery != "ask" else "")
        case e.CallSucceeded():
            output = (
                event.cut.head
                if event.cut
                else said(event.parts)
                if event.parts
                else event.output
                if isinstance(event.output, str)
                else json.dumps(event.output, ensure_ascii=False)
            )
            return f" = {output}" + (f"  (handed in by {event.by})" if event.by else "")
        case e.CallFailed():
            return f": {event.failure.message}"
        case e.CallDoubted():
            return f": {event.reason}"
        case _:
            reason, by = getattr(event, "reason", None), getattr(event, "by", None)
            return (f" by {by}" if by else "") + (f": {reason}" if reason else "")


def in_full(kept: Envelope) -> dict[str, Any]:
    """Return an event for a program: where it stands, and its fields as they are kept."""
    body = json.loads(e.encode(kept.event)) if kept.event is not None else None
    return {"seq": kept.seq, "epoch": kept.epoch, "at": exactly(kept.at), "kind": kept.kind, "position": kept.position, "hash": kept.hash.hex(), "event": body}


def holds(thing: object, needle: str, *, data: bool = False) -> bool:
    """Say whether a piece of text, in small letters, stands in what an event says: in its texts and in `data`, whose names and numbers
    somebody chose. What our own fields are called, what they count, and what is kept by saying nothing, is none of it.
    """
    match thing:
        case str():
            return needle in thing.casefold()
        case Word():
            said = ((getattr(thing, one.name), one) for one in fields(cast("Any", thing)))
            return any(holds(value, needle, data="JsonValue" in str(one.type)) for value, one in said if value != one.default)
        case Mapping():
            return any(holds(name, needle) or holds(value, needle, data=data) for name, value in thing.items())
        case list() | tuple():
            return any(holds(one, needle, data=data) for one in thing)
        case _:
            return data and needle in json.dumps(thing)


def row(kept: Envelope, tools: Mapping[str, str] | None = None) -> list[Part]:
    """Return an event as a row: seq, time, kind, what."""
    style = LOUD.get(kept.kind) or STYLES.get(kept.kind.split(".")[0], "")
    return [f"{kept.seq:>5}  ", (f"{when(kept.at)}  ", "dim"), (f"{kept.kind:<19} ", style), told(kept.event, tools)]


def learn_tools(tools: dict[str, str], kept: Envelope) -> None:
    """Remember which call is of which tool."""
    if isinstance(kept.event, e.ModelAnswered):
        tools.update({part.id: part.name for part in kept.event.parts if isinstance(part, Call)})


def priced(nano_usd: int | None, unpriced: int = 0) -> str:
    """Say what something cost, as far as anybody knows."""
    if nano_usd is None:
        return "unknown"
    return f"${nano_usd / 1e9:.4f}" + (f" and {unpriced} unpriced" if unpriced else "")


def used(usage: Usage) -> str:
    """Return tokens for a person."""
    return f"{usage.total:,} tokens ({usage.input:,} in, {usage.output:,} out)"


def as_data(value: object) -> Any:
    """Return a word as plain data."""
    return plain(value)
