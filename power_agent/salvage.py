"""The longest valid beginning of every session of a damaged file, in a new one. The damaged file is never touched.

What is kept are the very bytes, each proven by the chain; what is lost is named. A session whose end is lost may have done more than
its log now says: approvals in it are void, and calls that had not ended are recorded as started and in doubt, so that a person
looks before anything runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

from power_agent import events as e
from power_agent.chain import secret_of
from power_agent.cleaning import check_id, clean
from power_agent.clock import SystemClock
from power_agent.errors import PowerAgentError, StoreBusy, StoreDamaged, StoreError, StoreNotFound
from power_agent.ports import Adoption, Append, Fact, Place, Store
from power_agent.sink import opened
from power_agent.state import SessionState, evolve, fold
from power_agent.store.sqlite import SQLiteStore
from power_agent.store.wreck import Begin, Prefix, Wreck
from power_agent.store.writer import open_here

DOUBT = "The end of the log was lost; it may have been run."


class Salvaged(NamedTuple):
    """What became of one session: kept up to this seq (0: nothing), so many known events lost, these blobs missing."""

    session: str
    kept: int
    lost: int
    why: str | None = None
    blobs: tuple[str, ...] = ()


class Salvage(NamedTuple):
    """What became of a file."""

    sessions: tuple[Salvaged, ...]
    unreadable: int

    def __str__(self) -> str:
        lines = []
        for one in self.sessions:
            end = f"kept up to event {one.kept}" if one.kept else "nothing kept"
            lines.append(f"{one.session}: {end}" + (f", {one.lost} lost" if one.lost else "") + (f" ({one.why})" if one.why else ""))
            lines += [f"{one.session}: blob {digest} lost" for digest in one.blobs]
        return "\n".join([*lines, f"{self.unreadable} rows of events could not be read."])


async def salvage(damaged: str | os.PathLike[str], target: str | os.PathLike[str]) -> Salvage:
    """Save what can be saved of a file that nobody has open into a new one: whole and durable, or not there at all."""
    source, goal = Path(damaged).absolute(), Path(target).absolute()  # noqa: ASYNC240  no disk is asked
    await asyncio.to_thread(_check, source, goal)
    folder = goal.with_name(f".{goal.name}.{secrets.token_hex(4)}.salvage")
    folder.mkdir(mode=0o700)
    try:
        wreck = await asyncio.to_thread(Wreck, str(source), folder)
        try:
            async with SQLiteStore(folder / "saved.db") as store:
                saved = await _Salvor(wreck, store).run()
        finally:
            wreck.close()
        await asyncio.to_thread(_finished, folder / "saved.db", goal)
    except StoreDamaged as error:
        raise StoreDamaged(f"{source} is damaged so badly that nothing can be saved: {error.message}", path=str(source), hint="Restore the last backup.") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return Salvage(saved, wreck.unreadable)


def _check(source: Path, goal: Path) -> None:
    if not source.is_file():
        raise StoreNotFound(f"There is no file {source}.", path=str(source))
    if open_here(source):
        raise StoreBusy(f"{source} is open in this process.", path=str(source), hint="Close it first.")
    if goal.exists():
        raise StoreError(f"{goal} is there already.", path=str(goal), hint="Name a new file.")
    if not goal.parent.is_dir():
        raise StoreNotFound(f"There is no directory {goal.parent}.", path=str(goal))


def _finished(saved: Path, goal: Path) -> None:
    """Give the new file its name once all of it is on disk; unlike a rename, a link never replaces."""
    for place in (saved, saved.parent):
        _to_disk(place)
    os.link(saved, goal)
    _to_disk(goal.parent)


def _to_disk(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Salvor:
    """Carries one session after the other out of the wreck, parents first."""

    def __init__(self, wreck: Wreck, store: Store) -> None:
        self._wreck = wreck
        self._store = store
        self._now = SystemClock().now()

    async def run(self) -> tuple[Salvaged, ...]:
        """Save what can be saved."""
        return tuple([await self._session(number) for number in self._wreck.sessions()])

    async def _session(self, number: int) -> Salvaged:
        end, seen = self._wreck.said_end(number), self._wreck.last_seen(number)
        begin = await asyncio.to_thread(self._wreck.begin, number)
        name = end[0] if end is not None else f"(session {number})"
        known = max(end[1] if end is not None else 0, seen)
        if begin is None:
            return Salvaged(name, 0, known, "its first event is lost, or it was erased")
        branch, tip = await self._place(begin)
        if branch is None and begin.first != 1:
            return Salvaged(name, 0, known, "what it shares with its parent is lost, or its own first event")
        prefix = await asyncio.to_thread(self._wreck.prefix, begin, tip)
        if prefix is None:
            return Salvaged(name, 0, known, "no name fits its first event")
        lost: set[str] = set()
        adoption = Adoption(
            session=prefix.name, head=begin.first - 1, tip=tip, salt=secret_of(begin.nonce), branch=branch, arrivals=partial(self._wreck.arrivals, begin, prefix, lost)
        )
        try:
            check_id(prefix.name)
            await self._store.adopt([adoption], self._now)
        except PowerAgentError as error:
            return Salvaged(prefix.name, 0, known, error.message)
        whole = end is not None and (end[1], end[2]) == (prefix.upto, prefix.tip)
        if not whole:
            await self._doubt(begin, prefix)
        return Salvaged(prefix.name, prefix.upto, max(known - prefix.upto, 0), None if whole else "its end is lost", tuple(sorted(lost)))

    async def _place(self, begin: Begin) -> tuple[Place | None, bytes]:
        """Return where a fork begins, if its parent was saved that far."""
        if begin.parent is None or begin.parent.relation != "fork":
            return None, b""
        with contextlib.suppress(PowerAgentError):
            found = await self._store.read(begin.parent.session, after=begin.parent.seq - 1, upto=begin.parent.seq)
            if found:
                return Place(found[0].session, found[0].seq), found[0].hash
        return None, b""

    async def _doubt(self, begin: Begin, prefix: Prefix) -> None:
        """Say behind a torn end that it is one, and that calls which had not ended may have been run."""
        state = fold(map(opened, await self._store.read(prefix.name)))
        facts: list[e.Event] = []
        for fact in _facts(state, prefix):
            state = evolve(state, e.Envelope(state.session, state.seq + 1, state.epoch, self._now, fact, kind=fact.kind))
            facts.append(fact)
        ready = [Fact(fact.kind, self._now, clean(fact).body, e.call_of(fact)) for fact in facts]
        await self._store.append(Append(session=prefix.name, head=prefix.upto, facts=ready, salt=secret_of(begin.nonce)))


def _facts(state: SessionState, prefix: Prefix) -> list[e.Event]:
    facts: list[e.Event] = [e.SessionImported(tip=prefix.tip.hex(), source="salvage", by="salvage")]
    for name, call in state.calls.items():
        idle = call.place in {"requested", "approved"} or (call.place == "waiting" and not call.external)
        if idle and call.call.malformed is None and state.cancel is None:
            facts += [e.CallStarted(call=name, attempt=call.attempt + 1), e.CallDoubted(call=name, attempt=call.attempt + 1, reason=DOUBT)]
    return facts
