"""What a person is shown is what will run: every character, and none that does not look like what it is.

What can be typed is shown as it is. What moves the cursor, turns the direction of the text, takes no room, or is a space that is
none stands there as an escape; a backslash is doubled only where it could be taken for the beginning of one. `unshown` gives
the text back.
A long text is folded in its middle: the end is always there, because the end is where things are hidden.
"""

from __future__ import annotations

import re
import unicodedata

MAX_SHOWN_CHARACTERS = 4_000
"""About a screen. What is left out is counted, and never at the end."""
PLAIN = {"\n", " "}
TWINS = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL", "LISU", "COPTIC", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT", "HALFWIDTH")
"""Scripts and styles that hold letters which look like Latin ones."""
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|s(?=\n|$))")
_WORD = re.compile(r"[^\s/=:;|&<>()'\"]+")


def shown(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return a text as a person should see it: escaped, folded in the middle when it is long, and with a note on look-alikes."""
    whole = escaped(text)
    if len(whole) > limit:
        tail = max(limit * 2 // 3, 1)
        head, left = limit - tail, len(whole) - limit
        whole = f"{whole[:head]}\n[… {left} characters are not shown here; the end follows …]\n{whole[-tail:]}"
    twins = look_alikes(text)
    if twins:
        named = ", ".join(f"{one!a} in {escaped(word)!r}" for one, word in twins[:5])
        whole += f"\n[look-alike letters: {named}{' …' if len(twins) > 5 else ''}]"  # noqa: PLR2004  as many as the line above names
    return whole


def escaped(text: str) -> str:
    """Return a text with every character visible; nothing is left out, and two texts never look the same."""
    made: list[str] = []
    after = "\n"
    for one in reversed(text):
        piece = "\\s" if one == " " and after == "\n" else _escaped(one)
        if one == "\\" and _ESCAPE.match("\\" + "".join(reversed(made[-9:]))):
            piece = "\\\\"
        made.append(piece)
        after = one
    return "".join(reversed(made))


def unshown(text: str) -> str:
    """Return what `escaped` was given."""
    return _ESCAPE.sub(_meant, text)


def look_alikes(text: str) -> list[tuple[str, str]]:
    """Return the letters that pretend to be Latin ones, each with the word it stands in: those in words that mix both, and
    those at the place of a command's name.
    """
    found = []
    for match in _WORD.finditer(text):
        word = match[0]
        foreign = [one for one in word if ord(one) > 127 and unicodedata.name(one, "").startswith(TWINS)]  # noqa: PLR2004  ASCII ends there
        mixed = any(one.isascii() and one.isalnum() for one in word)
        if foreign and (mixed or not text[: match.start()].strip()):
            found += [(one, word) for one in foreign]
    return found


def invisible(one: str) -> bool:
    """Say whether a character cannot be seen as what it is: controls, formats, strange spaces, halves of pairs, unassigned ones, marks."""
    return one not in PLAIN and (unicodedata.category(one) in {"Cc", "Cf", "Zl", "Zp", "Zs", "Cs", "Co", "Cn", "Mn", "Me"} or one in "\u115f\u1160\u3164\uffa0\u2800")


def _escaped(one: str) -> str:
    if not invisible(one):
        return one
    number = ord(one)
    if number <= 0xFF:  # noqa: PLR2004  what two digits hold
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004  what four digits hold


def _meant(match: re.Match[str]) -> str:
    what = match[1]
    if what == "\\":
        return "\\"
    return " " if what == "s" else chr(int(what[1:], 16))
