"""What is known here and what is in the log: staged, kept, followed.

Facts are staged on a draft and kept together. When the head moved, the tail is read, outcomes that were staged are checked in again,
and what was only decided is let go: who keeps and hears False decides anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from power_agent import events as e
from power_agent.drive.tasks import first_of
from power_agent.errors import HeadMoved, IllegalMove, OwnershipLost
from power_agent.limits import LOOK_SECONDS
from power_agent.ports import Clock, Store
from power_agent.sink import Draft, Sink
from power_agent.state import SessionState

OUTCOMES = frozenset({"model.answered", "model.failed", "call.succeeded", "call.failed", "call.aborted", "call.doubted"})
"""What happened, happened: checked in again when the head moved. Everything else is decided anew."""
RACES = 8
"""How often a last word is tried again when others keep adding facts."""


class Ledger:
    """One session as its owner knows it, with what is about to be kept."""

    def __init__(self, sink: Sink, store: Store, clock: Clock, state: SessionState) -> None:
        self.sink = sink
        self.store = store
        self.clock = clock
        self.has_kept = False
        self._draft = sink.draft(state)
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def state(self) -> SessionState:
        """The state with everything that is staged."""
        return self._draft.state

    @property
    def kept(self) -> SessionState:
        """The state that is in the log."""
        return self._draft.base

    @property
    def config(self) -> e.Config:
        """What the open turn, or else the session, is configured with."""
        return self.state.turn.config if self.state.turn is not None else self.state.config

    def stages(self, event: e.Event | None) -> bool:
        """Say whether this very event, not one like it, is staged here and about to be kept."""
        return any(event is staged for staged in self._draft.events)

    def notice(self) -> None:
        """Look at the log soon: somebody in this process added a fact."""
        if not self._news.done():
            self._news.set_result(None)

    # -- writing -------------------------------------------------------------------------------------------------------

    def stage(self, *facts: e.Event, blobs: Mapping[str, bytes] | None = None) -> None:
        """Check facts into the draft, all or none."""
        self.sink.check(self._draft, facts, blobs)

    async def keep(self, *, release: bool = False) -> bool:
        """Keep what is staged. False: somebody was quicker, decide again."""
        self.sink.check_owner(self.kept)
        try:
            state = await self.sink.keep(self._draft, release=release)
        except HeadMoved:
            await self._follow()
            return False
        if release and not self._draft.ready and not await self._given_up(state):
            await self._follow()
            return False
        self._draft = self.sink.draft(state)
        self.has_kept = True
        return True

    async def _given_up(self, state: SessionState) -> bool:
        """Give the session up, with nothing to keep. False: somebody left a fact a moment before, and it is taken up again: who left it
        saw an owner, and went.
        """
        await self.sink.release(state)
        row = await self.store.find(state.session)
        if row is None or row.head == state.seq or row.epoch != state.epoch:
            return True
        try:
            await self.sink.renew(state)
        except OwnershipLost:
            return True  # whoever took it sees the fact
        await self.sink.hold(state)
        return False

    async def _follow(self) -> None:
        """Read what others added; check what happened here in again, and let what was only decided go."""
        staged = self._draft
        if any(event.kind == "input.received" for event in staged.events):
            raise HeadMoved(f"Session {self.kept.session!r} moved on before its input was kept.", session=self.kept.session, head=self.kept.seq)
        base = await self.sink.catch_up(self.kept)
        if base.epoch != self.kept.epoch:
            raise OwnershipLost(f"Session {base.session!r} was taken over.", session=base.session, epoch=base.epoch)
        self._draft = self.sink.draft(base)
        self._check_in_again(staged)

    def _check_in_again(self, staged: Draft) -> None:
        """Stage what happened here on what others added meanwhile; what was only decided is let go."""
        for event in staged.events:
            if event.kind in OUTCOMES:
                try:
                    self.stage(event, blobs=staged.blobs)
                except IllegalMove:  # somebody ended the call or the turn meanwhile, and was first
                    continue

    async def put_down(self, last_words: Callable[[], None]) -> None:
        """Give the session up after an interruption. What is known and was not kept is staged once more, on whatever others added."""
        staged = self._draft
        await self.sink.settled(self.kept.session)
        for _ in range(RACES):
            base = await self.sink.catch_up(self.kept)
            if base.epoch != self.kept.epoch:
                return
            self._draft = self.sink.draft(base)
            self._check_in_again(staged)
            last_words()
            try:
                self.sink.check_owner(base)
                await self.sink.keep(self._draft, release=True)
                await self.sink.release(base)
            except HeadMoved:
                continue
            except OwnershipLost:
                return
            return

    # -- looking -------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """See whether anything was added from outside, or the session was taken."""
        if self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        self.sink.check_owner(self.kept)
        row = await self.store.find(self.kept.session)
        if row is not None and (row.head, row.epoch) != (self.kept.seq, self.kept.epoch):
            await self._follow()

    async def pause(self, tasks: Collection[asyncio.Future[Any]], seconds: float | None = None) -> None:
        """Wait until one of the tasks is done, somebody wakes us, or it is time to look at the log; look."""
        pause = LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS)
        if tasks:
            await first_of((*tasks, self._news), pause)
        else:
            sleeping = asyncio.ensure_future(self.clock.sleep(pause))
            try:
                await asyncio.wait({sleeping, self._news}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
        if not any(task.done() for task in tasks):
            await self.look()
