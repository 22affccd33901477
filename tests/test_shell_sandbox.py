"""What a sandbox keeps a command from writing, tried for real: with bubblewrap and with Landlock where the system has them, and without."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from needs import needs

from power_agent import Call, ScriptedModel, StatefulAgentLoop, shell
from power_agent.errors import InvalidInput
from power_agent.policy import allow_all
from power_agent.tools.shell import fence, sandbox, sandbox_report


@pytest.fixture(params=["bubblewrap", "landlock"])
def kind(request):
    """A sandbox that this machine can have. Whether it can is asked of the system, not of the code under test."""
    if request.param == "landlock" and fence.abi() < fence.NEEDED_ABI:
        pytest.skip("this kernel has no Landlock of version 3")
    if request.param == "bubblewrap":
        program = needs("bwrap", "apt-get install bubblewrap")
        if subprocess.run([program, "--ro-bind", "/", "/", "true"], check=False, capture_output=True).returncode:
            pytest.skip("this system lets nobody make the namespaces that bubblewrap needs")
    return request.param


@pytest.fixture
def house(tmp_path):
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    return tmp_path


@pytest.fixture
def only(monkeypatch):
    """Let the system have these sandboxes only."""

    def choose(*kinds):
        monkeypatch.setattr(sandbox, "_kinds", lambda: iter(kinds))

    return choose


def at_work_in(folder):
    """Return the processes that stand in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [process] if (process / "cwd").readlink().is_relative_to(folder) else []
    return found


async def ran(house, command, mode):
    model = ScriptedModel([[Call("bash", {"command": command, "timeout": 60})], "done"])
    async with StatefulAgentLoop(model, tools=shell(house / "root", sandbox=mode), store=":memory:", policy=allow_all) as loop:
        await loop.send("go", "s")
        return next(kept.event.output for kept in await loop.history("s") if kept.kind == "call.succeeded")


@pytest.mark.parametrize("mode", ["read-only", "workspace-write"])
async def test_nothing_outside_is_changed(house, only, kind, mode):
    """Whatever is tried; the folder still persists, and temporary files have their place."""
    only(kind)
    tries = "echo x > ../outside/made; echo x > ../outside/kept; rm -f ../outside/kept; ln -s ../outside/kept l; echo x > l; mv ../outside/kept .; truncate -s 0 ../outside/kept"
    said = await ran(house, f"{tries}; touch mine; echo x > $(mktemp) && echo temporary; cd sub", mode)
    assert said.endswith("temporary\n[exit 0]\n[in sub]")
    assert {path.name: path.read_text() for path in (house / "outside").iterdir()} == {"kept": "kept"}
    assert (house / "root" / "mine").exists() is (mode == "workspace-write")


async def test_what_runs_inside_is_ended_too(house, only, kind):
    """The reaper reaches into the sandbox, and a command in there cannot reach the reaper."""
    only(kind)
    said = await ran(house, "setsid sleep 1000 & setsid env -i sleep 1000 & kill -9 $PPID; echo still here", "workspace-write")
    assert "still here" in said or kind == "bubblewrap"  # there the parent is the first process of the sandbox, which ends with it
    assert at_work_in(house / "root") == []


def test_the_report_is_what_was_tried(only, kind):
    """Each attempt by name; beneath the root only read-only holds, and Landlock says that modes are out of its reach."""
    only(kind)
    held = {one.attempt: one.held for one in sandbox_report("workspace-write").findings}
    assert held.pop("make a file beneath the root") is False
    assert held.pop("change the mode of a file outside") is (kind == "bubblewrap")
    assert held.pop("kill a process outside") is (kind == "bubblewrap" or fence.abi() >= fence.SCOPED_ABI)
    assert len(held) == 6
    assert all(held.values())
    assert all(one.held for one in sandbox_report("read-only").findings if "mode" not in one.attempt and "kill" not in one.attempt)


def test_without_a_sandbox_everything_happens_and_nothing_is_claimed(only):
    """The attempts are real: where nothing keeps them from happening they all do, and that is no sandbox."""
    report = sandbox._proven.__wrapped__("none", "workspace-write")
    assert [one for one in report.findings if one.held] == []
    assert len(report.findings) == 9
    assert not report.holds
    only()
    assert sandbox_report() == sandbox.SandboxReport(kind="none", mode="workspace-write")
    assert not sandbox_report().holds


def test_a_sandbox_that_does_not_hold_is_not_used(house, only, monkeypatch):
    """It is refused instead; a mode that does not exist as well."""
    only("none")
    with pytest.raises(InvalidInput, match="No sandbox was proven"):
        shell(house / "root", sandbox="read-only")
    with pytest.raises(InvalidInput, match="no sandbox 'locked'"):
        shell(house / "root", sandbox="locked")
    assert shell(house / "root")


def test_a_bubblewrap_that_does_not_work_is_no_sandbox(house, monkeypatch):
    """Found is not proven: the next kind is taken, or none."""
    (house / "bin").mkdir()
    fake = house / "bin" / "bwrap"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{house}/bin:{os.environ['PATH']}")
    sandbox._proven.cache_clear()
    assert sandbox_report().kind == ("landlock" if fence.abi() >= fence.NEEDED_ABI else "none")
    sandbox._proven.cache_clear()


def test_a_fence_that_cannot_be_closed_runs_nothing(monkeypatch):
    """A kernel that is too old is an error, not an open door."""
    monkeypatch.setattr(fence, "abi", lambda: 2)
    with pytest.raises(OSError, match="too old"):
        fence.close(["/"])
