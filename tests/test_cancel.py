"""Cancelled at any await: the commit is whole or absent, no transaction is left open, listeners hear what was kept, and it goes on.

Every operation is driven to its n-th suspension and cancelled there, n = 1, 2, 3 … until it runs clean, in three ways: at once
(nothing has happened yet), with the answer of the database thread already waiting for the loop, and one turn of the loop later.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import logging
import random
import sqlite3
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import scenes
from processes import PROMPT_SECONDS
from scenes import said, taken

from power_agent import Sink, SQLiteStore
from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock
from power_agent.errors import HeadMoved, OwnershipLost, PowerAgentError, SessionNotFound
from power_agent.hooks import Hooks
from power_agent.state import SessionState
from power_agent.store import writer

log = logging.getLogger(__name__)
MOST = 40


class Driven:
    """Awaits a coroutine and does something at its nth suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], nth: int, there: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._nth = nth
        self._there = there
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self._coroutine.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            if self.suspensions == self._nth:
                self._there()
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001  handed on
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, None)


def at_once() -> None:
    """Cancel before the loop turns again."""
    task = asyncio.current_task()
    assert task
    task.cancel()


def with_the_answer_waiting() -> None:
    """Cancel when the database thread is through, but the loop has not heard of it."""
    time.sleep(0.004)
    at_once()


