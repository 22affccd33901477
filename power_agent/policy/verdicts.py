"""May this call run? Allow, deny, or ask a person: a value, with the rule that said so.

A policy is a function from what is wanted to a verdict. `rules.py` makes one from rules; what a verdict means does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from decimal import Decimal
from typing import Any

from pydantic import JsonValue

from power_agent.errors import InvalidInput
from power_agent.givens import called, is_number
from power_agent.limits import MAX_ASK_SECONDS
from power_agent.word import Word, word


@word()
class Allow(Word):
    """Run it."""

    rule: str = "allow"


@word()
class Deny(Word):
    """A policy's verdict: do not run it, and tell the model why. What a person decides about a waiting call is `power_agent.Deny`."""

    reason: str
    rule: str = "deny"


@word()
class Ask(Word):
    """Wait for a person. After `seconds` without an answer it is denied."""

    question: str | None = None
    rule: str = "ask"
    seconds: float | None = None

    def __post_init__(self) -> None:
        given: object = self.seconds
        seconds = float(given) if isinstance(given, Decimal) else given
        if seconds is not None and not (is_number(seconds) and abs(seconds) <= MAX_ASK_SECONDS):
            raise InvalidInput("Ask(seconds=…) is a number of seconds, a hundred years at most.", hint="Leave it out: then it waits for ever.")


Verdict = Allow | Deny | Ask


@word(kw_only=True)
class Wanted(Word):
    """A call that is about to run. `binds` is what it depends on beside its arguments, as its tool says: the working directory,
    the content of a script. `tainted` says which words the model has seen that anybody may have written, first.
    """

    session: str
    call: str
    tool: str
    arguments: Mapping[str, JsonValue]
    binds: Mapping[str, JsonValue] = field(default_factory=dict)
    tainted: str | None = None


@word()
class Change(Word):
    """A guard's verdict: let it happen, but with this instead: other arguments, other content, other settings."""

    to: Any
    reason: str | None = None


@word()
class Refuse(Word):
    """A guard's verdict: do not let it happen, and say why."""

    reason: str


GuardVerdict = Change | Refuse | None
Policy = Callable[[Wanted], Verdict]
"""Judges a call. It must not have effects: it may be asked again after a restart."""


def judging(policy: Policy) -> Policy:
    """Return what was handed in as a policy, or raise `InvalidInput`: what cannot judge denies everything, or judges nothing."""
    called(policy, "policy", "Pass a plain function of a call that returns Allow(), Deny(…) or Ask(…). A policy cannot wait; a guard may be async.")
    return policy


def allow_all(_: Wanted) -> Verdict:
    """Let everything run: the user's own functions are the user's business."""
    return Allow("default")
