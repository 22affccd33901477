"""What a person is shown is what will run."""

from __future__ import annotations

import itertools
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from power_agent.policy.showing import MAX_SHOWN_CHARACTERS, escaped, look_alikes, shown, unshown

TRICKY = st.text(st.one_of(st.sampled_from("\\xusU041 \n\t\r\x1b\x00\u202e\u200b\u00a0\u2028"), st.characters(exclude_categories=())))


@given(TRICKY)
def test_it_can_be_read_back(text):
    """No two texts look the same: what was shown gives back what will run."""
    assert unshown(escaped(text)) == text


def test_every_short_text_looks_different():
    """All texts of up to six of the characters that escapes are made of: none shares its looks with another."""
    texts = ["".join(made) for length in range(7) for made in itertools.product("\\xs4 \n", repeat=length)]
    assert len({escaped(text) for text in texts}) == len(texts)


@given(TRICKY)
def test_nothing_invisible_is_left(text):
    """Line ends and spaces aside, every character that is shown can be seen, and no space ends a line."""
    seen = escaped(text)
    assert not [one for one in seen if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Mn"} and one != "\n"]
    assert not [line for line in seen.split("\n") if line.endswith(" ")]


def test_plain_commands_are_shown_as_they_are():
    """What can be typed is shown byte for byte, backslashes too."""
    for text in ("ls -la | grep 'x'", r"sed 's/\./\n/' f", "echo ä ö 日本", "a\nb", r"C:\path"):
        assert escaped(text) == shown(text) == text


def test_escapes():
    """Controls, direction marks and spaces that are none are spelled out."""
    assert escaped("\x1b[2Kls\u202e\u200b\t\r") == r"\x1b[2Kls\u202e\u200b\x09\x0d"
    assert escaped("\\x41 ") == r"\\x41\s"


def test_the_end_of_a_long_command_is_seen():
    """Padding hides nothing: the end is there, and what is left out is counted."""
    text = "ls " + "a" * 50_000 + "; rm -rf src"
    seen = shown(text)
    assert seen.endswith("; rm -rf src")
    assert seen.startswith("ls aaa")
    assert f"{len(text) - MAX_SHOWN_CHARACTERS} characters are not shown" in seen
    assert len(seen) < MAX_SHOWN_CHARACTERS + 200
    assert "\\s" in shown("x" * 9_000 + " " * 9_000)


def test_look_alikes_are_named():
    """A word that mixes alphabets, or a command's name of foreign letters, is pointed at; a sentence in Russian is not."""
    assert shown("\u0441at x").endswith("[look-alike letters: '\\u0441' in 'сat']")
    assert look_alikes("ls p\u0430th") == [("\u0430", "p\u0430th")]
    assert look_alikes("\u0441\u0440 x")
    assert look_alikes("echo привет мир") == []
