"""Looking around: what is in a directory, which files are called so, where a pattern stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from power_agent.errors import BadArguments, PowerAgentError, SearchFailed
from power_agent.limits import MAX_EDIT_BYTES, MAX_FOUND, MAX_SCAN_BYTES, MAX_SHOWN_BYTES, SEARCH_SECONDS
from power_agent.tools.files import matching
from power_agent.tools.files.content import SNIFFED, not_text, text_of
from power_agent.tools.files.ignoring import Ignore
from power_agent.tools.files.names import Names, meant, shown
from power_agent.tools.files.narrowing import must_hold, narrowed
from power_agent.tools.files.room import Room, is_temporary
from power_agent.tools.files.walking import Found, Pattern, Walk

MARKS = {"directory": "/", "special": " (no file)", "gone": " (gone)"}
MAX_CONTEXT = 20


class Searching:
    """Finds files of a room and lines in them."""

    def __init__(self, room: Room, *, ignore: bool) -> None:
        self._room = room
        self._ignore = ignore

    def look(self, path: str = ".", ignored: bool = False) -> str:
        """List a directory: directories end with a slash, links show where they point. What ignore files name is left out.

        Args:
            path: The directory, from the root.
            ignored: Show what ignore files name, too.
        """
        names = meant(path, self._room.root)
        lines, ignore, hidden = [], Ignore(), 0
        use = self._ignore and not ignored
        for depth in range(len(names) if use else 0):
            with self._room.directory(names[:depth]) as above:
                ignore = ignore.below(self._room, above, names[:depth])
        with self._room.directory(names) as handle:
            ignore = ignore.below(self._room, handle, names) if use else ignore
            for name, kind in Walk(self._room, ignore=False).entries(handle):
                if is_temporary(name) or ignore.hides((*names, name), directory=kind == "directory"):
                    hidden += not is_temporary(name)
                    continue
                lines.append(_entry(handle, name, kind))
        notes = [f"[{hidden} ignored, not shown]"] if hidden else []
        return _cut(lines, "entries", f"{shown(names)} is empty.", notes)

    def glob(self, pattern: str, path: str = ".") -> str:
        """Find files by name: * and ? within a name, ** for any directories, {a,b} for either. What ignore files name is left out.

        Args:
            pattern: For example src/**/*.py; without a slash it is looked for in all directories.
            path: The directory to look in, from the root.
        """
        below = meant(path, self._room.root)
        wanted = Pattern(pattern if "/" in pattern else f"**/{pattern}")
        walk = Walk(self._room, ignore=self._ignore)
        lines = [shown(found.names) for found in walk.under(below) if found.kind == "file" and wanted.matches(found.names[len(below) :])]
        return _cut(lines, "files", "No file is called so.", _not_all(walk))

    def grep(self, pattern: str, path: str = ".", files: str | None = None, ignore_case: bool = False, context: int = 0) -> str:
        """Find lines by a regular expression (Python's). Answers path:line:text; lines around a match have - in place of the colons.

        Args:
            pattern: The regular expression, searched for in each line.
            path: A file or a directory, from the root.
            files: Only in files called so, for example *.py.
            ignore_case: Take upper and lower case for the same.
            context: How many lines to show before and behind a match.
        """
        names = meant(path, self._room.root)
        wanted = None if files is None else Pattern(files if "/" in files else f"**/{files}")
        walk = Walk(self._room, ignore=self._ignore)
        candidates = [names] if self._is_file(names) else [one.names for one in walk.under(names) if self._wanted(walk, one, len(names), wanted)]
        text = must_hold(pattern, ignore_case=ignore_case)
        if text is not None and len(candidates) > 1:
            candidates = narrowed(self._room.root, candidates, text)
        context = max(0, min(context, MAX_CONTEXT))
        lines: list[str] = []
        with Matcher(pattern, ignore_case=ignore_case, context=context, limit=MAX_FOUND) as matcher:
            for candidate in candidates:
                lines += self._in_file(matcher, candidate, text, strict=candidate == names)
                if len(lines) > MAX_FOUND:
                    break
        return _cut(lines, "lines", "Nothing matches.", _not_all(walk))

    def _is_file(self, names: Names) -> bool:
        """Say whether a path is a file's; raise when it is neither that nor a directory."""
        if not names:
            return False
        with self._room.directory(names[:-1]) as above:
            try:
                self._room.look(above, names)
            except IsADirectoryError:
                return False
        self._room.protection.check(names, writing=False)
        return True

    @staticmethod
    def _wanted(walk: Walk, found: Found, depth: int, wanted: Pattern | None) -> bool:
        return found.kind == "file" and (wanted is None or wanted.matches(found.names[depth:])) and walk.searchable(found)

    def _in_file(self, matcher: Matcher, names: Names, text: str | None, *, strict: bool) -> list[str]:
        needed, lines = None if text is None else text.encode(), []
        try:
            for first, piece in _pieces(self._room, names):
                if needed is None or needed in piece:
                    lines += [_line(names, *found) for found in matcher.found(piece, first)]
                if len(lines) > MAX_FOUND:
                    break
        except (OSError, PowerAgentError) as error:
            if strict or isinstance(error, SearchFailed):
                raise
        return lines


def _entry(handle: int, name: str, kind: str) -> str:
    if kind == "link":
        try:
            return f"{shown(name)} -> {shown(os.readlink(name, dir_fd=handle))}"
        except OSError:
            return f"{shown(name)}{MARKS['gone']}"
    return f"{shown(name)}{MARKS.get(kind, '')}"


def _line(names: Names, number: int, text: str, matched: bool) -> str:
    mark = ":" if matched else "-"
    return f"{shown(names)}{mark}{number}{mark}{text_of(text.encode(errors='surrogateescape'))}"


def _not_all(walk: Walk) -> list[str]:
    return ["[There is more than could be looked at: name a directory further down.]"] if walk.cut else []


def _cut(lines: Sequence[str], what: str, none: str, notes: Sequence[str]) -> str:
    """Return as many lines as an answer holds, and say how many there were."""
    size, kept = 0, []
    for line in lines[:MAX_FOUND]:
        size += len(line.encode(errors="backslashreplace")) + 1
        if size > MAX_SHOWN_BYTES:
            break
        kept.append(line)
    more = [f"[… {'more' if len(lines) > MAX_FOUND else len(lines) - len(kept)} {what} left out: ask more narrowly]"] if len(kept) < len(lines) else []
    return "\n".join([*(kept or ([] if more else [none])), *more, *notes])


def _pieces(room: Room, names: Names) -> Iterator[tuple[int, bytes]]:
    """Yield the text of a file in pieces of whole lines, with the number of the first; nothing for what is no text."""
    with room.opened(names) as (file, _):
        first, rest, passed = 1, b"", 0
        while passed < MAX_SCAN_BYTES and (raw := os.read(file, MAX_EDIT_BYTES)):
            if not passed and not_text(raw[:SNIFFED]):
                return
            passed += len(raw)
            raw = rest + raw
            end = raw.rfind(b"\n") + 1 or (len(raw) if len(raw) >= MAX_EDIT_BYTES else 0)
            piece, rest = raw[:end], raw[end:]
            if piece:
                yield first, piece
                first += piece.count(b"\n")
        if rest:
            yield first, rest


class Matcher:
    """A process that matches, for as long as one search lasts and no longer than that may take."""

    def __init__(self, pattern: str, *, ignore_case: bool, context: int, limit: int) -> None:
        self._pattern = pattern
        self._wanted = {"pattern": pattern, "ignore_case": ignore_case, "context": context, "limit": limit}

    def __enter__(self) -> Self:
        command = [sys.executable, "-I", "-S", "-B", matching.__file__]
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept)  # noqa: S603  our own
        self._timer = threading.Timer(SEARCH_SECONDS, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        try:
            said = self._ask(self._wanted)
            if said:
                raise BadArguments(f"{self._pattern[:100]!r} is not a regular expression: {said['wrong']}.")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be written has no reader any more

    def found(self, raw: bytes, first: int) -> list[tuple[int, str, bool]]:
        """Return the lines that match, and those around them."""
        return [(number, text, matched) for number, text, matched in self._ask({"first": first, "size": len(raw)}, raw)]

    def _ask(self, what: dict[str, Any], raw: bytes = b"") -> Any:
        come, go = self._process.stdout, self._process.stdin
        if come is None or go is None:
            raise SearchFailed("The process that matches has no pipes.")
        try:
            go.write(json.dumps(what).encode() + b"\n")
            go.write(raw)
            go.flush()
            line = come.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise SearchFailed(f"The search took longer than {SEARCH_SECONDS:g} s, or more memory than it may have.", hint="Use a simpler pattern, or a directory further down.")
        return json.loads(line)
