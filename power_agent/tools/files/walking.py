"""Walking through a room: every name beneath a place, in order, with what is ignored left out."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from power_agent.errors import BadArguments, FileProtected
from power_agent.limits import MAX_PATH_DEPTH, MAX_WALKED
from power_agent.tools.files.ignoring import NEVER, Ignore
from power_agent.tools.files.names import Names
from power_agent.tools.files.room import Room, is_temporary

MAX_BRANCHES = 100
"""Patterns that one pattern with braces stands for."""


class Found(NamedTuple):
    """A name that was met, and the handle of its directory while it is open."""

    names: Names
    handle: int
    kind: str


class Walk:
    """Walks once; `cut` says that there was more than could be looked at."""

    def __init__(self, room: Room, *, ignore: bool) -> None:
        self._room = room
        self._ignore = ignore
        self._left = MAX_WALKED
        self.cut = False

    def under(self, names: Names) -> Iterator[Found]:
        """Yield everything beneath a directory, sorted, directories before what is in them."""
        ignore = Ignore()
        for depth in range(len(names)):
            if self._ignore:
                with self._room.directory(names[:depth]) as above:
                    ignore = ignore.below(self._room, above, names[:depth])
        with self._room.directory(names) as handle:
            yield from self._in(handle, names, ignore)

    def _in(self, handle: int, names: Names, ignore: Ignore) -> Iterator[Found]:
        if self._ignore:
            ignore = ignore.below(self._room, handle, names)
        for name, kind in self.entries(handle):
            path = (*names, name)
            if is_temporary(name) or (self._ignore and (name in NEVER or ignore.hides(path, directory=kind == "directory"))):
                continue
            yield Found(path, handle, kind)
            if kind == "directory" and len(path) < MAX_PATH_DEPTH:
                try:
                    below = self._room.step(handle, path)
                except (OSError, BadArguments):
                    continue  # gone, exchanged, or not ours to read
                try:
                    yield from self._in(below, path, ignore)
                finally:
                    os.close(below)
            if self.cut:
                return

    def entries(self, handle: int) -> list[tuple[str, str]]:
        """Return the names in a directory and what they are, sorted."""
        found = []
        with os.scandir(handle) as entries:
            for entry in entries:
                self._left -= 1
                if self._left < 0:
                    self.cut = True
                    break
                found.append((entry.name, kind_of(entry)))
        return sorted(found)

    def searchable(self, found: Found) -> bool:
        """Say whether a file may be read and searched, without opening it."""
        if found.kind != "file":
            return False
        try:
            self._room.protection.check(found.names, writing=False)
            self._room.look(found.handle, found.names)
        except (OSError, BadArguments, FileProtected):
            return False
        return True


def kind_of(entry: os.DirEntry[str]) -> str:
    """Say what a name in a directory is; links are links."""
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return "gone"
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "special")


# -- patterns ------------------------------------------------------------------------------------------------------------


class Pattern:
    """A glob: `*` and `?` and `[…]` within a name, `**` for any directories, `{a,b}` for either."""

    def __init__(self, text: str) -> None:
        self._branches = [tuple(name for name in branch.split("/") if name not in {"", "."}) for branch in _branches(text)]
        if not any(self._branches) or any(".." in branch for branch in self._branches):
            raise BadArguments(f"{text!r} is not a pattern of names beneath the root.")

    def matches(self, names: Names) -> bool:
        """Say whether a path is meant."""
        return any(_fits(branch, names) for branch in self._branches)


def _fits(pattern: Names, names: Names) -> bool:
    """Match name by name; each place in the pattern is tried against each place in the path at most once."""
    places = {0}
    for name in names:
        places = _past_stars(pattern, places)
        places = {place if pattern[place] == "**" else place + 1 for place in places if place < len(pattern) and _one_fits(pattern[place], name)}
    return len(pattern) in _past_stars(pattern, places)


def _past_stars(pattern: Names, places: set[int]) -> set[int]:
    reached = set(places)
    for place in range(len(pattern)):
        if place in reached and pattern[place] == "**":
            reached.add(place + 1)
    return reached


@lru_cache(10_000)
def _one_fits(pattern: str, name: str) -> bool:
    return pattern == "**" or fnmatchcase(name, pattern)


_BRACES = re.compile(r"\{([^{}]*)\}")


def _branches(text: str) -> list[str]:
    """Write out braces."""
    waiting, done = [text], []
    while waiting:
        one = waiting.pop()
        found = _BRACES.search(one)
        if found is None:
            done.append(one)
        else:
            waiting += [one[: found.start()] + branch + one[found.end() :] for branch in found[1].split(",")]
        if len(waiting) + len(done) > MAX_BRANCHES:
            raise BadArguments(f"The pattern stands for more than {MAX_BRANCHES} patterns.")
    return done
