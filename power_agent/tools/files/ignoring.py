"""Which files a search passes over: what the ignore files say, in git's way.

Ignore files come with a project and may be hostile. A line that could make the matcher go astray (more than a few stars) is left
out, a file that is too large is none. `pathspec` reads the lines; it comes with the extra `files`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from power_agent.errors import InvalidInput, PowerAgentError
from power_agent.limits import MAX_IGNORE_BYTES
from power_agent.tools.files.names import Names
from power_agent.tools.files.room import Room

FILES = (".gitignore", ".ignore")
NEVER = frozenset({".git", ".hg", ".svn", ".jj", ".bzr"})
"""Not searched: nobody wants to find every version of everything."""
_STARS = re.compile(r"\*+")
MAX_STARS, MAX_STARS_IN_NAME = 6, 3


def need_pathspec() -> None:
    """Raise `InvalidInput` where ignore files cannot be read."""
    if find_spec("pathspec") is None:
        raise InvalidInput("Ignore files are read by pathspec, which is not installed.", hint="pip install 'power-agent[files]', or files(root, ignore=False).")


class Ignore:
    """What the ignore files from the root down to one directory say; the deepest has the last word."""

    def __init__(self, specs: tuple[tuple[int, Any], ...] = ()) -> None:
        self._specs = specs

    def below(self, room: Room, handle: int, names: Names) -> Ignore:
        """Return what holds in a directory, given what holds above it."""
        lines: list[str] = []
        for file in FILES:
            lines += _lines(room, handle, (*names, file))
        if not lines:
            return self
        return Ignore((*self._specs, (len(names), _spec(lines))))

    def hides(self, names: Names, *, directory: bool) -> bool:
        """Say whether a name is passed over."""
        for depth, spec in reversed(self._specs):
            verdict = spec.check_file("/".join(names[depth:]) + "/" * directory).include
            if verdict is not None:
                return bool(verdict)
        return False


def _spec(lines: list[str]) -> Any:
    """Return what the lines say; one that is no pattern says nothing."""
    read = importlib.import_module("pathspec").GitIgnoreSpec.from_lines
    try:
        return read(lines)
    except (ValueError, re.error):
        return read([line for line in lines if _is_pattern(read, line)])


def _is_pattern(read: Callable[[list[str]], Any], line: str) -> bool:
    try:
        read([line])
    except (ValueError, re.error):
        return False
    return True


def _lines(room: Room, handle: int, names: Names) -> list[str]:
    try:
        with room.opened_in(handle, names) as (file, found):
            raw = os.read(file, MAX_IGNORE_BYTES) if found.st_size <= MAX_IGNORE_BYTES else b""
    except (OSError, PowerAgentError):
        return []
    return [line for line in raw.decode(errors="surrogateescape").splitlines() if _harmless(line)]


def _harmless(line: str) -> bool:
    if not line.strip() or line.startswith("#"):
        return False
    return len(_STARS.findall(line)) <= MAX_STARS and all(len(_STARS.findall(name)) <= MAX_STARS_IN_NAME for name in line.split("/"))
