"""What tools ask for themselves where nobody wrote a policy: those that say what they do to the world are judged by it.

The user's own functions run: they are the user's business. A toolbox that was not written for one purpose says of each tool whether
it reads, changes or is a shell (`nature`), beneath which `root`, and brings a `judge` of command lines. Reads beneath the root and
command lines that only do that run; everything else is asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from power_agent.policy.rules import Mode, Rules, natures_of
from power_agent.policy.verdicts import Policy, Verdict, Wanted, allow_all


def own_rules(tools: Iterable[object], *, mode: Mode = "on-request") -> Policy:
    """Return the policy that these tools bring along; `policy=own_rules(tools, mode="never-ask")` denies what would be asked."""
    rules = {name: made for one in tools for name, made in _rules_of(one, mode)}

    def judge(wanted: Wanted) -> Verdict:
        return (rules.get(wanted.tool) or late(wanted.tool) or allow_all)(wanted)

    def late(name: str) -> Policy | None:
        """Look for a tool that came later, from a shelf: what it says of itself may be something else each time."""
        get = getattr(tools, "get", None)
        some = tools if get is None else filter(None, [get(name)])
        return next((made for one in some for called, made in _rules_of(one, mode) if called == name), None)

    return judge


def _rules_of(tool: object, mode: Mode) -> Iterator[tuple[str, Rules]]:
    for name in natures_of([tool]):
        yield name, Rules(mode=mode, tools=[tool])
