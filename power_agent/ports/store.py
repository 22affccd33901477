"""What keeps the log: what it is asked to keep (facts), what it keeps (records), and how."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from power_agent.word import Word, word

Durability = Literal["full", "normal"]


class Fact(NamedTuple):
    """An event ready to be kept: its kind, its exact text, and what the store enforces uniqueness by."""

    kind: str
    at: int
    body: str
    call: str | None = None
    key: str | None = None


class Record(NamedTuple):
    """A kept event as it lies on disk. `body` is None once erased; `digest` stands there in its place."""

    position: int
    session: str
    seq: int
    epoch: int
    at: int
    kind: str
    body: str | None
    digest: bytes | None
    hash: bytes


class SessionRow(NamedTuple):
    """Where a session stands in the store, and who holds it until when."""

    session: str
    head: int
    tip: bytes
    epoch: int
    owner: str | None
    deadline: int
    erased: bool = False
    parent: str | None = None
    base: int = 0


class Tip(NamedTuple):
    """A place in a session and the hash of the event there, in hex: kept elsewhere, it vouches for everything before it."""

    seq: int
    hash: str


class Place(NamedTuple):
    """The seq and hash behind which a forked session begins; `holder` keeps the event at that seq."""

    holder: str
    seq: int


@word(kw_only=True)
class Append(Word):
    """What one commit shall add to one session.

    `head` is the last seq the writer knows. `epoch` is the owner's; None means a fact from outside, kept at whatever epoch
    is current; the events that take ownership (`session.opened`, `owner.changed`) name the owner themselves. `hold_until` renews the
    lease in the same commit, 0 releases it.
    """

    session: str
    head: int
    facts: Sequence[Fact]
    salt: bytes
    epoch: int | None = None
    hold_until: int | None = None
    blobs: Mapping[str, bytes] | None = None
    branch: Place | None = None


class Blob(NamedTuple):
    """Large content and its name, the SHA-256 of it."""

    digest: str
    content: bytes


@word(kw_only=True)
class Adoption(Word):
    """Events that come from another store as they are: same bytes, same hashes, same epochs.

    They go on behind `head`, whose hash is `tip`: nothing (0) or the place of a fork (`branch`) for a session that is not here
    yet, else the last event that is. `arrivals` is read in the database thread, inside the transaction. `holder` is an owner who
    need not be waited for. `facts` are new ones that the store adds at the last epoch.
    """

    session: str
    head: int
    tip: bytes
    salt: bytes
    arrivals: Callable[[], Iterable[Record | Blob]]
    known: bool = False
    branch: Place | None = None
    holder: str | None = None
    facts: Sequence[Fact] = ()


class Kept(NamedTuple):
    """What became of an `Append`: where the first fact stands and the hash of each."""

    seq: int
    epoch: int
    position: int
    hashes: tuple[bytes, ...]


class Store(Protocol):
    """Keeps facts: durable when it answers, in order, for ever.

    `append` either keeps all facts of the request or none and raises: `HeadMoved`, `OwnershipLost`, `SessionBusy` (a
    takeover came too early), `KeyConflict` (by key), `IllegalMove` (a second outcome), `SessionNotFound`, `SessionExists`,
    `SessionErased`, or a `StoreError`. After `StoreFailed` nothing more is kept through this store.
    """

    @property
    def lease_ms(self) -> int:
        """How long a lease lasts."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def append(self, request: Append) -> Awaitable[Kept]:
        """Keep facts, all or none; durable when what is awaited is there. A coroutine will do; a store that returns a future, and has
        begun by then, saves whoever calls a task for each commit.
        """
        ...

    async def adopt(self, adoptions: Sequence[Adoption], now: int) -> None:
        """Keep events of another store, all of them or none; every hash is computed anew. The sessions are given up afterwards.

        Raises as `append` does, and `ImportRefused` when what arrives is not what the hashes say.
        """
        ...

    async def read(self, session: str, *, after: int = 0, upto: int | None = None, limit: int | None = None, kinds: Collection[str] | None = None) -> list[Record]:
        """Read kept events of a session and, for a fork, of its ancestors up to its place, in order."""
        ...

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Read kept events of all sessions in the order of their commits; the cursor is `position`."""
        ...

    def follow(self, session: str | None = None, *, after: int = 0) -> AsyncIterator[list[Record]]:
        """Yield what is kept behind a cursor, of one session (by seq) or of all (by position), for ever and whoever wrote it; ends
        when the store is closed.
        """
        ...

    async def find(self, session: str) -> SessionRow | None:
        """Look a session up."""
        ...

    async def sessions(self, *, after: str = "", limit: int = 1000, parent: str | None = None, unfinished: bool = False) -> list[SessionRow]:
        """List sessions by id; with `parent` only its forks. `unfinished` may leave out those that hold no open turn and no input that
        waits; which ones do, their states say.
        """
        ...

    async def find_key(self, session: str, key: str) -> int | None:
        """Return the seq of the input that has this key."""
        ...

    async def scrub(self) -> None:
        """Leave nothing of what was erased outside the tables (logs, caches); `StoreBusy` when somebody is in the way.

        Appending `session.erased` destroys every body, key, blob and snapshot before it in the same commit.
        """
        ...

    async def blob(self, session: str, digest: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        """Read (a part of) a blob that an event of the session, or of a fork's ancestor, refers to."""
        ...

    async def hold(self, session: str, epoch: int, owner: str) -> None:
        """Keep the lease alive, without help of the event loop, until `release`."""
        ...

    async def renew(self, session: str, epoch: int, until: int) -> bool:
        """Renew the lease now; False: the session is at another epoch."""
        ...

    async def release(self, session: str, epoch: int) -> None:
        """Give the session up, so that the next owner need not wait."""
        ...

    def lost(self, session: str, epoch: int) -> bool:
        """Say whether a lease that is held was found lost."""
        ...

    async def snapshot(self, session: str, fold: int) -> tuple[int, str] | None:
        """Read the cached state that this version of the fold made: its seq and its text."""
        ...

    async def keep_snapshot(self, session: str, seq: int, fold: int, text: str) -> None:
        """Cache a state. It may be dropped at any time."""
        ...

    async def backup(self, target: str) -> None:
        """Write a consistent copy of the whole store to a new file."""
        ...

    def verify(self, session: str | None = None) -> AsyncIterator[str]:
        """Recompute every hash; yield a sentence for each thing that is wrong."""
        ...
