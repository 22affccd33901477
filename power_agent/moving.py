"""From store to store: a session leaves as the bytes that were kept, and is let in only when every one of them fits.

    export   streams header, events, blobs and trailer, checking each hash on the way: damage is not exported
    import   reads all of it first (hashes, chain, legality of every move, blobs); then one transaction, all or nothing

A fork brings its ancestors' part. What is here already is compared by hash: the same tip changes nothing, a beginning is
extended, anything else is `SessionExists`. The last event is `session.imported`: approvals that were given elsewhere are void,
because the other copy may use them too. Nothing runs by itself, and listeners are not told of another store's past.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from power_agent import events as e
from power_agent.chain import secret_of
from power_agent.cleaning import clean
from power_agent.errors import ExportRedacted, ImportRefused, InvalidInput, SessionErased, SessionExists, SessionNotFound, StoreDamaged, StoreNotFound
from power_agent.landing import land
from power_agent.parcel import Header, Share, Trailer, blob_lines, header_line, items, record_line, trailer_line
from power_agent.ports import Adoption, Blob, Clock, Fact, Place, Record, SessionRow, Store, Tip
from power_agent.redaction import redacted as shown
from power_agent.state import SessionState, evolve
from power_agent.store.verify import ChainReader, blobs_of
from power_agent.store.writer import open_here
from power_agent.word import replace

CHUNK = 200
"""Events read at a time: a commit never waits long behind an export."""

Source = str | os.PathLike[str] | Iterable[bytes] | AsyncIterable[bytes]

# -- export ------------------------------------------------------------------------------------------------------------


class Export:
    """A session as it stood when it was asked for: iterate over its lines, or write them `to` a file.

    `tip` is worth keeping elsewhere: `verify(tip=…)` compares a store with it.
    """

    def __init__(self, store: Store, header: Header, *, erased: bool) -> None:
        self._store = store
        self._header = header
        self._erased = erased
        self.session = header.session
        self.tip = Tip(header.seq, header.tip.hex())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        header, reader = self._header, ChainReader()
        yield header_line(header)
        sent, blobs = set[tuple[str, str]](), 0
        while reader.state.seq < header.seq:
            chunk = await self._store.read(self.session, after=reader.state.seq, upto=header.seq, limit=CHUNK)
            if not chunk:
                raise StoreDamaged(f"Session {self.session!r} has no event behind {reader.state.seq}, but {header.seq} should be there.", path="")
            for record in chunk:
                self._check(reader, record)
                for digest in [] if header.redacted else blobs_of(record):
                    if (record.session, digest) not in sent:
                        sent.add((record.session, digest))
                        blobs += 1
                        for line in blob_lines(await self._blob(record, digest)):
                            yield line
                yield self._redacted(record, reader.state) if header.redacted else record_line(record)
        if reader.tip != header.tip:
            raise StoreDamaged(f"Session {self.session!r} does not end with the hash that its row says.", path="")
        yield trailer_line(Trailer(header.seq, blobs, header.tip))

    def _check(self, reader: ChainReader, record: Record) -> None:
        if record.body is None and not self._erased:
            raise SessionErased(f"Session {self.session!r} was erased while it was exported.", session=self.session)
        wrong = reader.take(record)
        if wrong:
            raise StoreDamaged(f"Session {self.session!r}, event {record.seq}: {wrong}", path="")

    async def _blob(self, record: Record, digest: str) -> Blob:
        content = await self._store.blob(record.session, digest)
        if content is None:
            raise StoreDamaged(f"Session {self.session!r}, event {record.seq}: the blob {digest} is missing.", path="")
        return Blob(digest, content)

    def _redacted(self, record: Record, state: SessionState) -> bytes:
        if record.body is None:
            return record_line(record)
        return record_line(record._replace(body=shown(record.body, [tool.name for tool in state.config.tools])))

    async def to(self, target: str | os.PathLike[str]) -> None:
        """Write it to a new file, whole and durable or not at all."""
        await land(target, self)


async def export(store: Store, session: str, *, redacted: bool = False) -> Export:
    """Return a session as an export. Redacted, it shows what happened without what was said, and cannot be imported."""
    row = await store.find(session)
    if row is None:
        raise SessionNotFound(f"There is no session {session!r}.", session=session)
    lineage, up = [Share(session, row.head)], row
    while up.parent is not None:
        lineage.append(Share(up.parent, up.base))
        found = await store.find(up.parent)
        if found is None or len(lineage) > row.head:
            raise StoreDamaged(f"The ancestors of session {session!r} are not there.", path="")
        up = found
    return Export(store, Header(session, row.head, row.tip, tuple(lineage[::-1]), redacted), erased=row.erased)


# -- import: what arrived ----------------------------------------------------------------------------------------------


class Imported(NamedTuple):
    """What became of an import: the session, where it stands now, and whether it is new, was extended, or was here already."""

    session: str
    seq: int
    status: Literal["new", "extended", "same"]


class _Found:
    """What an export holds of one session, as far as it was checked."""

    def __init__(self, session: str, parent: _Found | None, offset: int) -> None:
        self.session = session
        self.parent = parent.session if parent is not None else None
        self.base = parent.upto if parent is not None else 0
        self.base_tip = parent.tip if parent is not None else b""
        self.offset = offset
        self.upto: int = self.base
        self.tip: bytes = self.base_tip
        self.salt = b""
        self.marked: tuple[bytes, int] | None = None  # the hash of the last event that is here, and what comes behind it
        self.state = SessionState("")


class _Inspection:
    """Reads a whole export and believes nothing: what it lets pass was kept by some store, exactly so."""

    def __init__(self, file: BinaryIO, heads: Mapping[str, int]) -> None:
        self._file = file
        self._heads = heads
        self._reader = ChainReader()
        self._blobs: set[str] = set()
        self._unclaimed: set[str] = set()
        self._counts = [0, 0]
        self.found: list[_Found] = []
        self.header = _header(file)

    def run(self) -> None:
        """Read to the end, or raise."""
        self._file.seek(0)
        flow = items(self._file)
        next(flow)
        offset = self._file.tell()
        trailer: Trailer | None = None
        for item in flow:
            match item:
                case Record():
                    self._record(item, offset)
                case Blob():
                    self._blob(item)
                case Trailer():
                    trailer = item
            offset = self._file.tell()
        if self._unclaimed:
            raise ImportRefused(f"The blob {min(self._unclaimed)} is named by no event.")
        header = self.header
        if trailer != (*self._counts, header.tip) or (self._reader.state.seq, self._reader.tip) != (header.seq, header.tip):
            raise ImportRefused(f"It holds {self._counts[0]} events up to {self._reader.state.seq}; header and trailer say otherwise.")

    def _record(self, record: Record, offset: int) -> None:
        lineage, before = self.header.lineage, len(self.found)
        if not self.found or record.seq > lineage[before - 1].upto:
            if before == len(lineage):
                raise ImportRefused(f"Event {record.seq} stands behind the last one.")
            self.found.append(_Found(lineage[before].session, self.found[-1] if self.found else None, offset))
        found = self.found[-1]
        if record.session != found.session:
            raise ImportRefused(f"Event {record.seq} is of session {record.session!r}, not of {found.session!r}.")
        if record.body is None or record.kind == "session.erased":
            raise SessionErased(f"Session {record.session!r} was erased; there is nothing to go on with.", session=record.session)
        wrong = self._reader.take(record)
        if wrong:
            raise ImportRefused(f"Event {record.seq} of {record.session!r}: {wrong}")
        self._claim(record)
        self._counts[0] += 1
        found.upto, found.tip, found.state = record.seq, record.hash, self._reader.state
        found.salt = found.salt or secret_of(found.state.nonce)
        if record.seq == self._heads.get(record.session):
            found.marked = (record.hash, self._file.tell())

    def _claim(self, record: Record) -> None:
        """Demand every blob that an event names, and an event for every blob."""
        named = set(blobs_of(record))
        missing = named - self._blobs
        if missing:
            raise ImportRefused(f"Event {record.seq} names the blob {min(missing)}, which is missing.")
        if self._unclaimed - named:
            raise ImportRefused(f"The blob {min(self._unclaimed - named)} is named by no event.")
        self._unclaimed.clear()

    def _blob(self, blob: Blob) -> None:
        if not self.found:
            raise ImportRefused("A blob stands before the first event.")
        self._blobs.add(blob.digest)
        self._unclaimed.add(blob.digest)
        self._counts[1] += 1


def _header(file: BinaryIO) -> Header:
    file.seek(0)
    header = next(items(file))
    if not isinstance(header, Header):
        raise ImportRefused("It has no header.")
    if header.redacted:
        raise ExportRedacted(f"The export of session {header.session!r} is redacted.")
    return header


def _arrivals(file: BinaryIO, offset: int, session: str) -> Iterator[Record | Blob]:
    """Read the events and blobs of one session once more, from a place on."""
    file.seek(offset)
    for item in items(file, begun=True):
        if isinstance(item, Trailer) or (isinstance(item, Record) and item.session != session):
            return
        if isinstance(item, Record | Blob):
            yield item


# -- import: what is here ----------------------------------------------------------------------------------------------


async def import_(
    store: Store, clock: Clock, source: Source, *, is_free: Callable[[str], bool] = lambda _owner: False, origin: str | None = None, by: str | None = None
) -> Imported:
    """Let a session in: a path, or the lines or chunks of an export. Everything is checked before anything is written.

    `is_free` says of a lease's holder that it need not be waited for (it is dead, or it is us).
    """
    with await spooled(source) as file:
        return await admit(store, clock, file, is_free=is_free, origin=origin, by=by)


def inspect(file: BinaryIO) -> None:
    """Read an export to its end, or raise: what can be known of it without a store."""
    _Inspection(file, {}).run()


async def admit(store: Store, clock: Clock, file: BinaryIO, *, is_free: Callable[[str], bool] = lambda _owner: False, origin: str | None = None, by: str | None = None) -> Imported:
    """Let a session in whose export stands in a file that can be read twice."""
    header = await asyncio.to_thread(_header, file)
    rows = {share.session: await store.find(share.session) for share in header.lineage}
    inspection = _Inspection(file, {name: row.head for name, row in rows.items() if row is not None})
    await asyncio.to_thread(inspection.run)
    adoptions = []
    for found in inspection.found:
        own = found.session == header.session
        news = _news(found, e.SessionImported(tip=found.tip.hex(), source=origin, by=by), clock.now(), own=own)
        adoption = await _adoption(store, file, found, rows[found.session], news, own=own)
        if adoption is not None:
            adoptions.append(adoption if adoption.holder is None or is_free(adoption.holder) else replace(adoption, holder=None))
    row = rows[header.session]
    if not adoptions or adoptions[-1].session != header.session:
        return Imported(header.session, row.head if row is not None else header.seq, "same")
    await _to_its_end(store.adopt(adoptions, clock.now()))
    return Imported(header.session, header.seq + 1, "new" if row is None else "extended")


async def _adoption(store: Store, file: BinaryIO, found: _Found, row: SessionRow | None, news: Sequence[Fact], *, own: bool) -> Adoption | None:
    """Compare what arrived with what is here: nothing to do, something to add, or `SessionExists`."""
    name = found.session
    if row is None:
        branch = Place(found.parent, found.base) if found.parent is not None else None
        arrivals = partial(_arrivals, file, found.offset, name)
        return Adoption(session=name, head=found.base, tip=found.base_tip, salt=found.salt, branch=branch, arrivals=arrivals, facts=news)
    if row.erased:
        raise SessionErased(f"Session {name!r} was erased here.", session=name)
    if row.head < found.upto and found.marked is not None and found.marked[0] == row.tip:
        arrivals = partial(_arrivals, file, found.marked[1], name)
        return Adoption(session=name, head=row.head, tip=row.tip, salt=found.salt, known=True, holder=row.owner, arrivals=arrivals, facts=news)
    behind = await store.read(name, after=found.upto - 1, upto=found.upto + 1) if row.head >= found.upto else []
    same = bool(behind) and (behind[0].session, behind[0].hash) == (name, found.tip)
    if same and (not own or row.head == found.upto or (row.head == found.upto + 1 and _says_imported(behind[1], found.tip))):
        return None
    message = f"There is a session {name!r} already, and it is not a beginning of what was to be imported."
    raise SessionExists(message, session=name, hint="Import it into another store.")


def _says_imported(record: Record, tip: bytes) -> bool:
    """Say whether an event is the one that an earlier import of the same export added."""
    event = e.decode(record.kind, record.body) if record.body is not None else None
    return isinstance(event, e.SessionImported) and event.tip == tip.hex()


def _news(found: _Found, imported: e.SessionImported, at: int, *, own: bool) -> tuple[Fact, ...]:
    """Return what is added behind the events. An ancestor that holds no approval stays as it was, so that it can be extended later."""
    state = found.state
    after = evolve(state, e.Envelope(state.session, state.seq + 1, state.epoch, at, imported, kind=imported.kind))
    return (Fact(imported.kind, at, clean(imported).body),) if own or after.calls != state.calls else ()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for something that cannot be recalled, also when we are cancelled meanwhile: it still reads the file."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait([task])
            task.cancelled() or task.exception()


# -- import: where it comes from ---------------------------------------------------------------------------------------


UNREAD = "Name the file that export wrote, or pass its bytes."


async def spooled(source: Source) -> BinaryIO:
    """Return something that can be read twice: the file itself, or what was received, in a nameless file."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            return await asyncio.to_thread(_opened, path)
        except OSError as error:
            raise StoreNotFound(f"{path} cannot be read: {error.strerror or error}.", hint=UNREAD, path=str(path)) from error
        except ValueError as error:
            raise StoreNotFound(f"{str(path)!r} is not a path: {error}.", hint=UNREAD, path=str(path)) from error
    file = tempfile.TemporaryFile()  # noqa: SIM115  handed to the caller
    try:
        async for chunk in _chunks(source):
            if not isinstance(chunk, bytes | bytearray):
                raise InvalidInput(f"An export consists of bytes, not of {type(chunk).__name__}.")
            await asyncio.to_thread(file.write, chunk)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _opened(path: Path) -> BinaryIO:
    """Open a file that can be read twice; a pipe is copied first. An open store is left alone: closing it here would drop its locks."""
    if open_here(path):
        raise ImportRefused(f"{path} is an open store, not an export.", hint="Export a session of it first.")
    if not path.is_file():
        with path.open("rb") as pipe:
            file = tempfile.TemporaryFile()  # noqa: SIM115  handed to the caller
            shutil.copyfileobj(pipe, file)
            file.seek(0)
            return file
    return path.open("rb")


async def _chunks(source: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(source, bytes | bytearray) or not isinstance(source, Iterable | AsyncIterable):
        raise InvalidInput(f"An export comes in pieces, or is a file, and is not {type(source).__name__}.", hint="Pass its path, or its bytes in a list: [content].")
    if isinstance(source, AsyncIterable):
        async for chunk in source:
            yield chunk
    else:
        for chunk in source:
            yield chunk
