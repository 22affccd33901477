"""Worktrees of a real repository, beneath the root and nowhere else."""

import subprocess

import pytest
from needs import needs

from power_agent import Call, ScriptedModel, StatefulAgentLoop, shell
from power_agent.policy import allow_all, own_rules
from power_agent.policy.verdicts import Allow, Ask, Wanted


@pytest.fixture
def root(tmp_path):
    git = needs("git", "apt install git")
    place = tmp_path / "root"
    place.mkdir()
    (place / "a.txt").write_text("a\n")
    (place / ".gitignore").write_text("trees/\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first"]):
        subprocess.run([git, *words], cwd=place, check=True)
    hook = place / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\ntouch ../hooked hooked\n")
    hook.chmod(0o755)
    return place


async def told(root, *calls):
    async with StatefulAgentLoop(ScriptedModel([[Call(name, arguments)] for name, arguments in calls] + ["done"]), tools=shell(root), store=":memory:", policy=allow_all) as loop:
        await loop.send("go", "s")
        ended = [kept.event for kept in await loop.history("s") if kept.kind in {"call.succeeded", "call.failed"}]
        return [one.output if one.kind == "call.succeeded" else one.failure.code for one in ended], [getattr(one, "failure", None) for one in ended]


async def test_a_worktree_is_added_listed_and_removed(root):
    """On a branch of its own; no hook of the repository is run."""
    said, _ = await told(root, ("worktree_add", {"path": "trees/one", "branch": "one"}), ("worktree_list", {}))
    assert (root / "trees" / "one" / "a.txt").read_text() == "a\n"
    assert f"worktree {root}/trees/one" in said[1]
    assert "branch refs/heads/one" in said[1]
    assert list(root.rglob("hooked")) == []
    said, _ = await told(root, ("worktree_remove", {"path": "trees/one"}), ("worktree_list", {}))
    assert not (root / "trees" / "one").exists()
    assert said[1].count("worktree ") == 1


async def test_work_is_not_removed(root):
    """git refuses, and the model is told why."""
    await told(root, ("worktree_add", {"path": "trees/one", "branch": "one"}))
    (root / "trees" / "one" / "new.txt").write_text("work")
    said, failures = await told(root, ("worktree_remove", {"path": "trees/one"}), ("worktree_add", {"path": "trees/one", "branch": "two"}))
    assert said == ["tool", "tool"]
    assert "untracked" in failures[0].message
    assert (root / "trees" / "one" / "new.txt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "../out", "branch": "b"},
        {"path": "/absolute", "branch": "b"},
        {"path": "link/in", "branch": "b"},
        {"path": ".", "branch": "b"},
        {"path": "ok", "branch": "--force"},
        {"path": "ok", "branch": "b", "start": "-f"},
        {"path": "ok", "branch": "a b"},
    ],
    ids=str,
)
async def test_no_worktree_leads_out(root, tmp_path, arguments):
    """Neither by path nor by link, and no name is an option."""
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    said, _ = await told(root, ("worktree_add", arguments), ("worktree_list", {}))
    assert said[0] in {"bad_arguments", "path_refused"}
    assert said[1].count("worktree ") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_only_what_changes_is_asked_about(root):
    """Listing runs."""
    policy = own_rules(shell(root))
    kinds = [type(policy(Wanted(session="s", call="c", tool=f"worktree_{name}", arguments={}))) for name in ("list", "add", "remove")]
    assert kinds == [Allow, Ask, Ask]
