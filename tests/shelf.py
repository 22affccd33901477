"""Puts legal histories into a real store as they stand, and compares what two stores hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from typing import Any, TypeVar

from power_agent import SQLiteStore
from power_agent import events as e
from power_agent.chain import secret_of
from power_agent.chance import CountedChance
from power_agent.clock import HeldClock
from power_agent.context import render
from power_agent.ports import Append, Fact, Place, Record
from power_agent.sink import Sink
from power_agent.state import freeze

T = TypeVar("T")
CONTENTS = {"b" * 64: b"large output " * 100, "c" * 64: b"\x89PNG\x00" + bytes(range(256)) * 7_000}
"""What stands behind the names that the grammar gives to blobs; the second one needs several pieces."""
BLOBS = {sha256(content).hexdigest(): content for content in CONTENTS.values()}


def sink_of(store: SQLiteStore, owner: str = "me") -> Sink:
    return Sink(store, HeldClock(), CountedChance(), owner)


def with_real_blobs(value: Any) -> Any:
    """Return an event, or a part of one, that names blobs which exist."""
    if isinstance(value, str) and value in CONTENTS:
        return sha256(CONTENTS[value]).hexdigest()
    if isinstance(value, tuple):
        return tuple(with_real_blobs(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {one.name: with_real_blobs(getattr(value, one.name)) for one in fields(value)}
        return replace(value, **changed)
    return value


async def shelve(store: SQLiteStore, history: Sequence[e.Envelope]) -> str:
    """Keep a history, forks and all; return the session it ends with."""
    nonce, before = "", None
    for kept in history:
        event, branch = with_real_blobs(kept.event), None
        if isinstance(event, e.SessionOpened):
            nonce = event.nonce
            branch = Place(before.session, before.seq) if before is not None else None
        body = e.encode(event)
        await store.append(
            Append(
                session=kept.session,
                head=kept.seq - 1,
                facts=[Fact(event.kind, kept.at, body, e.call_of(event), getattr(event, "key", None))],
                salt=secret_of(nonce),
                epoch=kept.epoch,
                hold_until=0,
                blobs={name: content for name, content in BLOBS.items() if name in body},
                branch=branch,
            )
        )
        before = kept
    return history[-1].session


def placeless(records: Sequence[Record]) -> list[Record]:
    """Return records without their place in the store, which is the one thing that differs between stores."""
    return [record._replace(position=0) for record in records]


async def as_rendered(store: SQLiteStore, session: str, at: int) -> tuple[str, str]:
    """Return the state and the context at a seq, as text."""
    state = await sink_of(store).load(session, at=at)
    return freeze(state, b""), repr(render(state))


async def wrongs(store: SQLiteStore) -> list[str]:
    return [wrong async for wrong in store.verify()]


async def everything(store: SQLiteStore) -> tuple[list[Any], list[Record]]:
    """Return all rows and records, to show that nothing was written."""
    return await store.sessions(), await store.read_all(limit=1_000_000)


def alone(work: Callable[[], Awaitable[T]]) -> T:
    """Run something in an event loop of its own: hypothesis knows no await."""
    return asyncio.run(work())  # type: ignore[arg-type]
