"""While there is a step: perform it, record what came of it.

    stage    facts are checked into a draft, and the next step is decided on the state after them
    keep     the draft is kept before anything happens outside, and before waiting; so a round costs two commits, no more
    perform  ask the model, run calls, wait

The first run, a retry, a resume after a crash and a resume after an approval all come through `run`. Nothing is remembered here
that the log does not hold, but for what is running in this very process.

`HeadMoved` means that somebody added a fact: the tail is read, outcomes that were staged are checked in again, decisions are
made anew. `OwnershipLost` means that somebody else works on the session now: everything here stops, nothing more is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from power_agent import events as e
from power_agent.compaction import Compactor, GivenUp, window_of
from power_agent.context import render
from power_agent.errors import ContextTooLong, HeadMoved, IllegalMove, InvalidInput, LogError, ModelError, OwnershipLost, StoreError
from power_agent.executor import STOPPED, Done, Executor, lost, wanted
from power_agent.gauge import answer_tokens, of_part
from power_agent.guards import AnyGuard, Asking, Ending, Guards, name_of, settled
from power_agent.limits import (
    CANCEL_GRACE_SECONDS,
    EFFECT_MARGIN,
    FIRST_BACKOFF_SECONDS,
    LOOK_SECONDS,
    MAX_BACKOFF_SECONDS,
    MAX_COMPACTIONS,
    MAX_MODEL_ATTEMPTS,
    MAX_OBJECTIONS,
    MAX_SUMMARY_ATTEMPTS,
    STOP_SECONDS,
    Limits,
)
from power_agent.machine import LAST, AskModel, Compact, EndTurn, Facts, RunCalls, Step, TakeInput, Tell, Wait, decide, earliest_deadline, turn_deadline
from power_agent.messages import AnswerPart, Call, ContentPart, Message, Text, Usage
from power_agent.policy import Change, Refuse
from power_agent.ports import Clock, Glimpse, Glimpsed, Model, ModelReply, ModelRequest, Store, ToolContext, Tools, ToolSpec
from power_agent.prefix import Prefix
from power_agent.recall import offered
from power_agent.sink import Sink, opened
from power_agent.state import Answered, CallState, Said, SessionState, Turn, evolve
from power_agent.surroundings import Asked, Provider, bounded, failed, parts_of, with_surroundings

RACES = 8
"""How often a last word is tried again when others keep adding facts."""
OUTCOMES = frozenset({"model.answered", "model.failed", "call.succeeded", "call.failed", "call.aborted", "call.doubted"})
"""What happened, happened: checked in again when the head moved. Everything else is decided anew."""


MOVED = object()
"""A guard thought so long that others added facts: what it says is about the past."""
NO_GUARDS = Guards()
_log = logging.getLogger("power_agent")


class Drive:
    """One session, moved on by its owner until nothing more can be done without somebody else."""

    def __init__(  # noqa: PLR0913  what it moves with
        self,
        sink: Sink,
        store: Store,
        clock: Clock,
        model: Model,
        tools: Tools,
        executor: Executor,
        state: SessionState,
        *,
        go_on: bool = False,
        guards: Guards = NO_GUARDS,
        glimpse: Callable[[Glimpsed], None] | None = None,
        compactor: Compactor | None = None,
        providers: Sequence[Provider] = (),
    ) -> None:
        self._sink = sink
        self._store = store
        self._clock = clock
        self._model = model
        self._tools = tools
        self._executor = executor
        self._guards = guards
        self._glimpse = glimpse
        self._draft = sink.draft(state)
        self._go_on = go_on
        self._compactor = compactor or Compactor(model, tools)
        self._providers = tuple(providers)
        self._stuck: tuple[int, int] | None = None  # where nothing made the context smaller
        self._compactions = 0
        self._running: dict[str, asyncio.Task[Done]] = {}
        self._contexts: dict[str, ToolContext] = {}
        self._recovering: set[str] = set()
        self._left_behind: list[Callable[[], bool]] = []  # threads nobody can stop; each keeps its place
        self._late: dict[str, asyncio.Task[Done]] = {}  # what such threads come to
        self._wake = asyncio.Event()
        self._waking: asyncio.Task[Any] | None = None
        self.has_kept = False

    @property
    def state(self) -> SessionState:
        """The state with everything that is staged."""
        return self._draft.state

    @property
    def kept(self) -> SessionState:
        """The state that is in the log."""
        return self._draft.base

    def stages(self, event: e.Event | None) -> bool:
        """Say whether this very event, not one like it, is staged here and about to be kept."""
        return any(event is staged for staged in self._draft.events)

    def notice(self) -> None:
        """Look at the log soon: somebody in this process added a fact."""
        self._wake.set()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self, first: Sequence[e.Event] = (), blobs: Mapping[str, bytes] | None = None) -> SessionState:
        """Move the session on, with first facts and the blobs they name. Cancelled, it puts everything down so that any process can resume."""
        async with self._in_hand():
            self._stage(*first, blobs=blobs)
            if not first and self.state.cancel is None:
                self._recovering = {call.call.id for call in self.state.unresolved if call.place == "doubted"}
            while not await self._step():
                pass
        return self.state

    async def compact(self, by: str | None = None) -> SessionState:
        """Make the context smaller and do nothing else."""
        async with self._in_hand():
            await self._compact(by, asked_for=True)
            while not await self._keep(release=True):
                pass
        return self.state

    @contextlib.asynccontextmanager
    async def _in_hand(self) -> AsyncIterator[None]:
        """Hold the session while something is done with it; put it down when that is interrupted."""
        try:
            await self._sink.hold(self.kept)
            yield
        except OwnershipLost:
            await self._stop_all()
            raise
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._put_down()))
            raise
        finally:
            for late in self._late.values():  # from here on nobody owns the session in whose name it could count
                late.cancel()
            if self._waking is not None:
                self._waking.cancel()

    async def _step(self) -> bool:
        """Decide and perform one step; True when there is nothing left to do without somebody else."""
        doubted = [self.state.calls[name] for name in sorted(self._recovering & self.state.calls.keys())]
        if any(call.place == "doubted" and not call.permitted_by for call in doubted):
            await self._recover([call for call in doubted if call.place == "doubted" and not call.permitted_by])
            return False
        step = self._next()
        match step:
            case TakeInput() | Tell():
                self._go_on = False
                self._stage(_begun(step))
            case AskModel():
                await self._ask(step)
            case RunCalls():
                await self._see_to(step)
            case Compact():
                await self._compact()
            case EndTurn(status="completed") if self._guards.at("end") and await self._held_up(step):
                pass
            case EndTurn():
                self._stage(e.TurnEnded(turn=step.turn, status=step.status, reason=step.reason, failure=self._why_failed(step)))
            case Wait(why="running" | "backoff"):
                if await self._keep():
                    await self._wait(step.until)
            case _:
                return await self._keep(release=True)
        return False

    def _next(self) -> Step:
        """Decide. The context is weighed where a request would leave, and only where somebody knows a bound for it."""
        facts = Facts(running=frozenset(self._running), go_on=self._go_on, cannot_compact=self._stuck == self._words())
        step = decide(self.state, self._clock.now(), facts)
        if not isinstance(step, AskModel):
            return step
        bounds = self._compactor.bounds(self.state)
        if bounds.soft is None:
            return step
        facts = replace(facts, context_tokens=self._compactor.coming(self.state), context_window=bounds.soft, context_most=bounds.hard)
        return decide(self.state, self._clock.now(), facts)

    def _words(self) -> tuple[int, int]:
        """Name the context as it stands: the turn, and where its last words are."""
        transcript = self.state.transcript
        return self.state.turns, transcript[-1].seq if transcript else 0

    def _why_failed(self, step: EndTurn) -> e.Failure | None:
        return self.state.setback.failure if step.status == "failed" and self.state.setback is not None else None

    # -- writing -------------------------------------------------------------------------------------------------------

    def _stage(self, *facts: e.Event, blobs: Mapping[str, bytes] | None = None) -> None:
        self._sink.check(self._draft, facts, blobs)

    async def _keep(self, *, release: bool = False) -> bool:
        """Keep what is staged. False: somebody was quicker, decide again."""
        self._sink.check_owner(self.kept)
        try:
            state = await self._sink.keep(self._draft, release=release)
        except HeadMoved:
            await self._follow()
            return False
        if release and not self._draft.ready and not await self._given_up(state):
            await self._follow()
            return False
        self._draft = self._sink.draft(state)
        self.has_kept = True
        return True

    async def _given_up(self, state: SessionState) -> bool:
        """Give the session up, with nothing to keep. False: somebody left a fact a moment before, and it is taken up again: who left it
        saw an owner, and went.
        """
        await self._sink.release(state)
        row = await self._store.find(state.session)
        if row is None or row.head == state.seq or row.epoch != state.epoch:
            return True
        try:
            await self._sink.renew(state)
        except OwnershipLost:
            return True  # whoever took it sees the fact
        await self._sink.hold(state)
        return False

    async def _follow(self) -> None:
        """Read what others added; check what happened here in again, and let what was only decided go."""
        staged, blobs = self._draft.events, self._draft.blobs
        if any(event.kind == "input.received" for event in staged):
            raise HeadMoved(f"Session {self.kept.session!r} moved on before its input was kept.", session=self.kept.session, head=self.kept.seq)
        base = await self._sink.catch_up(self.kept)
        if base.epoch != self.kept.epoch:
            raise OwnershipLost(f"Session {base.session!r} was taken over.", session=base.session, epoch=base.epoch)
        self._draft = self._sink.draft(base)
        for event in staged:
            if event.kind in OUTCOMES:
                try:
                    self._stage(event, blobs=blobs)
                except IllegalMove:  # somebody ended the call or the turn meanwhile, and was first
                    continue

    async def _look(self) -> None:
        """See whether anything was added from outside, or the session was taken."""
        self._wake.clear()
        self._sink.check_owner(self.kept)
        row = await self._store.find(self.kept.session)
        if row is not None and (row.head, row.epoch) != (self.kept.seq, self.kept.epoch):
            await self._follow()

    # -- the model -----------------------------------------------------------------------------------------------------

    async def _ask(self, step: AskModel) -> None:
        """Record the intent, ask, and stage the answer or the failure."""
        self._compactions = 0
        around = await self._surroundings(step)
        if around is None:
            return
        asked = self._asking(step, around)
        shown = evolve(self.state, e.Envelope(self.state.session, self.state.seq + 1, self.state.epoch, self._clock.now(), asked))  # with what it takes in
        rendered = self._request(step, shown, around)
        prefix: Prefix = shown.transcript.memo.setdefault("prefix", Prefix())
        self._stage(replace(asked, prefix_digest=prefix.digest(rendered)))
        request = await self._guarded(step, rendered)
        if request is None or not await self._keep():
            return
        if blobs := render(self.state).blobs:
            request = replace(request, attachments=await self._attachments(blobs))
        try:
            reply = await self._until_cancelled(self._model.ask(request, self._piece(step)))
        except ModelError as error:
            self._void(step, error)
        except Exception as error:  # noqa: BLE001  an adapter's bug ends the turn, not the session
            self._void(step, ModelError(f"{type(error).__name__}: {error}"))
        else:
            if reply is not None:
                self._stage_answer(step, reply)

    async def _surroundings(self, step: AskModel) -> tuple[ContentPart, ...] | None:
        """Let the providers say what the model is shown beside the log. None: others added facts meanwhile, decide again."""
        said = next((entry.parts for entry in reversed(self.state.transcript) if isinstance(entry, Said)), ()) if self._providers else ()
        asked = Asked(session=self.kept.session, turn=step.turn, round=step.round, text="".join(part.text for part in said if isinstance(part, Text)))
        parts = list[ContentPart]()
        for provider in self._providers:
            try:
                shown: Any = provider(asked)
                if inspect.isawaitable(shown):
                    if not await self._keep():
                        await _dropped(shown)
                        return None
                    shown = await shown
                parts += parts_of(shown)
            except (LogError, StoreError):
                raise
            except Exception as error:  # noqa: BLE001  whatever a provider raises
                failed(provider, asked.session, error)
        return bounded(parts, self._compactor.bounds(self.state).soft)

    def _asking(self, step: AskModel, around: tuple[ContentPart, ...]) -> e.ModelAsked:
        """Return the intent to ask, with what the request may come to if nobody sees its end."""
        tokens = self._compactor.coming(self.state) + sum(of_part(part, self._compactor.count) for part in around)
        cost, tokens = self._reserve(self._model, tokens)
        return e.ModelAsked(
            turn=step.turn,
            round=step.round,
            attempt=step.attempt,
            model=self._model.name,
            inputs=step.inputs,
            reserved_tokens=tokens,
            reserved_cost_nano_usd=cost,
            context=around,
        )

    def _reserve(self, model: Model, tokens: int) -> tuple[int | None, int]:
        """Return what a request of that size may cost and how many tokens it may use, its answer included."""
        config = self.state.turn.config if self.state.turn is not None else self.state.config
        answer = answer_tokens(window_of(model), config.settings)
        price: Callable[[Usage], int | None] | None = getattr(model, "cost", None)
        return None if price is None else price(Usage(tokens, answer)), tokens + answer

    def _request(self, step: AskModel, state: SessionState, around: tuple[ContentPart, ...]) -> ModelRequest:
        """Put together what will be sent."""
        context = render(state)
        if context.why_not is not None:
            raise IllegalMove(f"The context of {state.session!r} cannot be sent: {context.why_not}.", session=state.session, kind="model.asked", place=state.place)
        config = state.turn.config if state.turn is not None else state.config
        return ModelRequest(
            model=self._model.name,
            system=config.system,
            messages=with_surroundings(context.messages, around),
            tools=self._specs(state),
            settings=config.settings,
            session=state.session,
            replies=state.replies,
            attempt=step.attempt,
        )

    def _specs(self, state: SessionState) -> tuple[ToolSpec, ...]:
        """Return the tools that the next request offers: a function of the log and the configuration."""
        if state.turn is not None and LAST in state.turn.habits.told:
            return ()
        return offered(self._tools, state)

    async def _guarded(self, step: AskModel, request: ModelRequest) -> ModelRequest | None:
        """Let the guards look at a request. None: it is not sent, decide again."""
        for one in self._guards.at("model"):
            verdict = await self._consult(one, Asking(session=request.session, turn=step.turn, round=step.round, attempt=step.attempt, request=request))
            if verdict is MOVED:
                return None
            match settled(verdict, "model"):
                case Refuse(reason=reason):
                    self._stage(e.GuardDecided(guard=name_of(one), at="model", verdict="refused", reason=reason))
                    self._stage(self._failed(step, ModelError(f"The guard {name_of(one)} refused the request: {reason}")))
                    return None
                case Change(to=change, reason=reason):
                    self._stage(e.GuardDecided(guard=name_of(one), at="model", verdict="changed", reason=reason, change=dict(change)))
                    settings = {**(request.settings or {}), **(change.get("settings") or {})}
                    request = replace(request, system=change.get("system", request.system), settings=settings)
        return request

    async def _held_up(self, step: EndTurn) -> bool:
        """Let the guards look at the end of a turn. True: one of them objects, or the head moved; decide again."""
        turn = cast("Turn", self.state.turn)
        if turn.objections >= MAX_OBJECTIONS:
            return False
        last = self.state.transcript[-1]
        text = "".join(part.text for part in last.parts if isinstance(part, Text)) if isinstance(last, Answered) else ""
        for one in self._guards.at("end"):
            verdict = await self._consult(one, Ending(session=self.kept.session, turn=step.turn, text=text, rounds=turn.round, objections=turn.objections))
            if verdict is MOVED:
                return True
            if isinstance(verdict, Exception):
                _log.warning("The guard %s failed at the end of turn %s of session %r, and is passed over: %r", name_of(one), step.turn, self.kept.session, verdict)
                continue
            objection = settled(verdict, "end")
            if isinstance(objection, Refuse):
                self._stage(
                    e.GuardDecided(guard=name_of(one), at="end", verdict="refused", reason=objection.reason),
                    e.NoteAdded(text=f"Not finished yet: {objection.reason}", why=f"guard {name_of(one)}"),
                )
                return True
        return False

    async def _consult(self, one: AnyGuard, subject: Any) -> Any:
        """Ask a guard: its verdict, what it raised, or MOVED when the head moved while it thought."""
        try:
            verdict: Any = one(subject)
        except Exception as error:  # noqa: BLE001  what could not be looked at does not happen
            return error
        if not inspect.isawaitable(verdict):
            return verdict
        if not await self._keep():
            await _dropped(verdict)
            return MOVED
        try:
            verdict = await verdict
        except Exception as error:  # noqa: BLE001  the same
            verdict = error
        known = self.kept
        await self._look()  # it may have thought for long
        return verdict if self.kept is known else MOVED

    async def _attachments(self, blobs: Collection[str]) -> dict[str, bytes]:
        """Read the bytes that messages refer to; what is missing the model's adapter will say."""
        found = {digest: await self._store.blob(self.kept.session, digest) for digest in sorted(blobs)}
        return {digest: content for digest, content in found.items() if content is not None}

    def _stage_answer(self, step: AskModel, reply: ModelReply) -> None:
        try:
            self._stage(_answered(step, reply))
        except InvalidInput as error:
            self._void(step, ModelError(f"The answer cannot be kept: {error.message}"))

    def _void(self, step: AskModel, error: ModelError) -> None:
        """Stage a failure; whoever looked on is told that nothing of this attempt counts."""
        self._stage(self._failed(step, error))
        self._piece(step)("void", error.message)

    def _piece(self, step: AskModel) -> Glimpse:
        """Return what shows pieces of one attempt's answer to whoever looks on."""
        show, session = self._glimpse, self.kept.session
        if show is None:
            return lambda _kind, _text: None
        return lambda kind, text: show(Glimpsed(session=session, kind=cast("Any", kind), text=text, turn=step.turn, round=step.round, attempt=step.attempt))

    async def _until_cancelled(self, request: Any) -> ModelReply | None:
        """Wait for an answer; None when the turn was cancelled first."""
        task: asyncio.Task[ModelReply] = asyncio.ensure_future(request)
        task.add_done_callback(_looked_at)
        try:
            while not task.done():
                await self._pause({task})
                if not task.done() and self.state.cancel is not None:
                    return None
                request = self.state.request
                if request is None or (self.state.turn is None and request.purpose == "turn"):
                    return None
                deadline = None if self.state.turn is None else turn_deadline(self.state.turn)
                if not task.done() and deadline is not None and self._clock.now() >= deadline:
                    raise ModelError("The time of the turn was over before the answer came.", retryable=True)
            return await task
        finally:
            if not task.done():
                await _stopped([task])

    def _failed(self, step: AskModel, error: ModelError, most: int = MAX_MODEL_ATTEMPTS) -> e.ModelFailed:
        again = error.retryable and step.attempt < most and not isinstance(error, ContextTooLong)
        wait = 0.0
        if again:
            wait = max(_backoff(step.attempt), min(max(error.retry_after or 0.0, 0.0), MAX_BACKOFF_SECONDS))
        failure = e.Failure(code=error.code, message=error.message[:4_000])
        not_before = self._clock.now() + round(wait * 1000) if again else None
        return e.ModelFailed(round=step.round, attempt=step.attempt, failure=failure, retryable=error.retryable, not_before=not_before)

    # -- the context ---------------------------------------------------------------------------------------------------

    async def _compact(self, by: str | None = None, *, asked_for: bool = False) -> None:
        """Make the context smaller, or remember that nothing does."""
        here = self._words()
        if not await self._keep():  # a range names events by their place: they must have one
            return
        self._compactions += 1
        if self.state.place == "asking" or self._compactions > MAX_COMPACTIONS:
            self._stuck = here
            return
        try:
            fact = await self._compactor.propose(self.state, self._ask_for_summary, request=await self._about(), by=by, asked_for=asked_for)
        except GivenUp:
            return
        if fact is None or not await self._keep_compacted(fact):
            self._stuck = here

    async def _keep_compacted(self, fact: e.ContextCompacted) -> bool:
        """Keep a compaction in one commit with the answer it was made from. What others add meanwhile does not touch its range."""
        while True:
            try:
                self._stage(fact)
            except (IllegalMove, InvalidInput) as error:
                _log.warning("A compaction of session %r cannot be kept: %s", self.kept.session, error)
                return False
            if await self._keep():
                return True

    async def _ask_for_summary(self, instructions: str, text: str) -> str:
        """Ask the model for summaries; each attempt is kept and paid for. Raises when there is nothing to be had."""
        model = self._compactor.summariser
        count = self._compactor.count
        while self.state.cancel is None:
            before = self.state.request or self.state.setback
            step = AskModel(self.state.turns, 0, before.attempt + 1 if before is not None and before.purpose == "summary" else 1)
            cost, tokens = self._reserve(model, count(instructions) + count(text))
            self._stage(e.ModelAsked(turn=step.turn, round=0, attempt=step.attempt, purpose="summary", model=model.name, reserved_tokens=tokens, reserved_cost_nano_usd=cost))
            if not await self._keep():
                continue
            request = ModelRequest(
                model=model.name,
                system=instructions,
                messages=(Message("user", (Text(text),)),),
                session=self.state.session,
                replies=self.state.replies,
                attempt=step.attempt,
                purpose="summary",
            )
            try:
                reply = await self._until_cancelled(model.ask(request, lambda _kind, _text: None))
            except Exception as raised:  # noqa: BLE001  an adapter's bug is no reason to end the turn
                error = raised if isinstance(raised, ModelError) else ModelError(f"{type(raised).__name__}: {raised}")
                await self._summary_failed(step, error)
                continue
            if reply is None:
                break
            self._stage(_answered(step, reply))
            return _summary_of(reply)
        raise GivenUp

    async def _summary_failed(self, step: AskModel, error: ModelError) -> None:
        """Keep that an attempt failed and wait for the next one, or raise when there is none."""
        self._stage(failed := self._failed(step, error, MAX_SUMMARY_ATTEMPTS))
        if failed.not_before is None:
            raise error
        while not await self._keep():
            pass
        while self.state.cancel is None and self._clock.now() < failed.not_before:
            await self._wait(failed.not_before)

    async def _about(self) -> str:
        """Return the words of the request that is being worked on."""
        texts = list[str]()
        for seq in self.state.turn.about if self.state.turn is not None else ():
            for record in await self._store.read(self.state.session, after=seq - 1, upto=seq):
                event = opened(record).event
                texts += [part.text for part in event.parts if isinstance(part, Text)] if isinstance(event, e.InputReceived) else []
        return "\n\n".join(texts)

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _see_to(self, step: RunCalls) -> None:
        """Give up, doubt, judge and begin calls, as the step says."""
        cancel, calls = self.state.cancel, self.state.calls
        for name in step.abort:
            by, reason = ((cancel.by or "a person"), cancel.reason) if cancel else ("power_agent", "the turn is at its limit")
            self._stage(e.CallAborted(call=name, by=by, reason=reason))
        for name in step.expired:
            self._stage(e.CallDenied(call=name, by="deadline", reason="nobody answered in time"))
        reasons = {name: await self._executor.bury(self.state, calls[name]) for name in step.doubt}
        for name, reason in reasons.items():
            self._stage(e.CallDoubted(call=name, attempt=calls[name].attempt, reason=reason))
        if step.doubt:
            self._recovering |= set(step.doubt)
            return
        await self._judge(step.run)

    async def _judge(self, names: Sequence[str]) -> None:
        """Let each call have its verdict, and begin those that may run, as far as there are places."""
        for name in names:
            if not await self._guard(name):
                return
        full = False
        starting: list[str] = []
        self._left_behind = [alive for alive in self._left_behind if alive()]
        places = self._limits.max_parallel_calls - len(self._running) - len(self._left_behind)
        for name in names:  # no await from here on: what is staged as started begins, or is dropped with the draft
            if name not in self.state.calls or self.state.calls[name].resolved:
                continue
            fact = self._executor.judge(self.state, self.state.calls[name], self._clock.now())
            if isinstance(fact, e.CallStarted):
                if len(starting) >= places:
                    full = True
                    continue
                starting.append(name)
            self._stage(fact)
        if starting:
            if await self._keep():
                await self._begin(starting)
        elif full and await self._keep():
            deadline = earliest_deadline(self.state.unresolved)
            soon = self._clock.now() + round(LOOK_SECONDS * 1000)
            await self._wait(min(deadline or soon, soon) if self._left_behind else deadline)  # a thread's end wakes nobody

    async def _guard(self, name: str) -> bool:
        """Let the guards look at a call. False: the head moved while one of them thought, decide again."""
        for one in self._executor.guards(self.state.calls[name]):
            verdict = await self._consult(one, wanted(self.state, self.state.calls[name]))
            if verdict is MOVED:
                return False
            self._stage(*self._executor.guarded(self.state.calls[name], one, verdict))
            if name not in self.state.calls or self.state.calls[name].resolved:
                break
        return True

    @property
    def _limits(self) -> Limits:
        return (self.state.turn.config if self.state.turn is not None else self.state.config).limits

    async def _begin(self, names: Sequence[str]) -> None:
        """Start effects whose intent is durable, while a good part of the lease is left."""
        if self._clock.now() - self.kept.at > self._store.lease_ms * (1 - EFFECT_MARGIN):
            await self._look()
            await self._sink.renew(self.kept)
        self._recovering -= set(names)
        for name in names:
            call = self.state.calls[name]
            context = self._contexts[name] = self._executor.context(self.state, call)
            work = self._executor.run(call, context, self._limits.max_tool_seconds, self._limits.max_output_bytes_in_context)
            self._running[name] = asyncio.create_task(work, name=f"call {name}")

    async def _recover(self, calls: Sequence[CallState]) -> None:
        """Let the promises of the tools decide what happens to doubted calls; what nobody promised stays for a person.

        A call stays in `_recovering` until what was decided is in the log: when the head moves first, it is decided again.
        """
        for call in calls:
            promise, name = self._executor.promise(self.state, call), call.call.id
            if self.state.cancel is not None and promise == "rerun":
                self._stage(e.CallAborted(call=name, by=self.state.cancel.by or "a person", reason=self.state.cancel.reason))
            elif self.state.cancel is None and promise in {"rerun", "keyed"}:
                self._stage(e.CallRetried(call=name, by=f"recovery ({promise})"))
            elif self.state.cancel is None and promise == "probe":
                if await self._keep():
                    await self._probe(call)
                return
            else:
                self._recovering.discard(name)

    async def _probe(self, call: CallState) -> None:
        """Ask whether a call happened. The question has no effects, so it may be asked again after a crash."""
        name = call.call.id
        done = await self._executor.probe(call, self._executor.context(self.state, call), self._limits.max_output_bytes_in_context)
        await self._look()
        if not done.facts:
            self._recovering.discard(name)
        elif name in self.state.calls and self.state.calls[name].place == "doubted":
            self._stage_outcome(done)

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def _wait(self, until: int | None) -> None:
        """Wait for a call that runs here, for a moment, or for news from outside; stage what came."""
        known = self.kept
        while self.kept is known and not self._collect():
            if self.state.cancel is not None:
                await self._wind_down()
                return
            seconds = None if until is None else (until - self._clock.now()) / 1000
            if seconds is not None and seconds <= 0:
                return
            await self._pause({*self._running.values(), *self._late.values()}, seconds)

    async def _pause(self, tasks: set[asyncio.Task[Any]], seconds: float | None = None) -> None:
        """Wait until one of the tasks is done, somebody wakes us, or it is time to look at the log; look."""
        pause = LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS)
        if self._waking is None or self._waking.done():
            self._waking = asyncio.ensure_future(self._wake.wait())
        if tasks:
            await asyncio.wait({*tasks, self._waking}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        else:
            sleeping = asyncio.ensure_future(self._clock.sleep(pause))
            try:
                await asyncio.wait({sleeping, self._waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
        if not any(task.done() for task in tasks):
            await self._look()

    def _collect(self) -> bool:
        """Stage the outcomes of calls that are done."""
        finished = [name for name, task in self._running.items() if task.done()]
        for name in finished:
            task, call = self._running.pop(name), self.state.calls.get(name)
            context = self._contexts.pop(name, None)
            if call is None:
                continue
            self._stage_outcome(Done((lost(call, STOPPED),)) if task.cancelled() else task.result())
            if context is not None and context.still_alive():
                self._left_behind.append(context.still_alive)
                self._late[name] = asyncio.create_task(self._executor.late(call, context, self._limits.max_output_bytes_in_context))
        return self._collect_late() or bool(finished)

    def _collect_late(self) -> bool:
        """Stage what threads came to that were given up: it counts while their calls are in doubt."""
        ended = [name for name, task in self._late.items() if task.done()]
        for name in ended:
            done = self._late.pop(name).result()
            if name in self.state.calls and self.state.calls[name].place == "doubted":
                self._stage_outcome(done)
        return bool(ended)

    def _stage_outcome(self, done: Done) -> None:
        try:
            self._stage(*done.facts, blobs=done.blobs)
        except IllegalMove:  # a person ended the call first; what was kept stands
            return
        except InvalidInput as error:  # too deep, too large: it happened all the same
            call, attempt = getattr(done.facts[0], "call", ""), getattr(done.facts[0], "attempt", 1)
            failure = e.Failure(code=error.code, message=f"Its result cannot be kept: {error.message[:1_000]}")
            self._stage(e.CallFailed(call=call, attempt=attempt, failure=failure, by=getattr(done.facts[0], "by", None)))

    async def _wind_down(self) -> None:
        """The turn is cancelled: tell the tools, give them a moment, stop them, and stage what is known of each."""
        for context in self._contexts.values():
            context.cancelled = True
        if self._running:
            await asyncio.wait(self._running.values(), timeout=CANCEL_GRACE_SECONDS)
            await _stopped(self._running.values())
            for name, task in list(self._running.items()):
                if not task.done():  # it does not even stop: leave it behind
                    self._running.pop(name)
                    self._stage_outcome(Done((lost(self.state.calls[name], STOPPED),)))
        self._collect()

    async def _stop_all(self) -> None:
        await _stopped(self._running.values())
        self._running.clear()

    async def _put_down(self) -> None:
        """Interrupted: stop what runs, keep what is known, give the session up. The turn stays open for `resume`."""
        running = dict(self._running)
        await _stopped(running.values())
        await self._sink.settled(self.kept.session)
        outcomes = [Done(tuple(event for event in self._draft.events if event.kind in OUTCOMES), self._draft.blobs)]
        outcomes += [task.result() for task in running.values() if task.done() and not task.cancelled() and task.exception() is None]
        for _ in range(RACES):
            base = await self._sink.catch_up(self.kept)
            if base.epoch != self.kept.epoch:
                return
            self._draft = self._sink.draft(base)
            for done in outcomes:
                self._stage_outcome(done)
            try:
                self._sink.check_owner(base)
                await self._sink.keep(self._draft, release=True)
                await self._sink.release(base)
            except HeadMoved:
                continue
            except OwnershipLost:
                return
            return


def _begun(step: TakeInput | Tell) -> e.Event:
    if isinstance(step, Tell):
        return e.NoteAdded(text=step.text, why=step.why)
    return e.TurnStarted(turn=step.turn, inputs=step.inputs, continues=step.continues)


def _answered(step: AskModel, reply: ModelReply) -> e.ModelAnswered:
    """Turn a reply into the fact, giving each call our id."""
    parts: list[AnswerPart] = []
    number = 0
    for part in reply.parts:
        if isinstance(part, Call):
            number += 1
            parts.append(Call(part.name, part.arguments, f"t{step.turn}r{step.round}c{number}", part.provider_id, part.malformed, part.raw))
        else:
            parts.append(part)
    return e.ModelAnswered(
        round=step.round,
        attempt=step.attempt,
        parts=tuple(parts),
        format=reply.format,
        finish=reply.finish,
        usage=reply.usage,
        model=reply.model,
        cost_nano_usd=reply.cost_nano_usd,
        price_source=reply.price_source,
    )


def _summary_of(reply: ModelReply) -> str:
    """Return the text of a summary that can be relied on: a whole one."""
    text = "".join(part.text for part in reply.parts if isinstance(part, Text)).strip()
    if not text or reply.finish not in {"stop", "other"}:
        raise ModelError(f"The summary is not usable: {len(text)} characters, finish {reply.finish!r}.")
    return text


async def _dropped(verdict: Any) -> None:
    """Let go of a verdict that nobody waits for any more."""
    task = asyncio.ensure_future(verdict)
    task.cancel()
    await asyncio.wait([task])


def _backoff(attempt: int) -> float:
    """Return how long to wait after a failed attempt; tenacity knows the formula."""
    from tenacity import RetryCallState, wait_exponential, wait_random  # noqa: PLC0415  only when something failed

    call = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    call.attempt_number = attempt
    waits = wait_exponential(multiplier=FIRST_BACKOFF_SECONDS, max=60.0) + wait_random(0.0, FIRST_BACKOFF_SECONDS)
    return float(waits(call))


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Take note of a task's error, also when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


async def _stopped(tasks: Any) -> None:
    """Cancel tasks and wait for their end, for a while."""
    alive = [task for task in tasks if not task.done()]
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive, timeout=STOP_SECONDS)
