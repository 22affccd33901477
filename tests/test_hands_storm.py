"""Killed at random moments while commands and edits run: every mark is left once, and nothing runs on behind anybody's back.

Sometimes the owner is killed alone, sometimes with the reapers of its commands, so that what they started goes on until recovery ends it.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import scenes
from handiwork import ROUNDS, listed, marks
from processes import PATIENCE_SECONDS
from scenes import KILLED

from power_agent.tools import reaper

log = logging.getLogger(__name__)
SECONDS = float(os.environ.get("POWER_AGENT_STORM") or 0)
KILLS, DOUBTS, SESSIONS = 10, 6, 40
pytestmark = [pytest.mark.storm, pytest.mark.skipif(sys.platform != "linux", reason="a reaper needs Linux")]


def at_work(root: Path) -> list[int]:
    """Processes that stand beneath a root: all of its commands do."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and (place / "cwd").readlink().is_relative_to(root):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def with_its_reapers(actor: scenes.Actor) -> None:
    """Kill an owner and all who watch over its commands, at one moment to all of them."""
    actor.signal(signal.SIGSTOP)
    for pid in reaper.below(actor.pid):
        try:
            if reaper.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def quiet(root: Path) -> bool:
    """Wait until nothing works there any more."""
    end = time.monotonic() + PATIENCE_SECONDS
    while at_work(root):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_nothing_runs_twice_and_nothing_runs_on(tmp_path):
    """However often and wherever the owner dies: after recovery each mark stands there once, and no process is left."""
    dice = random.Random(None if SECONDS else 8)
    path, root = tmp_path / "log.db", tmp_path / "root"
    root.mkdir()
    (root / "ledger").touch()
    until = time.monotonic() + SECONDS
    kills = orphaned = lone = 0
    done: list[str] = []
    with scenes.stage_in(tmp_path) as stage:
        while len(done) < SESSIONS or time.monotonic() < until:
            name = f"s{len(done)}"
            while True:  # one session until it comes to its end between two kills
                actor = stage.play("handiwork", root, path, name)
                time.sleep(dice.uniform(0.05, 0.9))
                if not actor.alive():
                    actor.ends_well()
                    break
                reapers = dice.random() < 0.5
                if reapers:
                    with_its_reapers(actor)
                ended = actor.kill()
                if ended == 0:  # it came to its end between the look and the kill
                    break
                assert ended == KILLED, actor.errors.read_text()
                orphaned, lone = orphaned + reapers, lone + (not reapers)
                assert reapers or quiet(root), "the death of the owner was not the death of what it started"
                kills += 1
            assert at_work(root) == []
            done.append(name)
            doubted = sum(row.kind == "call.doubted" for row in scenes.raw(path))
            if kills >= KILLS and doubted >= DOUBTS and time.monotonic() >= until:
                break
    rows = scenes.judge(path)
    ledger = Counter((root / "ledger").read_text().split())
    kinds = Counter(row.kind for row in rows)
    told = {"kills": kills, "with the reapers": orphaned, "alone": lone, "sessions": len(done), **{kind: kinds[kind] for kind in ("call.started", "call.doubted", "call.retried")}}
    log.info("storm of hands: %s", told)
    print(f"storm of hands: {told}")  # noqa: T201  whoever runs it with -s wants to see it
    assert ledger == Counter(one for name in done for one in marks(name))
    assert [(root / f"{name}.txt").read_text() for name in done] == [listed(name, ROUNDS) for name in done]
    starts, retries = (Counter((row.session, row.call) for row in rows if row.kind == kind) for kind in ("call.started", "call.retried"))
    assert all(number == 1 + retries[call] for call, number in starts.items()), "what started again was told to"
    assert kinds["call.doubted"] >= DOUBTS
    assert kills >= KILLS
