"""A question to a person. It waits in the log, over restarts, until somebody answers it from whatever process.

for call in await loop.pending(session):           # call.arguments holds question and options
await loop.settle(session, call.id, Result("blue"), by="ada")
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from power_agent.policy.commands import Nature
from power_agent.tools.define import tool

__all__ = ["ask_person"]


@tool(external=True, nature=Nature(does="reads"))
def ask_person(
    question: Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"\S")],
    options: Annotated[list[str], Field(max_length=20)] | None = None,
) -> str:
    """Ask a person and wait for the answer. Use it when only a person can know or decide; they may take days.

    Args:
        question: What you want to know, with all that is needed to answer it.
        options: Answers to choose from, if there are only some.
    """
    raise NotImplementedError(f"{question!r} is answered by a person: settle the call with Result(answer). {options or ''}")
