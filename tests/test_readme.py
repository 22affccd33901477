"""The README's promises are run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from power_agent import Limits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = "\n".join(re.findall(r"```sh\n(power-agent .*?)```", README, re.DOTALL))
PROOFS = re.findall(r"^\| (.+) \| \[`(\w+)`\]\((tests/\w+\.py)\) \|$", README, re.MULTILINE)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet, tmp_path):
    """Every Python snippet runs as it stands, in an empty folder, without a warning; what its comments say is what it prints."""
    told = subprocess.run([sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.splitlines() == re.findall(r"print\(.*\)  # (.+)", snippet)


def test_ten_lines_are_ten():
    """The first snippet is what its heading says, blank lines aside; run again, it charges nobody again."""
    assert len([line for line in SNIPPETS[0].splitlines() if line]) == 10


def test_the_shell_does_what_it_says(tmp_path):
    """The commands run one after the other, each in a process of its own, on the agent of the snippet above them; exit codes are as said."""
    (bot,) = [snippet for snippet in SNIPPETS if snippet.startswith("# bot.py\n")]
    (tmp_path / "bot.py").write_text(bot, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POWER_AGENT_")} | {"XDG_CONFIG_HOME": str(tmp_path / "settings")}
    lines = [line for line in SHELL.splitlines() if line]
    assert len(lines) > 5
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "power-agent"
        told = subprocess.run([sys.executable, "-W", "error", "-m", "power_agent", *words], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        expected = re.search(r"exit code (\d+)", line)
        assert (line, told.returncode) == (line, int(expected[1]) if expected else 0), told.stderr
        assert told.stdout or told.stderr
    assert (tmp_path / "elsewhere.db").exists()


def test_what_it_links_to_is_there():
    """Every file the README names exists."""
    named = set(re.findall(r"`((?:tests|power_agent|migrations)/[\w./]+)`", README)) | {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_what_survives_is_shown_by_a_test():
    """Every row of that table names a test that is there, in the file it links to."""
    section = README.split("## What survives which failure\n")[1].split("\n## ")[0]
    assert len(PROOFS) == len([line for line in section.splitlines() if line.startswith("| ")]) - 1 > 20
    missing = [(test, file) for _, test, file in PROOFS if not re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)]
    assert missing == []


def test_the_limits_it_names_are_there():
    """What stands in the text is as true as what stands in a snippet."""
    (inside,) = re.findall(r"`limits=Limits\(([^`]+)\)`", README)
    limits = eval(f"Limits({inside})", {"Limits": Limits})  # noqa: S307  our own file
    assert limits.max_turn_seconds == 600


def test_every_example_is_a_way_in():
    """Nobody looks for an example that is named here and not there; the two commands stand as they have to."""
    assert "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/power-agent demo\n" in README
    assert "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -q -n 2\n" in README
    assert next(line for line in README.splitlines() if "pytest -q" in line).endswith(".venv/bin/pytest -q -n 2")  # what CI takes for the second
    assert set(re.findall(r"examples/([\w.]+\.(?:py|ipynb))", README)) <= {path.name for path in (ROOT / "examples").iterdir()}
