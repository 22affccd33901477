"""Killed in the middle of a write: the file is old or new, never half, and the next process knows which.

The probes are asked with nothing but the log and the file. When somebody else changed the file meanwhile they do not know, and say so.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scenes import KILLED, stage_in

from power_agent import Call, DidNotHappen, Happened, Result, ScriptedModel, StatefulAgentLoop, ToolContext, Unknown, files
from power_agent.policy import allow_all
from power_agent.tools.files.content import version_of
from power_agent.tools.files.room import Room
from power_agent.tools.files.writing import Edit, Writing

log = logging.getLogger(__name__)
OLD = "one\ntwo\ntwo and a half\nthree\n" + "x" * 10_000 + "\n"
VERSION = version_of(OLD.encode())
PATCH = """\
--- a/a.txt
+++ b/a.txt
@@ -1,3 +1,3 @@
 one
-two
+TWO
 two and a half
--- /dev/null
+++ b/new/made.txt
@@ -0,0 +1,2 @@
+made
+here
--- a/gone.txt
+++ /dev/null
@@ -1 +0,0 @@
-gone
--- a/b.txt
+++ b/b.txt
@@ -1 +1 @@
-b
+B
"""
CALLS: dict[str, tuple[Call, dict[str, str | None]]] = {
    "write a new file": (Call("write", {"path": "new/file.txt", "content": OLD}), {"new/file.txt": OLD}),
    "write over a file": (Call("write", {"path": "a.txt", "content": "new\n" * 5_000, "version": VERSION}), {"a.txt": "new\n" * 5_000}),
    "edit": (Call("edit", {"path": "a.txt", "old": "three", "new": "THREE", "version": VERSION}), {"a.txt": OLD.replace("three", "THREE")}),
    "edit to something that stands there already": (Call("edit", {"path": "a.txt", "old": "three", "new": "one", "version": VERSION}), {"a.txt": OLD.replace("three", "one")}),
    "edit everywhere": (Call("edit", {"path": "a.txt", "old": "two", "new": "2", "version": VERSION, "everywhere": True}), {"a.txt": OLD.replace("two", "2")}),
    "edit away": (Call("edit", {"path": "a.txt", "old": "one\n", "new": "", "version": VERSION}), {"a.txt": OLD.replace("one\n", "")}),
    "multi_edit": (
        Call("multi_edit", {"path": "a.txt", "version": VERSION, "edits": [{"old": "one", "new": "three!"}, {"old": "three!", "new": "1"}, {"old": "three", "new": "one"}]}),
        {"a.txt": OLD.replace("one", "1").replace("three", "one")},
    ),
    "apply_patch": (Call("apply_patch", {"patch": PATCH}), {"a.txt": OLD.replace("two\n", "TWO\n", 1), "new/made.txt": "made\nhere\n", "gone.txt": None, "b.txt": "B\n"}),
}
POINTS = ["before:effect", "before:content", "in:content", "in:content:2", "before:rename", "after:rename", "after:effect"]
LATER = ["before:content:2", "in:content:3", "before:rename:2", "after:rename:2", "before:content:3", "before:rename:3", "after:rename:3"]
"""In the second and the third file of a patch."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with stage_in(tmp_path_factory.mktemp("stage")) as one:
        yield one


