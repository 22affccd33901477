"""Writing and editing: what the model knew is named by its version, what it wants stands in the call.

That is also what the probes live on. After a crash the file is at the version the call named (it did not happen), or it is what
the call makes of that version (it did), or something else, and then nobody knows. An edit is taken back to see whether the
version comes out that it began with: no copy of the old file is needed for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from power_agent.errors import EditRefused
from power_agent.ports import DidNotHappen, Happened, ProbeAnswer, ToolContext, Unknown
from power_agent.tools.files.content import ends_windows, version_of, whole, windows
from power_agent.tools.files.names import Names, file_meant, shown
from power_agent.tools.files.replacing import current, replace
from power_agent.tools.files.room import Room

PROBED_BYTES = 1 << 28
"""How much a probe digests while it takes edits back, before it gives up."""


class Edit(BaseModel):
    """One replacement."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    old: str = Field(description="Text that stands in the file exactly once.", min_length=1)
    new: str = Field(description="What shall stand there instead.")
    everywhere: bool = Field(default=False, description="Replace it wherever it stands.")


class Writing:
    """Changes files of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def write(self, path: str, content: str, context: ToolContext, version: str | None = None) -> str:
        """Write a whole file; missing directories are made. A file that is there already is replaced only if its version is given.

        Args:
            path: The file, from the root.
            content: The whole content.
            version: The version that read showed. Leave it out for a new file.
        """
        names, raw = file_meant(path, self._room.root), _bytes(content)
        replace(self._room, names, raw, seen=version, key=context.idempotency_key)
        return _written(names, raw)

    def probe_write(self, arguments: Mapping[str, Any], _: ToolContext) -> ProbeAnswer:
        """Tell whether a write happened: the content is known, and so is what was there before."""
        names, raw = file_meant(arguments["path"], self._room.root), _bytes(arguments["content"])
        now = current(self._room, names)
        if now == raw:
            return Happened(_written(names, raw))
        before = None if now is None else version_of(now)
        return DidNotHappen() if before == arguments["version"] else Unknown()

    def edit(self, path: str, old: str, new: str, version: str, context: ToolContext, everywhere: bool = False) -> str:
        """Replace a text in a file. It must stand there exactly once, and the file must be at the version that was read.

        Args:
            path: The file, from the root.
            old: The text to replace, exactly as it stands in the file, without line numbers.
            new: What shall stand there instead.
            version: The version that read showed.
            everywhere: Replace it wherever it stands.
        """
        return self.multi_edit(path, [_one(old, new, everywhere)], version, context)

    def probe_edit(self, arguments: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:
        """Tell whether an edit happened."""
        edits = [_one(arguments["old"], arguments["new"], arguments["everywhere"])]
        return self.probe_multi_edit({"path": arguments["path"], "edits": edits, "version": arguments["version"]}, context)

    def multi_edit(self, path: str, edits: list[Edit], version: str, context: ToolContext) -> str:
        """Replace several texts in a file, one after the other, all or none. Each sees what the ones before it made.

        Args:
            path: The file, from the root.
            edits: What to replace by what, in this order.
            version: The version that read showed.
        """
        names = file_meant(path, self._room.root)
        before = whole(self._room, names)
        if version_of(before) == version:  # else replace says so
            raw = edited(names, before, edits)
            replace(self._room, names, raw, seen=version, key=context.idempotency_key)
            return _written(names, raw)
        replace(self._room, names, before, seen=version, key=context.idempotency_key)
        raise EditRefused(f"{shown(names)} came back to version {version} while it was edited. Nothing was changed.", hint="Try again.")

    def probe_multi_edit(self, arguments: Mapping[str, Any], _: ToolContext) -> ProbeAnswer:
        """Tell whether edits happened, by taking them back."""
        names = file_meant(arguments["path"], self._room.root)
        now = current(self._room, names)
        if now is None:
            return Unknown()
        if version_of(now) == arguments["version"]:
            return DidNotHappen()
        for before in taken_back(now, _raw_edits(now, arguments["edits"]), _Work(PROBED_BYTES)):
            if version_of(before) == arguments["version"]:
                return Happened(_written(names, now))
        return Unknown()


def _one(old: str, new: str, everywhere: bool) -> Edit:
    if not old:
        raise EditRefused("old is empty. Nothing was changed.", hint="Name the text to replace; write replaces a whole file.")
    return Edit(old=old, new=new, everywhere=everywhere)


def _bytes(content: str) -> bytes:
    """Return a text as it stands in a file; bytes that are no UTF-8 travel as lone surrogates, as in file names."""
    try:
        return content.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise EditRefused("The text holds half a character. Nothing was changed.") from None


def _written(names: Names, raw: bytes) -> str:
    return f"{shown(names)} · {len(raw)} bytes · version {version_of(raw)}"


RawEdit = tuple[bytes, bytes, bool]


def _raw_edits(content: bytes, edits: Sequence[Edit]) -> list[RawEdit]:
    """Return edits as bytes; in a file whose lines all end the Windows way theirs do too."""
    raw = [(_bytes(edit.old), _bytes(edit.new), edit.everywhere) for edit in edits]
    return [(windows(old), windows(new), everywhere) for old, new, everywhere in raw] if ends_windows(content) else raw


def edited(names: Names, content: bytes, edits: Sequence[Edit]) -> bytes:
    """Return a content with edits made, or raise `EditRefused`."""
    if not edits:
        raise EditRefused("There are no edits. Nothing was changed.")
    before = content
    for number, (old, new, everywhere) in enumerate(_raw_edits(content, edits), 1):
        which = f"Edit {number} of {len(edits)}: the" if len(edits) > 1 else "The"
        first = content.find(old)
        if first < 0:
            raise EditRefused(f"{which} old text does not stand in {shown(names)}. Nothing was changed.", hint="Read it again, and copy the text exactly.")
        if not everywhere and content.find(old, first + 1) >= 0:
            raise EditRefused(f"{which} old text stands more than once in {shown(names)}. Nothing was changed.", hint="Take more of what is around it, or pass everywhere=true.")
        content = content.replace(old, new) if everywhere else content[:first] + new + content[first + len(old) :]
    if content == before:
        raise EditRefused(f"That leaves {shown(names)} as it is. Nothing was changed.")
    return content


class _Work:
    """How much may still be looked at."""

    def __init__(self, left: int) -> None:
        self.left = left

    def allows(self, content: bytes) -> bool:
        self.left -= len(content) + 1
        return self.left > 0


def taken_back(content: bytes, edits: Sequence[RawEdit], work: _Work) -> Iterator[bytes]:
    """Yield contents from which these edits, in their order, could have made this one: all of them, or as many as the work allows."""
    if not edits:
        yield content
        return
    *earlier, (old, new, everywhere) = edits
    if everywhere:
        if new and work.allows(content):
            yield from taken_back(content.replace(new, old), earlier, work)
        return
    at = content.find(new)
    while at >= 0 and work.allows(content):
        yield from taken_back(content[:at] + old + content[at + len(new) :], earlier, work)
        at = content.find(new, at + 1)
