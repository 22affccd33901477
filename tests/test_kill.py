"""Killed anywhere: what was acknowledged is there, what was not is whole or absent, and another process goes on at once.

Crash points 1 to 25 of `PROMISES.md` that lie in the store, 33 (in recovery itself) and 34 and 35 (creating the file, migrating).
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import scenes
from needs import needs
from processes import PATIENCE_SECONDS
from scenes import KILLED, Stage

import power_agent
from power_agent import Sink, SQLiteStore, process
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock
from power_agent.events import EVENTS

log = logging.getLogger(__name__)
WHEN = ("before", "in", "after")
LANES = 2
RIDING = {"turn.started", "turn.ended", "guard.decided"}
"""Facts that the story keeps behind others of the same commit, where they would die together once more."""
STORM_SECONDS = float(os.environ.get("POWER_AGENT_STORM", "0"))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Two stages, so that two stories can be played side by side."""
    with Stage(tmp_path_factory.mktemp("one")) as one, Stage(tmp_path_factory.mktemp("two")) as two:
        yield one, two


@pytest.fixture(scope="module")
def stage(stages):
    return stages[0]


@pytest.fixture(scope="module")
def points(stages, tmp_path_factory):
    """Every (when, kind, nth) that the story passes: each kept event is one passage before, in and after its commit."""
    folder = tmp_path_factory.mktemp("whole")
    stages[0].play("story", folder / "log.db", folder / "journal").ends_well()
    rows = scenes.judge(folder / "log.db")
    assert scenes.unacked(rows, scenes.lines(folder / "journal")) == []
    assert {row.kind for row in rows} == set(EVENTS), "the story shows every kind of event"
    seen: collections.Counter[str] = collections.Counter()
    found = []
    for row in rows:
        seen[row.kind] += 1
        found += [(when, row.kind, seen[row.kind]) for when in WHEN]
    return found