def a_turn_later() -> None:
    """Cancel when the loop has turned once."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().call_soon(task.cancel)


WAYS = (at_once, with_the_answer_waiting, a_turn_later)


async def cancelled(coroutine: Coroutine[Any, Any, Any], nth: int, way: Callable[[], None]) -> tuple[bool, Any]:
    """Run to the nth suspension and cancel there; say whether it got that far, and what came of it."""

    async def run() -> Any:
        return await driven

    driven = Driven(coroutine, nth, way)
    task = asyncio.create_task(run())
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    return driven.suspensions >= nth, outcome


class Heard(list[e.Envelope]):
    """A listener that keeps what it is told."""

    def __call__(self, kept: e.Envelope) -> None:
        self.append(kept)

    def of(self, session: str) -> list[tuple[int, bytes]]:
        return [(kept.seq, kept.hash) for kept in self if kept.session == session]


def sink_on(store: SQLiteStore, heard: Heard, owner: str) -> Sink:
    return Sink(store, SystemClock(), SystemChance(), owner, dead=lambda _: False, hooks=Hooks([heard]))


def kept_in(path: str, session: str) -> list[scenes.Raw]:
    return [row for row in scenes.raw(path) if row.session == session]


def no_transaction(store: SQLiteStore) -> None:
    """The store's connection is idle, and another connection can write at once."""
    assert store._writer
    assert store._writer._db
    assert not store._writer._db.in_transaction
    with contextlib.closing(sqlite3.connect(store.path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


async def settled(store: SQLiteStore) -> None:
    """Let everything that goes on without its caller come to its end."""
    for _ in range(3):
        await store.find("nobody")
        for _ in range(5):
            await asyncio.sleep(0)


# -- the operations: what is to be cancelled, the kinds it may add, and the state from which its owner knows how to go on ----------------

Scene = tuple[Coroutine[Any, Any, Any], list[str], SessionState | None]


async def opens(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    return sink.open(session=name), ["session.opened"], None


async def claims(sink: Sink, store: SQLiteStore, name: str) -> Scene:
    other = sink_on(store, Heard(), "other")
    await other.release(await other.open(session=name))
    return sink.claim(name), ["owner.changed"], None


async def claims_back(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    return sink.claim(name), [], state


async def records(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    facts = taken(state, "go")
    return sink.record(state, facts), [fact.kind for fact in facts], state


async def records_and_releases(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    facts = [e.InputReceived(parts=said("go"))]
    return sink.record(state, facts, release=True), [fact.kind for fact in facts], state


async def reports(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    return sink.report(state, [e.InputReceived(parts=said("go"))]), ["input.received"], state


async def catches_up(sink: Sink, store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    other = sink_on(store, Heard(), "other")
    await other.report(await other.load(name), [e.InputReceived(parts=said("from outside")), e.InputReceived(parts=said("twice"))])
    return sink.catch_up(state), [], state


async def releases(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    return sink.release(state), [], state


async def snapshots(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    return sink.snapshot(state), [], state


async def erases(sink: Sink, _store: SQLiteStore, name: str) -> Scene:
    state = await sink.open(session=name)
    state = await sink.record(state, [e.NoteAdded(text="a secret", why="test")])
    return sink.erase(state, "the law"), ["session.erased"], state


OPERATIONS = (opens, claims, claims_back, records, records_and_releases, reports, catches_up, releases, snapshots, erases)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_cancel_at_every_await(tmp_path, operation, way):
    """Whole or absent, no open transaction, listeners heard exactly what was kept, and the store goes on."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        heard = Heard()
        sink = sink_on(store, heard, "me")
        points = wholes = 0
        for nth in range(1, MOST):
            name = f"s{nth}"
            work, kinds, known = await operation(sink, store, name)
            before = kept_in(store.path, name)
            reached, outcome = await cancelled(work, nth, way)
            await goes_on(sink, store, name, known)
            rows = kept_in(store.path, name)
            mine = rows[1:] if operation is claims else rows  # what another sink kept was told to its own listeners
            assert heard.of(name) == [(row.seq, row.hash) for row in mine], "each once, in order, and none untold"
            added = [row.kind for row in rows[len(before) :]]
            added = added[: added.index("note.added")] if "note.added" in added else added
            assert added[: len(kinds)] in ([], kinds), "whole or absent"
            wholes += added[: len(kinds)] == kinds
            if not reached:
                assert not isinstance(outcome, BaseException), outcome
                assert added[: len(kinds)] == kinds
                break
            assert outcome is None or isinstance(outcome, asyncio.CancelledError | SessionState)
            points += 1
        else:
            pytest.fail("it never ran clean")
        assert points >= 1
        assert [wrong async for wrong in store.verify()] == []
        log.info("%s, %s: %s points, the commit was whole after %s", operation.__name__, way.__name__, points, wholes)
    scenes.judge(tmp_path / "log.db")


async def goes_on(sink: Sink, store: SQLiteStore, name: str, known: SessionState | None) -> None:
    """Append once more after folding again; then no transaction is open."""
    try:
        state = await sink.catch_up(known) if known else await sink.claim(name)
    except SessionNotFound:
        state = await sink.open(session=name)
    await settled(store)
    if not (await store.find(name)).erased:
        state = await sink.catch_up(state)
        await sink.record(state, [e.NoteAdded(text="on it goes", why="test")])
    no_transaction(store)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_what_is_kept_after_a_cancellation_is_told(tmp_path, way):
    """A commit that its caller no longer waits for is told like any other, also when nobody ever asks again."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        heard = Heard()
        sink = sink_on(store, heard, "me")
        for nth in range(1, MOST):
            name = f"s{nth}"
            state = await sink.open(session=name)
            reached, _ = await cancelled(sink.record(state, taken(state, "go")), nth, way)
            await settled(store)
            assert heard.of(name) == [(row.seq, row.hash) for row in kept_in(store.path, name)]
            if not reached:
                break


async def test_a_catch_up_beside_a_commit_tells_nothing_twice(tmp_path):
    """The cancelled commit is read by its owner before the commit's own report arrives; then the session is released. Heard once."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        heard = Heard()
        sink = sink_on(store, heard, "me")
        for nth in range(20):
            name = f"s{nth}"
            state = await sink.open(session=name)
            task = asyncio.create_task(sink.record(state, [e.NoteAdded(text="n", why="w")]))
            for _ in range(4):  # it is on its way to the database thread
                await asyncio.sleep(0)
            task.cancel()
            reading = asyncio.create_task(sink.catch_up(state))
            await asyncio.sleep(0)
            time.sleep(0.01)  # noqa: ASYNC251  both answers wait for the loop
            await sink.release(await reading)
            await asyncio.gather(task, return_exceptions=True)
            await settled(store)
            assert heard.of(name) == [(row.seq, row.hash) for row in kept_in(store.path, name)]


# -- opening and closing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_cancel_while_opening(tmp_path, way):
    """A cancelled opening leaves nothing behind: no connection, no thread, no entry in the register; the next one works."""
    for nth in range(1, MOST):
        path = tmp_path / f"{nth}.db"
        store = SQLiteStore(path)
        reached, outcome = await cancelled(store.__aenter__(), nth, way)
        if not isinstance(outcome, BaseException):
            await store.__aexit__(None, None, None)
        assert not writer.Writer.open, "the register of writers is empty"
        await nothing_open(path)
        await used_once(path, way)
        if not reached:
            break
    else:
        pytest.fail("it never ran clean")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_cancel_while_closing(tmp_path, way):
    """A cancelled closing closes all the same."""
    for nth in range(1, MOST):
        path = tmp_path / f"{nth}.db"
        store = SQLiteStore(path)
        await store.__aenter__()
        sink = sink_on(store, Heard(), "me")
        await sink.open(session="held")
        reached, _ = await cancelled(store.__aexit__(None, None, None), nth, way)
        await nothing_open(path)
        assert not writer.Writer.open
        await used_once(path, way)
        if not reached:
            break
    else:
        pytest.fail("it never ran clean")


async def test_cancel_one_of_two_who_open(tmp_path):
    """Two open the same file; one is cancelled at any moment, the other one works."""
    for nth in range(1, MOST):
        path = tmp_path / f"{nth}.db"
        left, right = SQLiteStore(path), SQLiteStore(path)
        other = asyncio.create_task(left.__aenter__())
        reached, outcome = await cancelled(right.__aenter__(), nth, at_once)
        await other
        await sink_on(left, Heard(), "me").open(session="s")
        await left.__aexit__(None, None, None)
        if not isinstance(outcome, BaseException):
            await right.__aexit__(None, None, None)
        await nothing_open(path)
        if not reached:
            break


async def used_once(path, way) -> None:
    """The file can be used."""
    async with SQLiteStore(path) as store:
        await sink_on(store, Heard(), "me").open(session=f"after {way.__name__}")
        no_transaction(store)
        assert [wrong async for wrong in store.verify()] == []


async def nothing_open(path: Path) -> None:
    """Wait for the last descriptor of this process on the file, its log and its side file to be closed."""
    for _ in range(100):
        if not (left := descriptors_on(path)):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"nobody closed {left}")


def descriptors_on(path: Path) -> list[str]:
    found: list[str] = []
    descriptors = Path("/proc/self/fd")
    for one in descriptors.iterdir() if descriptors.is_dir() else ():
        with contextlib.suppress(OSError):
            found.append(str(one.readlink()))
    return [name for name in found if name.startswith(str(path))]


# -- many at once ----------------------------------------------------------------------------------------------------------


async def test_many_sessions_and_random_cancellations(tmp_path, monkeypatch):
    """64 sessions append at once and are cancelled at random: each gets on, none disturbs another, and commits are shared."""
    batches: list[int] = []
    commit = writer.commit

    def counted(db, requests):
        batches.append(len(requests))
        return commit(db, requests)

    monkeypatch.setattr(writer, "commit", counted)
    async with SQLiteStore(tmp_path / "log.db") as store:
        heard = Heard()
        sink = sink_on(store, heard, "me")
        cuts = await asyncio.gather(*(busy(sink, f"s{number}", random.Random(number)) for number in range(64)))
        await settled(store)
        no_transaction(store)
        rows = scenes.judge(store.path)
        told = collections.Counter((kept.session, kept.seq) for kept in heard)
        assert set(told.values()) == {1}
        assert [(kept.session, kept.seq, kept.hash) for kept in sorted(heard, key=lambda kept: kept.position)] == [(row.session, row.seq, row.hash) for row in rows]
        for number in range(64):
            assert heard.of(f"s{number}") == [(row.seq, row.hash) for row in rows if row.session == f"s{number}"]
        assert [wrong async for wrong in store.verify()] == []
    appends = sum(batches)
    assert sum(cuts) >= 100
    assert len(batches) * 4 <= appends, "those who wait at the same moment share a commit"
    log.info("%s appends in %s commits, %s cancelled", appends, len(batches), sum(cuts))


async def busy(sink: Sink, name: str, dice: random.Random) -> int:
    """Append fifteen times; be cancelled at a random moment about every third time, catch up, go on."""
    state = await sink.open(session=name)
    cuts = done = 0
    while done < 15:
        before = state.seq
        task = asyncio.create_task(sink.record(state, [e.NoteAdded(text=f"{done}", why="a"), e.NoteAdded(text=f"{done}", why="b")]))
        if dice.random() < 0.35:
            if dice.random() < 0.5:
                await asyncio.sleep(dice.uniform(0, 0.004))
            else:
                for _ in range(dice.randrange(6)):
                    await asyncio.sleep(0)
            task.cancel()
            cuts += 1
        try:
            state = await task
        except asyncio.CancelledError:
            state = await sink.catch_up(state)
        except HeadMoved:  # the commit of before the cancellation came in between
            state = await sink.catch_up(state)
            continue
        assert state.seq in {before, before + 2}, "whole or absent"
        done += 1
    return cuts


async def test_everything_is_cancelled_at_once(tmp_path):
    """What a runner does when it is stopped: every task is cancelled, the store's own too, at the nth turn of the loop. It goes on."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        heard = Heard()
        sink = sink_on(store, heard, "me")
        for nth in range(25):
            states = [await sink.open(session=f"{nth}-{number}") for number in range(4)]
            work = [asyncio.create_task(sink.record(state, taken(state, "go"))) for state in states]
            for _ in range(nth):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            outcomes = await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), PROMPT_SECONDS)
            for state, outcome in zip(states, outcomes, strict=True):
                assert isinstance(outcome, SessionState | asyncio.CancelledError)
                now = await asyncio.wait_for(sink.catch_up(state), PROMPT_SECONDS)
                assert now.seq in ({4} if isinstance(outcome, SessionState) else {1, 4})
                await asyncio.wait_for(sink.record(now, [e.NoteAdded(text="on", why="w")]), PROMPT_SECONDS)
                assert heard.of(state.session) == [(row.seq, row.hash) for row in kept_in(store.path, state.session)]
        no_transaction(store)
        assert [wrong async for wrong in store.verify()] == []


async def test_a_request_that_cannot_be_kept_disturbs_nobody(tmp_path):
    """Of those who share a commit, the one whose request is impossible is told so; the others' facts are kept."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        sink = sink_on(store, Heard(), "me")
        states = [await sink.open(session=f"s{number}") for number in range(8)]
        note = [e.NoteAdded(text="n", why="w")]
        work: list[Awaitable[SessionState]] = [sink.record(state, note) for state in states[1:]]
        bad = sink.record(states[0], note, blobs={"not the name of a blob": b"x"})
        outcomes = await asyncio.gather(*work[:3], bad, *work[3:], return_exceptions=True)
        refused = outcomes.pop(3)
        assert all(isinstance(outcome, SessionState) for outcome in outcomes), outcomes
        assert isinstance(refused, PowerAgentError), repr(refused)


async def test_a_stale_owner_in_a_shared_commit_disturbs_nobody(tmp_path):
    """Of those who share a commit, the one that was fenced off is told so; the others' facts are kept."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        sink, other = sink_on(store, Heard(), "me"), sink_on(store, Heard(), "other")
        states = [await sink.open(session=f"s{number}") for number in range(8)]
        await sink.release(states[3])
        await other.claim("s3")
        note = [e.NoteAdded(text="n", why="w")]
        outcomes = await asyncio.gather(*(sink.record(state, note) for state in states), return_exceptions=True)
        assert isinstance(outcomes.pop(3), OwnershipLost)
        assert all(isinstance(outcome, SessionState) for outcome in outcomes), outcomes


async def test_nothing_is_left_to_the_collector(tmp_path):
    """Cancelled operations leave no task, future or connection whose end nobody looked at."""
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with SQLiteStore(tmp_path / "log.db") as store:
            sink = sink_on(store, Heard(), "me")
            state = await sink.open(session="s")
            for nth in range(1, 6):
                stale = await sink.load("s")
                state = await sink.record(await sink.catch_up(stale), [e.NoteAdded(text="n", why="w")])
                await cancelled(sink.record(stale, [e.NoteAdded(text="stale", why="w")]), nth, at_once)  # refused, unheard
            await settled(store)
        gc.collect()
        await asyncio.sleep(0)
    assert problems == []
    assert [str(warning.message) for warning in caught] == []
    assert state.seq == 6
