"""The pictures in the documentation are drawn from the tables.

`POWER_AGENT_WRITE_DOCS=1 pytest tests/test_diagram.py` draws them anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from power_agent.diagram import call_diagram, session_diagram
from power_agent.state import CALL_MOVES, MOVES, RESOLVED

README = Path(__file__).parent.parent / "README.md"
PICTURES: dict[str, Callable[[], str]] = {"call diagram": call_diagram, "session diagram": session_diagram}
ARROW = re.compile(r"    (\w+) --> (\w+): (.+)")


def between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_in_the_readme_is_the_table(name: str):
    """Between its markers stands what the code draws, once."""
    drawn = f"```mermaid\n{PICTURES[name]()}\n```\n"
    text = README.read_text("utf-8")
    if os.environ.get("POWER_AGENT_WRITE_DOCS"):
        text = between(name).sub(lambda found: found[1] + drawn + found[2], text)
        README.write_text(text, "utf-8")
    assert [found[0] for found in between(name).finditer(text)] == [f"<!-- {name} -->\n{drawn}<!-- end of {name} -->"]


def arrows(picture: str) -> set[tuple[str, str, str]]:
    return {(here, kind, there) for here, there, kinds in ARROW.findall(picture) for kind in kinds.split(", ")}


def test_every_move_of_a_call_is_drawn():
    """Each row of the table is an arrow, each end is one."""
    assert arrows(call_diagram()) == {(here, kind.removeprefix("call."), there) for here, moves in CALL_MOVES.items() for kind, there in moves.items()}
    assert set(re.findall(r"    (\w+) --> \[\*\]", call_diagram())) == set(RESOLVED)
    assert "    [*] --> requested\n" in call_diagram()


def test_every_move_of_a_session_is_drawn():
    """Each row that leads elsewhere is an arrow; facts about calls share one; a fork's first event is left out."""
    expected = {
        (here, "call.*" if kind.startswith("call.") else kind, there)
        for here, moves in MOVES.items()
        for kind, targets in moves.items()
        for there in targets
        if there != here and (here == "unborn" or kind != "session.opened")
    }
    assert arrows(session_diagram()) == expected
    assert "    [*] --> unborn\n" in session_diagram()
    assert session_diagram().endswith("erased --> [*]")
