"""The end of sessions, and their branches: fork, close, erase, prune."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from power_agent import events as e
from power_agent.errors import HasForks, HeadMoved, InvalidInput, SessionErased, SessionExists, SessionPending
from power_agent.executor import Executor
from power_agent.loop.work import Desk
from power_agent.ports import Clock, SessionRow, Store
from power_agent.results import PendingCall, pending_of
from power_agent.settling import Abort, decision_fact
from power_agent.sink import Sink, opened
from power_agent.state import SessionState
from power_agent.word import Word, replace, word

PAGE = 500
"""Sessions looked at in one go."""


@word(kw_only=True)
class Branch(Word):
    """A session in the tree of all: which one it came from, how, and behind which event; and what came from it."""

    session: str
    parent: str | None = None
    seq: int = 0
    relation: Literal["fork", "spawn"] | None = None
    branches: tuple[Branch, ...] = ()


class Upkeep:
    """What is done to whole sessions, each reserved for as long as it takes."""

    def __init__(self, desk: Desk, sink: Sink, store: Store, clock: Clock, executor: Executor) -> None:
        self._desk = desk
        self._executor = executor
        self._sink = sink
        self._store = store
        self._clock = clock

    # -- ending ---------------------------------------------------------------------------------------------------------

    async def abort_pending(self, name: str, reason: str, calls: frozenset[str] | None, by: str) -> list[PendingCall]:
        """End unresolved calls, and the open turn when all of them end, in one commit; returns what was ended."""
        async with self._desk.reserved(name):
            return await self._abort(name, reason, calls, by)

    async def _abort(self, name: str, reason: str, wanted: frozenset[str] | None, by: str) -> list[PendingCall]:
        while True:
            state = await self._sink.claim(name)
            try:
                return await self._aborted(state, reason, wanted, by)
            except HeadMoved:  # somebody added a fact meanwhile: look again
                continue
            finally:
                await self._sink.release(state)

    async def _aborted(self, state: SessionState, reason: str, wanted: frozenset[str] | None, by: str) -> list[PendingCall]:
        calls = [call for call in pending_of(state) if wanted is None or call.id in wanted]
        for unknown in sorted((wanted or frozenset()) - {call.id for call in calls}):
            await decision_fact(self._store, state, unknown, Abort(reason), by, self._clock.now())  # says why not, unless it was aborted before
        remains = await asyncio.gather(*(self._executor.remains(state, state.calls[call.id]) for call in calls))
        facts: list[e.Event] = [e.CallAborted(call=call.id, by=by, reason=f"{reason} ({left})" if left else reason) for call, left in zip(calls, remains, strict=True)]
        if wanted is None and state.turn is not None:
            facts.append(e.TurnEnded(turn=state.turn.number, status="cancelled", reason=reason))
        await self._sink.record(state, facts, release=True)
        return calls

    async def close(self, name: str, reason: str, *, abort: bool, by: str | None) -> None:
        """Let a session take no more input."""
        async with self._desk.reserved(name):
            while not await self._closed(name, reason, abort=abort, by=by):
                continue

    async def _closed(self, name: str, reason: str, *, abort: bool, by: str | None) -> bool:
        """Close; False: somebody added a fact meanwhile, look again."""
        if abort:
            await self._abort(name, reason, None, by or "a person")
        state = await self._sink.claim(name)
        try:
            if state.turn is not None:
                raise SessionPending(f"Turn {state.turn.number} of session {name!r} is open.", session=name, calls=pending_of(state), hint="Resume it, or pass abort=True.")
            if state.inputs and not abort:
                raise SessionPending(f"An input of session {name!r} waits for its turn.", session=name, calls=[], hint="Resume it, or pass abort=True.")
            if not state.closed:
                await self._sink.record(state, (e.SessionClosed(reason=reason, by=by),), release=True)
        except HeadMoved:
            return False
        finally:
            await self._sink.release(state)
        return True

    # -- branches -------------------------------------------------------------------------------------------------------

    async def fork(self, parent: str, at: int | None, name: str) -> str:
        """Begin a session that shares the past of another one up to an event. Costs the same whatever that past holds."""
        row = await self._sink.row(parent)
        if row.erased:
            raise SessionErased(f"Session {parent!r} was erased.", session=parent)
        seq = row.head if at is None else at
        if not 1 <= seq <= row.head:
            raise InvalidInput(f"Session {parent!r} has no event {seq} to begin a fork at.", hint=f"Choose one from 1 to {row.head}.")
        if await self._store.find(name) is not None:
            raise SessionExists(f"There is a session {name!r} already.", session=name)
        await self._sink.branch(parent, seq, name)
        return name

    async def forks(self, name: str) -> list[SessionRow]:
        """Return the living branches of a session."""
        await self._sink.row(name)
        return [row for row in await self._store.sessions(parent=name) if not row.erased]

    async def tree(self, name: str | None) -> tuple[Branch, ...]:
        """Return the living sessions that came from no other one, or the one that is named, each with its forks and children."""
        if name is not None:
            await self._sink.row(name)
        alone: dict[str, Branch] = {}
        after = ""
        while rows := await self._store.sessions(after=after, limit=PAGE):
            after = rows[-1].session
            for row in rows:
                if not row.erased:
                    alone[row.session] = await self._origin(row)
        below: dict[str | None, list[str]] = {}
        for one in alone.values():
            below.setdefault(one.parent if one.parent in alone else None, []).append(one.session)

        wanted = below.get(None, []) if name is None else [name] if name in alone else []
        order, open_ends = list[str](), list(wanted)
        while open_ends:  # not by recursion: a past may have been forked a thousand times over
            order.append(open_ends.pop())
            open_ends += below.get(order[-1], [])
        grown: dict[str, Branch] = {}
        for session in reversed(order):
            grown[session] = replace(alone[session], branches=tuple(grown[one] for one in below.get(session, [])))
        return tuple(grown[session] for session in wanted)

    async def _origin(self, row: SessionRow) -> Branch:
        """Say where a session came from. Whose call spawned it stands in its first event."""
        if row.parent is not None:
            return Branch(session=row.session, parent=row.parent, seq=row.base, relation="fork")
        first = (await self._store.read(row.session, limit=1))[0]
        event = opened(first).event
        parent = event.parent if isinstance(event, e.SessionOpened) else None
        return Branch(session=row.session) if parent is None else Branch(session=row.session, parent=parent.session, seq=parent.seq, relation=parent.relation)

    # -- erasing --------------------------------------------------------------------------------------------------------

    async def erase(self, name: str, reason: str, forks: Literal["refuse", "erase"], by: str | None) -> None:
        """Destroy the contents of a session, and of its branches if so told; what is erased already stays as it is."""
        if (await self._sink.row(name)).erased:
            return
        branches = await self.forks(name)
        if branches and forks != "erase":
            names = ", ".join(repr(row.session) for row in branches[:5])
            raise HasForks(f"Session {name!r} shares its past with {len(branches)} fork(s): {names}.", session=name, forks=[row.session for row in branches])
        whole = [name]
        for one in whole:  # it grows meanwhile; not by recursion: a past may have been forked a thousand times over
            whole += [row.session for row in await self.forks(one)]
        for one in whole:  # before anything is claimed, as far as nobody holds it
            if (await self._sink.row(one)).deadline == 0:
                _check_no_turn(await self._sink.look(one))
        async with AsyncExitStack() as held:
            ours = await self._held(held, whole)  # all of them before the first is erased: what is refused has destroyed nothing
            while ours:
                try:
                    await self._erased(ours[-1], reason, by)
                except HasForks:
                    if forks != "erase":
                        raise
                    ours += await self._held(held, [row.session for row in await self.forks(ours[-1])])  # made meanwhile
                else:
                    ours.pop()

    async def _held(self, held: AsyncExitStack, names: Iterable[str]) -> list[str]:
        """Own sessions until that stack is left; return those that nobody else has erased meanwhile."""
        ours = list[str]()
        for name in names:
            with contextlib.suppress(SessionErased):
                await held.enter_async_context(self._between_turns(name))
                ours.append(name)
        return ours

    @asynccontextmanager
    async def _between_turns(self, name: str) -> AsyncIterator[None]:
        """Own a session that has no open turn."""
        async with self._desk.reserved(name):
            state = await self._sink.claim(name)
            try:
                _check_no_turn(state)
                yield
            finally:
                await self._sink.release(state)

    async def _erased(self, name: str, reason: str, by: str | None) -> None:
        """Destroy the contents of a session that is ours."""
        while True:
            state = await self._sink.look(name)
            if state.erased:  # by who took it over when we were late
                return
            try:
                await self._sink.erase(state, reason, by)
            except SessionErased:  # the same, a moment later
                return
            except HeadMoved:  # somebody added a fact meanwhile: look again
                continue
            return

    async def prune(self, age_seconds: float, *, dry_run: bool, by: str | None) -> list[str]:
        """Erase sessions that were closed at least that long ago and have no living branches; returns which."""
        until, after, found = self._clock.now() - round(age_seconds * 1000), "", list[str]()
        while rows := await self._store.sessions(after=after, limit=PAGE):
            after = rows[-1].session
            found += [row.session for row in rows if not row.erased and await self._closed_before(row, until)]
        if not dry_run:
            for name in found:
                await self.erase(name, "retention", "refuse", by)
        return found

    async def _closed_before(self, row: SessionRow, until: int) -> bool:
        closed = await self._store.read(row.session, after=row.base, kinds=("session.closed",))
        if not closed or closed[-1].at > until or await self.forks(row.session):
            return False
        return (await self._sink.load(row.session)).closed


def _check_no_turn(state: SessionState) -> None:
    """Refuse to erase what is not between turns."""
    if state.turn is not None:
        message = f"Turn {state.turn.number} of session {state.session!r} is open."
        raise SessionPending(message, session=state.session, calls=pending_of(state), hint="Abort it first, then erase.")
