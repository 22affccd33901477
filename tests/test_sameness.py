"""The same bytes everywhere: folding, rendering and encoding know no hash seed, no locale, no time zone, and no place to begin."""

from __future__ import annotations

import contextlib
import hashlib
import json
import locale
import os
import random
import subprocess
import sys
from pathlib import Path

import grammar
import pytest

from power_agent import SQLiteStore
from power_agent import events as e
from power_agent.context import render
from power_agent.sink import opened
from power_agent.state import fold, freeze, thaw

HISTORIES = 200
HOUSE = Path(__file__).resolve().parent
GOLDEN = HOUSE / "golden" / "story.jsonl"


def golden() -> list[e.Envelope]:
    """Read one session of the golden log."""
    rows = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    mine = [row for row in rows if row["session"] == rows[0]["session"]]
    return [e.Envelope(row["session"], row["seq"], row["epoch"], row["at"], e.decode(row["kind"], row["body"]), kind=row["kind"]) for row in mine]


def digest() -> str:
    """Fold, render, freeze and encode many histories, and say what all of it came to."""
    with contextlib.suppress(locale.Error):  # where the system has no such locale there is nothing to stumble over
        locale.setlocale(locale.LC_ALL, "")
    found = hashlib.sha256()
    for history in (golden(), *(grammar.history(seed, 60) for seed in range(HISTORIES))):
        state = fold(history)
        context = render(state)
        for text in (freeze(state, b"tip"), repr(context.messages), repr(context.why_not), *(e.encode(kept.event) for kept in history if kept.event)):
            found.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()


CODE = "import sys; sys.path.insert(0, sys.argv[1]); import test_sameness; print(test_sameness.digest())"
PLACES = {
    "another hash seed": {"PYTHONHASHSEED": "1"},
    "one more": {"PYTHONHASHSEED": "4294967295"},
    "in C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "in Turkish": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    "in German": {"LC_ALL": "de_DE.UTF-8"},
    "in Kiribati": {"TZ": "Pacific/Kiritimati"},
    "behind Greenwich": {"TZ": "XYZ+11:30"},
    "without assertions": {"PYTHONOPTIMIZE": "1"},
}


def _digest_at(place: dict[str, str]) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": "0", **place}
    return subprocess.run([sys.executable, "-c", CODE, str(HOUSE)], env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def here() -> str:
    return digest()


@pytest.mark.parametrize("name", PLACES)
def test_the_same_bytes_everywhere(here, name):
    """A process with another seed, locale or time zone comes to the same bytes."""
    assert _digest_at(PLACES[name]) == here


def test_any_snapshot_leads_to_the_same_state():
    """Frozen at any point, thawed and folded on: the same state, the same bytes as without."""
    for seed in range(HISTORIES):
        history = grammar.history(seed, 40)
        whole = fold(history)
        at = random.Random(seed).randrange(1, len(history) + 1)
        thawed = thaw(freeze(fold(history[:at]), b"tip"), b"tip")
        assert thawed is not None
        state = fold(history[at:], thawed)
        assert state == whole
        assert freeze(state, b"tip") == freeze(whole, b"tip")
        assert repr(render(state)) == repr(render(whole))


async def test_live_reopened_and_from_a_snapshot(tmp_path):
    """What the loop remembers is what the file says, read from its beginning, from a cached state at any seq, or in another process."""
    from story import World, agent, tell

    world, path = World(tmp_path / "world"), tmp_path / "log.db"
    async with agent(path, world) as loop:
        await tell(loop, world)
        live = loop._desk.live["story"]
    async with SQLiteStore(path) as store:
        records = [opened(record) for record in await store.read("story")]
        assert fold(records) == live
        for at in range(1, len(records) + 1):
            state = fold(records[:at])
            thawed = thaw(freeze(state, records[at - 1].hash), records[at - 1].hash)
            assert thawed is not None
            assert fold(records[at:], thawed) == live
        for record in await store.read("story"):
            assert e.encode(e.decode(record.kind, record.body or "")) == record.body
