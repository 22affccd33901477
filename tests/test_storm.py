"""Killed at random moments, hundreds of times, over one growing store with several sessions at work: every story comes to its end.

Where failpoints kill at places that have names, this kills wherever the process happens to be: in SQLite, in a thread of a tool,
between two steps of the event loop, in the recovery from the last kill.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
import scenes
import story
from scenes import KILLED
from story import Theatre, World

log = logging.getLogger(__name__)
SECONDS = float(os.environ.get("POWER_AGENT_STORM") or 0)
KILLS = 300
LANES = 3
ROUNDS_PER_JUDGEMENT = 25

IN_FLIGHT = """
WITH here AS (
    SELECT session.id,
        (SELECT kind FROM event WHERE session = session.id AND kind IN (11, 12) ORDER BY seq DESC LIMIT 1) AS turn,
        (SELECT kind FROM event WHERE session = session.id AND kind IN (20, 21, 22) ORDER BY seq DESC LIMIT 1) AS model
    FROM session ORDER BY id DESC LIMIT :recent
)
SELECT
    coalesce(max(turn = 11), 0),
    coalesce(max(turn = 11 AND (model = 20 OR EXISTS (
        SELECT 1 FROM event AS started WHERE started.session = here.id AND started.kind = 33 AND NOT EXISTS (
            SELECT 1 FROM event AS ended
            WHERE ended.session = here.id AND ended.call = started.call AND ended.seq > started.seq AND ended.kind IN (32, 34, 35, 36))))), 0)
FROM here
"""
"""Is a turn open, and is a request or a call between its intent and its outcome? Asked of the sessions that were opened last."""


def in_flight(path: Path) -> tuple[bool, bool]:
    """Say where a kill has landed, by plain SQL."""
    if not path.exists():
        return False, False
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'event'").fetchone():
            return False, False
        turn, intent = db.execute(IN_FLIGHT, {"recent": LANES * 2}).fetchone()
    return bool(turn), bool(intent)


@pytest.mark.storm
def test_storm(tmp_path):
    """At least 300 kills at random moments; judged every few rounds against the world outside, and once more at rest."""
    dice = random.Random(None if SECONDS else 33)
    path, world = tmp_path / "log.db", World(tmp_path / "world")
    kills = turns = intents = judged = 0
    until = time.monotonic() + SECONDS
    with Theatre(tmp_path) as theatre:
        while kills < KILLS or time.monotonic() < until:
            actor = theatre.play("toil", path, world.folder, LANES, dice.randrange(2**32))
            time.sleep(dice.uniform(0.01, 0.16))
            assert actor.kill() == KILLED, actor.errors.read_text(encoding="utf-8")
            kills += 1
            turn, intent = in_flight(path)
            turns += turn
            intents += intent
            if kills % ROUNDS_PER_JUDGEMENT == 0:
                young = list(dict.fromkeys(row.session for row in scenes.raw(path)))[-ROUNDS_PER_JUDGEMENT * LANES :]
                story.judge(path, world, young, messages=None)
                judged += 1
        for lane in range(LANES):
            names = sorted({row.session for row in scenes.raw(path) if row.session.startswith(f"lane{lane}-") and not row.session.endswith(story.FORK)})
            theatre.play("live", path, world.folder, names[-1]).ends_well()
    rows = story.judge(path, world)
    sessions = {row.session for row in rows}
    kinds = Counter(row.kind for row in rows)
    told = {
        "kills": kills, "with an open turn": f"{turns / kills:.0%}", "between intent and outcome": f"{intents / kills:.0%}", "judged": judged,
        "sessions": len(sessions), "events": len(rows), "takeovers": kinds["owner.changed"], "doubted": kinds["call.doubted"], "retried": kinds["call.retried"],
    }  # fmt: skip
    log.info("storm: %s", told)
    print(f"storm: {told}")  # noqa: T201  whoever runs it with -s wants to see it
    assert kills >= KILLS
    assert turns / kills > 0.2
    assert intents / kills > 0.2
    assert kinds["call.doubted"] >= 50
    for some in ({name for name in sessions if name.endswith(story.FORK)}, {name for name in sessions if not name.endswith(story.FORK)}):
        ends = {tuple(sorted((row.call, row.kind) for row in rows if row.session == name and row.kind in story.TERMINAL)) for name in some}
        assert len(ends) == 1, "every story has the same end, and so has every branch, however often it was killed"
