"""How the tests run: chance is seeded, so that every run sees the same histories."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import shell
from hypothesis import HealthCheck, settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started: what they import is compiled once
sys.dont_write_bytecode = False

settings.register_profile(
    "seeded", derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
)
settings.register_profile("deep", parent=settings.get_profile("seeded"), derandomize=False, max_examples=2_000, print_blob=True)
settings.load_profile(os.environ.get("POWER_AGENT_HYPOTHESIS", "seeded"))


@pytest.fixture(scope="session")
def past(tmp_path_factory):
    """A folder in which everything has happened."""
    folder = tmp_path_factory.mktemp("past")
    shell.eventful(folder)
    told = shell.piped("export", "done", "past.jsonl", cwd=folder)
    assert told.code == 0, told.err
    return folder


@pytest.fixture
def here(past, tmp_path, monkeypatch):
    """The same folder, for one test alone, as the working directory of a person without settings."""
    for name in ("agent.py", "power-agent.db", "past.jsonl"):
        shutil.copy(past / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in os.environ if name.startswith("POWER_AGENT_") or name in {"NO_COLOR", "CI"}]:
        monkeypatch.delenv(name)
    sys.modules.pop("agent", None)
    return tmp_path


@pytest.fixture
def run(capfd, here):
    """Run a command in this process."""
    from power_agent.cli import main

    def ran(*words: str) -> shell.Told:
        capfd.readouterr()
        code = main(list(words))
        told = capfd.readouterr()
        return shell.Told(code, told.out, told.err)

    return ran
