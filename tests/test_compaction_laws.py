"""Whatever a session looks like and however small its bound: a compaction follows from the log, parts no call from its output,
overlaps with none, makes the context smaller, keeps what it declares, and renders the same once read back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from grammar import envelope
from grammar import history as walk
from hypothesis import given, settings
from hypothesis import strategies as st
from test_context import strict

from power_agent import ScriptedModel
from power_agent import events as e
from power_agent.compaction import Compactor, _Plan
from power_agent.context import cut_places, render
from power_agent.gauge import crude, of_entry
from power_agent.limits import FIRST_SHARE
from power_agent.messages import Text
from power_agent.state import Returned, Said, SessionState, Summed, evolve, fold, freeze, thaw
from power_agent.strategies import SlidingWindow, Summarise, TrimOutputs
from power_agent.tools import Toolbox

CHAINS = {
    "default": None,
    "trim": (TrimOutputs(),),
    "summary": (Summarise(),),
    "window": (SlidingWindow(),),
    "all": (TrimOutputs(), Summarise(), SlidingWindow()),
}
SMALL = 80
"""Tokens that a sentence about what was left out may take itself."""
SEEDS = st.integers(0, 2**20)
TIP = b"\x07" * 32


def history(seed: int, steps: int) -> list[e.Envelope]:
    """Walk; in every other history outputs are large, so that referring to them saves something."""
    kept = walk(seed, steps)
    return kept if seed % 2 else [one._replace(event=_enlarged(one.event)) for one in kept]


def _enlarged(event: e.Event) -> e.Event:
    return replace(event, output="done " * 300) if isinstance(event, e.CallSucceeded) and event.parts is None and event.cut is None else event


def compactor(chain: str, window: int) -> Compactor:
    """Return one for a model with that window, or for one that does not say."""
    model = ScriptedModel([])
    if window:
        model.context_window = window
    return Compactor(model, Toolbox(), strategies=CHAINS[chain])


async def answer(_instructions: str, text: str) -> str:
    """Be the model for summaries."""
    return f"so {len(text)}"


def words(state: SessionState, after: int) -> list[object]:
    """Return the entries behind a seq, which stay as they are."""
    return [entry for entry in state.transcript if entry.seq > after and not isinstance(entry, Summed)]


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.integers(1, 140), st.sampled_from(sorted(CHAINS)), st.sampled_from((0, 40, 90, 200, 500)), st.booleans())
def test_laws(seed: int, steps: int, chain: str, window: int, asked_for: bool):
    """Compact again and again until nothing helps any more, and look at each step."""
    kept = history(seed, steps)
    state = fold(kept)
    one = compactor(chain, window)
    ranges = [(event.event.from_seq, event.event.to_seq) for event in kept if isinstance(event.event, e.ContextCompacted) and event.event.summary is not None]
    for _ in range(60):
        if state.place not in {"idle", "ready"}:
            return
        found = asyncio.run(one.propose(state, answer, request="the request", asked_for=asked_for))
        if isinstance(found, str):
            break
        before, state = state, evolve(state, envelope(state.session, state.seq + 1, found, state.epoch, at=state.at))
        _judge_step(one, before, found, state)
        if found.summary is not None:
            ranges.append((found.from_seq, found.to_seq))
    else:
        raise AssertionError("it goes on for ever")
    if chain in {"all", "window"} and window >= 200:
        left = _Plan(one, state, "", None, asked_for=False).crowded(answer, None)
        foldable = sum(exchange.tokens for exchange in left.exchanges) + sum(map(crude, left.summaries))
        assert one.tokens(state) <= one.bounds(state).soft or foldable <= SMALL, "it fits, or nothing is left that could go"
    assert all(first <= last for first, last in ranges)
    assert all(after[0] > before[1] for before, after in pairwise(ranges))


def test_the_laws_are_looked_at():
    """Random sessions are compacted often enough, in every way, for the laws above to mean something."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        state = fold(history(seed, 140))
        if state.place in {"idle", "ready"}:
            found = asyncio.run(compactor(sorted(CHAINS)[seed % len(CHAINS)], 90).propose(state, answer, asked_for=True))
            seen["none" if isinstance(found, str) else found.strategy] += 1
            seen["replaced"] += bool(not isinstance(found, str) and found.replaces)
    assert all(seen[name] >= 3 for name in ("trim", "summary", "window", "replaced")), seen


def _judge_step(one: Compactor, before: SessionState, found: e.ContextCompacted, after: SessionState) -> None:
    assert one.tokens(before) == found.tokens_before
    assert one.tokens(after) == found.tokens_after
    assert found.tokens_after < found.tokens_before
    assert after.spent == before.spent
    assert (render(before).why_not is None) == (render(after).why_not is None)
    if render(after).why_not is None:
        assert strict(render(after).messages) is None
    assert e.decode(found.kind, e.encode(found)) == found
    assert render(thaw(freeze(after, TIP), TIP)) == render(after)
    if found.summary is None:
        return
    places = cut_places(before)
    assert found.to_seq in places
    assert found.to_seq < places[-1], "the last exchange stays"
    assert words(after, found.to_seq) == words(before, found.to_seq)
    assert found.from_seq > before.compacted_to
    assert all((found.from_seq <= entry.first <= found.to_seq) == (found.from_seq <= entry.seq <= found.to_seq) for entry in before.transcript if isinstance(entry, Returned))
    first = before.transcript[0]
    if not before.compacted_to and isinstance(first, Said) and found.from_seq == 1:
        said = [entry for entry in before.transcript if entry.seq == first.seq]
        assert sum(of_entry(entry, crude) for entry in said) > FIRST_SHARE * min(one.bounds(before).soft or found.tokens_before, found.tokens_before)
    assert len([entry for entry in after.transcript if isinstance(entry, Summed)]) == 1


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(1, 120), st.integers(0, 120), st.sampled_from(("window", "summary")))
def test_at_any_point_and_reopened_it_renders_the_same(seed: int, steps: int, cut: int, chain: str):
    """Compact somewhere in the middle; what is read back from the text that was kept shows the same, to the byte."""
    kept = history(seed, steps)
    prefix = kept[: max(1, cut % len(kept))]
    state = fold(prefix)
    if state.place not in {"idle", "ready"}:
        return
    found = asyncio.run(compactor(chain, 60).propose(state, answer, asked_for=True))
    if isinstance(found, str):
        return
    added = envelope(state.session, state.seq + 1, found, state.epoch, at=state.at)
    live = evolve(state, added)
    said = envelope(state.session, added.seq + 1, e.InputReceived(parts=(Text("go on"),)), state.epoch, at=state.at)
    live = evolve(live, said)
    read_back = fold([*(one._replace(event=e.decode(one.kind, e.encode(one.event))) for one in [*prefix, added, said])])
    assert repr(render(read_back)) == repr(render(live))
    assert read_back == live