class Lives:
    """One file through several deaths: knows what may be there although nobody was told."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "log.db"
        self.journal = folder / "journal"
        self._known: set[tuple[str, int]] = set()

    def after_death(self) -> tuple[list[str], list[str]]:
        """Judge the file; return the kinds that were kept unacknowledged in this life and the kinds it was keeping when it died."""
        rows = scenes.judge(self.path)
        journal = scenes.lines(self.journal)
        fresh = [row for row in scenes.unacked(rows, journal) if (row.session, row.seq) not in self._known]
        self._known |= {(row.session, row.seq) for row in fresh}
        last = journal[-1]
        under_way = last["kinds"] if last["what"] == "intent" else []
        assert [row.kind for row in fresh] in ([], under_way), "at most the one commit that nobody was told of, and that one whole"
        assert all(row.session == last["session"] for row in fresh)
        return [row.kind for row in fresh], under_way

    def goes_on(self, stage: Stage) -> None:
        """Let another process take over, bring everything to rest and go on; all it was told must be there."""
        stage.play("second_life", self.path, self.journal).ends_well()
        rows = scenes.judge(self.path)
        assert {(row.session, row.seq) for row in scenes.unacked(rows, scenes.lines(self.journal))} == self._known
        owners = collections.Counter((row.session, row.epoch) for row in rows if row.kind in {"session.opened", "owner.changed"})
        assert set(owners.values()) == {1}, "one owner per epoch"


def in_lanes(stages, tasks, play):
    """Play tasks side by side, one lane per stage."""
    with ThreadPoolExecutor(LANES) as lanes:
        done = [lanes.submit(lambda lane, mine: [play(stages[lane], *task) for task in mine], lane, tasks[lane::LANES]) for lane in range(LANES)]
        return [result for lane in done for result in lane.result()]


def test_a_line_torn_by_a_kill_is_none(tmp_path):
    """The journals that judge are written by those who are killed: half a line takes neither the one before nor the one behind it along."""
    journal = scenes.Journal(tmp_path / "journal")
    journal.write("ready")
    with (tmp_path / "journal").open("ab") as file:
        file.write(scenes.line_of({"what": "effect", "value": "x"})[:-5])
    assert [line["what"] for line in scenes.lines(tmp_path / "journal")] == ["ready"]
    journal.write("open")
    assert [line["what"] for line in scenes.lines(tmp_path / "journal")] == ["ready", "open"]


def test_kill_at_every_write(stages, points, tmp_path):
    """Before and in a commit nothing of it is there, after it all of it; the next process claims at once and goes on."""

    def play(stage, number, when, kind, nth):
        lives = Lives(tmp_path / str(number))
        assert stage.play("story", lives.path, lives.journal, failpoint=f"{when}:{kind}:{nth}").wait() == KILLED
        kept, under_way = lives.after_death()
        assert kind in under_way
        assert kept == (under_way if when == "after" else [])
        lives.goes_on(stage)

    in_lanes(stages, [(number, *point) for number, point in enumerate(points)], play)
    assert len(points) >= 60
    log.info("kill points: %s", len(points))


def test_kill_at_every_write_and_again_in_recovery(stages, points, tmp_path):
    """A second death, around the takeover itself, changes nothing: recovery may be repeated."""

    def play(stage, number, when, kind, nth, second):
        lives = Lives(tmp_path / str(number))
        assert stage.play("story", lives.path, lives.journal, failpoint=f"{when}:{kind}:{nth}").wait() == KILLED
        lives.after_death()
        nobody = not any(row.kind != "session.erased" for row in scenes.raw(lives.path))
        again = stage.play("second_life", lives.path, lives.journal, failpoint=f"{second}:owner.changed")
        if nobody:
            again.ends_well()  # nothing to take over: the first session was never born
            return 0
        assert again.wait() == KILLED
        kept, under_way = lives.after_death()
        assert under_way == ["owner.changed"]
        assert kept == (under_way if second == "after" else [])
        lives.goes_on(stage)
        return 1

    tasks = [(number, *point, WHEN[number // len(WHEN) % len(WHEN)]) for number, point in enumerate(points) if point[1] not in RIDING]
    tasks = tasks[::2]  # the others die in the same ways; a long storm plays all of them, with each second death
    if STORM_SECONDS:
        tasks = [(number * len(WHEN) + shift, *point, WHEN[shift]) for number, point in enumerate(points) for shift in range(len(WHEN))]
    deaths = sum(in_lanes(stages, tasks, play))
    assert deaths >= len(tasks) - len(WHEN) ** 2
    log.info("second deaths: %s", deaths)


def test_every_failpoint_is_reached(points):
    """A place of the store where a process can be told to die and that no test reaches would be no evidence."""
    house = Path(power_agent.__file__).parent / "store"
    calls = [call for path in house.rglob("*.py") for call in re.findall(r'(?<!def )\bpassing\(\s*"(\w+)", (\w+|\("?\w+"?,\))', path.read_text(encoding="utf-8"))]
    commits = [when for when, names in calls if names == "kinds"]
    assert sorted(commits) == sorted({when for when, _, _ in points})
    others = {(when, names) for when, names in calls if names != "kinds"}
    assert others == {(when, names) for when in ("before", "after") for names in ('("checkpoint",)', '("snapshot",)', "(name,)")} | {
        (when, '("adoption",)') for when in WHEN
    }  # HOUSEKEEPING; an adoption dies in test_moving.py


HOUSEKEEPING = ("checkpoint", "snapshot", "renewal", "release")
KEEPING_HOUSE = """
import asyncio, sys
from power_agent import SQLiteStore, Sink, events as e, process
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock

