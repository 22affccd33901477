"""An export, line by line: what stands in each, and how far it is believed.

    header    {"format":"power_agent.export","version":1,"session":…,"seq":…,"tip":…,"lineage":[…],"redacted":false}
    record    {"session":…,"seq":…,"epoch":…,"at":…,"kind":…,"body":"the exact text","hash":…}, or its "digest" where the body was erased
    blob      {"blob":…,"size":…}, then {"piece":"base64"} until the size is reached; before the first record that names it
    trailer   {"records":…,"blobs":…,"tip":…}; without it the end was cut off

A line says where an event stands in its session, never where it stands in a store. `lineage` names, eldest first, whose events
these are and up to which seq: a fork brings its ancestors' part. Everything here is bounded and typed before anybody looks at it;
what is wrong raises `ImportRefused`, what is newer `StoreNewer`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

from power_agent.cleaning import check_id
from power_agent.errors import EventTooLarge, ImportRefused, InvalidInput, StoreNewer
from power_agent.events import EVENTS
from power_agent.limits import EXPORT_PIECE_BYTES, MAX_BLOB_BYTES, MAX_EXPORT_LINE_BYTES, MAX_LINEAGE
from power_agent.ports import Blob, Record

FORMAT = "power_agent.export"
VERSION = 1
HASH_DIGITS = 64
T = TypeVar("T")


class Share(NamedTuple):
    """Whose events, and up to which seq."""

    session: str
    upto: int


class Header(NamedTuple):
    """What an export says it holds: a session up to its tip, its ancestors first."""

    session: str
    seq: int
    tip: bytes
    lineage: tuple[Share, ...]
    redacted: bool = False


class Trailer(NamedTuple):
    """The last line: how many records and blobs came before it, and the hash of the last one."""

    records: int
    blobs: int
    tip: bytes


class Lines(Protocol):
    """What lines are read from: a file, open for reading bytes."""

    def readline(self, limit: int, /) -> bytes:
        """Read up to the next line break, at most that many bytes."""
        ...


Item = Header | Record | Blob | Trailer

# -- writing -----------------------------------------------------------------------------------------------------------


def header_line(header: Header) -> bytes:
    """Write the first line."""
    lineage = [{"session": share.session, "upto": share.upto} for share in header.lineage]
    what = {"format": FORMAT, "version": VERSION, "session": header.session, "seq": header.seq, "tip": header.tip.hex(), "lineage": lineage, "redacted": header.redacted}
    return _line(what)


def record_line(record: Record) -> bytes:
    """Write an event."""
    body = {"body": record.body} if record.body is not None else {"digest": (record.digest or b"").hex()}
    where = {"session": record.session, "seq": record.seq, "epoch": record.epoch, "at": record.at, "kind": record.kind}
    return _line({**where, **body, "hash": record.hash.hex()})


def blob_lines(blob: Blob) -> Iterator[bytes]:
    """Write a blob, piece by piece."""
    yield _line({"blob": blob.digest, "size": len(blob.content)})
    for start in range(0, len(blob.content), EXPORT_PIECE_BYTES):
        yield _line({"piece": base64.b64encode(blob.content[start : start + EXPORT_PIECE_BYTES]).decode()})


def trailer_line(trailer: Trailer) -> bytes:
    """Write the last line."""
    return _line({"records": trailer.records, "blobs": trailer.blobs, "tip": trailer.tip.hex()})


def _line(what: Mapping[str, object]) -> bytes:
    line = json.dumps(what, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > MAX_EXPORT_LINE_BYTES:
        message = f"A line of an export would have {len(line)} bytes; {MAX_EXPORT_LINE_BYTES} are allowed."
        raise EventTooLarge(message, hint="", bytes=len(line), limit=MAX_EXPORT_LINE_BYTES)
    return line


# -- reading -----------------------------------------------------------------------------------------------------------


def items(lines: Lines, *, begun: bool = False) -> Iterator[Item]:
    """Read what an export holds, in its order: nothing missing in the middle of a blob, nothing behind the trailer.

    One item is read at a time, never ahead. `begun` begins in the middle, behind the header.
    """
    reader, last = _Reader(lines), False
    if not begun:
        first = reader.next()
        if first is None:
            raise ImportRefused("There is nothing in it: an export begins with a header.")
        yield _header(reader, first)
    while (fields := reader.next()) is not None:
        if last:
            raise reader.refused("something follows the trailer")
        if "records" in fields:
            last = True
            yield Trailer(_count(reader, fields, "records"), _count(reader, fields, "blobs"), _hash(reader, fields, "tip"))
        elif "blob" in fields:
            yield _blob(reader, fields)
        else:
            yield _record(reader, fields)
    if not last:
        raise ImportRefused(f"It ends after line {reader.number} without a trailer: it was cut off.")


class _Reader:
    """Reads one line after the other and knows which one it is at."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.number = 0

    def refused(self, why: str) -> ImportRefused:
        return ImportRefused(f"Line {self.number}: {why}.", line=self.number)

    def next(self) -> dict[str, Any] | None:
        """Return the fields of the next line; None behind the last one."""
        from pydantic_core import from_json  # noqa: PLC0415  bounded in depth, and strict; exports are rare

        line = self._lines.readline(MAX_EXPORT_LINE_BYTES + 1)
        if not line:
            return None
        self.number += 1
        if len(line) > MAX_EXPORT_LINE_BYTES:
            raise self.refused(f"it is longer than {MAX_EXPORT_LINE_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise self.refused("it was cut off")
        try:
            fields = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise self.refused(f"it is not JSON: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(fields, dict):
            raise self.refused("it is not a JSON object")
        return fields

    def get(self, fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
        """Return a field that must be there and of exactly this type."""
        value = fields.get(name)
        if type(value) is not kind:
            raise self.refused(f"its {name!r} is missing or of another type")
        return value


def _header(reader: _Reader, fields: dict[str, Any]) -> Header:
    if fields.get("format") != FORMAT:
        raise reader.refused("it is not the header of an export")
    version = reader.get(fields, "version", int)
    if version > VERSION:
        raise StoreNewer(f"The export has version {version}; this power_agent reads up to {VERSION}.", path="")
    if version < 1:
        raise reader.refused(f"there is no version {version}")
    lineage = reader.get(fields, "lineage", list)
    if not 1 <= len(lineage) <= MAX_LINEAGE or not all(isinstance(share, dict) for share in lineage):
        raise reader.refused("its lineage is not a list of sessions")
    shares = tuple(Share(_name(reader, share), _count(reader, share, "upto")) for share in lineage)
    header = Header(_name(reader, fields), _count(reader, fields, "seq"), _hash(reader, fields, "tip"), shares, reader.get(fields, "redacted", bool))
    if shares[-1] != (header.session, header.seq):
        raise reader.refused("its lineage does not end with its session")
    ends = [share.upto for share in shares]
    if len({share.session for share in shares}) != len(shares) or ends != sorted(set(ends)) or ends[0] < 1:
        raise reader.refused("its lineage is in disorder")
    return header


def _record(reader: _Reader, fields: dict[str, Any]) -> Record:
    kind = reader.get(fields, "kind", str)
    if kind not in EVENTS:
        raise StoreNewer(f"Line {reader.number} holds an event of the unknown kind {kind[:100]!r}.", path="", kind=kind[:100])
    body, digest = (reader.get(fields, "body", str), None) if "body" in fields else (None, _hash(reader, fields, "digest"))
    place = (_count(reader, fields, "seq"), _count(reader, fields, "epoch"), _integer(reader, fields, "at"))
    return Record(0, _name(reader, fields), *place, kind, body, digest, _hash(reader, fields, "hash"))


def _blob(reader: _Reader, fields: dict[str, Any]) -> Blob:
    name, size = _hash(reader, fields, "blob"), _count(reader, fields, "size")
    if size > MAX_BLOB_BYTES:
        raise reader.refused(f"a blob of {size} bytes; {MAX_BLOB_BYTES} are allowed")
    content = bytearray()
    while len(content) < size:
        piece = reader.next()
        if piece is None:
            raise ImportRefused(f"It ends after line {reader.number} in the middle of a blob: it was cut off.")
        try:
            part = base64.b64decode(reader.get(piece, "piece", str), validate=True)
        except (binascii.Error, ValueError):
            raise reader.refused("its piece is not base64") from None
        if not part:
            raise reader.refused("its piece is empty")
        content += part
    if len(content) != size or sha256(content).digest() != name:
        raise reader.refused(f"the blob {name.hex()} has other content than its name says")
    return Blob(name.hex(), bytes(content))


def _name(reader: _Reader, fields: Mapping[str, Any]) -> str:
    try:
        return check_id(reader.get(fields, "session", str))
    except ImportRefused:
        raise
    except InvalidInput as error:
        raise reader.refused(error.message.rstrip(".")) from None


def _integer(reader: _Reader, fields: Mapping[str, Any], name: str) -> int:
    number = reader.get(fields, name, int)
    if not -(2**63) <= number < 2**63:
        raise reader.refused(f"its {name!r} is out of bounds")
    return number


def _count(reader: _Reader, fields: Mapping[str, Any], name: str) -> int:
    number = _integer(reader, fields, name)
    if number < 0:
        raise reader.refused(f"its {name!r} is negative")
    return number


def _hash(reader: _Reader, fields: Mapping[str, Any], name: str) -> bytes:
    text = reader.get(fields, name, str)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(text) != HASH_DIGITS or text != value.hex():
        raise reader.refused(f"its {name!r} is not a hash")
    return value
