"""An input's way: a new one starts a turn, a repeated one joins the first, one that meets somebody else's turn waits in the log.

Whoever sends waits for the end of the turn that takes the input. When that turn is driven by another process, the log is looked at
from time to time; when its owner dies, whoever waits takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from power_agent import events as e
from power_agent import process
from power_agent.cleaning import clean
from power_agent.drive import Drive
from power_agent.drive.tasks import own_failure
from power_agent.errors import (
    AttachmentRefused,
    HeadMoved,
    InputRefused,
    InvalidInput,
    KeyConflict,
    OwnershipLost,
    PowerAgentError,
    SessionBusy,
    SessionClosed,
    SessionErased,
    SessionExists,
    SessionNotFound,
    SessionPending,
    StoreClosed,
    StoreError,
    holder,
)
from power_agent.givens import name_of
from power_agent.guards import Guards, Incoming, settled
from power_agent.limits import LOOK_SECONDS, MAX_UPLOAD_BYTES
from power_agent.loop.upkeep import PAGE
from power_agent.loop.work import Desk, Work, being_cancelled
from power_agent.machine import Wait, decide
from power_agent.messages import Attachment, ContentPart, OutputShape, Text
from power_agent.policy import Change, Refuse
from power_agent.ports import Clock, Model, SessionRow, Store
from power_agent.results import TurnResult, pending_of, result_of
from power_agent.sink import Report, Sink, opened
from power_agent.state import SessionState
from power_agent.uploads import Upload, taken
from power_agent.word import Word, replace, word

Sayable = ContentPart | Upload | Path
Said = str | Sayable | Sequence[str | Sayable]
WhenBusy = Literal["raise", "queue", "steer"]
_log = logging.getLogger("power_agent")


class DriveMaker(Protocol):
    """Makes what drives a session from a state; what `go_on` and `unpark` mean, `machine.Facts` says."""

    def __call__(self, state: SessionState, *, go_on: bool = False, unpark: bool = False) -> Drive:
        """Make it."""


class _LookAgain(Exception):
    """The session was not where it was last seen, and nothing was kept."""


@word(kw_only=True)
class Order(Word):
    """An input that somebody wants kept."""

    session: str
    parts: tuple[ContentPart, ...]
    key: str | None = None
    by: str | None = None
    when_busy: WhenBusy = "raise"
    decisions: tuple[e.Event, ...] | None = None
    placed: Callable[[int], None] | None = None
    """Told at which seq the input stands, as soon as it is kept."""
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """Bytes that the parts name, kept in the same commit."""
    output: OutputShape | None = None
    """The shape of the answer, if not the configured one."""


class Intake:
    """Takes inputs in, and waits for what comes of them."""

    def __init__(self, desk: Desk, sink: Sink, store: Store, clock: Clock, config: Callable[[], e.Config], guards: Guards, drive: DriveMaker, model: Model) -> None:
        self._desk = desk
        self._guards = guards
        self._sink = sink
        self._store = store
        self._clock = clock
        self._config = config
        self._drive = drive
        self._model = model

    # -- sending -------------------------------------------------------------------------------------------------------

    async def send(self, order: Order, *, wait: bool = True, detached: bool = False) -> TurnResult:
        """Keep an input and wait for the end of the turn that takes it; without `wait`, only until it is kept. A detached turn
        goes on when nobody waits any more.
        """
        if self._guards.at("input"):
            order = await self._guarded(order)
        while True:
            result = await self._once(order, wait=wait, detached=detached or not wait)
            if result is not None:
                return result

    async def streamed(self, order: Order, begin: Callable[[int], None], placed: Callable[[int], None]) -> TurnResult:
        """Keep an input and wait, detached: nobody's leaving stops it. `begin` is told behind which event it all begins, `placed` where
        the input stands.
        """
        order = replace(order, placed=placed)
        order = await self._guarded(order)
        seq = await self._seen(order) if order.key is not None else None
        if seq is not None:
            placed(seq)  # before the first event is shown: its turn may have ended long ago
        row = await self._store.find(order.session)
        begin(seq - 1 if seq is not None else row.head if row is not None else 0)
        return await self.send(order, wait=True, detached=True)

    async def _guarded(self, order: Order) -> Order:
        """Let the guards look at an input; what they change is what is sent, and what they decide is kept with it."""
        if order.decisions is not None:
            return order
        parts, blobs, decisions = order.parts, dict(order.blobs), list[e.Event]()
        for one in self._guards.at("input"):
            verdict: Any
            try:
                with own_failure():
                    verdict = one(Incoming(session=order.session, parts=parts, by=order.by))
                    if inspect.isawaitable(verdict):
                        verdict = await self._desk.before(order.session, verdict, self._config().limits.max_turn_seconds)
                if isinstance(verdict, Change):
                    parts, more = parts_of(verdict.to)
                    blobs |= more
            except StoreClosed:
                raise
            except Exception as error:  # noqa: BLE001  what could not be looked at is not taken
                verdict = error
            match settled(verdict, "input"):
                case Refuse(reason=reason):
                    await self._keep_refusal(order.session, e.GuardDecided(guard=name_of(one), at="input", verdict="refused", reason=reason))
                    raise InputRefused(f"The guard {name_of(one)} refused the input: {reason}", session=order.session, guard=name_of(one))
                case Change(reason=reason):
                    decisions.append(e.GuardDecided(guard=name_of(one), at="input", verdict="changed", reason=reason))
        named = {part.blob for part in parts if isinstance(part, Attachment)}
        parts, kept = self._sink.covered(parts, {digest: content for digest, content in blobs.items() if digest in named})
        return replace(order, parts=parts, decisions=tuple(decisions), blobs=kept)

    async def _keep_refusal(self, name: str, decided: e.GuardDecided) -> None:
        """Keep that an input was refused, in the session it was meant for if there is one."""

        async def unless_over(state: SessionState) -> Report:
            return () if state.closed or state.erased else (decided,), {}

        if await self._store.find(name) is not None:
            await self._sink.reported(name, unless_over)
            self._desk.live.pop(name, None)  # what is remembered is not the head any more
            self._desk.notice(name)

    async def _once(self, order: Order, *, wait: bool, detached: bool) -> TurnResult | None:
        """Try to place an input where the session stands now; None: it stands elsewhere, look again."""
        name = order.session
        if order.key is not None and (seq := await self._seen(order)) is not None:
            _place(order, seq)
            return await self._again(name, seq, wait=wait)
        work = self._desk.working(name)
        if work is not None and order.key is not None and work.key == order.key:
            await work.kept.wait()  # the same input, a moment earlier
            return None
        self._check(order)
        try:
            return await self._turn(order, wait=wait, detached=detached)
        except _LookAgain:
            return None
        except SessionBusy:
            if order.when_busy == "raise":
                if order.key is not None and await self._appears(name, order.key):
                    return None
                raise
            seq = await self._leave(order, busy=True)
            return None if seq is None else await self._left(order, seq, wait=wait)
        except SessionPending:
            if order.when_busy == "raise":
                raise
            seq = await self._leave(order, busy=False)
            return None if seq is None else await self._standing(name, seq)

    def _check(self, order: Order) -> None:
        """Refuse what the model is known not to take: kept, it would be in the way of every later request."""
        refuses = getattr(self._model, "refuses", lambda _part: None)
        for part in order.parts:
            why = refuses(part) if isinstance(part, Attachment) else None
            if why is not None:
                what = part.name or part.url or part.media_type if isinstance(part, Attachment) else ""
                raise AttachmentRefused(f"{self._model.name} cannot take {what!r}: {why}.", session=order.session, model=self._model.name)

    async def _turn(self, order: Order, *, wait: bool, detached: bool) -> TurnResult:
        """Run a turn here and now."""
        work = self._desk.begin(order.session, partial(self._take_in, order), order.key, detached=detached)
        if wait:
            return await self.finished(work)
        await work.kept.wait()
        return await self._standing(order.session, work.input_seq) if work.is_kept else await self.finished(work)

    async def finished(self, work: Work) -> TurnResult:
        """Wait for the end of the turn that a work was begun for, and say how it ended or where it stands."""
        result = await work.over()
        if result is not None:
            return result
        assert work.task is not None  # noqa: S101  over() waited for its end
        try:
            state = await work.task
        except asyncio.CancelledError:
            if self._desk.closing and not being_cancelled():
                raise self._desk.closed(work.session) from None
            if not work.is_kept or not work.task.cancelled() or being_cancelled():
                raise
            return await self._standing(work.session, work.input_seq)  # whoever waited for the turn before ours interrupted it
        number = (await self._turn_of(state, work.input_seq)) if work.input_seq else work.turn or state.turns
        return await result_of(self._store, state, number, work.input_seq)

    async def _take_in(self, order: Order, work: Work) -> SessionState:
        """Own the session, keep the input and drive."""
        name, remembered = order.session, order.session in self._desk.live
        state = await self._between_turns(name)
        if order.key is not None and await self._store.find_key(name, order.key) is not None:
            raise _LookAgain
        facts = [*(order.decisions or ()), e.InputReceived(parts=order.parts, key=order.key, by=order.by, output=order.output)]
        work.input_seq, work.placed = state.seq + len(facts), order.placed
        work.drive = drive = self._drive(state)
        try:
            return await drive.run(facts, order.blobs)
        except (HeadMoved, OwnershipLost) as error:
            if drive.has_kept or (isinstance(error, OwnershipLost) and not remembered):
                raise
            raise _LookAgain from error

    async def _between_turns(self, name: str) -> SessionState:
        """Return the state of a session that is ours and between turns."""
        remembered = self._desk.live.pop(name, None)
        if remembered is not None:
            return remembered
        if await self._store.find(name) is None:
            try:
                return await self._sink.open(self._config(), name)
            except SessionExists:
                return await self._between_turns(name)
        state = await self._sink.look(name)
        if state.closed:
            raise SessionClosed(f"Session {name!r} is closed.", session=name)
        if state.turn is not None:
            await self.check_free(name)
            row = await self._store.find(name)
            if row is not None and row.head != state.seq:  # somebody worked on it while we looked
                return await self._between_turns(name)
            message = f"Turn {state.turn.number} of session {name!r} is open, and nobody works on it."
            raise SessionPending(message, session=name, calls=pending_of(state))
        state = await self._sink.claim(name, state)
        if state.closed or state.turn is not None:  # somebody was quicker
            await self._sink.release(state)
            return await self._between_turns(name)
        return state

    # -- what was left -------------------------------------------------------------------------------------------------

    async def unfinished(self, after: str, limit: int | None, worth: Callable[[SessionState], bool] = lambda _: True) -> list[SessionRow]:
        """List sessions with an open turn, or with input that the next turn takes, on which nobody who may be alive works."""
        found = list[SessionRow]()
        while (limit is None or len(found) < limit) and (rows := await self._store.sessions(after=after, limit=PAGE, unfinished=True)):
            after = rows[-1].session
            for listed in rows:
                row = await self._store.find(listed.session)  # as it is now, and with a lease that a clock set back cannot make longer
                if row is not None and not row.erased and not self._held(row) and self._desk.working(row.session) is None and await self._is_left(row.session, worth):
                    found.append(row)
        return found[:limit]

    async def _is_left(self, name: str, worth: Callable[[SessionState], bool]) -> bool:
        """Say whether a session is unfinished; of one that is damaged the log of the program is told, and the others are listed all the same."""
        try:
            state = await self._sink.look(name)
        except StoreClosed:
            raise
        except PowerAgentError as error:
            _log.warning("Session %r cannot be read, so nobody knows whether it is unfinished: %s", name, error)
            return False
        return (state.turn is not None or is_due(state)) and worth(state)

    # -- where somebody else is at work --------------------------------------------------------------------------------

    async def check_free(self, name: str) -> None:
        """Raise `SessionBusy` when a living owner works on the session."""
        row = await self._store.find(name)
        if row is not None and row.owner != self._sink.owner and self._held(row):
            raise SessionBusy(f"Session {name!r} is held by {holder(row.owner)}.", session=name, owner=row.owner or "", deadline=row.deadline)

    def _held(self, row: SessionRow) -> bool:
        """Say whether somebody who may be alive holds a session. What is worked on here is held until it is given up, however late its lease is."""
        if row.owner == self._sink.owner and self._desk.working(row.session) is not None:
            return row.deadline != 0
        return bool(row.owner) and row.deadline >= self._clock.now() and not process.proven_dead(row.owner or "")

    async def _leave(self, order: Order, *, busy: bool) -> int | None:
        """Keep an input behind a turn that is open. None: it is not any more, or the key is taken; look again."""
        name = order.session
        mode: e.Mode = "queue" if order.when_busy == "queue" else "steer"
        said = e.InputReceived(parts=order.parts, key=order.key, mode=mode, by=order.by, output=order.output)
        work = self._desk.working(name)
        if work is not None and await self._store.find(name) is None:
            await work.kept.wait()  # it is being created here
            return None

        async def behind(state: SessionState) -> Report:
            if state.erased:
                raise SessionErased(f"Session {name!r} was erased.", session=name)
            if state.closed:
                raise SessionClosed(f"Session {name!r} is closed.", session=name)
            row = await self._store.find(name)
            held = row is not None and self._held(row)
            if held != busy or (state.turn is None and not held):
                raise _LookAgain
            return (*(order.decisions or ()), said), order.blobs

        try:
            after = await self._sink.reported(name, behind)
        except (_LookAgain, KeyConflict):
            return None
        self._desk.notice(name)
        _place(order, after.seq)
        return after.seq

    async def _left(self, order: Order, seq: int, *, wait: bool) -> TurnResult:
        """Wait for what comes of an input that was left behind somebody else's turn."""
        if wait:
            return await self.awaited(order.session, seq, take_over=True)
        result = await self._standing(order.session, seq)
        row = await self._store.find(order.session)
        if result.turn == 0 and row is not None and not self._held(row) and self._desk.working(order.session) is None:
            self._desk.begin(order.session, self.go_on, detached=True)  # its owner finished a moment before the input came
        return result

    async def _again(self, name: str, seq: int, *, wait: bool) -> TurnResult:
        """Say what came of an input that is sent once more. One that no turn has taken is taken now, if nobody is at work and no turn open."""
        row, state = await self._store.find(name), await self._sink.look(name)
        number = await self._turn_of(state, seq)
        if state.closed and not number:
            raise SessionClosed(f"Session {name!r} was closed before this input (event {seq}) had its turn.", session=name)
        idle = row is not None and row.head == state.seq and not self._held(row) and self._desk.working(name) is None
        if idle and not number and state.turn is None:
            if wait:
                await self._taken_over(name, seq, unpark=True)
            else:
                self._desk.begin(name, partial(self.go_on, unpark=True), detached=True)
        return await self.awaited(name, seq) if wait else await self._standing(name, seq)

    async def awaited(self, name: str, seq: int, *, take_over: bool = False) -> TurnResult:
        """Wait for the end of the turn that takes an input, whoever drives it; with `take_over`, drive it when nobody living does."""
        number = 0
        while True:
            if self._desk.closing:
                raise self._desk.closed(name)
            work = self._desk.working(name)
            if work is not None:
                result = await work.over(seq)
                if result is not None:
                    return result
                continue
            row = await self._store.find(name)
            state = await self._sink.look(name)
            number = number or await self._turn_of(state, seq)
            if number and (state.turn is None or state.turn.number != number):
                return await result_of(self._store, state, number, seq)
            if row is None or self._held(row):
                await self._clock.sleep(LOOK_SECONDS)
            elif row.head != state.seq:
                continue  # it moved between the two looks
            elif take_over and self._may_go_on(row, state, number):
                await self._taken_over(name, seq)
            else:
                return await result_of(self._store, state, number, seq)

    async def _taken_over(self, name: str, seq: int | None, *, unpark: bool = False) -> None:
        """Drive a session that nobody living drives; what goes wrong with it goes wrong here, but for somebody who was quicker."""
        if self._desk.working(name) is not None:  # somebody here was quicker
            return
        work = self._desk.begin(name, partial(self.go_on, unpark=unpark))
        await work.over(seq)
        failed = work.task.exception() if work.task is not None and work.task.done() and not work.task.cancelled() else None
        if failed is not None and not isinstance(failed, SessionBusy | OwnershipLost):
            raise failed

    def _may_go_on(self, row: SessionRow, state: SessionState, number: int) -> bool:
        """Say whether work that nobody does may be taken up by who waits: its owner died, or left in the middle of our own turn, or the
        next input is due.
        """
        if state.turn is None:
            return is_due(state)
        if row.deadline != 0:
            return True
        step = decide(state, self._clock.now())
        return state.turn.number == number and not (isinstance(step, Wait) and step.why == "person")

    async def wind_up(self, name: str) -> None:
        """Bring a cancelled turn to its end, if nobody living works on it."""
        row = await self._store.find(name)
        if row is None or self._held(row) or self._desk.working(name) is not None:
            return
        step = decide(await self._sink.look(name), self._clock.now())
        if isinstance(step, Wait) and step.why == "person":
            return
        with contextlib.suppress(SessionBusy):  # somebody was quicker, and obeys
            await self._taken_over(name, None)

    async def go_on(self, work: Work, *, unpark: bool = False) -> SessionState:
        """Take a session up where it stands, and drive."""
        self._desk.live.pop(work.session, None)
        return await self.drive_on(work, await self._sink.claim(work.session), unpark=unpark)

    async def drive_on(self, work: Work, state: SessionState, *, go_on: bool = False, unpark: bool = False) -> SessionState:
        """Drive a session that is ours from where it stands."""
        if state.turn is not None:
            work.turn = state.turn.number
            work.follow(work.turn, map(opened, await self._store.read(work.session, after=state.turn.seq - 1, upto=state.seq)))
        else:
            work.turn = state.turns + 1
        work.drive = self._drive(state, go_on=go_on, unpark=unpark)
        return await work.drive.run()

    # -- nothing but the context ---------------------------------------------------------------------------------------

    async def compact(self, name: str, by: str | None) -> bool:
        """Make the context of a session between turns smaller; True when it was."""
        if await self._store.find(name) is None:
            raise SessionNotFound(f"There is no session {name!r}.", session=name)
        before, after = 0, 0

        async def job(work: Work) -> SessionState:
            nonlocal before, after
            self._desk.live.pop(name, None)
            state = await self._between_turns(name)
            before = state.compactions
            work.drive = self._drive(state)
            state = await work.drive.compact(by)
            after = state.compactions
            return state

        work = self._desk.begin(name, job)
        assert work.task is not None  # noqa: S101  just begun
        try:
            await work.task
        finally:
            await self.take_what_waits(name)
        return after > before

    async def take_what_waits(self, name: str) -> None:
        """Begin the turn of an input that came while the session was held for something else, if nobody has: who left it saw an owner, and went."""
        with contextlib.suppress(StoreError):  # closed, perhaps: whoever comes next finds it
            if is_due(await self._sink.look(name)) and self._desk.working(name) is None:
                self._desk.begin(name, self.go_on, detached=True)

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _standing(self, name: str, seq: int) -> TurnResult:
        """Say where an input stands, without waiting."""
        state = await self._sink.look(name)
        return await result_of(self._store, state, await self._turn_of(state, seq), seq)

    async def _seen(self, order: Order) -> int | None:
        """Return where the input was kept that came before under the same key."""
        name, key = order.session, order.key or ""
        if await self._store.find(name) is None:
            return None
        seq = await self._store.find_key(name, key)
        if seq is None:
            return None
        said = opened((await self._store.read(name, after=seq - 1, upto=seq))[0]).event
        if not isinstance(said, e.InputReceived) or not _same(said, order):
            raise KeyConflict(f"Key {key!r} of session {name!r} was used for another input (event {seq}).", session=name, key=key)
        return seq

    async def _appears(self, name: str, key: str) -> bool:
        """Say whether an input with this key is kept within a moment: who holds the session may be about to keep it."""
        for _ in range(4):
            if await self._store.find(name) is not None and await self._store.find_key(name, key) is not None:
                return True
            await self._clock.sleep(LOOK_SECONDS / 2)
        return False

    async def _turn_of(self, state: SessionState, input_seq: int) -> int:
        """Return the number of the turn that took an input; 0 when none has, as the session stands."""
        if any(item.seq == input_seq for item in state.inputs):
            return 0
        for record in await self._store.read(state.session, after=input_seq, upto=state.seq, kinds=("turn.started", "model.asked")):
            event = opened(record).event
            if isinstance(event, e.TurnStarted | e.ModelAsked) and input_seq in event.inputs:
                return event.turn
        return 0