async def main():
    async with SQLiteStore(sys.argv[1]) as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me())
        state = await sink.open(session="s")
        state = await sink.record(state, [e.NoteAdded(text="kept", why="test")])
        await sink.snapshot(state)
        await sink.renew(state)
        await store.scrub()
        await sink.release(state)

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", HOUSEKEEPING)
async def test_kill_while_keeping_house(tmp_path, when, name):
    """Checkpoints, cached states and leases add no fact: killed around each, everything that was kept is there, and the next owner need not wait."""
    path = tmp_path / "agent.db"
    environment = {**os.environ, "POWER_AGENT_FAILPOINT": f"{when}:{name}"}
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KEEPING_HOUSE, str(path)], env=environment, check=False, timeout=PATIENCE_SECONDS)
    assert ended.returncode == KILLED
    async with SQLiteStore(path) as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me(), dead=process.proven_dead)
        state = await sink.claim("s")
        assert [record.kind for record in await store.read("s")] == ["session.opened", "note.added", "owner.changed"]
        assert await sink.load("s") == state
        assert [wrong async for wrong in store.verify()] == []


@pytest.mark.parametrize("when", WHEN)
def test_the_environment_arms_a_failpoint(tmp_path, when):
    """`POWER_AGENT_FAILPOINT` kills a freshly started Python at the passage that it names; the other tests arm actors by hand."""
    story = "import asyncio, sys, scenes; asyncio.run(scenes.story(*sys.argv[1:]))"
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "POWER_AGENT_FAILPOINT": f"{when}:input.received:2", "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    lives = Lives(tmp_path / "life")
    ended = subprocess.run([sys.executable, "-c", story, str(lives.path), str(lives.journal)], env=environment, check=False, timeout=PATIENCE_SECONDS)
    assert ended.returncode == KILLED
    kept, under_way = lives.after_death()
    assert "input.received" in under_way
    assert kept == (under_way if when == "after" else [])
    assert sum(row.kind == "input.received" for row in scenes.raw(lives.path)) == (2 if when == "after" else 1)


# -- creating the file ---------------------------------------------------------------------------------------------------


def opens_fine(stage, path: Path, journal: Path) -> None:
    """Another process opens the file and keeps something in it; nothing acknowledged is missing."""
    stage.play("opening", path, journal).ends_well()
    rows = scenes.judge(path)
    last = scenes.lines(journal, "intent")[-1]["session"]
    assert {row.session for row in scenes.unacked(rows, scenes.lines(journal))}.isdisjoint({last})


def test_kill_while_the_file_is_created(stage, tmp_path):
    """Killed at any moment of opening a fresh file, the file opens the next time."""
    dice = random.Random(34)
    half = 0
    for number in range(40):
        path, journal = tmp_path / f"{number}.db", tmp_path / f"{number}.journal"
        actor = stage.play("opening", path, journal)
        scenes.until(lambda journal=journal: scenes.lines(journal, "ready"))
        time.sleep(dice.uniform(0, 0.008))
        actor.kill()
        half += not scenes.lines(journal, "open")
        opens_fine(stage, path, journal)
        assert asyncio.run(scenes.faults(path)) == []
    assert half >= 10, "most deaths shall come before the file is open"
    log.info("killed while opening: %s", half)


def traced(stage, folder: Path, number: int, scene: str, call: str) -> tuple[int, Path, Path]:
    """Play a scene that dies on entering its nth system call of a kind; return its status, its file and its journal."""
    path, journal, go = (folder / f"{call}-{number}.{name}" for name in ("db", "journal", "go"))
    actor = stage.play("traced", path, journal, go, scene)
    scenes.until(lambda: scenes.lines(journal, "waiting"))
    command = ["strace", "-f", "-p", str(actor.pid), "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr
        first = tracer.stderr.readline()
        if b"attached" not in first:
            actor.kill()
            pytest.fail(f"strace cannot follow another process here: {first.decode()}")
        go.touch()
        status = actor.wait()
        tracer.stderr.read()
    return status, path, journal


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "ftruncate", "unlink"])
def test_kill_at_every_system_call_that_creates_the_file(stage, tmp_path, call):
    """Killed on entering the nth write, sync, truncation or deletion, n = 1, 2, 3 … until it runs clean: the file opens the next time."""
    needs("strace", "apt-get install strace")
    for number in range(1, 200):
        status, path, journal = traced(stage, tmp_path, number, "opening", call)
        if status == 0:
            break
        assert status == KILLED
        opens_fine(stage, path, journal)
    else:
        pytest.fail("it never ran clean")
    assert asyncio.run(scenes.faults(path)) == []
    assert number > 1 or call == "ftruncate", "there was something to kill"
    log.info("kills at %s: %s", call, number - 1)


