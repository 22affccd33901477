"""The tables of legal moves as Mermaid diagrams, so that the picture in the documentation cannot drift from the code."""

from __future__ import annotations

from collections.abc import Mapping

from power_agent.state import CALL_MOVES, MOVES, RESOLVED


def call_diagram() -> str:
    """Draw the life of one tool call."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for place, moves in CALL_MOVES.items():
        for kind, to in moves.items():
            arrows.setdefault((place, to), []).append(kind.removeprefix("call."))
    ends = [f"    {place} --> [*]" for place in CALL_MOVES if place in RESOLVED]
    return _drawn("requested", arrows, ends)


def session_diagram() -> str:
    """Draw where a session can stand. What leaves it where it is, and a fork's first event, are left out."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for place, moves in MOVES.items():
        for kind, targets in moves.items():
            for to in targets:
                if to != place and (kind != "session.opened" or place == "unborn"):
                    arrows.setdefault((place, to), []).append("call.*" if kind.startswith("call.") else kind)
    return _drawn("unborn", arrows, ["    erased --> [*]"])


def _drawn(first: str, arrows: Mapping[tuple[str, str], list[str]], ends: list[str]) -> str:
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {first}"]
    lines += [f"    {here} --> {there}: {', '.join(dict.fromkeys(kinds))}" for (here, there), kinds in arrows.items()]
    return "\n".join(lines + ends)
