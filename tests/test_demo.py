"""What a newcomer tries first."""

import subprocess
import sys

import pytest


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-m", "power_agent", *words], check=False, capture_output=True, text=True)


def test_demo_tells_its_story():
    """The demo kills a process inside a call, finds the doubt, refuses the repeat, goes on, verifies, and pays once."""
    told = run("demo")
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    for sentence in ("exit status -9", "is doubted: its process died", "error[illegal_move]", "every hash and every move is right", "Payments made: 1"):
        assert sentence in told.stdout


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_help(words):
    """Without a verb, or asked for help, the command says what there is."""
    told = run(*words)
    assert told.returncode == 0
    assert "demo" in told.stdout


def test_unknown_verb():
    """An unknown verb is an error on stderr with exit status 2, and names what there is."""
    told = run("dmeo")
    assert (told.returncode, told.stdout) == (2, "")
    assert "error[usage]" in told.stderr
    assert "demo" in told.stderr
