"""The loop: while there is a step, perform it and record what came of it.

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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from power_agent import events as e
from power_agent.cleaning import clean
from power_agent.compaction import Compactor
from power_agent.drive.attempts import Attempts
from power_agent.drive.calls import Calls
from power_agent.drive.counsel import Counsel
from power_agent.drive.ledger import Ledger
from power_agent.drive.questions import Questions
from power_agent.drive.summaries import Summaries
from power_agent.errors import OwnershipLost
from power_agent.executor import Executor
from power_agent.guards import Guards
from power_agent.machine import AskModel, Compact, EndTurn, Facts, RunCalls, Step, TakeInput, Tell, Wait, decide
from power_agent.offer import equal
from power_agent.outputs import Outputs
from power_agent.ports import Clock, Glimpsed, Model, Store, Tools
from power_agent.sink import Sink
from power_agent.state import SessionState
from power_agent.surroundings import Provider
from power_agent.word import replace

NO_GUARDS = Guards()


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
        unpark: bool = False,
        guards: Guards = NO_GUARDS,
        glimpse: Callable[[Glimpsed], None] | None = None,
        compactor: Compactor | None = None,
        providers: Sequence[Provider] = (),
        outputs: Outputs | None = None,
        config: Callable[[], e.Config] | None = None,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._guards = guards
        self._continues = state.turns if go_on else None
        self._unparks = state.turns if unpark else None
        self._replies = state.replies
        self._config = config
        self._compactor = compactor or Compactor(model, tools)
        self._ledger = Ledger(sink, store, clock, state)
        self._counsel = Counsel(self._ledger, guards, outputs or Outputs())
        self._calls = Calls(self._ledger, self._counsel, executor)
        attempts = Attempts(self._ledger)
        self._summaries = Summaries(self._ledger, attempts, self._calls, self._compactor)
        self._questions = Questions(self._ledger, attempts, self._counsel, model=model, tools=tools, guards=guards, compactor=self._compactor, providers=providers, glimpse=glimpse)

    @property
    def state(self) -> SessionState:
        """The state with everything that is staged."""
        return self._ledger.state

    @property
    def kept(self) -> SessionState:
        """The state that is in the log."""
        return self._ledger.kept

    @property
    def has_kept(self) -> bool:
        """Whether anything was kept here."""
        return self._ledger.has_kept

    def stages(self, event: e.Event | None) -> bool:
        """Say whether this very event, not one like it, is staged here and about to be kept."""
        return self._ledger.stages(event)

    def notice(self) -> None:
        """Look at the log soon: somebody in this process added a fact."""
        self._ledger.notice()

    async def run(self, first: Sequence[e.Event] = (), blobs: Mapping[str, bytes] | None = None) -> SessionState:
        """Move the session on, with first facts and the blobs they name. Cancelled, it puts everything down so that any process can resume."""
        async with self._in_hand():
            self._ledger.stage(*first, blobs=blobs)
            if not first and self.state.cancel is None:
                self._calls.found()
            while not await self._step():
                pass
        return self.state

    async def compact(self, by: str | None = None) -> SessionState:
        """Make the context smaller and do nothing else."""
        async with self._in_hand():
            await self._summaries.compact(by, asked_for=True, limits=None if self._config is None else self._config().limits)
            while not await self._ledger.keep(release=True):
                pass
        return self.state

    @contextlib.asynccontextmanager
    async def _in_hand(self) -> AsyncIterator[None]:
        """Hold the session while something is done with it; put it down when that is interrupted."""
        try:
            await self._sink.hold(self.kept)
            yield
        except OwnershipLost:
            await self._calls.stop()
            raise
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._put_down()))
            raise
        finally:
            self._calls.let_go()

    async def _step(self) -> bool:
        """Decide and perform one step; True when there is nothing left to do without somebody else."""
        if await self._calls.recover():
            return False
        step = self._next()
        match step:
            case TakeInput() | Tell():
                self._ledger.stage(*self._begun(step))
            case AskModel():
                self._summaries.begin_anew()
                await self._questions.ask(step)
            case RunCalls():
                await self._calls.see_to(step)
            case Compact():
                await self._summaries.compact()
            case EndTurn(status="completed") if self._somebody_looks() and await self._counsel.held_up(step):
                pass
            case EndTurn():
                self._ledger.stage(e.TurnEnded(turn=step.turn, status=step.status, reason=step.reason, failure=self._why_failed(step)))
            case Wait(why="running" | "backoff"):
                if await self._ledger.keep():
                    await self._calls.wait(step.until)
            case _:
                return await self._ledger.keep(release=True)
        return False

    def _nothing_more(self) -> bool:
        """Say whether a turn was to be continued and came to its limit before a request: then what waits behind it is next."""
        if self._continues is None or self.state.turns != self._continues + 1 or self.state.replies != self._replies:
            return False
        return self.state.turn is None and self.state.last is not None and self.state.last.status == "limit"

    def _next(self) -> Step:
        """Decide. The context is weighed where a request would leave, and only where somebody knows a bound for it."""
        turns = self.state.turns  # these two until a turn began: one that was only staged may have been let go
        go_on, unpark = turns == self._continues, turns == self._unparks or self._nothing_more()
        calls = self._calls
        facts = Facts(running=frozenset(calls.running), placeless=calls.placeless, blocked=calls.blocked, go_on=go_on, unpark=unpark, cannot_compact=self._summaries.stuck)
        step = decide(self.state, self._clock.now(), facts)
        if not isinstance(step, AskModel):
            return step
        bounds = self._compactor.bounds(self.state)
        if bounds.soft is None or (tokens := self._compactor.coming(self.state)) <= bounds.soft:
            return step
        facts = replace(facts, context_tokens=tokens, context_window=bounds.soft, context_most=bounds.hard)
        return decide(self.state, self._clock.now(), facts)

    def _begun(self, step: TakeInput | Tell) -> Sequence[e.Event]:
        """Return the facts that begin something. A turn begins with the present configuration, and keeps it to its end."""
        if isinstance(step, Tell):
            return (e.NoteAdded(text=step.text, why=step.why),)
        return (*self._configured(), e.TurnStarted(turn=step.turn, inputs=step.inputs, continues=step.continues))

    def _configured(self) -> Sequence[e.Event]:
        """Return what is new of the configuration, once it is written as the log writes it: with lists for tuples, say."""
        config = self.state.config if self._config is None else self._config()
        if equal(self.state, "config", config, self.state.config):
            return ()
        now = clean(e.SessionConfigured(config=config)).event
        return () if now == e.SessionConfigured(config=self.state.config) else (now,)

    def _somebody_looks(self) -> bool:
        """Say whether the end of this turn is looked at before it is one."""
        return bool(self._guards.at("end")) or (self.state.turn is not None and self.state.turn.output is not None)

    def _why_failed(self, step: EndTurn) -> e.Failure | None:
        return self.state.setback.failure if step.status == "failed" and self.state.setback is not None else None

    async def _put_down(self) -> None:
        """Interrupted: stop what runs, keep what is known, give the session up. The turn stays open for `resume`."""
        known = await self._calls.interrupt()

        def last_words() -> None:
            for done in known:
                self._calls.stage_outcome(done)

        await self._ledger.put_down(last_words)
