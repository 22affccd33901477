"""A list that the model keeps: its present state is what the last call of the tool said, so the log holds it and nothing else does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from power_agent import events as e
from power_agent.errors import BadArguments
from power_agent.messages import Call
from power_agent.policy.commands import Nature
from power_agent.tools.define import tool

__all__ = ["KINDS", "Item", "todo", "todo_of"]

KINDS = ("model.answered", "call.succeeded")
"""The events that `todo_of` needs: `loop.history(session, kinds=KINDS)`."""
MAX_ITEMS = 200


class Item(BaseModel):
    """One thing to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1, max_length=1_000)
    state: Literal["open", "doing", "done"] = "open"


@tool(recovery="rerun", nature=Nature(does="reads"))
def todo(items: list[Item]) -> list[Item]:
    """Keep a list of what is to be done. Pass the whole list each time, in order; it takes the place of the one before.

    Args:
        items: Everything to be done, each open, doing or done. An empty list clears it.
    """
    if len(items) > MAX_ITEMS:
        raise BadArguments(f"{len(items)} items are too many; {MAX_ITEMS} are possible.")
    return items


def todo_of(kept: Iterable[e.Envelope]) -> tuple[Item, ...]:
    """Return the list as it stands after these events. Also what a summary has taken out of the model's sight counts."""
    ours: set[str] = set()
    items: tuple[Item, ...] = ()
    for one in kept:
        match one.event:
            case e.ModelAnswered(parts=parts):
                ours |= {part.id for part in parts if isinstance(part, Call) and part.name == todo.spec.name}
            case e.CallSucceeded(call=call, output=output) if call in ours and isinstance(output, list):
                items = tuple(Item.model_validate(item) for item in output)
    return items
