"""What teaches: a page for each error, a skill for coding agents, and a map for readers who are models. All of it is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import power_agent
import power_agent.cli.demo
from power_agent.cli import main
from power_agent.cli.app import VERBS
from power_agent.errors import PowerAgentError

ROOT = Path(__file__).parent.parent
SKILL = (ROOT / "power_agent" / "skill" / "SKILL.md").read_text(encoding="utf-8")
MAP = (ROOT / "llms.txt").read_text(encoding="utf-8")
KINDS = sorted(PowerAgentError.all_codes().items())


# -- errors ------------------------------------------------------------------------------------------------------------


def told(capfd, *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(words))
    streams = capfd.readouterr()
    return code, streams.out, streams.err


def test_every_error_has_a_page(capfd):
    """Its class, what it means, why or what helps, how a command ends with it, and one to three commands with words to fill in."""
    for code, kind in KINDS:
        ended, out, err = told(capfd, "errors", code)
        assert ended == 0
        assert out.startswith(f"{code}  {kind.__name__}")
        assert " ".join(kind.__doc__.split()) in out
        assert re.search(r"exit code +\d", out)
        assert bool(re.search(r"^again +trying again may help$", out, re.MULTILINE)) is kind.retryable
        commands = re.findall(r"power-agent (\S+)([^\n]*)", err)
        assert 1 <= len(commands) <= 3
        assert all(verb in {*VERBS, "--help"} and "{" not in rest for verb, rest in commands)


def test_all_errors_on_one_page(capfd):
    """Each code once, with its exit code; as JSON the same and more."""
    code, out, _ = told(capfd, "errors")
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()) == [one for one, _ in KINDS]
    _, out, _ = told(capfd, "errors", "--json")
    assert {one["code"]: one["name"] for one in json.loads(out)["errors"]} == {one: kind.__name__ for one, kind in KINDS}


@pytest.mark.parametrize(("typed", "said"), [("sesion_busy", "Did you mean session_busy?"), ("xyzzy", "power-agent errors")])
def test_an_error_that_there_is_not(capfd, typed, said):
    """It is said, and what was probably meant."""
    code, out, err = told(capfd, "errors", typed)
    assert (code, out) == (2, "")
    assert said in err


# -- the skill and the map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", SKILL, re.DOTALL))
def test_the_skill_runs(snippet, tmp_path):
    """Every snippet runs as it stands, in an empty folder, without a warning."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_lost_answer_is_a_doubt(tmp_path):
    """The skill's snippet about it prints what its comment says; with the timeout itself for an answer the call would have failed."""
    (snippet,) = [one for one in re.findall(r"```python\n(.*?)```", SKILL, re.DOTALL) if "OutcomeUnknown" in one]
    rest = snippet.replace("OutcomeUnknown(f", "TimeoutError(f").replace("result.pending[0].state, result.pending[0].why", "result.calls[0].state, ''")
    assert rest.count("OutcomeUnknown") == 1
    for code, said in ((snippet, re.findall(r"print\(.*\)  # (.+)", snippet)), (rest, ["completed failed "])):
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert done.stdout.splitlines() == said


def test_what_teaches_about_tools_names_it():
    """Where somebody looks who writes a tool: the README, the skill, the decorator, an example."""
    for text in ((ROOT / "README.md").read_text(encoding="utf-8"), SKILL, power_agent.tool.__doc__, (ROOT / "examples" / "probe.py").read_text(encoding="utf-8")):
        assert "OutcomeUnknown" in text


def test_the_skill_is_one(capfd):
    """It begins with its name and when to use it; the command prints the file that is installed."""
    _, front, _ = SKILL.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert fields.keys() == {"name", "description"}
    assert re.fullmatch(r"[a-z-]{1,64}", fields["name"])
    assert len(fields["description"]) <= 1024
    assert len(SKILL.splitlines()) < 500
    assert told(capfd, "skill") == (0, SKILL, "")


@pytest.mark.parametrize("text", [SKILL, MAP], ids=["skill", "map"])
def test_what_they_name_is_there(text):
    """Methods of the loop, public names that are imported, options, commands and files: each one exists."""
    for name in re.findall(r"loop\.(\w+)", text):
        assert hasattr(power_agent.StatefulAgentLoop, name), name
    for names in re.findall(r"from power_agent import ([\w, ]+)", text):
        assert set(names.split(", ")) <= set(power_agent.__all__)
    for verb in re.findall(r"`power-agent (\w+)", text):
        assert verb in VERBS, verb
    for path in re.findall(r"`((?:power_agent|examples|tests)/[\w./]+)`", text) + re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / path).exists(), path


def test_the_map_is_complete():
    """llms.txt has the form that its readers know, and names every public name and every example."""
    lines = MAP.splitlines()
    assert lines[0] == "# power_agent"
    assert lines[2].startswith("> ")
    assert set(re.findall(r"`(\w+)`", MAP)) >= set(power_agent.__all__)
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir() if path.suffix in {".py", ".ipynb"}} <= set(re.findall(r"\]\(([^)]+)\)", MAP))
