"""Where a session stands beneath the root, and which scripts a command line would have read.

The log is the only truth: each answer of the shell ends with the folder the next command begins in, and that last line is where it
is read from, by every process alike. Nothing is remembered beside it. All commands of one message begin in the same folder, and the
last of them says where the next message begins; a fork stands where its parent stood. A summary takes the line with it: the next command begins at the root,
and says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping

from pydantic import JsonValue

from power_agent.errors import InvalidInput, PathRefused
from power_agent.limits import MAX_EDIT_BYTES
from power_agent.policy.commands import CommandReader
from power_agent.tools.files.names import meant, shown

INTERPRETERS = frozenset(
    ("bash", "sh", "dash", "zsh", "ksh", "fish", "source", ".", "python", "python2", "python3", "pypy3", "node", "nodejs", "deno", "bun", "tsx", "ts-node"),
) | {"ruby", "perl", "php", "lua", "Rscript", "awk", "gawk", "mawk", "sed", "make", "gmake", "just", "tclsh", "pwsh", "java", "osascript", "uv", "poetry"}
"""Programs that do what a file says: the file is part of what was approved."""
WITHOUT_A_NAME = {"make": ("GNUmakefile", "makefile", "Makefile"), "gmake": ("GNUmakefile", "makefile", "Makefile"), "just": ("justfile", "Justfile")}
"""What they read when no file is named."""
MAX_SCRIPTS = 16


class Ground:
    """A root, and places beneath it as they are on disk now."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        if not os.path.isdir(self.root):
            raise InvalidInput(f"{os.fspath(root)!r} cannot be the root of a shell.", hint="Pass a directory that exists.")

    def path(self, folder: str) -> str:
        """Return a folder's path."""
        return os.path.join(self.root, folder) if folder else self.root

    def folder(self, path: str) -> str | None:
        """Return a directory as a folder beneath the root (empty: the root itself); None: it is none."""
        real = os.path.realpath(path)
        if not os.path.isdir(real) or not f"{real}/".startswith(f"{self.root.rstrip('/')}/"):
            return None
        return real[len(self.root.rstrip("/")) + 1 :]

    def told(self, said: Iterable[str]) -> str:
        """Return the folder that the latest answer which names one says; the root when it is gone."""
        for one in said:
            last = one.rpartition("\n")[2]
            if last.startswith("[in ") and last.endswith("]"):
                try:
                    return self.folder(self.path("/".join(meant(last[4:-1])))) or ""
                except (PathRefused, ValueError):
                    continue
        return ""

    def scripts(self, command: str, folder: str, judge: CommandReader) -> dict[str, JsonValue]:
        """Return the digests of the files a command line would have interpreted, as far as it names them plainly."""
        found: dict[str, JsonValue] = {}
        folders = [folder]
        for part in judge(command, {"folder": folder}).parts:
            words = [word for word in part.argv if word is not None]
            if words[:1] == ["cd"] and len(words) > 1:
                folders += [inside for one in list(folders) if (inside := self.folder(os.path.join(self.path(one), words[-1]))) is not None]
            for name in _read_by(words):
                for one in folders:
                    path = os.path.join(self.path(one), name)
                    if len(found) < MAX_SCRIPTS and os.path.isfile(path):
                        found[os.path.relpath(path, self.root)] = _digest(path)
        return found


def last_line(folder: str) -> str:
    """Say where the next command begins."""
    return f"[in {shown(folder) if folder else '.'}]"


def _read_by(words: list[str]) -> Iterator[str]:
    """Yield what the words of a command may name as a script."""
    if not words:
        return
    name = words[0].rpartition("/")[2]
    if "/" in words[0]:
        yield words[0]
    if name.rstrip("0123456789.") in INTERPRETERS or name in INTERPRETERS:
        yield from (piece for word in words[1:] for piece in (word, word.partition("=")[2], word[2:]) if piece)
        yield from WITHOUT_A_NAME.get(name, ())


def _digest(path: str) -> JsonValue:
    """Return the digest of a script; of one that nobody would call a script, its size and time."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_size > MAX_EDIT_BYTES:
            return f"{found.st_size} bytes at {found.st_mtime_ns}"
        return hashlib.sha256(file.read()).hexdigest()


def binding(ground: Ground, judge: CommandReader, arguments: Mapping[str, JsonValue], said: Iterable[str]) -> dict[str, JsonValue]:
    """Return what a command line depends on beside itself."""
    folder = ground.told(said)
    command = arguments.get("command")
    scripts = ground.scripts(command, folder, judge) if isinstance(command, str) else {}
    return {"folder": folder, **({"scripts": scripts} if scripts else {})}
