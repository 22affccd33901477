"""The bench measures what it says: every workload runs to its end, in a tiny size, and no wall time is judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from shell import piped
from test_cli import GOLDEN, shape

from power_agent.bench import TINY, WORKLOADS, Bound, Figure, measure
from power_agent.bench.figures import compared
from power_agent.bench.scene import NOTES, agent, bodies, talk
from power_agent.cli.bench import table
from power_agent.errors import InvalidInput

COMPARED = {"commit", "turn", "growth", "load", "parallel", "stream", "recover", "import"}


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_workload(workload, tmp_path):
    """Each runs with real files and processes, says what it came to, and leaves nothing behind."""
    told: list[str] = []
    figures = await measure([workload], rounds=1, size=TINY, folder=tmp_path, tell=told.append)
    assert told == [workload]
    assert {figure.workload for figure in figures} == {workload}
    assert len({(figure.name, figure.against) for figure in figures}) == len(figures)
    for figure in figures:
        assert math.isfinite(figure.ours)
        assert figure.ours >= 0
        if workload in COMPARED:
            assert figure.raw is not None
            assert figure.ratio == pytest.approx(figure.ours / figure.raw)
    if workload == "many":
        (failed,) = [figure.ours for figure in figures if figure.name == "turns that failed"]
        assert failed == 0
    assert not list(tmp_path.iterdir())


async def test_the_turn_is_what_is_said(tmp_path):
    """One call, four commits, 1 kB of content."""
    async with agent(tmp_path / "agent.db") as loop:
        await talk(loop, "s", 2)
        kinds = [kept.kind for kept in await loop.history("s") if kept.seq > 10]
        commits = await bodies(loop, "s")
    assert kinds == ["input.received", "turn.started", "model.asked", "model.answered", "call.started", "call.succeeded", "model.asked", "model.answered", "turn.ended"]
    assert [len(commit) for commit in commits] == [3, 2, 2, 2]
    said = [part["text"] for commit in (commits[0], commits[1], commits[3]) for part in json.loads(commit[0])["parts"] if "text" in part]
    assert 950 <= len("".join(said) + NOTES) + 40 <= 1_050


async def test_unknown_workload():
    """A misspelt name is an error, not a table with nothing in it."""
    with pytest.raises(InvalidInput, match="There is no workload 'trun'"):
        await measure(["trun"])
    with pytest.raises(InvalidInput, match="0 rounds"):
        await measure(["turn"], rounds=0)


def test_bounds_are_judged():
    """A ratio is the median of the rounds' ratios; what is over its bound is marked, whichever way is better."""
    slow = compared("w", "slow", [(1.0, 1.0), (9.0, 3.0), (4.0, 1.0)], "raw", Bound(2.5, 1.6))
    assert (slow.ours, slow.raw, slow.ratio, slow.kept, slow.promise) == (4.0, 1.0, 3.0, False, "≤ 2.5× (aim 1.6)")
    assert Figure("w", "quick", "turns/s", 8.0, 2.0, 4.0, bound=Bound(4.0, at_least=True)).kept
    assert not Figure("w", "late", "turns/s", 7.8, 2.0, 3.9, bound=Bound(4.0, at_least=True)).kept
    assert not Figure("w", "large", "kB", 2.5, bound=Bound(2.4, of="ours")).kept
    assert Figure("w", "large", "kB", 2.5).kept
    assert ["NOT KEPT" in line for line in table([slow, Figure("w", "quick", "ms", 1.0, 1.0, 1.0, bound=Bound(2.0))])] == [False, True, False]


def test_from_a_shell(tmp_path):
    """`--json` prints one document in the shape that is pinned; progress goes to stderr; without it there is a table."""
    told = piped("bench", "--tiny", "--rounds", "1", "--only", "commit, fork", "--json", cwd=tmp_path)
    assert told.code == 0, told.err
    assert told.err == "measuring commit …\nmeasuring fork …\n"
    assert shape(told.data) == json.loads(GOLDEN.read_text(encoding="utf-8"))["bench"]
    assert {figure["workload"] for figure in told.data["figures"]} == {"commit", "fork"}
    read = piped("bench", "--tiny", "--rounds", "1", "--only", "commit", cwd=tmp_path)
    assert read.code == 0, read.err
    assert read.out.splitlines()[0].split() == ["figure", "ours", "raw", "ratio", "promise", "against"]
    assert "≤ 2×" in read.out
    assert piped("bench", "--only", "trun", cwd=tmp_path).code == 2
    assert not list(tmp_path.glob(".power-agent-bench-*"))


def test_page_names_every_workload():
    """The README of the bench says what each workload's figures mean."""
    page = (Path(__file__).parent.parent / "power_agent" / "bench" / "README.md").read_text(encoding="utf-8")
    assert [workload for workload in WORKLOADS if f"| **{workload}** |" not in page] == []
