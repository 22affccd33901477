"""Processes fight for a few sessions with everything the loop can do, killed and stopped at random: everything acked has its turn once."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from fighters import Notes, Ring, judge, without_fault
from scenes import Actor

log = logging.getLogger(__name__)
SECONDS = float(os.environ.get("POWER_AGENT_STORM") or 0)


class Fight:
    """Some fighters in a ring, one of them replaced whenever it dies."""

    def __init__(self, ring: Ring, path: Path, notes: Notes, dice: random.Random, lease_seconds: float) -> None:
        self.ring = ring
        self.path = path
        self.notes = notes
        self.dice = dice
        self.lease_seconds = lease_seconds
        self.kills = 0
        self.stops = 0
        self.left: set[int] = set()
        self._entered = 0

    def enter(self) -> Actor:
        """Let one more fighter in."""
        self._entered += 1
        return self.ring.play("fighter", self.path, self.notes.folder, f"f{self._entered}", 3, self.lease_seconds)

    def kill(self, crew: list[Actor]) -> None:
        """Kill one of them and let another one in."""
        place = self.dice.randrange(len(crew))
        status = crew[place].kill()
        assert status == -signal.SIGKILL, crew[place].errors.read_text(encoding="utf-8")
        crew[place] = self.enter()
        self.kills += 1

    def stop(self, crew: list[Actor]) -> None:
        """Stop one of them until its lease is over and somebody else had time to come, then wake it."""
        sleeper = self.dice.choice(crew)
        with contextlib.suppress(ProcessLookupError):
            sleeper.signal(signal.SIGSTOP)
            time.sleep(self.lease_seconds * self.dice.uniform(1.1, 2.0))
            sleeper.signal(signal.SIGCONT)
        self.stops += 1

    def end(self, crew: list[Actor]) -> None:
        """Ring the end, and bring everything to rest."""
        (self.notes.folder / "@over").touch()
        for actor in crew:
            actor.ends_well()
        without_fault(self.notes)
        peace = self.ring.play("peace", self.path, self.notes.folder, self.lease_seconds)
        peace.ends_well(120)
        self.left = {actor.pid for actor in (*crew, peace)}


def fought(folder: Path, *, fighters: int, kills: int, stops: int, pause: float, lease_seconds: float, seconds: float) -> tuple[Fight, Counter[str]]:
    """Let them fight and judge what they leave."""
    folder.mkdir(exist_ok=True)
    notes = Notes(folder / "world")
    with Ring(folder) as ring:
        fight = Fight(ring, folder / "log.db", notes, random.Random(None if SECONDS else fighters), lease_seconds)
        crew = [fight.enter() for _ in range(fighters)]
        until = time.monotonic() + seconds
        while fight.kills < kills or fight.stops < stops or time.monotonic() < until:
            time.sleep(fight.dice.uniform(0.2, 1.8) * pause)
            if fight.stops * max(kills, 1) <= fight.kills * stops and stops:
                fight.stop(crew)
            else:
                fight.kill(crew)
        fight.end(crew)
    rows, kinds = judge(folder / "log.db", notes, fight.left)
    told = {
        "fighters": fighters, "kills": fight.kills, "stops": fight.stops, "events": len(rows), "acked": len(notes.notes("acked")),
        "takeovers": kinds["owner.changed"], "turns": kinds["turn.ended"], "doubted": kinds["call.doubted"], "sessions": len({row.session for row in rows}),
        "refused": dict(Counter(line["code"] for line in notes.notes("refused"))),
    }  # fmt: skip
    print(f"fight: {told}")  # noqa: T201  whoever runs it with -s wants to see it
    assert len(notes.notes("acked")) > 50
    return fight, kinds


@pytest.mark.storm
@pytest.mark.parametrize("fighters", [2, 8])
def test_killed_while_they_fight(tmp_path, fighters):
    """Killed at random and replaced: every acked input is kept and has its one turn, every effect its one start, nothing happens twice."""
    _, kinds = fought(tmp_path / "ring", fighters=fighters, kills=max(10, round(SECONDS)), stops=0, pause=0.3, lease_seconds=30.0, seconds=SECONDS)
    assert kinds["owner.changed"] > 20


@pytest.mark.storm
def test_thirty_two_open_one_fresh_file_and_say_the_same(tmp_path):
    """They all create the file, the session and the input under one key: there is one of each, one turn, and all hear its one answer."""
    notes = Notes(tmp_path / "world")
    with Ring(tmp_path) as ring:
        crew = [ring.play("crier", tmp_path / "log.db", notes.folder) for _ in range(32)]
        (notes.folder / "@go").touch()
        for actor in crew:
            actor.ends_well()
    without_fault(notes)
    rows, kinds = judge(tmp_path / "log.db", notes, {actor.pid for actor in crew})
    assert (kinds["session.opened"], kinds["input.received"], kinds["turn.started"], kinds["call.started"], kinds["turn.ended"]) == (1, 1, 1, 1, 1)
    assert len(notes.notes("acked")) == 32
    assert len({(line["turn"], line["status"], line["said"], line["seq"]) for line in notes.notes("acked")}) == 1, rows


@pytest.mark.storm
def test_stopped_past_their_lease_while_they_fight(tmp_path):
    """Stopped longer than their lease and woken again: what they were about to say in the name of an old epoch is refused."""
    fight, kinds = fought(tmp_path / "ring", fighters=3, kills=0, stops=50 if SECONDS else 12, pause=0.1, lease_seconds=0.3, seconds=SECONDS)
    assert fight.stops >= (50 if SECONDS else 12)
    assert kinds["owner.changed"] > 20
