"""What people use: send by session id, resume after a crash, settle or abort what is in doubt, look back.

The loop owns a session while it works on it and gives it up when nothing more can be done without somebody else. Everything it
knows it reads from the log; what it keeps in memory (the state of sessions it has just worked on) only saves reading it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from power_agent import events as e
from power_agent import process
from power_agent.chance import SystemChance
from power_agent.cleaning import check_id, clean
from power_agent.clock import SystemClock
from power_agent.context import render
from power_agent.drive import Drive
from power_agent.errors import (
    HeadMoved,
    InvalidInput,
    InvalidSessionId,
    KeyConflict,
    KeyNeedsSession,
    NothingToResume,
    OwnershipLost,
    SessionBusy,
    SessionClosed,
    SessionExists,
    SessionPending,
    StoreClosed,
    StoreError,
)
from power_agent.events import Config, Envelope
from power_agent.executor import Executor
from power_agent.hooks import Hooks
from power_agent.limits import LOOK_SECONDS, MAX_HISTORY_EVENTS, MAX_LIVE_STATES, STOP_SECONDS, Limits
from power_agent.machine import Wait, decide
from power_agent.messages import Attachment, ContentPart, Message, Text
from power_agent.policy import CallGuard, Policy, allow_all
from power_agent.ports import Chance, Clock, Durability, Listener, Model, SessionRow, Store, Tool
from power_agent.results import PendingCall, TurnResult, pending_of, result_of
from power_agent.settling import Abort, Decision, decision_fact
from power_agent.sink import Sink, opened
from power_agent.state import SessionState
from power_agent.store import SQLiteStore
from power_agent.tools import Toolbox

Said = str | ContentPart | Sequence[ContentPart]


class _Work:
    """A session that this loop works on at the moment, and under which key."""

    def __init__(self, session: str, key: str | None) -> None:
        self.session = session
        self.key = key
        self.done = asyncio.Event()
        self.drive: Drive | None = None
        self.task: asyncio.Task[SessionState] | None = None


class StatefulAgentLoop:
    """An agent whose whole life is in its log. Use it inside `async with`.

    `model` answers, `tools` are functions it may call, `store` is a path, `":memory:"` or a store. `policy` judges each call
    (allow, deny, ask a person); without one the user's own functions run. `guards` may change or refuse a call. `deps` is handed to every tool in its context.
    """

    def __init__(  # noqa: PLR0913  what an agent is made of
        self,
        model: Model | str,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        store: str | os.PathLike[str] | Store = "power-agent.db",
        system: str | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
        policy: Policy | None = None,
        guards: Sequence[CallGuard] = (),
        deps: Any = None,
        settings: dict[str, Any] | None = None,
        listeners: Iterable[Listener] = (),
        durability: Durability = "full",
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._made: Any = None
        if isinstance(model, str):
            from power_agent.models.named import model as named  # noqa: PLC0415  only who names a model needs the wire

            model = self._made = named(model)
        self._model = model
        self._tools = Toolbox(tools)
        self._clock = clock or SystemClock()
        self._store: Store = SQLiteStore(store, durability=durability, clock=self._clock) if isinstance(store, str | Path | os.PathLike) else store
        self._opens_store = isinstance(store, str | os.PathLike)
        self._config = Config(model=model.name, system=system, tools=self._tools.refs, settings=settings or {}, limits=limits)
        self._executor = Executor(self._tools, policy or allow_all, deps, guards=guards)
        self._sink = Sink(self._store, self._clock, chance or SystemChance(), process.me(), dead=process.proven_dead, hooks=Hooks(listeners))
        self._chance = chance or SystemChance()
        self._live: dict[str, SessionState] = {}
        self._working: dict[str, _Work] = {}
        self._closing = False

    async def __aenter__(self) -> Self:
        if self._opens_store:
            await self._store.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Interrupt what runs, leaving every turn resumable, and close the store."""
        self._closing = True
        works = list(self._working.values())
        for work in works:
            if work.task is not None:
                work.task.cancel()
        if works:  # what they had is put down before the store goes away
            await asyncio.wait([asyncio.ensure_future(work.done.wait()) for work in works], timeout=2 * STOP_SECONDS)
        if hasattr(self._made, "aclose"):
            await self._made.aclose()
        if self._opens_store:
            await self._store.__aexit__(None, None, None)

    # -- sending and resuming ------------------------------------------------------------------------------------------

    async def send(self, message: Said, session_id: str | None = None, *, key: str | None = None, by: str | None = None) -> TurnResult:
        """Say something and run the turn. Without an id a new session begins; an unknown id is created.

        A repeated `key` is the same input: its turn's result comes back, and nothing runs twice. An open turn that nobody works
        on raises `SessionPending`; a session that somebody works on raises `SessionBusy`.
        """
        if key is not None and session_id is None:
            raise KeyNeedsSession("A key was passed without a session id.")
        parts = _parts(message)
        if key is not None:
            check_id(key, "key")
        name = self._chance.session_id() if session_id is None else _checked(session_id)
        while True:
            if key is not None and (known := await self._known_input(name, key, parts)) is not None:
                return known
            work = self._working.get(name)
            if work is not None and key is not None and work.key == key:
                await work.done.wait()  # the same input, a moment earlier: its result will do
                continue
            try:
                async with self._at_work(name, key) as work:
                    result = await self._send(work, parts, key, by)
            except SessionBusy:
                if key is None or not await self._appears(name, key):
                    raise
                continue
            if result is not None:
                return result

    @contextlib.asynccontextmanager
    async def _at_work(self, name: str, key: str | None = None) -> AsyncIterator[_Work]:
        """Reserve a session in this loop: two coroutines of one owner must not both work on it."""
        if name in self._working:
            raise SessionBusy(f"This process works on session {name!r} already.", session=name, owner=self._sink.owner, deadline=self._clock.now() + self._store.lease_ms)
        work = self._working[name] = _Work(name, key)
        try:
            yield work
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._give_back(name)))
            raise
        finally:
            del self._working[name]
            work.done.set()

    async def _give_back(self, name: str) -> None:
        """After a failure or an interruption: nobody shall have to wait for our lease."""
        await self._sink.settled(name)
        with contextlib.suppress(StoreError):
            row = await self._store.find(name)
            if row is not None and row.owner == self._sink.owner and row.deadline:
                await self._store.release(name, row.epoch)

    async def _send(self, work: _Work, parts: tuple[ContentPart, ...], key: str | None, by: str | None) -> TurnResult | None:
        """Keep an input and run its turn; None when the session was not where it was last seen: look again."""
        name, remembered = work.session, work.session in self._live
        state = await self._ready_for_input(name)
        if key is not None and await self._store.find_key(name, key) is not None:
            return None
        facts: list[e.Event] = [] if state.config == self._config else [e.SessionConfigured(config=self._config)]
        facts.append(e.InputReceived(parts=parts, key=key, by=by))
        drive = self._new_drive(state)
        try:
            after = await self._run(work, drive, facts)
        except (HeadMoved, OwnershipLost) as error:
            if drive.has_kept or (isinstance(error, OwnershipLost) and not remembered):
                raise
            return None
        input_seq = state.seq + len(facts)
        return await result_of(self._store, after, await self._turn_of(name, input_seq), input_seq)

    async def _appears(self, name: str, key: str) -> bool:
        """Say whether an input with this key is kept within a moment: who holds the session may be about to keep it."""
        for _ in range(4):
            if await self._store.find(name) is not None and await self._store.find_key(name, key) is not None:
                return True
            await self._clock.sleep(LOOK_SECONDS / 2)
        return False

    async def _ready_for_input(self, name: str) -> SessionState:
        """Return the state of a session that is ours and between turns."""
        if name in self._live:
            return self._live[name]
        if await self._store.find(name) is None:
            try:
                return await self._sink.open(self._config, name)
            except SessionExists:
                return await self._ready_for_input(name)
        state = await self._sink.load(name)
        if state.closed:
            raise SessionClosed(f"Session {name!r} is closed.", session=name)
        if state.turn is not None:
            await self._check_free(name)
            row = await self._store.find(name)
            if row is not None and row.head != state.seq:  # somebody worked on it while we looked
                return await self._ready_for_input(name)
            message = f"Turn {state.turn.number} of session {name!r} is open, and nobody works on it."
            raise SessionPending(message, session=name, calls=pending_of(state))
        return await self._sink.claim(name, state)

    async def _check_free(self, name: str) -> None:
        """Raise `SessionBusy` when a living owner works on the session."""
        row = await self._store.find(name)
        if row is not None and row.deadline >= self._clock.now() and row.owner != self._sink.owner and row.owner and not process.proven_dead(row.owner):
            raise SessionBusy(f"Session {name!r} is held by {row.owner}.", session=name, owner=row.owner, deadline=row.deadline)

    async def _known_input(self, name: str, key: str, parts: tuple[ContentPart, ...]) -> TurnResult | None:
        """Return what became of an input that was sent before under the same key."""
        if await self._store.find(name) is None:
            return None
        seq = await self._store.find_key(name, key)
        if seq is None:
            return None
        record = (await self._store.read(name, after=seq - 1, upto=seq))[0]
        said = opened(record).event
        if not isinstance(said, e.InputReceived) or said.parts != _as_kept(parts):
            raise KeyConflict(f"Key {key!r} of session {name!r} was used for another input (event {seq}).", session=name, key=key)
        state = await self._joined(name, seq)
        return await result_of(self._store, state, await self._turn_of(name, input_seq=seq), input_seq=seq)

    async def _joined(self, name: str, seq: int) -> SessionState:
        """Wait while somebody living, here or in another process, works on the turn that took an input."""
        while True:
            if name in self._working:
                await self._working[name].done.wait()
            state = await self._sink.load(name)
            row = await self._store.find(name)
            waits = state.turn is not None or any(item.seq == seq for item in state.inputs)
            if not waits or row is None or row.deadline < self._clock.now() or (row.owner and process.proven_dead(row.owner)):
                return state
            await self._clock.sleep(LOOK_SECONDS)

    async def _turn_of(self, name: str, input_seq: int) -> int:
        """Return the number of the turn that took an input; 0 when none has."""
        for record in await self._store.read(name, after=input_seq, kinds=("turn.started", "model.asked")):
            event = opened(record).event
            if isinstance(event, e.TurnStarted | e.ModelAsked) and input_seq in event.inputs:
                return event.turn
        return 0

    async def resume(self, session_id: str) -> TurnResult:
        """Go on with an open turn: what the tools promised is settled, what needs a person comes back as `waiting`.

        Nothing open: the last turn's result, and nothing is written. After `limit` or `failed` a new turn continues the old one.
        """
        async with self._at_work(_checked(session_id)) as work:
            return await self._resume(work)

    async def _resume(self, work: _Work) -> TurnResult:
        name = work.session
        state = await self._sink.load(name)
        if state.closed or state.erased or state.hollow or not (state.turns or state.inputs):
            raise NothingToResume(f"Session {name!r} has no turn to resume.", session=name)
        await self._check_free(name)
        go_on = state.turn is None and state.last is not None and state.last.status in {"limit", "failed", "forked"}
        if state.turn is None and not go_on and not state.inputs:
            return await result_of(self._store, state, state.turns)
        if state.turn is not None and self._only_a_person_helps(state):
            return await result_of(self._store, state, state.turns)
        state = await self._sink.claim(name, state)
        facts: list[e.Event] = [e.SessionConfigured(config=self._config)] if state.turn is None and state.config != self._config else []
        state = await self._run(work, self._new_drive(state, go_on=state.turn is None), facts)
        return await result_of(self._store, state, state.turns)

    def _only_a_person_helps(self, state: SessionState) -> bool:
        """Say whether taking the session up would change nothing."""
        step = decide(state, self._clock.now())
        promised = any(call.place == "doubted" and self._executor.promise(state, call) != "ask" for call in state.unresolved)
        return isinstance(step, Wait) and step.why == "person" and (not promised or state.cancel is not None)

    def _new_drive(self, state: SessionState, *, go_on: bool = False) -> Drive:
        return Drive(self._sink, self._store, self._clock, self._model, self._tools, self._executor, state, go_on=go_on)

    async def _run(self, work: _Work, drive: Drive, first: Sequence[e.Event]) -> SessionState:
        """Work on a session until nothing more can be done; cancelling this interrupts it."""
        if self._closing:
            raise StoreClosed("The loop was closed.", path="")
        self._live.pop(work.session, None)
        work.drive, work.task = drive, asyncio.create_task(drive.run(first), name=f"session {work.session}")
        after = await work.task
        if after.turn is None:
            self._live[work.session] = after
            while len(self._live) > MAX_LIVE_STATES:
                self._live.pop(next(iter(self._live)))
        return after

    # -- settling ------------------------------------------------------------------------------------------------------

    async def pending(self, session_id: str) -> list[PendingCall]:
        """Return the calls without an outcome."""
        return pending_of(await self._sink.load(_checked(session_id)))

    async def settle(self, session_id: str, call_id: str, decision: Decision, *, by: str = "a person") -> list[PendingCall]:
        """Record one decision about one call and return what is still pending; works from any process, and never drives.

        The same decision again changes nothing; another one raises `AlreadySettled`.
        """
        name = _checked(session_id)
        while True:
            state = await self._sink.load(name)
            done = await decision_fact(self._store, state, call_id, decision, by)
            if not done.facts:
                return pending_of(state)
            try:
                state = await self._sink.report(state, done.facts, blobs=done.blobs)
            except HeadMoved:
                continue
            self._noticed(name)
            return pending_of(state)

    async def abort_pending(self, session_id: str, *, reason: str, call_ids: Collection[str] | None = None, by: str = "a person") -> list[PendingCall]:
        """End all unresolved calls and the open turn in one commit, so that the session can be sent to again.

        With `call_ids` only those calls are ended. Returns what was ended.
        """
        async with self._at_work(_checked(session_id)) as work:
            return await self._abort_pending(work.session, reason, call_ids, by)

    async def _abort_pending(self, name: str, reason: str, call_ids: Collection[str] | None, by: str) -> list[PendingCall]:
        state = await self._sink.claim(name)
        self._live.pop(name, None)
        try:
            calls = [call for call in pending_of(state) if call_ids is None or call.id in call_ids]
            for unknown in sorted(set(call_ids or ()) - {call.id for call in calls}):
                await decision_fact(self._store, state, unknown, Abort(reason), by)  # says why not, unless it was aborted before
            facts: list[e.Event] = [e.CallAborted(call=call.id, by=by, reason=reason) for call in calls]
            if call_ids is None and state.turn is not None:
                facts.append(e.TurnEnded(turn=state.turn.number, status="cancelled", reason=reason))
            await self._sink.record(state, facts, release=True)
        finally:
            await self._sink.release(state)
        return calls

    async def cancel(self, session_id: str, *, reason: str = "cancelled", by: str | None = None) -> bool:
        """Ask for the end of the open turn; True once that is kept, False when there is none. Works from any process."""
        name = _checked(session_id)
        while True:
            state = await self._sink.load(name)
            if state.turn is None:
                return False
            if state.cancel is not None:
                return True
            try:
                await self._sink.report(state, (e.CancelAsked(reason=reason, by=by),))
            except HeadMoved:
                continue
            self._noticed(name)
            return True

    def _noticed(self, name: str) -> None:
        work = self._working.get(name)
        if work is not None and work.drive is not None:
            work.drive.notice()

    async def close_session(self, session_id: str, *, reason: str = "closed", abort: bool = False, by: str | None = None) -> None:
        """Let a session take no more input. An open turn must be ended first, or with `abort=True`."""
        async with self._at_work(_checked(session_id)) as work:
            name = work.session
            if abort:
                await self._abort_pending(name, reason, None, by or "a person")
            state = await self._sink.claim(name)
            self._live.pop(name, None)
            try:
                if state.turn is not None:
                    raise SessionPending(f"Turn {state.turn.number} of session {name!r} is open.", session=name, calls=pending_of(state), hint="Resume it, or pass abort=True.")
                if state.inputs and not abort:
                    raise SessionPending(f"An input of session {name!r} waits for its turn.", session=name, calls=[], hint="Resume it, or pass abort=True.")
                if not state.closed:
                    await self._sink.record(state, (e.SessionClosed(reason=reason, by=by),), release=True)
            finally:
                await self._sink.release(state)

    # -- looking back --------------------------------------------------------------------------------------------------

    async def history(self, session_id: str, *, after: int = 0, limit: int = MAX_HISTORY_EVENTS, kinds: Collection[str] | None = None) -> list[Envelope]:
        """Return kept events and where they stand."""
        unknown = set(kinds or ()) - e.EVENTS.keys()
        if unknown:
            raise InvalidInput(f"There is no event called {min(unknown)!r}.", hint=f"The events are: {', '.join(e.EVENTS)}.")
        return [opened(record) for record in await self._store.read(_checked(session_id), after=after, limit=limit, kinds=kinds)]

    async def messages(self, session_id: str, *, at: int | None = None) -> tuple[Message, ...]:
        """Return what the model would see, now or at any seq."""
        return render(await self.state(session_id, at=at)).messages

    async def state(self, session_id: str, *, at: int | None = None) -> SessionState:
        """Return the folded state, now or at any seq."""
        return await self._sink.load(_checked(session_id), at=at)

    async def sessions(self, *, after: str = "", limit: int = 1_000) -> list[SessionRow]:
        """List sessions by id."""
        return await self._store.sessions(after=after, limit=limit)

    def verify(self, session_id: str | None = None) -> AsyncIterator[str]:
        """Recompute every hash and every move; yields a sentence for each thing that is wrong."""
        return self._store.verify(session_id)

    async def blob(self, session_id: str, digest: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        """Read (a part of) an output or attachment that was too large for the log."""
        return await self._store.blob(_checked(session_id), digest, start=start, length=length)


def _parts(message: Said) -> tuple[ContentPart, ...]:
    parts: tuple[ContentPart, ...] = ()
    if isinstance(message, str):
        parts = (Text(message),)
    elif isinstance(message, Text | Attachment):
        parts = (message,)
    elif isinstance(message, Iterable):
        parts = tuple(message)
    if not parts or not all(isinstance(part, Text | Attachment) for part in parts):
        raise InvalidInput("There is nothing to send: pass a text, or parts of text and attachments.")
    if all(isinstance(part, Text) and not part.text.strip() for part in parts):
        raise InvalidInput("There is nothing to send: the text is empty.")
    return parts


def _as_kept(parts: tuple[ContentPart, ...]) -> tuple[ContentPart, ...]:
    """Return parts as they look once cleaned and kept, to compare them with kept ones."""
    event = clean(e.InputReceived(parts=parts)).event
    return event.parts if isinstance(event, e.InputReceived) else parts


def _checked(name: str) -> str:
    try:
        return check_id(name)
    except InvalidInput as error:
        raise InvalidSessionId(error.message, hint=error.hint) from None
