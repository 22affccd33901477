r"""What a path is: names beneath the root, one after the other, and nothing else.

A path that a model writes is text that may hold anything. It becomes a tuple of names here or is refused, without a look at the
disk, so that it is judged the same before the call starts, while it runs and after a restart. Nothing is expanded and nothing
is resolved: `~` and `file://` mean nothing, `..` is refused wherever it stands, because what it means depends on links.

What is shown can be typed back. A name with control characters, a quote in front or bytes that are no UTF-8 is shown the way git
shows it (`"caf\351"`), so that a file name can neither pretend to be two lines nor get lost on its way through a model.
"""

from __future__ import annotations

import os
import re

from power_agent.errors import PathRefused
from power_agent.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH

Names = tuple[str, ...]
"""A path beneath the root; bytes that are no UTF-8 are lone surrogates, as everywhere in Python. Empty: the root itself."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_LETTERS = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}
_QUOTED = {value[0]: f"\\{letter.decode()}" for letter, value in _LETTERS.items()} | {ord('"'): '\\"', ord("\\"): "\\\\"}
PRINTABLE = frozenset(map(chr, range(32, 127)))


def meant(path: str, root: str = "") -> Names:
    """Return the names that a path consists of, or raise `PathRefused`."""
    raw = _bytes(path)
    if b"\0" in raw:
        raise PathRefused("The path holds a NUL character.")
    if len(raw) > MAX_PATH_BYTES:
        raise PathRefused(f"The path is {len(raw)} bytes long; {MAX_PATH_BYTES} are possible.")
    text = os.fsdecode(raw)
    if text.startswith("/"):
        below = root and text.startswith(f"{root.rstrip('/')}/")
        raise PathRefused(
            f"{shown(text)} is absolute.", hint=f"Paths begin at the root: {shown(text[len(root.rstrip('/')) + 1 :] or '.')}" if below else "Paths begin at the root."
        )
    if _SCHEME.match(text):
        raise PathRefused(f"{shown(text)} is an address, not a path.", hint="Paths begin at the root.")
    if text == "~" or text.startswith("~/"):
        raise PathRefused(f"{shown(text)}: there is no home here.", hint="Paths begin at the root.")
    names = tuple(name for name in text.split("/") if name not in {"", "."})
    if ".." in names:
        raise PathRefused(f"{shown(text)} has .. in it.", hint="Name the place itself, from the root.")
    if len(names) > MAX_PATH_DEPTH:
        raise PathRefused(f"The path has {len(names)} names; {MAX_PATH_DEPTH} are possible.")
    for name in names:
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise PathRefused(f"A name in the path is longer than {MAX_NAME_BYTES} bytes.")
    return names


def file_meant(path: str, root: str = "") -> Names:
    """Return the names of a path that must be a file's: not the root, and not written as a directory."""
    names = meant(path, root)
    if not names:
        raise PathRefused("That is the root itself.", hint="Name a file.")
    if path.endswith(("/", "/.")):
        raise PathRefused(f"{shown(path)} is written as a directory.", hint="Leave out the slash behind it.")
    return names


def shown(path: str | Names) -> str:
    """Return a path as a model and a person see it; `meant` takes it back."""
    text = path if isinstance(path, str) else "/".join(path) or "."
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raw = text.encode(errors="surrogateescape") if _from_bytes(text) else text.encode(errors="backslashreplace")
    else:
        if text.isprintable() and not text.startswith('"'):
            return text
    return '"' + "".join(_QUOTED.get(byte) or (chr(byte) if chr(byte) in PRINTABLE else f"\\{byte:03o}") for byte in raw) + '"'


def _from_bytes(text: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff" for character in text)


def _bytes(path: str) -> bytes:
    """Return a path as the system takes it, unquoted if it was shown in quotes."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise PathRefused("The path holds half a character, which no file system has.") from None
    if len(raw) > 1 and raw.startswith(b'"') and raw.endswith(b'"'):
        return _ESCAPED.sub(_unescaped, raw[1:-1])
    return raw


def _unescaped(found: re.Match[bytes]) -> bytes:
    what = found[1]
    if len(what) == 3:  # noqa: PLR2004  octal digits
        return bytes([int(what, 8) & 0xFF])
    return _LETTERS.get(what, what)
