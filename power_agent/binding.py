"""What a call is bound to beside its arguments, and the digest of exactly what will run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from power_agent.messages import Call
from power_agent.ports import Tool
from power_agent.state import Returned, SessionState


def bound_by(tool: Tool, made: Call, state: SessionState | None = None) -> Mapping[str, JsonValue] | None:
    """Return what a call depends on beside its arguments; None where the tool cannot tell."""
    offered = getattr(tool, "binds", None)
    if offered is None:
        return {}
    follows = getattr(tool, "follows", None)
    before = () if follows is None else (_said_before(state, follows),)
    try:
        told: dict[str, JsonValue] = json.loads(json.dumps(dict(offered(made.arguments, *before)), allow_nan=False))
    except Exception:  # noqa: BLE001  whatever it raises, nobody knows what would run
        return None
    return told


def _said_before(state: SessionState | None, name: str) -> Iterator[str]:
    """Yield the texts that a tool's calls of earlier messages returned, the latest first; of one that was cut, its end.

    Siblings do not count: what a call is bound to must not change while it waits for a person.
    """
    if state is None:
        return
    transcript = state.transcript
    entries = (transcript[at] for at in range(len(transcript) - 1, -1, -1))
    for entry in entries:
        for call in reversed(entry.calls) if isinstance(entry, Returned) else ():
            if call.call.name == name and call.outcome is not None:
                text = call.outcome.cut.tail if call.outcome.cut is not None else call.outcome.output
                if isinstance(text, str):
                    yield text


def beside(tool: Tool, made: Call, bound: Mapping[str, JsonValue] | None) -> str | None:
    """Return the digest of what will run though nobody is asked about it, where the arguments do not say it all: of a tool that depends
    on more, or that others made. Of any other, what is looked at before the effect is whether the tool of that name became one of those.
    """
    return digest_of(tool, made, bound) if getattr(tool, "binds", None) is not None or getattr(tool, "foreign", False) else None


def digest_of(tool: Tool, made: Call, bound: Mapping[str, JsonValue] | None) -> str:
    """Return the digest of exactly what will run: the tool as it is described now, the arguments, and what they are bound to."""
    what = _written([tool.spec.name, tool.spec.description, tool.spec.parameters, made.arguments, *([] if bound == {} else [bound])])
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()


_written = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
