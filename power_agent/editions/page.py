"""A session as one page of HTML that needs nothing and asks nobody: every event in its place, each to be opened to its exact body.

Whatever stands in the log is escaped, and characters that cannot be seen are shown. The page forbids itself everything else: its
policy allows the one style and the one script it carries (by their digests) and pictures that are `data:`; those are only made
from bytes that begin like the picture they claim to be.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Literal

from power_agent import events as e
from power_agent.context import outcome_for_model
from power_agent.editions.atif import NANO, PICTURES, named
from power_agent.editions.edition import About
from power_agent.editions.retelling import Telling
from power_agent.editions.visible import moment, size, visible
from power_agent.events import Envelope
from power_agent.messages import Attachment, Call, Reasoning, Text, Usage
from power_agent.state import CallState, Outcome
from power_agent.uploads import seen_as

_FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`|\*\*([^*\n]+)\*\*|^#{1,6} ([^\n]+)$", re.MULTILINE)
_TONE = {"call.succeeded": "good", "call.failed": "bad", "call.denied": "bad", "call.aborted": "bad", "call.doubted": "wait", "call.approval_asked": "wait", "model.failed": "bad"}
OPEN_BELOW = 1_500
"""Characters of an output that is shown without being asked for."""
IN_ONE_LINE = 100
"""Characters of arguments that need no box of their own."""


@cache
def _carried(name: str) -> tuple[str, str]:
    """Return a file that the page carries, and what its policy knows it by."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return text, f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


