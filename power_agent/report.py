"""What fills a context: the system prompt, the tools, summaries, the history, the last exchange, and what is left free.

The parts are estimated, the whole is measured where a provider has counted; the parts are scaled so that they add up to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

from power_agent.context import cut_places
from power_agent.gauge import Bounds, Count, of_context, of_entry, of_tool
from power_agent.ports import ToolSpec
from power_agent.state import SessionState, Summed
from power_agent.word import Word, word

Category = Literal["summary", "history", "last_exchange"]


@word(kw_only=True)
class MessageWeight(Word):
    """One message of the context: where it stands in the log, what it is, and what it weighs."""

    seq: int
    what: str
    category: Category
    tokens: int


@word(kw_only=True)
class ContextReport(Word):
    """A context by what fills it, in tokens. `measured`: the whole rests on a provider's count. `free` counts to `bound`, above which
    the context is compacted; both are None where nobody knows a bound.
    """

    session: str
    seq: int
    tokens: int
    measured: bool
    window: int | None = None
    bound: int | None = None
    free: int | None = None
    system: int = 0
    tools: int = 0
    summary: int = 0
    history: int = 0
    last_exchange: int = 0
    by_tool: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[MessageWeight, ...] = ()
    compactions: int = 0


def report(state: SessionState, specs: Sequence[ToolSpec], bounds: Bounds, count: Count) -> ContextReport:
    """Return what fills the context of a session."""
    config = state.turn.config if state.turn is not None else state.config
    rough = [count(config.system) if config.system else 0, *(of_tool(spec, count) for spec in specs), *(of_entry(entry, count) for entry in state.transcript)]
    tokens = of_context(state, specs, count)
    system, *rest = _scaled(rough, tokens)
    by_tool, weights = rest[: len(specs)], rest[len(specs) :]
    places = cut_places(state)
    last = places[-2] if len(places) > 1 else state.compacted_to
    messages = tuple(
        MessageWeight(
            seq=entry.seq,
            what=entry.entry,
            category="summary" if isinstance(entry, Summed) else "last_exchange" if entry.seq > last else "history",
            tokens=weight,
        )
        for entry, weight in zip(state.transcript, weights, strict=True)
    )
    sums = {name: sum(one.tokens for one in messages if one.category == name) for name in ("summary", "history", "last_exchange")}
    return ContextReport(
        session=state.session,
        seq=state.seq,
        tokens=tokens,
        measured=bool(state.measured.tokens),
        window=bounds.hard,
        bound=bounds.soft,
        free=None if bounds.soft is None else max(bounds.soft - tokens, 0),
        system=system,
        tools=sum(by_tool),
        by_tool={spec.name: weight for spec, weight in zip(specs, by_tool, strict=True)},
        messages=messages,
        compactions=state.compactions,
        **sums,
    )


def _scaled(parts: Sequence[int], whole: int) -> list[int]:
    """Return parts in the same proportion that add up to a whole."""
    total, passed, given, scaled = sum(parts), 0, 0, list[int]()
    for part in parts:
        passed += part
        upto = round(passed * whole / total) if total else 0
        scaled.append(upto - given)
        given = upto
    return scaled
