"""Who was at work when: the model, each tool, and the waits for a person, as lanes side by side."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from power_agent import events as e
from power_agent.cli.saying import fancy, voice, width
from power_agent.cli.telling import lasted, when
from power_agent.events import Envelope

_STYLES = {"model": "cyan", "tool": "yellow", "wait": "magenta"}
_MARKS = {"model": "█", "tool": "▓", "wait": "░"}
_WIDTH = 100


class Span(NamedTuple):
    """Something that took time. Without `to_seq` it had not ended by the last event."""

    turn: int
    lane: str
    name: str
    from_seq: int
    to_seq: int | None
    start_ms: int
    end_ms: int
    ended: str


def spans(history: Iterable[Envelope], tools: Mapping[str, str]) -> list[Span]:
    """Pair beginnings with ends."""
    reader, last = _Reader(tools), None
    for kept in history:
        reader.take(kept)
        last = kept
    return reader.finished(last)


class _Reader:
    """Walks the events and keeps what has begun."""

    def __init__(self, tools: Mapping[str, str]) -> None:
        self._tools = tools
        self._turn = 0
        self._open: dict[tuple[str, str], tuple[int, str, Envelope]] = {}
        self._done: list[Span] = []

    def take(self, kept: Envelope) -> None:
        """Take one event."""
        match kept.event:
            case e.TurnStarted(turn=turn):
                self._turn = turn
                self._begin("turn", f"turn {turn}", kept, "")
            case e.TurnEnded(status=status):
                for lane, key in list(self._open):
                    self._end(lane, kept, status, key)
            case e.ModelAsked(model=model):
                self._begin("model", model, kept, "")
            case e.ModelAnswered() | e.ModelFailed():
                self._end("model", kept, kept.kind.removeprefix("model."), "")
            case e.CallApprovalAsked(call=call) | e.CallDoubted(call=call):
                self._end("tool", kept, "doubted", call)
                self._begin("wait", self._tools.get(call, call), kept, call)
            case e.CallStarted(call=call):
                self._end("wait", kept, "started", call)
                self._begin("tool", self._tools.get(call, call), kept, call)
            case e.CallEvent(call=call):
                for lane in ("wait", "tool"):
                    self._end(lane, kept, kept.kind.removeprefix("call."), call)
            case _:
                pass

    def _begin(self, lane: str, name: str, kept: Envelope, key: str) -> None:
        self._end(lane, kept, "again", key)
        self._open[lane, key] = self._turn, name, kept

    def _end(self, lane: str, kept: Envelope, how: str, key: str) -> None:
        if (begun := self._open.pop((lane, key), None)) is not None:
            turn, name, first = begun
            self._done.append(Span(turn, lane, name, first.seq, kept.seq, first.at, max(kept.at, first.at), how))

    def finished(self, last: Envelope | None) -> list[Span]:
        """Return all spans in the order of their beginnings."""
        rest = [Span(turn, lane, name, first.seq, None, first.at, max(last.at if last else first.at, first.at), "open") for (lane, _), (turn, name, first) in self._open.items()]
        return sorted(self._done + rest, key=lambda span: (span.turn, span.from_seq))


def show_timeline(found: list[Span]) -> None:
    """Draw a turn at a time, as wide as it took long."""
    room = shutil.get_terminal_size((_WIDTH, 24)).columns if fancy(sys.stdout) else _WIDTH
    for turn in sorted({span.turn for span in found}):
        inside = [span for span in found if span.turn == turn]
        whole = next((span for span in inside if span.lane == "turn"), None)
        begin, end = min(span.start_ms for span in inside), max(span.end_ms for span in inside)
        ended = whole.ended if whole else ""
        voice.line((f"turn {turn}", "bold"), f"  {when(begin)}  {lasted(end - begin)}  {ended}")
        lanes = list(dict.fromkeys((span.lane, span.name) for span in inside if span.lane != "turn"))
        label = max((width(_label(*lane)) for lane in lanes), default=0)
        columns = max(room - label - 14, 10)
        for lane in lanes:
            bars = [span for span in inside if (span.lane, span.name) == lane]
            took = sum(span.end_ms - span.start_ms for span in bars)
            drawn = _drawn(bars, begin, max(end - begin, 1), columns)
            voice.line(f"  {_label(*lane)}{' ' * (label - width(_label(*lane)))} ", (drawn, _STYLES[lane[0]]), f" {lasted(took)}")


def _label(lane: str, name: str) -> str:
    return f"wait {name}" if lane == "wait" else name


def _drawn(bars: list[Span], begin: int, took: int, columns: int) -> str:
    """Return a lane; whatever happened is seen, however short it was."""
    cells = ["·"] * columns
    for span in bars:
        first = min((span.start_ms - begin) * columns // took, columns - 1)
        after = max(-(-(span.end_ms - begin) * columns // took), first + 1)
        cells[first:after] = _MARKS[span.lane] * (min(after, columns) - first)
    return "".join(cells)
