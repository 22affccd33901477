"""The only writer: check, keep, tell.

    check   evolve first; a fact that does not follow is refused before anything is written
    keep    one durable, fenced append; from here on a cancelled caller changes nothing
    tell    listeners hear what was kept, and only that

A caller that was cancelled, or told `HeadMoved`, no longer knows where the log stands: it calls `catch_up` and decides again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar
from weakref import WeakValueDictionary

from power_agent import events as e
from power_agent.chain import secret_of
from power_agent.cleaning import Clean, Cleaner, check_id, clean, covered
from power_agent.errors import (
    HeadMoved,
    IllegalMove,
    InvalidInput,
    InvalidSessionId,
    OwnershipLost,
    SessionBusy,
    SessionErased,
    SessionExists,
    SessionNotFound,
    StoreDamaged,
    holder,
)
from power_agent.events import Envelope, Event
from power_agent.hooks import Hooks
from power_agent.limits import MAX_LIVE_STATES, MAX_SEEN_STATES, SNAPSHOT_EVENTS
from power_agent.ports import Append, Chance, Clock, DeadCheck, Fact, Kept, Place, Record, SessionRow, Store
from power_agent.secrets import Secrets
from power_agent.state import FOLD, SessionState, evolve, fold, freeze, thaw

_log = logging.getLogger("power_agent")
T = TypeVar("T")
NO_BLOBS: Mapping[str, bytes] = MappingProxyType({})
Report = tuple[Sequence[Event], Mapping[str, bytes]]
"""Facts, and the blobs they name."""
Choice = Callable[[SessionState], Awaitable[Report]]
"""Says what there is to report as a session stands; perhaps nothing."""


class Draft:
    """A commit that is being put together: the state it begins with, what was checked in, and the state after it."""

    def __init__(self, base: SessionState, session: str, epoch: int | None) -> None:
        self.base = base
        self.session = session
        self.epoch = epoch
        self.state = base
        self.ready: list[tuple[Clean, Envelope]] = []
        self.blobs: dict[str, bytes] = {}

    @property
    def events(self) -> list[Event]:
        """What was checked in so far."""
        return [one.event for one, _ in self.ready]


class Sink:
    """Writes in the name of one owner. Everything the heart keeps goes through here."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        chance: Chance,
        owner: str,
        *,
        dead: DeadCheck | None = None,
        hooks: Hooks | None = None,
        cleaners: Sequence[Cleaner] = (),
        secrets: Secrets | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._chance = chance
        self._owner = owner
        self._dead = dead or (lambda _owner: False)
        self._hooks = hooks or Hooks()
        self._cleaners = tuple(cleaners)
        self._cover = secrets.cover if secrets else None
        self._told: dict[str, int] = {}
        self._cached_at: dict[str, tuple[int, int]] = {}
        self._under_way: dict[str, asyncio.Future[Kept]] = {}
        self._seen: dict[str, tuple[SessionState, bytes]] = {}
        self._reporting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def owner(self) -> str:
        """In whose name is written."""
        return self._owner

    # -- sessions and who owns them ------------------------------------------------------------------------------------

    async def open(
        self, config: e.Config | None = None, session: str | None = None, *, metadata: Mapping[str, object] | None = None, parent: e.Parent | None = None
    ) -> SessionState:
        """Begin a session and own it; with `parent`, a fork of another one or a child that a call spawned."""
        name = self._new_session(session if session is not None else self._chance.session_id())
        if parent is not None and parent.relation == "fork":
            await self._branched(parent, name, config, metadata, release=False)
            state = await self.load(name)
        else:
            opened = e.SessionOpened(nonce=self._chance.nonce(), owner=self._owner, config=config or e.Config(), metadata=dict(metadata or {}), parent=parent)  # type: ignore[arg-type]
            state = await self._written(Draft(SessionState(name), name, 1), (opened,))
        await self._store.hold(name, 1, self._owner)
        return state

    def _new_session(self, name: str) -> str:
        try:
            return self.new_name(name)
        except InvalidInput as error:
            raise InvalidSessionId(error.message, hint=error.hint) from None

    async def branch(self, parent: str, seq: int, session: str) -> None:
        """Begin a fork and leave it to whoever comes. Nothing of the parent's past is read but the event it begins behind."""
        await self._branched(e.Parent(relation="fork", session=parent, seq=seq), self._new_session(session), None, None, release=True)

    async def _branched(self, parent: e.Parent, name: str, config: e.Config | None, metadata: Mapping[str, object] | None, *, release: bool) -> None:
        if name == parent.session:
            raise SessionExists(f"Session {name!r} cannot be a fork of itself.", session=name)
        place = await self._store.read(parent.session, after=parent.seq - 1, upto=parent.seq)
        if not place:
            raise InvalidInput(f"Session {parent.session!r} has no event {parent.seq} to begin a fork at.")
        opened = e.SessionOpened(nonce=self._chance.nonce(), owner=self._owner, config=config, metadata=dict(metadata or {}), parent=parent)  # type: ignore[arg-type]
        at_its_place = SessionState(parent.session, parent.seq)  # all that the birth of a fork depends on
        await self._written(Draft(at_its_place, name, 1), (opened,), branch=Place(place[0].session, parent.seq), release=release)

    async def claim(self, session: str, known: SessionState | None = None) -> SessionState:
        """Become the owner: at once when the lease is ours, was released, has run out, or its holder is proven dead.

        `known` saves loading a state that was just loaded. What is returned was folded up to the event that made us the owner; nobody else can have written since.
        """
        while True:
            row = await self.row(session)
            state, known = known or await self.look(session), None
            if row.erased or state.erased or state.hollow:  # perhaps a moment after its row was read
                raise SessionErased(f"Session {session!r} was erased.", session=session)
            if row.owner == self._owner:
                if not await self._store.renew(session, row.epoch, self._clock.now() + self._store.lease_ms):
                    continue  # somebody was quicker: look again
                await self._store.hold(session, row.epoch, self._owner)
                return state
            now = self._clock.now()
            dead = row.deadline >= now and row.owner is not None and self._dead(row.owner)
            if row.deadline >= now and not dead:
                raise SessionBusy(f"Session {session!r} is held by {holder(row.owner)}.", session=session, owner=row.owner, deadline=row.deadline)
            why: e.HandOver = "dead" if dead else "released" if row.deadline == 0 else "expired"
            changed = e.OwnerChanged(owner=self._owner, previous=row.owner, why=why)
            try:
                state = await self._written(Draft(state, session, state.epoch + 1), (changed,))
            except (HeadMoved, OwnershipLost):
                continue  # somebody was quicker: look again
            await self._store.hold(session, state.epoch, self._owner)
            return state

    async def release(self, state: SessionState) -> None:
        """Give the session up, so that the next owner need not wait for the lease to run out."""
        await self._store.release(state.session, state.epoch)

    async def hold(self, state: SessionState) -> None:
        """Let the lease be renewed while the session is worked on."""
        await self._store.hold(state.session, state.epoch, self._owner)

    async def renew(self, state: SessionState) -> None:
        """Renew the lease now, or find out that it is lost."""
        if not await self._store.renew(state.session, state.epoch, self._clock.now() + self._store.lease_ms):
            raise OwnershipLost(f"Session {state.session!r} was taken over.", session=state.session, epoch=state.epoch)

    # -- writing -------------------------------------------------------------------------------------------------------

    async def record(self, state: SessionState, events: Sequence[Event], *, blobs: Mapping[str, bytes] | None = None, release: bool = False) -> SessionState:
        """Keep facts as the owner, all or none; with `release` give the session up in the same commit."""
        self.check_owner(state)
        return await self._written(self.draft(state), events, blobs=blobs, release=release)

    def check_owner(self, state: SessionState) -> None:
        """Raise `OwnershipLost` when the lease was found to be somebody else's."""
        if self._store.lost(state.session, state.epoch):
            raise OwnershipLost(f"Session {state.session!r} was taken over.", session=state.session, epoch=state.epoch)

    async def report(self, state: SessionState, events: Sequence[Event], *, blobs: Mapping[str, bytes] | None = None) -> SessionState:
        """Keep facts from outside: whoever owns the session, at its current epoch and head."""
        strange = [event.kind for event in events if not e.from_outside(event)]
        if strange:
            raise IllegalMove(f"Only the owner of {state.session!r} may record {', '.join(strange)}.", session=state.session, kind=strange[0], place=state.place)
        return await self._written(Draft(state, state.session, None), events, blobs=blobs)

    async def reported(self, session: str, choose: Choice) -> SessionState:
        """Report facts until they are kept, however busy the session is; returns the state after them. Who was not quick enough folds what
        came meanwhile and chooses anew. Within a process one at a time: of many at once only one could be kept.
        """
        lock = self._reporting.setdefault(session, asyncio.Lock())
        async with lock:
            state = await self.look(session)
            while True:
                facts, blobs = await choose(state)
                if not facts:
                    return state
                try:
                    return await self.report(state, facts, blobs=blobs)
                except HeadMoved:
                    state = await self.look(session)

    async def erase(self, state: SessionState, reason: str, by: str | None = None) -> SessionState:
        """Destroy the contents of a session, lawfully and visibly."""
        self._seen.pop(state.session, None)
        after = await self._written(self.draft(state), (e.SessionErased(reason=reason, by=by),))
        await self._store.scrub()
        return after

    def draft(self, state: SessionState) -> Draft:
        """Begin a commit as the owner: what is checked into it is kept by `keep`, all or none."""
        return Draft(state, state.session, state.epoch)

    def check(self, draft: Draft, events: Sequence[Event], blobs: Mapping[str, bytes] | None = None) -> SessionState:
        """Add facts to a commit, or raise and leave it as it was. Nothing is written yet."""
        at = self._clock.now()
        after, ready = draft.state, list[tuple[Clean, Envelope]]()
        epoch = draft.base.epoch if draft.epoch is None else draft.epoch
        if blobs and self._cover is not None:
            events, blobs = covered(tuple(events), self._cover, blobs)
        for event in events:
            if isinstance(event, e.InputReceived) and event.key is not None:
                self.new_name(event.key, "key")
            one = clean(event, self._cleaners, after.config.limits.max_event_bytes, self._cover)
            envelope = Envelope(draft.session, after.seq + 1, epoch, at, one.event, kind=one.event.kind)
            after = evolve(after, envelope)
            ready.append((one, envelope))
        draft.ready += ready
        draft.blobs.update(blobs or {})
        draft.state = after
        return after

    def covered(self, said: T, blobs: Mapping[str, bytes] = NO_BLOBS) -> tuple[T, Mapping[str, bytes]]:
        """Return what is said, and the blobs it names, without secrets: as it would be kept."""
        return (said, blobs) if self._cover is None else covered(said, self._cover, blobs)

    def new_name(self, name: str, what: str = "session id") -> str:
        """Return a name that can be kept. One with a secret in it cannot be changed either: it would be another name."""
        check_id(name, what)
        if self._cover is not None and self._cover(name) != name:
            raise InvalidInput(f"A secret cannot stand in a {what}.", hint="Take another one.")
        return name

    async def keep(self, draft: Draft, *, branch: Place | None = None, release: bool = False) -> SessionState:
        """Keep what was checked; once this has begun, a cancelled caller changes nothing. Returns the state after it."""
        if not draft.ready:
            return draft.state
        if draft.epoch is not None and self._owner not in {draft.base.owner, draft.state.owner}:
            raise OwnershipLost(f"Session {draft.session!r} belongs to {draft.base.owner}.", session=draft.session, epoch=draft.base.epoch)
        at = draft.ready[-1][1].at
        request = Append(
            session=draft.session,
            head=draft.base.seq,
            facts=[Fact(one.event.kind, envelope.at, one.body, e.call_of(one.event), getattr(one.event, "key", None)) for one, envelope in draft.ready],
            salt=secret_of(draft.state.nonce or draft.base.nonce),
            epoch=draft.epoch,
            hold_until=None if draft.epoch is None else 0 if release else at + self._store.lease_ms,
            blobs=draft.blobs,
            branch=branch,
        )
        await self._tell_missed(draft)
        self._under_way[draft.session] = keeping = asyncio.ensure_future(self._store.append(request))
        waiter = asyncio.get_running_loop().create_future()
        keeping.add_done_callback(partial(self._kept, [envelope for _, envelope in draft.ready], waiter))
        await waiter  # not for the commit itself: that is nobody's to cancel
        if self._under_way.get(draft.session) is keeping:  # and not a later one
            del self._under_way[draft.session]
        keeping.result()  # or what went wrong
        return draft.state

    async def settled(self, session: str) -> None:
        """Wait for a commit that was begun and whose caller was cancelled."""
        keeping = self._under_way.pop(session, None)
        if keeping is not None and not keeping.done():
            await asyncio.wait([keeping])

    async def _written(
        self, draft: Draft, events: Sequence[Event], *, blobs: Mapping[str, bytes] | None = None, branch: Place | None = None, release: bool = False
    ) -> SessionState:
        self.check(draft, events, blobs)
        return await self.keep(draft, branch=branch, release=release)

    def _kept(self, envelopes: list[Envelope], waiter: asyncio.Future[None], keeping: asyncio.Future[Kept]) -> None:
        """Tell what was kept: as soon as it is, and also when whoever asked has gone."""
        try:
            if not keeping.cancelled() and keeping.exception() is None:
                self._tell(_told(envelopes, keeping.result()))
        finally:
            if not waiter.done():
                waiter.set_result(None)

    async def _tell_missed(self, draft: Draft) -> None:
        """Tell what others added before a draft begins, if nobody here has heard of it yet: facts are told in order."""
        told, session = self._told.get(draft.session, draft.base.seq), draft.session
        if told < draft.base.seq:
            self._tell([opened(record) for record in await self._store.read(session, after=told, upto=draft.base.seq)])

    def _tell(self, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            if envelope.seq > self._told.get(envelope.session, 0):
                self._told[envelope.session] = envelope.seq
                if len(self._told) > MAX_LIVE_STATES * 10:
                    self._told.pop(next(iter(self._told)))
                self._hooks.tell(envelope)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def load(self, session: str, *, at: int | None = None) -> SessionState:
        """Fold a session, up to now or to any seq."""
        row = await self.row(session)
        state = await self._cached(session, at)
        state = _folded(await self._store.read(session, after=state.seq, upto=at), state)
        return state if at is not None else _reaching(row.head, state)

    async def look(self, session: str) -> SessionState:
        """Return the state now, like `load`; but who looks again pays only for what came since the last look here, as long as the log goes on
        from there: a backup may have been put back meanwhile.
        """
        row = await self.row(session)
        state, tip = self._seen.pop(session, (SessionState(session), b""))
        if not state.seq or (row.head, row.tip) != (state.seq, tip):
            records = await self._store.read(session, after=state.seq - 1) if state.seq else []
            if not records or records[0].hash != tip:
                state = await self._cached(session, None)
                records = await self._store.read(session, after=max(state.seq - 1, 0))
            state = _reaching(row.head, _folded(records[1:] if state.seq else records, state))
            tip = records[-1].hash
        self._seen[session] = state, tip
        if len(self._seen) > MAX_SEEN_STATES:
            self._seen.pop(next(iter(self._seen)))
        return state

    async def catch_up(self, state: SessionState) -> SessionState:
        """Read what others have added, tell it, and return the state now."""
        records = await self._store.read(state.session, after=state.seq)
        after = _folded(records, state)
        self._tell(map(opened, records))
        return after

    async def snapshot_if_due(self, state: SessionState) -> None:
        """Cache a state when so much came since the last time that loading it would feel it. The distance grows with what a state
        holds, so that what is spent on this stays a small share of what is kept. A state from which the past was folded away is cached
        at once: it is small, and whoever loads it never reads that past again.
        """
        cached, folded = self._cached_at.get(state.session, (0, 0))
        if state.compacted_to > folded or state.seq - cached >= max(SNAPSHOT_EVENTS, len(state.transcript)):
            await self.snapshot(state)

    async def snapshot(self, state: SessionState) -> None:
        """Cache a state, so that loading it need not begin with the first event."""
        tip = (await self._store.read(state.session, after=state.seq - 1, upto=state.seq))[0].hash
        await self._store.keep_snapshot(state.session, state.seq, FOLD, freeze(state, tip))
        self._remember_cached(state)

    def _remember_cached(self, state: SessionState) -> None:
        self._cached_at[state.session] = state.seq, state.compacted_to
        if len(self._cached_at) > MAX_LIVE_STATES * 10:
            self._cached_at.pop(next(iter(self._cached_at)))

    async def _cached(self, session: str, at: int | None) -> SessionState:
        found = await self._store.snapshot(session, FOLD)
        if found is None or (at is not None and found[0] > at):
            return SessionState(session)
        seq, text = found
        record = await self._store.read(session, after=seq - 1, upto=seq)
        state = thaw(text, record[0].hash) if record else None
        if state is None or (state.session, state.seq) != (session, seq):
            _log.warning("The cached state of session %r does not fit its log and is not used.", session)
            return SessionState(session)
        self._remember_cached(state)
        return state

    async def row(self, session: str) -> SessionRow:
        """Look a session up, or raise."""
        row = await self._store.find(_session_id(session))
        if row is None:
            raise SessionNotFound(f"There is no session {session!r}.", session=session)
        return row


def _told(envelopes: Iterable[Envelope], kept: Kept) -> Iterable[Envelope]:
    """Yield what was kept, with where it stands in the store."""
    for number, ((session, seq, epoch, at, event, _, _, kind), link) in enumerate(zip(envelopes, kept.hashes, strict=True)):
        yield Envelope(session, seq, epoch, at, event, link, kept.position + number, kind)


def _folded(records: Iterable[Record], state: SessionState) -> SessionState:
    """Fold what is kept. What does not follow was not kept so by anybody here."""
    try:
        return fold(map(opened, records), state)
    except IllegalMove as error:
        raise StoreDamaged(f"The log of session {error.session!r} does not follow from itself: {error.message}", path="") from error


def _reaching(head: int, state: SessionState) -> SessionState:
    """Return a state that goes at least to the head that its row told."""
    if state.seq < head:  # else whoever looks again for what moved would look for ever
        raise StoreDamaged(f"Session {state.session!r} ends with event {state.seq}, but its row says {head}.", path="")
    return state


def opened(record: Record) -> Envelope:
    """Turn what lies on disk into an event and where it stands."""
    position, session, seq, epoch, at, kind, body, _, link = record
    return Envelope(session, seq, epoch, at, e.decode(kind, body) if body is not None else None, link, position, kind)


def _session_id(name: str) -> str:
    try:
        return check_id(name)
    except InvalidInput as error:
        raise InvalidSessionId(error.message, hint=error.hint) from None
