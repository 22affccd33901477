"""Which model and which tools a session has: those of the process that works on it, but in an open turn those the turn began with.

A turn that was interrupted goes on as it began, also in a process that was given another model and more tools since: those come with
the next turn. The log holds names, not code, and no keys. So a tool is what this process has under its name, and a call that
a person was asked about is held to its digest; a model is asked by the name that was recorded where this process's own can stand for it (a member of its chain, another
one of its provider), else its own goes on, a warning says so, and `model.asked` names who was asked. What stands on a shelf of tools
comes and goes while an agent runs, and is as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from power_agent.ports import Model, Tools, ToolSpec
from power_agent.state import SessionState


def answering(model: Model, state: SessionState) -> Model:
    """Return who answers in a session: the model of the open turn where it can be had here, else this process's own."""
    return recorded(model, state) or model


def recorded(model: Model, state: SessionState) -> Model | None:
    """Return the model that the open turn began with; None: this process does not have it."""
    wanted = None if state.turn is None else state.turn.config.model
    if wanted is None or wanted == model.name:
        return model
    another: Callable[[str], Model | None] | None = getattr(model, "another", None)
    return None if another is None else another(wanted)


def offered(tools: Tools, state: SessionState) -> tuple[ToolSpec, ...]:
    """Return what a session's model is shown of these tools."""
    specs_for: Callable[[SessionState], tuple[ToolSpec, ...]] | None = getattr(tools, "specs_for", None)
    specs = tools.specs if specs_for is None else specs_for(state)
    late = too_late(tools, state)
    return tuple(spec for spec in specs if spec.name not in late) if late else specs


def too_late(tools: Tools, state: SessionState) -> Collection[str]:
    """Return the names of tools that the open turn did not begin with."""
    if state.turn is None:
        return ()
    began, now = state.turn.config.tools, tools.refs
    return () if equal(state, "tools", began, now) else {*tools.standing}.difference(one.name for one in began)


def equal(state: SessionState, what: str, one: object, other: object) -> bool:
    """Compare two things that are compared again and again, and are long: of the very same two it is known."""
    known: tuple[object, object] = state.transcript.memo.get(what, (None, None))
    if known[0] is one and known[1] is other:
        return True
    if one != other:
        return False
    state.transcript.memo[what] = one, other
    return True
