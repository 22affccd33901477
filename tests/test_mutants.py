"""The list of mutants is about the code as it stands."""

import shutil
from pathlib import Path

import mutants
import pytest
from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant, tmp_path):
    """What it changes is there exactly once, the change is one that Python reads, and its tests exist."""
    room = tmp_path / mutant.room
    room.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "power_agent" / mutant.room, room)
    mutants.mutated(mutant, tmp_path)
    assert room.read_text(encoding="utf-8") != (ROOT / "power_agent" / mutant.room).read_text(encoding="utf-8")
    compile(room.read_text(encoding="utf-8"), mutant.room, "exec")
    assert all((Path(__file__).parent / f"test_{name}.py").exists() for name in mutant.tests.split())


def test_there_are_enough_of_them():
    """At least thirty, each under a name of its own."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


def test_an_unchanged_copy_passes_and_a_broken_one_does_not():
    """The script itself can tell: a mutant that changes nothing is alive, one that breaks a promise is noticed."""
    same = Mutant("nothing", "policy/verdicts.py", '    """Run it."""\n', '    """Run it!"""\n', "diagram")
    assert mutants.noticed(same)[0] is False
    broken = Mutant("something", "state/moves.py", '    "denied": {},\n', '    "denied": {"call.started": "started"},\n', "diagram")
    assert mutants.noticed(broken)[0] is True
