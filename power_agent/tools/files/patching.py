"""Patches: a unified diff over any number of files, all of it or nothing.

Every hunk is tried before anything is written: its old lines must stand where it says or, if not there, in exactly one place.
What fails while the files are written is put back. A process that dies in between leaves some files new and some old, each whole;
its probe sees which, and the next attempt of the same call goes on with the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from power_agent.errors import BadArguments, EditRefused, FileChanged
from power_agent.ports import DidNotHappen, Happened, ProbeAnswer, ToolContext, Unknown
from power_agent.tools.files.content import ends_windows, version_of, windows
from power_agent.tools.files.names import Names, file_meant, shown
from power_agent.tools.files.replacing import current, replace
from power_agent.tools.files.room import Room
from power_agent.word import Word, word
from power_agent.word import replace as changed

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_IGNORED = ("diff ", "index ", "new file mode ", "deleted file mode ", "similarity index ")
_UNABLE = ("rename ", "copy ", "old mode ", "new mode ", "GIT binary patch", "Binary files ")
NOTHING = "/dev/null"


@word()
class Hunk(Word):
    """Some lines, and what stands there instead."""

    line: int
    old: tuple[bytes, ...] = ()
    new: tuple[bytes, ...] = ()


@word()
class FilePatch(Word):
    """What happens to one file."""

    names: Names
    hunks: tuple[Hunk, ...] = ()
    creates: bool = False
    deletes: bool = False

    @property
    def turned(self) -> FilePatch:
        """The patch that takes this one back."""
        hunks = tuple(Hunk(hunk.line, hunk.new, hunk.old) for hunk in self.hunks)
        return changed(self, hunks=hunks, creates=self.deletes, deletes=self.creates)


@word()
class _Change(Word):
    """One file as it is and as it shall be."""

    names: Names
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)

    @property
    def seen(self) -> str | None:
        return None if self.before is None else version_of(self.before)


class Patching:
    """Applies patches in a room."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def apply_patch(self, patch: str, context: ToolContext) -> str:
        """Apply a unified diff (as git diff prints it) to one or more files: all of it, or nothing. /dev/null makes or deletes a file.

        Args:
            patch: The diff, with paths from the root. Its context lines must stand in the files exactly.
        """
        patches = parsed(patch, self._room.root)
        changes = [self._change(one, again=context.attempt > 1) for one in patches]
        done: list[_Change] = []
        try:
            for change in changes:
                if change.after == change.before:
                    continue  # an earlier attempt made it
                replace(self._room, change.names, change.after, seen=change.seen, key=context.idempotency_key)
                done.append(change)
        except Exception as error:
            left = self._put_back(done, context)
            why = str(error).replace(" Nothing was written.", "")
            raise EditRefused(f"{why} {'Nothing was changed.' if not left else f'Changed, and not put back: {left}.'}", untouched=not left) from error
        return _told(patches, {change.names: change.after for change in changes})

    def _change(self, one: FilePatch, *, again: bool) -> _Change:
        """Return what a patch does to a file: nothing when an earlier attempt did it."""
        now = current(self._room, one.names)
        if again and _applied(one.turned, now) is not ... and _applied(one, now) is ...:
            return _Change(one.names, now, now)
        return _Change(one.names, now, applied(one, now))

    def _put_back(self, done: Sequence[_Change], context: ToolContext) -> str:
        """Undo what was written, last first; return what could not be."""
        left = []
        for change in reversed(done):
            seen = None if change.after is None else version_of(change.after)
            try:
                replace(self._room, change.names, change.before, seen=seen, key=context.idempotency_key)
            except (OSError, FileChanged, BadArguments):
                left.append(shown(change.names))
        return ", ".join(left)

    def probe(self, arguments: Mapping[str, Any], _: ToolContext) -> ProbeAnswer:
        """Tell whether a patch happened: each file must be clearly before it or clearly behind it.

        With some files behind it and some before, the rest did not happen, and the next attempt makes only the rest.
        """
        patches = parsed(arguments["patch"], self._room.root)
        contents = {one.names: current(self._room, one.names) for one in patches}
        before = [_applied(one, contents[one.names]) is not ... for one in patches]
        after = [_applied(one.turned, contents[one.names]) is not ... for one in patches]
        if any(one == other for one, other in zip(before, after, strict=True)):
            return Unknown()
        return Happened(_told(patches, contents)) if all(after) else DidNotHappen()


def _told(patches: Sequence[FilePatch], contents: Mapping[Names, bytes | None]) -> str:
    lines = []
    for one in patches:
        content = contents.get(one.names)
        what = "deleted" if one.deletes else "made" if one.creates else "changed"
        lines.append(f"{shown(one.names)} · {what}" + (f" · version {version_of(content)}" if content is not None else ""))
    return "\n".join(lines)


# -- applying ------------------------------------------------------------------------------------------------------------


def _applied(one: FilePatch, content: bytes | None) -> bytes | Any | None:
    """Return the patched content, or `...` when the patch does not fit."""
    try:
        return applied(one, content)
    except (EditRefused, FileChanged):
        return ...


