"""What people use: send by session id, resume after a crash, settle or abort what is in doubt, look back.

The loop owns a session while it works on it and gives it up when nothing more can be done without somebody else. Everything it
knows it reads from the log; what it keeps in memory (the state of sessions it has just worked on) only saves reading it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, get_args

from power_agent import events as e
from power_agent import process
from power_agent.chance import SystemChance
from power_agent.cleaning import check_id, covered
from power_agent.clock import SystemClock
from power_agent.compaction import Compactor
from power_agent.context import render
from power_agent.drive import Drive
from power_agent.errors import (
    InvalidInput,
    InvalidSessionId,
    KeyNeedsSession,
    NothingToResume,
    SessionBusy,
    SessionNotFound,
    SessionPending,
)
from power_agent.events import Config, Envelope
from power_agent.executor import Executor
from power_agent.finding import Finding, ToolSearch
from power_agent.givens import fitting
from power_agent.guards import AnyGuard, Guards
from power_agent.hooks import Hooks, Onlooker, hearing
from power_agent.limits import MAX_HISTORY_EVENTS, MAX_PLACE, SURROUNDINGS_SHARE, Limits, possible
from power_agent.loop.intake import Intake, Order, Said, WhenBusy, is_due, parts_of
from power_agent.loop.roles import Roles
from power_agent.loop.stream import Stream
from power_agent.loop.sweep import Sweep
from power_agent.loop.upkeep import Branch, Upkeep
from power_agent.loop.work import Desk, Work, closed, looked_at
from power_agent.machine import Wait, decide
from power_agent.messages import Message
from power_agent.outputs import Outputs
from power_agent.policy import Policy, own_rules
from power_agent.policy.verdicts import judging
from power_agent.ports import Chance, Clock, Durability, Listener, Model, SessionRow, Shelf, Store, Strategy, Tip, Tool
from power_agent.recall import Recall
from power_agent.report import ContextReport
from power_agent.results import PendingCall, TurnResult, pending_of
from power_agent.secrets import Secret, Secrets, journal
from power_agent.settling import Decision, decision_fact
from power_agent.sink import Report, Sink, opened
from power_agent.state import SessionState
from power_agent.store import SQLiteStore
from power_agent.surroundings import Provider, providing
from power_agent.tokens import weigh
from power_agent.tools import Toolbox
from power_agent.word import replace

if TYPE_CHECKING:
    from power_agent.difference import Difference
    from power_agent.editions import Edition, Kind
    from power_agent.hearsay import Origin
    from power_agent.loop.sync import SyncLoop
    from power_agent.models.prices import PriceList
    from power_agent.moving import Export, Imported, Source
    from power_agent.replay import Replay


class StatefulAgentLoop:
    """An agent whose whole life is in its log. Use it inside `async with`.

    `model` answers: an object, `"provider:model"`, or several of those between commas, of which the next answers when one cannot. `tools`
    are functions it may call, or shelves of tools that come and go; `store` is a path, `":memory:"` or a store. `policy` judges each call
    (allow, deny, ask a person); without one your own functions run, and toolboxes that change the world ask.
    `guards` may change or refuse inputs, requests, calls and ends.
    `deps` is handed to every tool in its context. `compaction` says how a context that grows too large is made smaller (old outputs
    as references, then a summary by `models["summary"]`, else by the model itself). `context` are functions that say what the model is shown beside
    the log with each request: memory, documents, the time. `models` names models by what they do (`main`, `summary`); `prices` says what those
    that are named cost, or names a file that does. `output` is a pydantic model, a type or a union: each answer must have that shape, and
    `TurnResult.output` is the value. `tool_search` says from how many tools on the model looks for them instead of being shown all; None:
    never. `secrets` (by name) are hidden in everything that is kept and shown, and so is what only looks like one;
    tools that declare `secrets=` may have them.
    """

    def __init__(  # noqa: PLR0913  what an agent is made of
        self,
        model: Model | str | None = None,
        *,
        tools: Iterable[Tool | Shelf | Callable[..., Any]] = (),
        store: str | os.PathLike[str] | Store = "power-agent.db",
        system: str | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
        policy: Policy | None = None,
        guards: Iterable[AnyGuard] = (),
        deps: Any = None,
        models: Mapping[str, Model | str] | None = None,
        prices: PriceList | None = None,
        compaction: Strategy | Iterable[Strategy] | None = None,
        context: Iterable[Provider] = (),
        tool_search: ToolSearch | None = ToolSearch(),  # noqa: B008  frozen
        settings: dict[str, Any] | None = None,
        secrets: Secrets | Mapping[str, str | Secret] | None = None,
        listeners: Iterable[Listener] = (),
        output: Any = None,
        durability: Durability = "full",
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._roles = Roles(model, models, prices)
        self._model = self._roles.main
        self._tools = Toolbox(tools)
        self._clock = clock or SystemClock()
        self._store: Store = SQLiteStore(store, durability=durability, clock=self._clock) if isinstance(store, str | os.PathLike) else store
        fitting(self._store, "store", ("append", "read"), 'Pass a path, ":memory:", or a store.')
        _check_said(system, settings)
        self._offer = Finding(Recall(self._tools, self._store), tool_search)
        self._opens_store = isinstance(store, str | os.PathLike)
        self._secrets = _with_keys(Secrets.of(secrets), [*(one for one in (self._roles.main, self._roles.summary) if one is not None), *self._tools.shelves])
        journal.watch(self._secrets)
        self._outputs = Outputs(lambda shape: covered(shape, self._secrets.cover, {})[0])  # as the log has it, else its type would not be found
        shape = self._outputs.shape(output)
        config = Config(model=self._model.name, system=system, tools=self._tools.refs, settings=settings or {}, limits=possible(limits), output=shape)
        self._fixed, _ = covered(config, self._secrets.cover, {})
        self._shelves: list[Shelf] = []
        strategies = None if compaction is None else tuple(compaction) if isinstance(compaction, Iterable) else (compaction,)
        self._providers = providing(context)
        aside = SURROUNDINGS_SHARE if self._providers else 0.0
        self._compactor = Compactor(self._model, self._offer, strategies=strategies, summariser=self._roles.summary, count=weigh, aside=aside)
        me, self._hooks = process.me(), Hooks(listeners, self._secrets)
        self._guards = Guards(guards)
        self._executor = Executor(
            self._offer,
            own_rules(self._tools) if policy is None else judging(policy),
            deps,
            guards=self._guards.at("call"),
            glimpse=self._hooks.glimpser,
            me=me,
            elsewhere=process.lives_elsewhere,
            secrets=self._secrets,
        )
        self._sink = Sink(self._store, self._clock, chance or SystemChance(), me, dead=process.proven_dead, hooks=self._hooks, secrets=self._secrets)
        self._chance = chance or SystemChance()
        self._sync: SyncLoop | None = None
        self._closing: asyncio.Task[None] | None = None
        self._streams: set[asyncio.Task[TurnResult]] = set()
        self._desk = Desk(self._sink, self._store, self._clock)
        self._hooks.add(self._desk.hear)
        self._upkeep = Upkeep(self._desk, self._sink, self._store, self._clock, self._executor)
        self._intake = Intake(self._desk, self._sink, self._store, self._clock, self._config, self._guards, self._new_drive, self._model)

    def _config(self) -> Config:
        """Return what the next turn uses: what stands on a shelf may be something else by then."""
        return replace(self._fixed, tools=self._tools.refs) if self._tools.shelves else self._fixed

    @property
    def store(self) -> Store:
        """Where its log is kept."""
        return self._store

    @property
    def secrets(self) -> Secrets:
        """What is hidden, by name; its model's keys are among them."""
        return self._secrets

    @property
    def model(self) -> Model:
        """Who answers; several in a row are one."""
        return self._model

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What its model may call."""
        return tuple(self._tools)

    @property
    def sync(self) -> SyncLoop:
        """The same verbs for synchronous callers: `with StatefulAgentLoop(…).sync as agent: agent.send(…)`."""
        from power_agent.loop.sync import SyncLoop  # noqa: PLC0415  it is made of this class

        self._sync = self._sync or SyncLoop(self)
        return self._sync

    def __enter__(self) -> NoReturn:
        raise InvalidInput("An agent is entered with `async with`.", hint="Where there is no event loop, write `with StatefulAgentLoop(…).sync as agent`.")

    def __exit__(self, *_: object) -> None:
        """Be there, so that Python asks for the method above."""

    async def __aenter__(self) -> Self:
        if self._desk.closing:
            raise closed()
        if self._opens_store:
            await self._store.__aenter__()
        self._desk.open()
        try:
            for shelf in self._tools.shelves:
                await shelf.open()
                self._shelves.append(shelf)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def stop_on(self, *signals: int) -> None:
        """Let these signals (SIGTERM, for example) cancel the task that calls this, as Ctrl-C does under `asyncio.run`: turns stay open
        for `resume`, and sessions are free at once.
        """
        task = asyncio.current_task()
        if task is None:
            raise InvalidInput("stop_on() is called from the task that is to be stopped.")
        for number in signals:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    async def aclose(self) -> None:
        """Interrupt what runs, leaving every turn resumable, and close the store, whatever cannot be closed before it.

        Who waits for a turn is told `StoreClosed`. Cancelled, this goes on: the store is not closed under what has not come to its end.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
            self._closing.add_done_callback(looked_at)
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            if not self._desk.inside:  # else it waits for whoever called this
                await asyncio.wait([self._closing])
            raise

    async def _close(self) -> None:
        async with AsyncExitStack() as rest:
            if self._opens_store:
                rest.push_async_callback(self._store.__aexit__, None, None, None)
            rest.push_async_callback(self._roles.aclose)
            while self._shelves:
                rest.push_async_callback(self._shelves.pop(0).close)
            await self._desk.close()
            for sending in (left := set(self._streams)):
                sending.cancel()
            if left:
                await asyncio.wait(left)

    # -- sending and resuming ------------------------------------------------------------------------------------------

    async def send(
        self,
        message: Said,
        session_id: str | None = None,
        *,
        key: str | None = None,
        when_busy: WhenBusy = "raise",
        wait: bool = True,
        by: str | None = None,
        output: Any = None,
    ) -> TurnResult:
        """Say something and run the turn. Without an id a new session begins; an unknown id is created.

        What is said is a text, or a list of texts and of what is attached: a `Path`, `Upload(bytes)`, whose bytes are kept with the input,
        or `Attachment.at(url)`, which nobody here fetches. What the model is known not to take raises `AttachmentRefused`; nothing is kept.

        A repeated `key` is the same input: its turn's result comes back, and nothing runs twice. Where somebody works on the
        session, `when_busy` decides: `"raise"` raises `SessionBusy`; `"queue"` keeps the input for a turn of its own behind the
        one that is open, `"steer"` shows it to the model with the next request of that turn. An open turn that nobody works on
        raises `SessionPending`, or keeps the input and returns `waiting`. With `wait=False` this returns once the input is kept.

        `output` is a type that the answer to this must have; an answer that has not is asked for again, and after three of them
        the turn is `failed` with the reason `output_invalid`.
        """
        return self._valued(await self._intake.send(self._order(message, session_id, key, when_busy, by, output), wait=wait))

    def _valued(self, result: TurnResult) -> TurnResult:
        """Return a result with its answer as a value of the shape that was asked for."""
        if result.shape is None or result.status != "completed":
            return result
        return replace(result, output=self._outputs.value(result.shape, result.text))

    def _order(self, message: Said, session_id: str | None, key: str | None, when_busy: WhenBusy, by: str | None, output: Any) -> Order:
        if key is not None and session_id is None:
            raise KeyNeedsSession("A key was passed without a session id.")
        if when_busy not in get_args(WhenBusy):
            raise InvalidInput(f"when_busy={when_busy!r} is not possible.", hint='Use "raise", "queue" or "steer".')
        if output is not None and when_busy == "steer":
            raise InvalidInput("An input that steers a turn cannot change the shape of its answer.", hint='Leave output= out, or use when_busy="queue".')
        parts, blobs = self._sink.covered(*parts_of(message))
        if key is not None:
            self._sink.new_name(key, "key")
        name = self._chance.session_id() if session_id is None else _checked(session_id)
        return Order(session=name, parts=parts, key=key, by=by, when_busy=when_busy, blobs=blobs, output=self._outputs.shape(output))

    def stream(self, message: Said, session_id: str | None = None, *, key: str | None = None, when_busy: WhenBusy = "raise", by: str | None = None, output: Any = None) -> Stream:
        """Say something and see the turn happen: `async for` gives kept events and the glimpses between them.

        Takes what `send` takes. Leaving it detaches: the turn runs on until it is over or the loop is closed.
        """
        order = self._order(message, session_id, key, when_busy, by, output)
        stream = Stream(order.session, self._hooks, self._store)
        sending = asyncio.create_task(self._streamed(order, stream), name=f"stream of {order.session}")
        self._streams.add(sending)
        sending.add_done_callback(self._streams.discard)
        sending.add_done_callback(looked_at)  # who left the stream does not hear of its errors
        return stream.begin(sending)

    async def _streamed(self, order: Order, stream: Stream) -> TurnResult:
        try:
            return self._valued(await self._intake.streamed(order, stream.start, stream.place))
        except asyncio.CancelledError:
            if self._desk.closing:
                raise self._desk.closed(order.session) from None
            raise

    async def resume(self, session_id: str, *, output: Any = None) -> TurnResult:
        """Go on with an open turn: what the tools promised is settled, what needs a person comes back as `waiting`.

        Nothing open: the last turn's result, and nothing is written. After `limit` or `failed` a new turn continues the old one. Somebody else
        who may be alive works on it: `SessionBusy`.
        An open turn keeps the prompt, the settings, the limits, the tools and the model that it began with, what is new comes with the next
        turn. Of the tools the code is today's; of another provider's model this loop's own goes on, and a warning says so.
        Where the turn was sent with an `output` of its own, pass it here too: a process that does not know the type gives plain data.
        """
        self._outputs.shape(output)
        return self._valued(await self._intake.finished(self._desk.begin(_checked(session_id), self._resume)))

    async def resume_all(self, *, every_seconds: float | None = None) -> list[TurnResult]:
        """Resume the sessions that `sessions(unfinished=True)` lists, but for those that only a person can help, side by side; returns how their
        turns stand. What a service does when it starts.

        With `every_seconds` it looks again and again until it is cancelled or the loop is closed: who died in another container, or on a system that tells nothing
        of other processes, holds a session until the lease has run out. What else goes wrong with a session is told to the log of the program.
        """

        async def left() -> list[SessionRow]:
            return await self._intake.unfinished("", None, lambda state: not self._only_a_person_helps(state))

        async def taken_up(name: str) -> TurnResult:
            work = self._desk.begin(name, partial(self._resume, anew=False))
            result = await self._intake.finished(work)
            await work.ended()  # and the turns of what waited behind that one
            return result

        sweep = Sweep(left, taken_up, lambda seconds: self._desk.before("what was left", asyncio.sleep(seconds), None))
        if every_seconds is None:
            return await sweep.once()
        if not _seconds(every_seconds):
            raise InvalidInput("every_seconds=0 leaves no time for anything else.", hint="Pass the seconds between two looks, such as 30.")
        await sweep.until_closed(every_seconds)
        return []

    async def _resume(self, work: Work, *, anew: bool = True) -> SessionState:
        """Go on with what is open; `anew` also with what ended before its time, and what was put aside."""
        name = work.session
        self._desk.live.pop(name, None)
        state = await self._sink.load(name)
        if state.closed or state.erased or state.hollow or not (state.turns or state.inputs):
            raise NothingToResume(f"Session {name!r} has no turn to resume.", session=name)
        await self._intake.check_free(name)
        go_on = anew and state.turn is None and state.last is not None and state.last.status in {"limit", "failed", "forked"}
        if state.turn is None and not go_on and not (state.inputs if anew else is_due(state)):
            return state
        if state.turn is not None and self._only_a_person_helps(state):
            return state
        state = await self._sink.claim(name, state)
        if state.closed:  # somebody was quicker
            await self._sink.release(state)
            return await self._resume(work, anew=anew)
        return await self._intake.drive_on(work, state, go_on=anew and state.turn is None)

    def _only_a_person_helps(self, state: SessionState) -> bool:
        """Say whether taking the session up would change nothing."""
        step = decide(state, self._clock.now())
        promised = any(call.place == "doubted" and self._executor.promise(state, call) != "ask" for call in state.unresolved)
        return isinstance(step, Wait) and step.why == "person" and (not promised or state.cancel is not None)

    def _new_drive(self, state: SessionState, *, go_on: bool = False, unpark: bool = False) -> Drive:
        return Drive(
            self._sink,
            self._store,
            self._clock,
            self._model,
            self._offer,
            self._executor,
            state,
            go_on=go_on,
            unpark=unpark,
            guards=self._guards,
            glimpse=self._hooks.glimpser(),
            compactor=self._compactor,
            providers=self._providers,
            outputs=self._outputs,
            config=self._config,
        )

    # -- settling ------------------------------------------------------------------------------------------------------

    async def pending(self, session_id: str) -> list[PendingCall]:
        """Return the calls without an outcome."""
        return pending_of(await self._sink.load(_checked(session_id)))

    async def settle(self, session_id: str, call_id: str, decision: Decision, *, by: str = "a person") -> list[PendingCall]:
        """Record one decision about one call and return what is still pending; works from any process, and never drives.

        The same decision again changes nothing; another one raises `AlreadySettled`.
        """
        name, call_id, decision = _checked(session_id), _call_id(call_id), self._sink.covered(decision)[0]

        async def decided(state: SessionState) -> Report:
            done = await decision_fact(self._store, state, call_id, decision, by, self._clock.now())
            return done.facts, done.blobs

        state = await self._sink.reported(name, decided)
        self._desk.notice(name)
        return pending_of(state)

    async def abort_pending(self, session_id: str, *, reason: str, call_ids: Collection[str] | None = None, by: str = "a person") -> list[PendingCall]:
        """End all unresolved calls and the open turn in one commit, so that the session can be sent to again.

        With `call_ids` only those calls are ended. What an owner that died left running of them is ended first, as far as the tools that
        began it are here; what remains stands in the reason. Returns what was ended.
        """
        calls = None if call_ids is None else frozenset(map(_call_id, call_ids))
        return await self._upkeep.abort_pending(_checked(session_id), reason, calls, by)

    async def cancel(self, session_id: str, *, reason: str = "cancelled", by: str | None = None) -> bool:
        """Ask for the end of the open turn; True once that is kept, False when there is none. Works from any process.

        A living owner obeys; where there is none the turn is ended here, as far as no call is in doubt.
        """
        name = _checked(session_id)

        async def asked(state: SessionState) -> Report:
            return () if state.turn is None or state.cancel is not None else (e.CancelAsked(reason=reason, by=by),), {}

        state = await self._sink.reported(name, asked)
        if state.turn is None:
            return False
        self._desk.notice(name)
        await self._intake.wind_up(name)
        return True

    async def compact(self, session_id: str, *, by: str | None = None) -> bool:
        """Make the context of a session that is between turns smaller now; True when it was. What is folded away stays in the log."""
        return await self._intake.compact(_checked(session_id), by)

    async def close_session(self, session_id: str, *, reason: str = "closed", abort: bool = False, by: str | None = None) -> None:
        """Let a session take no more input. An open turn must be ended first, or with `abort=True`."""
        await self._upkeep.close(_checked(session_id), reason, abort=abort, by=by)

    async def erase(self, session_id: str, *, reason: str = "erased", forks: Literal["refuse", "erase"] = "refuse", by: str | None = None) -> None:
        """Destroy the contents of an idle or closed session, lawfully and visibly: bodies, blobs, keys, snapshots.

        What is left is a chain that still verifies and a tombstone that says who and why. Backups and exports are out of reach.
        """
        try:
            await self._upkeep.erase(_checked(session_id), reason, forks, by)
        except (SessionPending, SessionBusy):
            await self._intake.take_what_waits(session_id)
            raise

    async def prune(self, *, older_than_seconds: float, dry_run: bool = False, by: str | None = None) -> list[str]:
        """Erase sessions that were closed at least that long ago; with `dry_run` only say which they are."""
        return await self._upkeep.prune(_seconds(older_than_seconds), dry_run=dry_run, by=by)

    async def fork(self, session_id: str, *, at: int | None = None, session_id_new: str | None = None) -> str:
        """Begin a new session that shares the past of this one, up to now or to any seq, and return its id.

        Calls without an outcome there, untaken inputs and keys stay with the parent; a turn that was open there can be resumed here.
        """
        name = self._chance.session_id() if session_id_new is None else _checked(session_id_new)
        return await self._upkeep.fork(_checked(session_id), at if at is None else _number(at, "at", -MAX_PLACE), name)

    async def forks(self, session_id: str) -> list[SessionRow]:
        """Return the sessions that branched off this one; where, says their `base`."""
        return await self._upkeep.forks(_checked(session_id))

    async def tree(self, session_id: str | None = None) -> tuple[Branch, ...]:
        """Return the sessions that came from no other one, or the one that is named, each with its forks and the children its calls spawned."""
        return await self._upkeep.tree(session_id if session_id is None else _checked(session_id))

    # -- looking back --------------------------------------------------------------------------------------------------

    async def history(self, session_id: str, *, after: int = 0, limit: int = MAX_HISTORY_EVENTS, kinds: Collection[str] | None = None) -> list[Envelope]:
        """Return kept events and where they stand; with `kinds` only those, by their names: one of them, or several.

        `power_agent.events.encode(kept.event)` is an event as JSON text, as it is kept, and `decode(kept.kind, text)` reads it.
        """
        kinds = None if kinds is None else frozenset([kinds] if isinstance(kinds, str) else kinds)
        return [opened(record) for record in await self._store.read(_checked(session_id), after=_number(after, "after"), limit=_number(limit, "limit"), kinds=kinds)]

    async def events(self, session_id: str, *, after: int = 0, kinds: Collection[str] | None = None) -> AsyncIterator[Envelope]:
        """Go through all kept events, however many, as they stand now; `watch` goes on with those to come."""
        while page := await self.history(session_id, after=after, kinds=kinds):
            for kept in page:
                yield kept
            after = page[-1].seq

    async def watch(self, session_id: str | None = None, *, after: int = 0) -> AsyncIterator[Envelope]:
        """Follow what is kept, live and whoever writes it: of one session from behind a seq on, or of all from behind a position.

        Complete and in order; to go on after a break, pass the last `seq` (or `position`) seen. Ends when the loop is closed.
        """
        if session_id is not None and await self._store.find(_checked(session_id)) is None:
            raise SessionNotFound(f"There is no session {session_id!r}.", session=session_id)
        async for records in self._store.follow(session_id, after=_number(after, "after")):
            for record in records:
                yield opened(record)

    def listen(self, listener: Listener, *kinds: type[e.Event]) -> Callable[[], None]:
        """Let somebody hear what this loop keeps from now on, of these kinds of events or of all; returns what ends it."""
        return self._hooks.add(hearing(listener), *kinds)

    def look_on(self, onlooker: Onlooker) -> Callable[[], None]:
        """Let somebody see glimpses of all sessions this loop works on; returns what ends it."""
        return self._hooks.show(hearing(onlooker))

    async def messages(self, session_id: str, *, at: int | None = None) -> tuple[Message, ...]:
        """Return what the model would see, now or at any seq."""
        return render(await self.state(session_id, at=at)).messages

    async def context_report(self, session_id: str) -> ContextReport:
        """Return what fills the context of a session, in tokens: by category, by tool and by message, and what is free."""
        return self._compactor.report(await self.state(session_id))

    async def state(self, session_id: str, *, at: int | None = None) -> SessionState:
        """Return the folded state, now or at any seq."""
        return await self._sink.load(_checked(session_id), at=at if at is None else _number(at, "at"))

    async def diff(self, session_id: str, other_id: str | None = None, *, before: int | None = None, after: int | None = None) -> Difference:
        """Compare a session at two seqs (None: now), or with another session: a fork of it, say."""
        from power_agent.difference import difference  # noqa: PLC0415  rarely asked for

        return difference(await self.state(session_id, at=before), await self.state(other_id or session_id, at=after))

    async def replay(self, session_id: str) -> Replay:
        """Play recorded answers and results against this loop's configuration and code; reports what would first go another way.

        No model is asked, no tool is run, nothing is written.
        """
        from power_agent.replay import replay  # noqa: PLC0415  rarely asked for

        today, config = self._executor, self._config()
        return await replay(self._store, _checked(session_id), model=self._model.name, tools=self._tools, executor=today, guards=self._guards, config=config, outputs=self._outputs)

    async def sessions(self, *, after: str = "", limit: int = 1_000, unfinished: bool = False) -> list[SessionRow]:
        """List sessions by id, at most so many from `after` on; with `unfinished` only those with an open turn, or input that waits for one, on
        which nobody who may be alive works, also if only a person can help. `resume_all` takes them up.
        """
        most = _number(limit, "limit")
        return await self._intake.unfinished(after, most) if unfinished else await self._store.sessions(after=after, limit=most)

    async def verify(self, session_id: str | None = None, *, tip: Tip | None = None) -> AsyncIterator[str]:
        """Recompute every hash and every move; yields a sentence for each thing that is wrong.

        The chain proves order and bytes against a `tip` of the session that was kept elsewhere (`export` tells it). Alone it cannot
        show an end that was cut off, or a file written anew by somebody who knows how.
        """
        from power_agent.store.verify import check_tip  # noqa: PLC0415  rarely asked for

        if tip is not None and session_id is None:
            raise InvalidInput("A tip was passed without a session id.")
        async for wrong in self._store.verify(session_id if session_id is None else _checked(session_id)):
            yield wrong
        if tip is not None and session_id is not None and (wrong_tip := await check_tip(self._store, session_id, tip)):
            yield wrong_tip

    async def export(self, session_id: str, *, format: Kind | None = None, redacted: bool = False) -> Export | Edition:  # noqa: A002  what everybody calls it
        """Return a session as it stands now: iterate over its lines, or write them `.to(path)`; `.tip` is worth keeping elsewhere.

        Without a format another store lets it in, byte for byte; redacted, it shows what happened without what was said, and cannot
        be imported. With one (`markdown`, `html`, `atif`, `openai`, `anthropic`) it is for people, or for other programs.
        """
        from power_agent.moving import export  # noqa: PLC0415  rarely asked for

        if format is not None:
            from power_agent.editions import edition  # noqa: PLC0415  the same

            if redacted:
                raise InvalidInput("Only the export that has no format can be redacted.")
            return await edition(self._store, _checked(session_id), format)
        return await export(self._store, _checked(session_id), redacted=redacted)

    async def import_(
        self,
        source: Source,
        *,
        format: Origin | Literal["auto"] = "auto",  # noqa: A002  as in `export`
        session_id: str | None = None,
        origin: str | None = None,
        by: str | None = None,
    ) -> Imported:
        """Let a session in: an export, after every byte of it was checked, or what another harness recorded (`atif`, `claude-code`,
        `codex`), told as a history of ours; `session_id` is what that is called here. Nothing runs by itself, nothing is left open.
        """
        from power_agent.moving import admit, spooled  # noqa: PLC0415  rarely asked for
        from power_agent.newcomers import let_in, look, meet  # noqa: PLC0415  the same

        def is_free(owner: str) -> bool:
            return process.proven_dead(owner) or (owner == self._sink.owner and self._desk.idle)

        with await spooled(source) as file:
            kind = format if format != "auto" else await asyncio.to_thread(look, file)
            if kind != "power-agent":
                newcomer = await asyncio.to_thread(meet, file, kind)
                return await let_in(
                    self._store, self._clock, self._chance, newcomer, session=None if session_id is None else _checked(session_id), by=by, cover=self._secrets.cover
                )
            if session_id is not None:
                raise InvalidInput("An export keeps the id of its session.", hint="Fork it after the import to have it under another id.")
            done = await admit(self._store, self._clock, file, is_free=is_free, origin=origin, by=by)
        self._desk.live.pop(done.session, None)
        return done

    async def blob(self, session_id: str, digest: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        """Read (a part of) an output or attachment that was too large for the log."""
        length = length if length is None else _number(length, "length")
        return await self._store.blob(_checked(session_id), digest, start=_number(start, "start"), length=length)


def _with_keys(secrets: Secrets, models: Iterable[Model | Shelf]) -> Secrets:
    """Hide the keys that models and shelves use as well."""
    for one in [one for model in models for one in getattr(model, "members", (model,))]:
        secrets = secrets.and_also(getattr(one, "secrets", {}))
    return secrets


def _check_said(system: object, settings: object) -> None:
    if system is not None and not isinstance(system, str):
        raise InvalidInput(f"system={system!r:.100} is no text.", hint="Say in words what the model is to do; system_prompt(…) puts them together.")
    if settings is not None and not isinstance(settings, Mapping):
        raise InvalidInput(f"settings={settings!r:.100} are no settings.", hint='For example: settings={"temperature": 0}.')


def _number(value: object, what: str, least: int = 0) -> int:
    """Return a whole number that can be a place in the log, or raise `InvalidInput`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_PLACE:
        raise InvalidInput(f"{what}={value!r} is not possible.", hint="Pass a whole number" + (f" from {least} on." if least >= 0 else "."))
    return value


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= MAX_PLACE / 1000:
        raise InvalidInput(f"{value!r} seconds are not possible.", hint="Pass a number of seconds, 0 or more.")
    return value


def _call_id(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{value!r} is not the id of a call.", hint="Pass the id of a pending call, for example pending[0].id.")
    return value


def _checked(name: str) -> str:
    try:
        return check_id(name)
    except InvalidInput as error:
        raise InvalidSessionId(error.message, hint=error.hint) from None