class Page:
    """Writes one page."""

    needs: Literal["event", "tellings", "nothing"] = "event"

    def __init__(self, about: About) -> None:
        self._about = about
        self._names: dict[str, str] = {}
        self._began: dict[str, int] = {}
        self._usage = Usage()
        self._cost: int | None = 0
        self._counts = {"turns": 0, "calls": 0, "answers": 0}
        self._first: int | None = None
        self._last = 0
        self._model = ""

    def begin(self) -> Iterator[str]:
        """Write head, title and setup. The policy stands before anything that it could be about."""
        about, config = self._about, self._about.config
        (style, style_digest), (_, script_digest) = _carried("page.css"), _carried("page.js")
        policy = f"default-src 'none'; style-src {style_digest}; script-src {script_digest}; img-src data:; base-uri 'none'; form-action 'none'"
        yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        title = about.title or f"Session {about.session}"
        yield f"<title>{_safe(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n<header><h1>{_safe(title)}</h1>\n"
        facts = [("session", about.session), ("model", config.model or "unknown"), ("tools", ", ".join(tool.name for tool in config.tools) or "none")]
        yield '<p class="facts">' + " · ".join(f"{name} <b>{_safe(value)}</b>" for name, value in facts) + "</p>\n"
        yield f'<p class="facts">tip {about.seq}:{_safe(about.tip)}</p>\n'
        if config.system:
            yield f"<details><summary>System prompt</summary><pre>{_safe(config.system)}</pre></details>\n"
        yield '</header>\n<nav><input id="search" type="search" placeholder="Search in every event   ( / )" aria-label="Search">'
        yield '<label><input id="plain" type="checkbox"> bookkeeping too</label><span id="found" role="status"></span></nav>\n<section id="log">\n'

    def take(self, kept: Envelope, _tellings: Sequence[Telling], blobs: Mapping[str, bytes]) -> Iterator[str]:
        """Write one event."""
        self._first = kept.at if self._first is None else self._first
        self._last = kept.at
        if isinstance(kept.event, e.ModelAsked):
            self._model = kept.event.model
        yield from _article(kept, *self._shown(kept, blobs))

    def end(self, _tellings: Sequence[Telling], _blobs: Mapping[str, bytes]) -> Iterator[str]:
        """Write the sums, which the style puts above everything, and the script."""
        usage, seconds = self._usage, max(self._last - (self._first or 0), 0) / 1000
        cost = "unknown" if self._cost is None else f"${self._cost / NANO:,.4f}"
        sums = [
            (f"{self._about.seq:,}", "events"),
            *((f"{count:,}", name if count != 1 else name[:-1]) for name, count in self._counts.items()),
            (f"{usage.input:,}", f"tokens in, {usage.cached:,} cached"),
        ]
        sums += [(f"{usage.output:,}", "tokens out"), (cost, "cost"), (_duration(seconds), f"from {moment(self._first or 0)[:16].replace('T', ' ')} UTC")]
        yield '</section>\n<p id="none" hidden>Nothing was found.</p>\n<ul id="sums">' + "".join(f"<li><b>{_safe(value)}</b> {_safe(name)}</li>" for value, name in sums)
        yield f"</ul>\n</main>\n<script>{_carried('page.js')[0]}</script>\n</body>\n</html>\n"

    def _shown(self, kept: Envelope, blobs: Mapping[str, bytes]) -> tuple[str, str]:
        """Return the class of an event's card and what stands in it."""
        match kept.event:
            case e.InputReceived(parts=parts, by=by, mode=mode):
                return "input", _who("User", by or "", mode if mode != "turn" else "") + _said(parts, blobs)
            case e.TurnStarted(turn=turn, continues=continues):
                self._counts["turns"] += 1
                return "turn", f"Turn {turn}" + (f", continuing turn {continues}" if continues else "")
            case e.TurnEnded(status=status, reason=reason, failure=failure) if status != "completed":
                return "ended", _who(f"The turn ended: {status}", tone="bad") + _text((failure.message if failure else "") or reason or "")
            case e.ModelAnswered() as answer:
                return "answer", self._answer(answer, blobs)
            case e.NoteAdded(text=text, why=why):
                return "note", _who("Note from the harness", why) + _text(text)
            case e.ContextCompacted(summary=summary, strategy=strategy, from_seq=first, to_seq=last):
                return "note", _who("The context was made smaller", strategy, f"events {first} to {last}") + _text(summary or "")
            case e.CallEvent() as fact:
                return self._call(kept, fact, blobs)
            case event:
                return _aside(event)

    def _answer(self, answer: e.ModelAnswered, blobs: Mapping[str, bytes]) -> str:
        self._counts["answers"] += 1
        self._usage += answer.usage
        self._cost = None if self._cost is None or answer.cost_nano_usd is None else self._cost + answer.cost_nano_usd
        usage = answer.usage
        cached = f", {usage.cached:,} cached" if usage.cached else ""
        finish = answer.finish if answer.finish not in {"stop", "calls"} else ""
        shown = [_who("Assistant", answer.model or self._model, f"{usage.input:,} tokens in{cached}, {usage.output:,} out", finish)]
        for part in answer.parts:
            if isinstance(part, Reasoning) and part.reasoning:
                shown.append(f"<details><summary>Reasoning</summary>{_text(part.reasoning)}</details>")
            elif isinstance(part, Text | Attachment):
                shown.append(_said((part,), blobs))
            elif isinstance(part, Call):
                self._counts["calls"] += 1
                self._names[part.id] = part.name
                shown.append(_made(part))
        return "".join(shown)

    def _call(self, kept: Envelope, fact: e.CallEvent, blobs: Mapping[str, bytes]) -> tuple[str, str]:
        name, state = self._names.get(fact.call, ""), fact.kind.removeprefix("call.").replace("_", " ")
        if isinstance(fact, e.CallStarted):
            self._began[fact.call] = kept.at
            return "plain", f"<code>{_safe(fact.call)}</code> {_safe(name)} started" + (f", attempt {fact.attempt}" if fact.attempt > 1 else "")
        began = self._began.pop(fact.call, None) if fact.kind in e.TERMINAL else None
        took = _duration((kept.at - began) / 1000) if began is not None else ""
        parts = _outcome(fact)
        text = "\n".join(part.text for part in parts if isinstance(part, Text))
        head = f'<b>{_safe(name)}</b> <code>{_safe(fact.call)}</code> <span class="{_TONE.get(fact.kind, "")}">{state}</span>'
        head += "".join(f" · {_safe(one)}" for one in (took, size(len(text.encode())) if text else "") if one)
        if not text and not parts:
            return "outcome", f'<p class="who">{head}</p>'
        attached = _said([part for part in parts if isinstance(part, Attachment)], blobs)
        return "outcome", f"<details{' open' if len(text) < OPEN_BELOW else ''}><summary>{head}</summary><pre>{_safe(text)}</pre></details>{attached}"


