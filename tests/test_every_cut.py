"""Every cut: the log of a story, cut behind every event and resumed, comes to the same end.

The world behind each cut is the one in which only recorded effects happened, and then the one in which everything that had been
started happened too: the log alone cannot tell them apart, a person who looks can.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest
import story
from story import LINES, MESSAGES, SESSION, World

from power_agent import Sink, SQLiteStore, Text
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock
from power_agent.events import TERMINAL, InputReceived
from power_agent.ports import Append, Kept

log = logging.getLogger(__name__)


class Told(NamedTuple):
    """A story that was told without a fault."""

    path: Path
    world: World
    came_to: list[tuple[object, ...]]
    facts: list[story.Fact]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    """A busy model is asked again at once."""
    monkeypatch.setattr("power_agent.drive.attempts.backoff", lambda _attempt: 0.001)


@pytest.fixture(params=["function", "list"])
def said(request):
    """The script, once as a function of `request.replies` and once as a list."""
    return story.script if request.param == "function" else LINES


@pytest.fixture
async def told(tmp_path, said):
    """Tell the story once, to its end."""
    path, world = tmp_path / "whole.db", World(tmp_path / "world")
    async with story.agent(path, world, said=said) as loop:
        came_to = story.outcomes(await story.tell(loop, world))
    return Told(path, world, came_to, everything(story.judge(path, world)))


def everything(rows: list[story.Raw]) -> list[story.Fact]:
    """Return what was kept of the session and of its branch; the branch came last."""
    assert [row.session for row in rows] == sorted(row.session for row in rows)
    return story.facts_of(rows, SESSION) + story.facts_of(rows, SESSION + story.FORK)


def done_in(world: World) -> list[dict[str, object]]:
    """Return what happened, in the session and in its branch."""
    return world.lines(SESSION) + world.lines(SESSION + story.FORK)


@pytest.fixture
async def empty(tmp_path):
    """A store in which nothing has happened."""
    async with SQLiteStore(tmp_path / "empty.db"):
        pass
    return tmp_path / "empty.db"


def cut(told: Told, empty: Path, path: Path, n: int) -> Path:
    """Build the log that ends with event n: the very rows of the whole one, put in by plain SQL past the project's code."""
    shutil.copy(empty, path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ATTACH ? AS whole", (str(told.path),))
        for number, name, base, parent in db.execute(
            "SELECT id, name, base, parent FROM whole.session WHERE id IN (SELECT session FROM whole.event WHERE pos <= ?)", (n,)
        ).fetchall():
            tip = db.execute("SELECT hash FROM event WHERE session = ? AND seq = ?", (parent, base)).fetchone() or (b"",)
            db.execute(
                "INSERT INTO session (id, name, head, tip, epoch, owner, deadline, base, parent) VALUES (?, ?, ?, ?, 0, NULL, 0, ?, ?)", (number, name, base, *tip, base, parent)
            )
            db.execute("INSERT INTO event SELECT * FROM whole.event WHERE pos <= ? AND session = ? ORDER BY pos", (n, number))
        db.execute("INSERT INTO blob SELECT * FROM whole.blob WHERE session IN (SELECT id FROM main.session)")  # garbage, as after a crash between the two
        db.commit()
        heads = db.execute("SELECT head, tip FROM session ORDER BY id DESC LIMIT 1").fetchone()
        assert heads == db.execute("SELECT seq, hash FROM event ORDER BY pos DESC LIMIT 1").fetchone()
    return path


def calls_at(facts: list[story.Fact], n: int) -> tuple[set[str], set[str]]:
    """Return the calls that had been started, and those that had ended, by event n."""
    started = {fact.body["call"] for fact in facts[:n] if fact.kind == "call.started"}
    return started, {fact.body["call"] for fact in facts[:n] if fact.kind in TERMINAL} & started


async def resume_and_judge(told: Told, path: Path, world: World, n: int, *, said: object = story.script) -> list[story.Fact]:
    """Tell what is left of the story in a new loop, and judge what came of it; return what was added."""
    before = story.scenes.raw(path)
    at_the_cut = {line["call"] for line in done_in(world)}
    effects_at_the_cut = {(line["call"], line["attempt"]) for line in done_in(world)}
    async with story.agent(path, world, said=said) as loop:
        results = await story.tell(loop, world)
        wrong = [sentence async for sentence in loop.verify()]
        assert story.outcomes(results) == told.came_to
        assert wrong == []
    after = story.judge(path, world)
    assert set(before) <= set(after), "what was kept stays, to the byte"
    _, ended = calls_at(told.facts, n)
    added = [line for line in done_in(world) if (line["call"], line["attempt"]) not in effects_at_the_cut]
    assert not ended & {line["call"] for line in added}, "a finished sibling ran again"
    careful = {line["call"] for line in added if line["tool"] in {"pay", "wire", "ship", "mail"}}
    assert not careful & at_the_cut, "what had happened was done again"
    known = {(row.session, row.seq) for row in before}
    return [fact for name in (SESSION, SESSION + story.FORK) for fact in story.facts_of(after, name) if (name, fact.seq) not in known]


async def test_every_cut_where_only_what_is_recorded_happened(told, empty, tmp_path, said):
    """Started and not recorded, and it did not happen: settled with that truth, it runs now, and the end is the same."""
    kinds = set()
    for n in range(1, len(told.facts) + 1):
        _, ended = calls_at(told.facts, n)
        world = told.world.copy(tmp_path / f"world-{n}", keep=ended)
        kinds |= {fact.kind for fact in await resume_and_judge(told, cut(told, empty, tmp_path / f"{n}.db", n), world, n, said=said)}
    assert len(told.facts) >= 75
    assert {"call.doubted", "call.retried", "owner.changed"} <= kinds
    log.info("cuts: %s", len(told.facts))


async def test_every_cut_where_all_that_was_started_happened(told, empty, tmp_path, said):
    """Started and not recorded, but it happened: nothing of it is done again, unless it is harmless or the outside knows its key."""
    handed_in = 0
    for n in range(1, len(told.facts) + 1):
        started, _ = calls_at(told.facts, n)
        world = told.world.copy(tmp_path / f"world-{n}", keep=started)
        added = await resume_and_judge(told, cut(told, empty, tmp_path / f"{n}.db", n), world, n, said=said)
        handed_in += sum(fact.kind == "call.succeeded" and fact.body.get("by") in {"ada", "probe"} for fact in added)
        assert not any(fact.kind == "call.retried" and fact.body["by"] in {"ada", "probe"} for fact in added), "the truth was known, and it was not: again"
    assert handed_in >= 12
    log.info("cuts: %s, results handed in: %s", len(told.facts), handed_in)


async def test_a_cut_behind_the_first_input_is_resumed_by_resume_alone(told, empty, tmp_path):
    """An input that was kept gets its turn although none was ever started: `resume` finds it by folding, without a new `send`."""
    path, world = cut(told, empty, tmp_path / "cut.db", 2), World(tmp_path / "cut-world")
    async with story.agent(path, world, said=story.LINES) as loop:
        result = await story.settle_truthfully(loop, SESSION, world)
        assert (result.turn, result.status, result.input_seq) == (1, "completed", 2)


async def test_nobody_but_the_resumer_acts(told, empty, tmp_path):
    """Opening a cut log, looking at it and verifying it adds nothing."""
    for n in range(1, len(told.facts) + 1, 7):
        path, world = cut(told, empty, tmp_path / f"{n}.db", n), World(tmp_path / f"world-{n}")
        before = story.scenes.raw(path)
        async with story.agent(path, world) as loop:
            await loop.pending(SESSION)
            await loop.history(SESSION)
            await loop.messages(SESSION)
            assert [sentence async for sentence in loop.verify()] == []
        assert story.scenes.raw(path) == before
        assert world.lines(SESSION) == []


async def test_a_waiting_cut_resumed_again_and_again_writes_nothing(told, empty, tmp_path):
    """Still waiting for the same person: the same pending calls, and no event."""
    asked = next(fact.seq for fact in told.facts if fact.kind == "call.approved") - 1
    path, world = cut(told, empty, tmp_path / "cut.db", asked), told.world.copy(tmp_path / "cut-world", keep=calls_at(told.facts, asked)[1])
    seen = []
    for _ in range(3):
        async with story.agent(path, world) as loop:
            result = await loop.resume(SESSION)
            seen.append((result.status, [(call.id, call.state) for call in result.pending], len(story.scenes.raw(path))))
    assert seen == [("waiting", [("t1r2c1", "waiting")], asked)] * 3


class MovingStore(SQLiteStore):
    """A store in which somebody else adds a fact just before the owner's first commit that doubts a call."""

    moved = False

    async def append(self, request: Append) -> Kept:
        if not self.moved and any(fact.kind == "call.doubted" for fact in request.facts):
            self.moved = True
            sink = Sink(self, SystemClock(), SystemChance(), "somebody")
            await sink.report(await sink.load(request.session), [InputReceived(parts=(Text("By the way."),), mode="queue")])
        return await super().append(request)


async def test_a_fact_from_outside_in_the_middle_of_recovery(told, empty, tmp_path, said):
    """The head moves while a recovery is being written: it is decided anew, and what the tools promised is settled in the same `resume`."""
    n = max(fact.seq for fact in told.facts if fact.kind == "call.started" and fact.body["call"].startswith("t1r1"))
    path, world = cut(told, empty, tmp_path / "cut.db", n), World(tmp_path / "cut-world")
    async with MovingStore(path) as store:
        loop = story.agent(store, world, said=said)
        result = await loop.resume(SESSION)
        assert store.moved
        assert {call.tool: call.state for call in result.pending} == {"pay": "doubted"}
        await loop.aclose()


def test_the_story_has_it_all(told):
    """Tools of all four promises, refusals of all kinds, a failure, an approval, parallel calls and two turns."""
    kinds = [fact.kind for fact in told.facts]
    assert {fact.body.get("recovery", "ask") for fact in told.facts if fact.kind == "call.started"} == {"rerun", "keyed", "probe", "ask"}
    assert {"call.denied", "call.failed", "model.failed", "call.approval_asked", "call.approved"} <= set(kinds)
    codes = {fact.body["failure"]["code"] for fact in told.facts if fact.kind == "call.failed"}
    assert codes == {"bad_arguments", "unknown_tool", "tool_failed"}
    assert kinds.count("turn.ended") == len(MESSAGES) + 1 == 3
    assert kinds.count("context.compacted") == 1
    assert kinds.count("session.opened") == 2
    assert any(fact.body.get("cut") for fact in told.facts)


async def test_every_cut_is_found(told, empty, tmp_path):
    """Who lists what is unfinished finds the session behind every event but those at which it is at rest, and no branch that nobody touched."""
    found_at = {}
    for n in range(1, len(told.facts) + 1):
        async with story.agent(cut(told, empty, tmp_path / f"{n}.db", n), told.world) as loop:
            found = [row.session for row in await loop.sessions(unfinished=True)]
            left = list[str]()
            for row in await loop.sessions():
                state = await loop.state(row.session)
                touched = row.parent is None or any(kept.kind not in {"session.opened", "owner.changed"} for kept in await loop.history(row.session, after=row.base))
                if touched and (state.turn is not None or (state.inputs and not state.parked and not state.closed)):
                    left.append(row.session)
        assert found == left, f"behind event {n}"
        found_at[n] = found
    assert {SESSION in found for found in found_at.values()} == {True, False}
    assert any(SESSION + story.FORK in found for found in found_at.values())
    assert found_at[len(told.facts)] == []
