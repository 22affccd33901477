"""What a newcomer tries first."""

import os
import subprocess
import sys

import pytest


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "power_agent", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **environment})


def test_demo_tells_its_story(tmp_path):
    """An agent is killed inside a call, the doubt is found, a person hands in the result, the agent finishes; it paid once."""
    told = run("demo", TMPDIR=str(tmp_path))
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    for sentence in (
        "killed (SIGKILL) inside send_money",
        "error[session_pending]",
        "t1r2c1 send_money(to='Ada', euros=10) is doubted, attempt 1",
        "resume(): completed. The agent says: Done: Ada has her 10 euros, and the report is written.",
        "verify(): every hash and every move is right. Payments in the bank's book: 1.",
        "Three commands to try next",
    ):
        assert sentence in told.stdout
    (folder,) = tmp_path.glob("power-agent-demo-*")
    assert (folder / "report.txt").read_text(encoding="utf-8") == "Ada: paid 10 euros."
    assert (folder / "bank.txt").read_text(encoding="utf-8") == "Ada +10\n"


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