def _made(call: Call) -> str:
    """Show a call: in one line where it is short."""
    head = f"<b>{_safe(call.name)}</b> <code>{_safe(call.id)}</code>"
    arguments = call.malformed if call.malformed is not None else json.dumps(dict(call.arguments), ensure_ascii=False)
    if len(arguments) <= IN_ONE_LINE and "\n" not in arguments:
        return f'<div class="call"><span>{head} <code>{_safe(arguments)}</code></span></div>'
    arguments = call.malformed if call.malformed is not None else json.dumps(dict(call.arguments), ensure_ascii=False, indent=2)
    return f'<div class="call"><details open><summary>{head}</summary><pre>{_safe(arguments)}</pre></details></div>'


def _aside(event: e.Event | None) -> tuple[str, str]:
    match event:
        case e.ModelFailed(failure=failure):
            return "ended", _who("The attempt failed", failure.code, tone="bad") + _text(failure.message)
        case e.CancelAsked(reason=reason, by=by):
            return "ended", _who("Cancelled", by or "", tone="wait") + _text(reason)
        case None:
            return "plain", "erased"
    return "plain", ""


def _outcome(fact: e.CallEvent) -> Sequence[Text | Attachment]:
    """Return what a call's fact says: its output, or who decided what and why."""
    match fact:
        case e.CallSucceeded(output=output, parts=parts, cut=cut):
            return outcome_for_model(CallState(Call(""), "succeeded", outcome=Outcome(output=output, parts=parts, cut=cut)))
        case e.CallFailed(failure=failure, cut=cut):
            return outcome_for_model(CallState(Call(""), "failed", outcome=Outcome(failure=failure, cut=cut)))
        case e.CallApprovalAsked(question=question, rule=rule):
            return (Text(question or f"Asked by the rule {rule}."),)
    words = [str(said) for said in (getattr(fact, "by", None), getattr(fact, "reason", None)) if said]
    return (Text(": ".join(words)),) if words else ()


def _article(kept: Envelope, kind: str, shown: str) -> Iterator[str]:
    """Write one event: where it stands, what is worth showing of it, and all of it to be opened."""
    body = json.dumps(json.loads(e.encode(kept.event)), ensure_ascii=False, indent=2) if kept.event is not None else "The body was erased; its digest is in the chain."
    when = moment(kept.at)
    yield f'<article id="e{kept.seq}" class="{kind}"><a href="#e{kept.seq}" title="{when}"><b>{kept.seq}</b>{when[11:19]}</a><div class="card">{shown}'
    yield f'<details class="raw"><summary>{_safe(kept.kind)}</summary><pre>{_safe(body)}</pre></details></div></article>\n'


def _who(name: str, *more: str, tone: str = "") -> str:
    who = f'<b class="{tone}">{_safe(name)}</b>' if tone else f"<b>{_safe(name)}</b>"
    return f'<p class="who">{who}' + "".join(f"<span>{_safe(one)}</span>" for one in more if one) + "</p>"


def _said(parts: Sequence[object], blobs: Mapping[str, bytes]) -> str:
    return "".join(_text(part.text) if isinstance(part, Text) else _picture(part, blobs) for part in parts if isinstance(part, Text | Attachment))


def _picture(part: Attachment, blobs: Mapping[str, bytes]) -> str:
    """Show a picture that is one; anything else is named. Nothing is ever fetched."""
    content = blobs.get(part.blob or "", b"")
    kind = next((name for name in seen_as(content) if name in PICTURES), "") if content else ""
    if not kind:
        return f'<div class="text">{_safe(named(part))}</div>'
    return f'<img alt="{_safe(part.name or part.media_type)}" src="data:{kind};base64,{b64encode(content).decode()}">'


def _text(text: str) -> str:
    """Show prose: fences, code, bold and headings are recognised, after everything was escaped; nothing else is."""
    if not text.strip():
        return ""
    safe, shown, end = _safe(text.strip("\n")) + "\n", list[str](), 0
    for found in _FENCED.finditer(safe):
        shown += [_INLINE.sub(_inline, safe[end : found.start()].rstrip("\n")), f"<pre>{found[1].rstrip()}</pre>"]
        end = found.end()
    shown.append(_INLINE.sub(_inline, safe[end:].strip("\n")))
    return f'<div class="text">{"".join(shown)}</div>'


def _inline(found: re.Match[str]) -> str:
    code, bold, heading = found.groups()
    return f"<code>{code}</code>" if code is not None else f"<strong>{bold}</strong>" if bold is not None else f"<h3>{heading}</h3>"


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004  a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _safe(text: str) -> str:
    return escape(visible(text), quote=True)