def applied(one: FilePatch, content: bytes | None) -> bytes | None:
    """Return a content with a patch applied (None: no file), or raise `EditRefused`."""
    where = shown(one.names)
    if one.creates:
        if content is not None:
            raise EditRefused(f"{where} is there already. Nothing was changed.")
        return b"".join(line for hunk in one.hunks for line in hunk.new)
    if content is None:
        raise EditRefused(f"There is no file {where}. Nothing was changed.")
    lines, made, at = _split(content), list[bytes](), 0
    for number, hunk in enumerate(_with_endings(one.hunks, content), 1):
        found = _place(lines, hunk, at)
        if found is None:
            raise EditRefused(f"Hunk {number} of {where} does not fit: its old lines stand nowhere, or in several places. Nothing was changed.", hint="Read the file again.")
        made += lines[at:found] + list(hunk.new)
        at = found + len(hunk.old)
    made += lines[at:]
    if any(not line.endswith(b"\n") for line in made[:-1]):
        raise EditRefused(f"The patch would put lines of {where} together. Nothing was changed.")
    after = b"".join(made)
    if one.deletes:
        if after:
            raise EditRefused(f"{where} holds more than the patch deletes. Nothing was changed.")
        return None
    return after


def _split(content: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in content.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _with_endings(hunks: Sequence[Hunk], content: bytes) -> list[Hunk]:
    """Let lines end the Windows way where all lines of the file do."""
    if not ends_windows(content):
        return list(hunks)
    return [Hunk(hunk.line, tuple(map(windows, hunk.old)), tuple(map(windows, hunk.new))) for hunk in hunks]


def _place(lines: Sequence[bytes], hunk: Hunk, start: int) -> int | None:
    """Find where the old lines of a hunk stand: where it says, else the only place there is."""
    old = list(hunk.old)
    if not old:
        return hunk.line if start <= hunk.line <= len(lines) else None  # after that line: nothing else says where
    stated = hunk.line - 1
    if stated >= start and lines[stated : stated + len(old)] == old:
        return stated
    places = [at for at in range(start, len(lines) - len(old) + 1) if lines[at] == old[0] and lines[at : at + len(old)] == old]
    return places[0] if len(places) == 1 else None


# -- reading a diff ------------------------------------------------------------------------------------------------------


def parsed(patch: str, root: str = "") -> list[FilePatch]:
    """Read a unified diff, or raise `BadArguments`."""
    lines = patch.split("\n")
    if lines[-1] == "":
        lines.pop()
    found = list(_files(lines, root))
    if not found:
        raise BadArguments("The patch names no file: it begins with --- a/path and +++ b/path.")
    if len({one.names for one in found}) != len(found):
        raise BadArguments("The patch names a file twice.")
    return found


def _files(lines: list[str], root: str) -> Iterator[FilePatch]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith(_UNABLE):
            raise BadArguments(f"Line {at + 1} of the patch: {line[:60]!r} is not possible here; use --- and +++ with hunks.")
        if not line.startswith("--- "):
            if line.strip() and not line.startswith(_IGNORED):
                raise BadArguments(f"Line {at + 1} of the patch does not belong there: {line[:60]!r}.")
            at += 1
            continue
        if at + 1 >= len(lines) or not lines[at + 1].startswith("+++ "):
            raise BadArguments(f"Line {at + 2} of the patch: +++ with a path is missing.")
        old, new = _name(line), _name(lines[at + 1])
        hunks, at = _hunks(lines, at + 2)
        yield _file_patch(old, new, hunks, root)


def _name(line: str) -> str:
    name = line[4:].split("\t", 1)[0].rstrip("\r")
    return name if name.startswith('"') else name.rstrip(" ")


def _file_patch(old: str, new: str, hunks: list[Hunk], root: str) -> FilePatch:
    creates, deletes = old == NOTHING, new == NOTHING
    if creates and deletes:
        raise BadArguments("The patch names a file neither before nor behind it.")
    old_names, new_names = (None if name == NOTHING else _beneath(name, side, root) for name, side in ((old, "a"), (new, "b")))
    names = new_names or old_names or ()
    if old_names and new_names and old_names != new_names:
        raise BadArguments(f"The patch renames {shown(old_names)} to {shown(new_names)}: delete the one and make the other.")
    if creates and (len(hunks) > 1 or any(hunk.old for hunk in hunks)):
        raise BadArguments(f"The patch makes {shown(names)}, so it cannot have old lines.")
    if not hunks and not creates and not deletes:
        raise BadArguments(f"The patch of {shown(names)} has no hunk.")
    return FilePatch(names, tuple(hunks), creates, deletes)


def _beneath(name: str, side: str, root: str) -> Names:
    names = file_meant(name, root)
    return names[1:] if len(names) > 1 and names[0] == side else names


def _hunks(lines: list[str], at: int) -> tuple[list[Hunk], int]:
    hunks: list[Hunk] = []
    while at < len(lines) and (found := _HUNK.match(lines[at])):
        first, old_size, new_size = int(found[1]), int(found[2] or 1), int(found[4] or 1)
        at += 1
        old: list[bytes] = []
        new: list[bytes] = []
        while at < len(lines) and (len(old) < old_size or len(new) < new_size):
            at = _line(lines, at, old, new)
        if (len(old), len(new)) != (old_size, new_size):
            raise BadArguments(f"Line {at} of the patch: the hunk has {len(old)} old and {len(new)} new lines, and says {old_size} and {new_size}.")
        hunks.append(Hunk(first, tuple(old), tuple(new)))
    return hunks, at


def _line(lines: list[str], at: int, old: list[bytes], new: list[bytes]) -> int:
    """Take one line of a hunk; return where the next one is."""
    mark, raw = lines[at][:1] or " ", lines[at][1:].encode(errors="surrogateescape") + b"\n"
    sides = {" ": (old, new), "-": (old,), "+": (new,)}.get(mark)
    if mark == "\\" or sides is None:
        raise BadArguments(f"Line {at + 1} of the patch does not belong into a hunk: {lines[at][:60]!r}.")
    for side in sides:
        side.append(raw)
    if at + 1 < len(lines) and lines[at + 1].startswith("\\"):
        for side in sides:
            side[-1] = side[-1][:-1]
        return at + 2
    return at + 1
