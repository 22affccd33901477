"""Words: frozen like dataclasses, filled faster, and the same for whoever makes kinds of their own of them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, field
from dataclasses import replace as plainly

import pytest

from power_agent.messages import Text, Usage
from power_agent.word import Word, replace, word


@word()
class Pair(Word):
    """A word with a default of each sort."""

    left: int
    right: int = 2
    more: list[int] = field(default_factory=list)


@word(slots=False)
class Loose(Word):
    """One that keeps its fields in a dictionary."""

    left: int
    more: list[int] = field(default_factory=list)


class Same(Text):
    """A kind without anything of its own."""

    __slots__ = ()


class Wider(Text):
    """A kind with room for more."""

    def louder(self) -> str:
        """Say it again."""
        return self.text.upper()


@pytest.mark.parametrize("kind", [Pair, Loose])
def test_a_word_is_frozen_and_of_its_kind(kind):
    """While it is filled it is of an open kind, which nobody sees afterwards."""
    one = kind(1)
    assert type(one) is kind
    assert one == kind(1, more=[])
    assert one.more is not kind(1).more
    for change in (lambda: setattr(one, "left", 3), lambda: delattr(one, "left")):
        with pytest.raises(FrozenInstanceError):
            change()
    assert [copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))] == [one] * 3  # noqa: S301  our own


def test_kinds_of_ones_own_stay_what_they_are():
    """Whoever inherits from a word without making one of it gets theirs, before and after the first word was made."""
    assert [type(made) for made in (Text("a"), Same("a"), Wider("a"))] == [Text, Same, Wider]
    assert (Same("a").text, Wider("a").louder()) == ("a", "A")
    with pytest.raises(FrozenInstanceError):
        Same("a").text = "b"


def test_what_cannot_be_made_is_not_left_open():
    """A default that fails leaves nothing that could be set."""

    @word()
    class Failing(Word):
        left: int
        right: int = field(default_factory=lambda: 1 // 0)

    empty = object.__new__(Failing)
    with pytest.raises(ZeroDivisionError):
        empty.__init__(1)
    assert type(empty) is Failing


def test_a_copy_with_changes_is_the_one_of_dataclasses():
    """Also of one whose arguments are named, and for a name that is none."""
    for one, changes in ((Pair(1), {"right": 3}), (Loose(1), {"left": 2}), (Usage(1, 2), {"output": 5}), (Wider("a"), {"text": "b"})):
        assert replace(one, **changes) == plainly(one, **changes)
        assert type(replace(one, **changes)) is type(one)
    with pytest.raises(TypeError):
        replace(Pair(1), nothing=1)


@pytest.mark.parametrize("slots", [True, False])
def test_a_word_can_refuse_what_it_would_hold(slots):
    """`__post_init__` is called when it is filled, as in dataclasses; in a kind of its own as well."""

    @word(slots=slots)
    class Even(Word):
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError(self.number)

    class Kind(Even):
        __slots__ = ()

    for kind in (Even, Kind):
        assert kind(2).number == 2
        with pytest.raises(ValueError, match="3"):
            kind(3)