def is_due(state: SessionState) -> bool:
    """Say whether an input may have its turn now."""
    return state.turn is None and bool(state.inputs) and not state.parked and not state.closed


def parts_of(message: Said) -> tuple[tuple[ContentPart, ...], dict[str, bytes]]:
    """Return what is said as parts, and the bytes that they name; nothing is not said."""
    given: tuple[Any, ...] = ()
    if isinstance(message, str):
        given = (Text(message),)
    elif isinstance(message, Text | Attachment | Upload | Path):
        given = (message,)
    elif not isinstance(message, Mapping | set | frozenset) and isinstance(message, Iterable):
        given = tuple(Text(part) if isinstance(part, str) else part for part in message)
    if not given or not all(isinstance(part, Text | Attachment | Upload | Path) for part in given):
        raise InvalidInput("There is nothing to send: pass a text, or parts of text and attachments.", hint="Bytes are sent as Upload(content), a file as its Path.")
    parts, blobs = taken(_read(part) if isinstance(part, Path) else part for part in given)
    if all(isinstance(part, Text) and not part.text.strip() for part in parts):
        raise InvalidInput("There is nothing to send: the text is empty.")
    return parts, blobs


def _read(path: Path) -> Upload:
    """Read a file that is sent; no more of it than may be."""
    try:
        with path.open("rb") as file:
            return Upload(file.read(MAX_UPLOAD_BYTES + 1), name=path.name)
    except OSError as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error.strerror}.") from None


def _place(order: Order, seq: int) -> None:
    if order.placed is not None:
        order.placed(seq)


def _same(said: e.InputReceived, order: Order) -> bool:
    """Say whether a kept input is what is sent now, as it looks once cleaned and kept. The shape of the answer is not what is said: a
    repeat after the type was changed gets the answer that there is, in the shape that was asked for then.
    """
    event = clean(e.InputReceived(parts=order.parts)).event
    return isinstance(event, e.InputReceived) and event.parts == said.parts