@pytest.fixture
def root(tmp_path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    for name, content in {"a.txt": OLD, "gone.txt": "gone\n", "b.txt": "b\n"}.items():
        (place / name).write_text(content)
    (place / "a.txt").chmod(0o640)
    return place


def content(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def killed(stage, root: Path, call: Call, point: str) -> None:
    """Let another process make a call, and die where it is told to."""
    actor = stage.play("hands", root, root.parent / "agent.db", call.name, dict(call.arguments), failpoint=point)
    assert actor.wait() == KILLED, actor.errors.read_text()


@pytest.mark.parametrize(("scene", "point"), [(scene, point) for scene in CALLS for point in (*POINTS, *(LATER if scene == "apply_patch" else ()))])
async def test_killed_in_the_middle(stage, root, scene, point):
    """Each file is whole, old or new; the probe says the truth; after the resumption everything is as it should be, done once."""
    call, wanted = CALLS[scene]
    before = {name: content(root / name) for name in wanted}
    killed(stage, root, call, point)
    now = {name: content(root / name) for name in wanted}
    assert all(now[name] in (before[name], wanted[name]) for name in wanted), "half of a file"
    happened = now == wanted
    assert happened == (point == "after:effect" or (point == "after:rename" and scene != "apply_patch") or point == "after:rename:3")
    model = ScriptedModel([[call], "done"])
    async with StatefulAgentLoop(model, tools=files(root), store=root.parent / "agent.db", policy=allow_all) as loop:
        assert (await loop.resume("s")).status == "completed"
        history = await loop.history("s")
    kinds = [kept.kind for kept in history]
    assert kinds.count("call.succeeded") == 1
    assert ("call.retried" in kinds) == (not happened)
    (ended,) = (kept.event for kept in history if kept.kind == "call.succeeded")
    assert ended.by == ("probe" if happened else None)
    assert {name: content(root / name) for name in wanted} == wanted
    assert not list(root.rglob(".power-agent-*")), "an unfinished file was left"
    assert (root / "a.txt").stat().st_mode & 0o777 == 0o640
    for text in wanted.values():
        if text is not None:
            assert f"version {version_of(text.encode())}" in ended.output, "the model knows where it stands"


@pytest.mark.parametrize("scene", [scene for scene in CALLS if scene != "apply_patch"])
async def test_somebody_else_was_there_meanwhile(stage, root, scene):
    """A file that is neither before the call nor behind it: nobody can tell, so a person is asked, and nothing is written over."""
    call, wanted = CALLS[scene]
    killed(stage, root, call, "after:rename")
    (name,) = wanted
    (root / name).write_text("somebody else's\n")
    async with StatefulAgentLoop(ScriptedModel([[call], "done"]), tools=files(root), store=root.parent / "agent.db", policy=allow_all) as loop:
        result = await loop.resume("s")
        assert (result.status, [one.state for one in result.pending]) == ("waiting", ["doubted"])
        await loop.settle("s", "t1r1c1", Result("it did"))
        assert (await loop.resume("s")).status == "completed"
    assert content(root / name) == "somebody else's\n"


async def test_a_patch_of_which_nobody_can_tell(stage, root):
    """One file of a patch that is neither before nor behind it leaves the whole call in doubt."""
    call, _ = CALLS["apply_patch"]
    killed(stage, root, call, "after:rename:2")
    (root / "b.txt").write_text("somebody else's\n")
    async with StatefulAgentLoop(ScriptedModel([[call], "done"]), tools=files(root), store=root.parent / "agent.db", policy=allow_all) as loop:
        assert [one.state for one in (await loop.resume("s")).pending] == ["doubted"]


def probe(root: Path, now: bytes, edits: list[Edit], version: str):
    (root / "p.txt").write_bytes(now)
    context = ToolContext(session="s", call="t1r1c1", attempt=1, idempotency_key="k")
    return Writing(Room(root)).probe_multi_edit({"path": "p.txt", "edits": edits, "version": version}, context)


def test_probes_never_lie(root):
    """Whatever a file, edits and a stranger's hand come to: what the probe is sure of is true."""
    dice = random.Random(11)
    count = {Happened: 0, DidNotHappen: 0, Unknown: 0}
    for _ in range(500):
        before = bytes(dice.choice(b"ab\n") for _ in range(dice.randrange(1, 12)))
        after, edits = before, []
        for _ in range(dice.randrange(1, 4)):
            start = dice.randrange(len(after)) if after else 0
            old = after[start : start + dice.randrange(1, 4)]
            new = bytes(dice.choice(b"abc") for _ in range(dice.randrange(3)))
            everywhere = after.count(old) > 1 or after.find(old) != after.rfind(old)
            if not old:
                break
            edits.append(Edit(old=old.decode(), new=new.decode(), everywhere=everywhere))
            after = after.replace(old, new) if everywhere else after.replace(old, new, 1)
        if not edits or after == before:
            continue
        stranger = after + b"!"
        assert isinstance(probe(root, before, edits, version_of(before)), DidNotHappen)
        said = probe(root, after, edits, version_of(before))
        assert isinstance(said, Happened | Unknown)
        assert isinstance(said, Happened) or any(edit.everywhere for edit in edits), "only what was replaced everywhere cannot always be taken back"
        count[type(said)] += 1
        said = probe(root, stranger, edits, version_of(before))
        assert isinstance(said, Unknown), (before, edits, stranger)
    log.info("probes: %s", {kind.__name__: number for kind, number in count.items()})
    assert count[Happened] > 200


def test_a_probe_gives_up(root):
    """Edits that could have been made in more ways than can be tried leave the doubt, and soon."""
    edits = [Edit(old="x", new="")] * 8
    assert isinstance(probe(root, b"a" * 4_000, edits, "0" * 16), Unknown)


WRITER = """
import sys
from power_agent.tools.files.content import version_of
from power_agent.tools.files.replacing import current, replace
from power_agent.tools.files.room import Room

room, number = Room(sys.argv[1]), 0
while True:
    number += 1
    before = current(room, ("f",))
    replace(room, ("f",), bytes([97 + number % 26]) * 300_000, seen=None if before is None else version_of(before), key=f"{number}")
    print(number, flush=True)
"""


def test_killed_at_any_moment(root):
    """Killed twenty times without looking: the file is always one whole content."""
    dice = random.Random(9)
    seen = set()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for life in range(20):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout
            for _ in range(1 + life % 5):
                assert writer.stdout.readline()
            time.sleep(dice.uniform(0, 0.01))
            writer.kill()
        raw = (root / "f").read_bytes()
        assert len(set(raw)) == 1
        assert len(raw) == 300_000
        seen.add(raw[:1])
    assert len(seen) > 1
    log.info("kills of a writer: 20, contents seen: %s, unfinished left: %s", len(seen), len(list(root.glob(".power-agent-*"))))