def test_kill_at_a_write_of_the_story(stages, tmp_path):
    """What failpoints do not mark (a release, a cached state, a checkpoint, a lease) is killed at the system call."""
    needs("strace", "apt-get install strace")
    dice = random.Random(8)
    numbers = range(1, 1000) if STORM_SECONDS else sorted(dice.sample(range(1, 400), 30))

    def play(stage, number):
        status, path, journal = traced(stage, tmp_path, number, "story", "pwrite64")
        assert status in {0, KILLED}
        if scenes.lines(journal, "intent"):
            lives = Lives(tmp_path / f"life-{number}")
            lives.path, lives.journal = path, journal
            lives.after_death()
            lives.goes_on(stage)
        else:
            opens_fine(stage, path, journal)
        return status == KILLED

    killed = sum(in_lanes(stages, [(number,) for number in numbers], play))
    assert killed >= 10
    log.info("kills at a write of the story: %s", killed)


# -- at random -----------------------------------------------------------------------------------------------------------


@pytest.mark.storm
def test_storm(stage, tmp_path):
    """Kills at random moments over one growing store with two busy sessions: judged after each, nothing acknowledged is ever lost."""
    dice = random.Random(None if STORM_SECONDS else 9)
    path = tmp_path / "log.db"
    until = time.monotonic() + STORM_SECONDS
    told: list[dict[str, object]] = []
    known: set[tuple[str, int]] = set()
    kills = in_flight = kept_unacked = 0
    while kills < 40 or time.monotonic() < until:
        journal = tmp_path / f"journal-{kills}"
        actor = stage.play("storm", path, journal, dice.randrange(2**32))
        time.sleep(dice.uniform(0.005, 0.15))
        assert actor.kill() == KILLED, actor.errors
        kills += 1
        mine = scenes.lines(journal)
        told += [line for line in mine if line["what"] == "ack"]
        last = {line["session"]: line for line in mine if line["what"] in {"intent", "ack"}}
        flying = {session: line["kinds"] for session, line in last.items() if line["what"] == "intent"}
        in_flight += bool(flying)
        if not path.exists():
            continue
        rows = judged_or_empty(path)
        fresh = [row for row in scenes.unacked(rows, told) if (row.session, row.seq) not in known]
        known |= {(row.session, row.seq) for row in fresh}
        for session in {row.session for row in fresh}:
            assert [row.kind for row in fresh if row.session == session] == flying.get(session), "whole, and only what was under way"
        kept_unacked += bool(fresh)
        if kills % 10 == 0:
            assert asyncio.run(scenes.faults(path)) == []
    takeovers = sum(row.kind == "owner.changed" for row in rows)
    assert in_flight >= kills / 4, "the storm shall hit commits, not pauses"
    assert takeovers >= kills / 2
    assert asyncio.run(scenes.faults(path)) == []
    log.info("storm: %s", {"kills": kills, "between intent and ack": in_flight, "kept but unacked": kept_unacked, "takeovers": takeovers, "events": len(rows)})


def judged_or_empty(path: Path) -> list[scenes.Raw]:
    """Judge a file; one that died before its tables were made holds nothing yet."""
    try:
        return scenes.judge(path)
    except sqlite3.OperationalError as error:
        assert "no such table" in str(error)  # noqa: PT017
        return []


def test_a_stopped_storm_leaves_no_actor(stage, tmp_path):
    """The stage itself can be trusted: a killed actor is dead, and its status is its own."""
    actor = stage.play("storm", tmp_path / "log.db", tmp_path / "journal", 1)
    scenes.until(lambda: scenes.lines(tmp_path / "journal", "ack"))
    actor.signal(signal.SIGTERM)
    assert actor.wait() == -signal.SIGTERM
    assert scenes.process.start_time(actor.pid) is None
