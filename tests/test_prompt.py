"""A system prompt has slots, and what a project says stands in it."""

from __future__ import annotations

import pytest

from power_agent import system_prompt
from power_agent.errors import InvalidInput
from power_agent.limits import MAX_PROJECT_BYTES


def test_slots():
    """In a fixed order, with headings; what is empty is left out."""
    assert system_prompt() == ""
    assert system_prompt(role="You help.") == "You help."
    whole = system_prompt(role="You help.", guidelines=["Be kind.", "Be sure."], style="Short.", extra="It is noon.\n")
    assert whole == "You help.\n\n# Guidelines\n\n- Be kind.\n- Be sure.\n\n# Style\n\nShort.\n\nIt is noon."
    assert system_prompt(guidelines="As text.") == "# Guidelines\n\nAs text."


def test_project_instructions(tmp_path):
    """From the repository's directory down to the one that is worked in; the nearest has the last word."""
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "AGENTS.md").write_text("outside of the repository")
    (tmp_path / "repo" / ".git").mkdir()
    (tmp_path / "repo" / "AGENTS.md").write_text("use tabs")
    (inner / "AGENTS.md").write_text("use spaces")
    prompt = system_prompt(role="You help.", project=inner)
    assert prompt.index("use tabs") < prompt.index("use spaces")
    assert "outside" not in prompt
    assert "# Project instructions" in prompt
    assert system_prompt(project=tmp_path / "repo" / "a").count("use") == 1


def test_without_a_repository_only_the_directory_itself(tmp_path):
    """Nobody's home directory speaks."""
    (tmp_path / "AGENTS.md").write_text("outside")
    (tmp_path / "in").mkdir()
    assert system_prompt(role="x", project=tmp_path / "in") == "x"
    with pytest.raises(InvalidInput):
        system_prompt(project=tmp_path / "nowhere")


def test_bounded(tmp_path):
    """A file that is too long is cut, and says so; bytes that are no text do no harm."""
    (tmp_path / "AGENTS.md").write_bytes(b"\xff" + b"x" * MAX_PROJECT_BYTES)
    prompt = system_prompt(project=tmp_path)
    assert len(prompt) < MAX_PROJECT_BYTES + 500
    assert "left out" in prompt
