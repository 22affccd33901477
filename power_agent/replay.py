"""Recorded answers and results against the code of today: the first thing that would go another way.

Each turn is played on a branch of its own, in memory: the real drive, sink, machine, policy, guards and context of today decide;
the model and the tools are what the log says they answered. Nothing is asked, nothing is run, nothing is written to the store.
What went wrong in life (a crash, a retry after an overload, a doubted call) is not played again: a call returns how it ended.

Compared are the requests (model, system prompt, tools, settings, messages), what became of each call before it ran (asked about,
refused, started, with which arguments), and how the turn ended. Behind a compaction inside a turn nothing can be compared until
the next turn; the report says so. The log keeps events, not requests: what was shown then is rendered by the code of today on both
sides, so a change of the rendering itself is the business of golden files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.cleaning import as_said
from power_agent.clock import HeldClock
from power_agent.context import render
from power_agent.drive import Drive
from power_agent.errors import HeadMoved, ModelError, OutputInvalid, SessionNotFound
from power_agent.executor import Executor
from power_agent.guards import AnyGuard, Guards
from power_agent.hooks import Hooks
from power_agent.messages import Message, OutputShape, Usage
from power_agent.moving import export, import_
from power_agent.outcomes import Done
from power_agent.outputs import Outputs
from power_agent.ports import Glimpse, ModelReply, ModelRequest, Store, ToolContext, Tools
from power_agent.sink import Sink, opened
from power_agent.state import CallState, SessionState, evolve
from power_agent.store import SQLiteStore
from power_agent.word import Word, replace, word

OWNER = "replay"
LEASE_SECONDS = 1_000_000.0
"""Time jumps from event to event here; nobody is there to take anything over."""
DECISIONS = ("call.approval_asked", "call.started", "call.denied", "call.failed", "call.aborted")
"""What can become of a call that was requested."""


@word(kw_only=True)
class Divergence(Word):
    """The first thing that would go another way: at which event, what, and how it is then and now."""

    seq: int
    what: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        return f"Event {self.seq}: {self.what} was {self.recorded!r}, and would be {self.now!r}."


@word(kw_only=True)
class Replay(Word):
    """What was compared, and the first divergence if there is one. `left_out` says what could not be compared, and why."""

    session: str
    turns: int = 0
    requests: int = 0
    calls: int = 0
    divergence: Divergence | None = None
    left_out: tuple[str, ...] = ()


# -- what was recorded -------------------------------------------------------------------------------------------------


@word(kw_only=True, slots=False)
class _Asked(Word):
    """A request as the log has it: where, with what, and what came of it."""

    seq: int
    at: int
    model: str
    config: e.Config
    messages: tuple[Message, ...]
    answer: e.ModelAnswered | e.ModelFailed | None = None
    meanwhile: tuple[e.Event, ...] = ()


class _Turn:
    """One turn as it was recorded, by rounds and calls."""

    def __init__(self, before: SessionState, events: Sequence[e.Envelope]) -> None:
        self.before = before
        self.seq = events[0].seq
        self.at = events[0].at
        self.continues = getattr(events[0].event, "continues", None)
        self.asked: dict[int, _Asked] = {}
        self.calls: dict[str, list[tuple[int, e.CallEvent]]] = {}
        self.arguments: dict[str, object] = {}
        self.misshapen: dict[int, str] = {}
        self.ended: tuple[int, e.TurnEnded] | None = None
        self.early: list[e.InputReceived] = []
        self.compacted = 0
        self.lost = False
        self._round = 0
        state = before
        for kept in events:
            state = evolve(state, kept)
            self._take(state, kept)

    def _take(self, state: SessionState, kept: e.Envelope) -> None:
        match kept.event:
            case e.ModelAsked(purpose="turn") as asked if state.turn is not None:
                said = self.asked.get(asked.round)
                self._round = asked.round
                self.asked[asked.round] = _Asked(
                    seq=kept.seq, at=kept.at, model=asked.model, config=state.turn.config, messages=render(state).messages, meanwhile=said.meanwhile if said is not None else ()
                )
            case e.ModelAsked() | e.ContextCompacted():
                self.compacted = self.compacted or kept.seq
            case e.ModelAnswered() | e.ModelFailed() as answer if answer.round == self._round and self._round in self.asked:
                self.lost |= isinstance(answer, e.ModelFailed) and answer.lost
                self.asked[self._round] = replace(self.asked[self._round], answer=answer)
            case e.InputReceived() | e.CancelAsked() as fact if self._round in self.asked:
                self.asked[self._round] = replace(self.asked[self._round], meanwhile=(*self.asked[self._round].meanwhile, fact))
            case e.InputReceived() as early:
                self.early.append(early)
            case e.GuardDecided(guard=e.OUTPUT, reason=reason):
                self.misshapen[self._round] = reason or ""
            case e.CallEvent() as fact:
                self.calls.setdefault(fact.call, []).append((kept.seq, fact))
                if isinstance(fact, e.CallStarted):
                    self.arguments[fact.call] = state.calls[fact.call].call.arguments
            case e.TurnEnded() as end:
                self.ended = (kept.seq, end)

    def outcome(self, call: str) -> e.CallEvent | None:
        """Return how a call ended."""
        facts = self.calls.get(call, ())
        return next((fact for _, fact in facts if fact.kind in e.TERMINAL), None)

    @property
    def cancelled(self) -> bool:
        """Whether somebody ended it: then it may stop anywhere."""
        return self.ended is not None and self.ended[1].status == "cancelled"


def _turns(history: Sequence[e.Envelope]) -> Iterator[_Turn]:
    """Part a history into its turns, one at a time."""
    state, begun = SessionState(""), 0
    before = state
    for place, kept in enumerate(history):
        if isinstance(kept.event, e.TurnStarted):
            begun, before = place, state
        elif begun and (isinstance(kept.event, e.TurnEnded) or kept.kind == "session.opened"):
            end = place + isinstance(kept.event, e.TurnEnded)
            yield _Turn(before, history[begun:end])
            begun = 0
        state = evolve(state, kept)
    if begun:
        yield _Turn(before, history[begun:])


# -- who answers from the record ---------------------------------------------------------------------------------------


class _Script:
    """What the model and the tools say in one turn, and the first thing that differs from it."""

    def __init__(self, turn: _Turn, tools: Tools) -> None:
        self.turn = turn
        self.tools = tools
        self.over = asyncio.Event()
        self.divergence: Divergence | None = None
        self.left_out: str | None = None
        self.rounds = 0
        self.started: set[str] = set()
        self.end: e.TurnEnded | None = None

    def hear(self, kept: e.Envelope) -> None:
        """Stop at the end of the turn: what waited behind it is another one's."""
        if isinstance(kept.event, e.TurnEnded) and not self.over.is_set():
            self.end = kept.event
            self.over.set()

    def diverged(self, seq: int, what: str, recorded: object, now: object) -> None:
        """Note the first difference, and stop."""
        if not self.over.is_set():
            self.differs(seq, what, recorded, now)
            self.over.set()

    def differs(self, seq: int, what: str, recorded: object, now: object) -> None:
        """Note a difference."""
        self.divergence = Divergence(seq=seq, what=what, recorded=recorded, now=now)

    def stop(self, left_out: str | None = None) -> None:
        """Stop: the record says no more."""
        self.left_out = self.left_out or left_out
        self.over.set()

    def request(self, request: ModelRequest) -> _Asked | None:
        """Compare the next request with the recorded one; None when there is nothing to go on with."""
        if self.over.is_set():
            return None
        turn, asked = self.turn, self.turn.asked.get(self.rounds + 1)
        if asked is None or (turn.compacted and asked.seq > turn.compacted):
            self._beyond(asked)
            return None
        self.rounds += 1
        config = asked.config
        pairs = (
            ("the model", asked.model, asked.model if asked.model in request.model.split(",") else request.model),  # of a chain any may have answered
            ("the system prompt", config.system, request.system),
            ("the tools", _names(config.tools), _names(self.tools.refs)),
            ("the settings", dict(config.settings), dict(request.settings or {})),
        )
        for what, recorded, now in pairs:
            if recorded != now:
                self.diverged(asked.seq, what, recorded, now)
        for place, (recorded_message, message) in enumerate(zip(asked.messages, request.messages, strict=False)):
            if recorded_message != message:
                self.diverged(asked.seq, f"message {place + 1}", recorded_message, message)
        if len(asked.messages) != len(request.messages):
            self.diverged(asked.seq, "the number of messages", len(asked.messages), len(request.messages))
        return None if self.over.is_set() else asked

    def _beyond(self, asked: _Asked | None) -> None:
        """Stop at a request that is not compared with any."""
        turn = self.turn
        if asked is not None:
            self.stop(f"Behind the compaction at event {turn.compacted} the rest of its turn was not compared.")
        elif turn.ended is not None and turn.ended[1].status == "limit" and turn.lost:
            self.stop(f"What failed requests of turn {turn.before.turns + 1} may have used counted against its limit, and is not played again.")
        elif turn.ended is not None and not turn.cancelled:
            self.diverged(turn.ended[0], "the next step", f"the end of the turn ({turn.ended[1].status})", "another request")
        self.stop()

    def judged(self, call: CallState, fact: e.Event) -> None:
        """Compare what becomes of a call with what became of it."""
        name = call.call.id
        recorded = [(seq, one) for seq, one in self.turn.calls.get(name, ()) if one.kind in DECISIONS]
        if not recorded:
            return
        if call.place == "approved":
            if isinstance(fact, e.CallApprovalAsked) and [one.kind for _, one in recorded].count(fact.kind) < 2:  # noqa: PLR2004  asked again
                self.diverged(recorded[0][0], f"call {name}", "run as approved", "asked about again: it is not what was approved")
            return
        seq, was = recorded[0]
        if was.kind not in {fact.kind, "call.aborted"}:
            self.diverged(seq, f"call {name} ({call.call.name})", _told(was), _told(fact))
        elif isinstance(fact, e.CallStarted) and name in self.turn.arguments and self.turn.arguments[name] != call.call.arguments:
            self.diverged(seq, f"the arguments of call {name} ({call.call.name})", self.turn.arguments[name], call.call.arguments)


def _names(tools: Sequence[e.ToolRef]) -> dict[str, str]:
    return {tool.name: tool.digest for tool in tools}


def _told(fact: e.Event) -> str:
    """Say in a few words what became of a call."""
    match fact:
        case e.CallDenied(by=by, reason=reason):
            return f"denied by {by}: {reason}"
        case e.CallFailed(failure=failure):
            return f"failed: {failure.message}"
        case e.CallApprovalAsked(rule=rule):
            return f"asked about ({rule})"
    return fact.kind.removeprefix("call.")


class _RecordedModel:
    """Answers what was answered, once the request is the one that was made."""

    def __init__(self, name: str, script: _Script, meanwhile: Any, clock: HeldClock) -> None:
        self.name = name
        self._script = script
        self._meanwhile = meanwhile
        self._clock = clock

    def cost(self, _: Usage) -> int:
        """Looking back costs nothing, whatever limit of money is set."""
        return 0

    async def ask(self, request: ModelRequest, _: Glimpse) -> ModelReply:
        """Compare, let happen what happened meanwhile, answer."""
        asked = self._script.request(request)
        if asked is None:
            await _for_ever()
        self._clock.move(max(asked.at - self._clock.now(), 0) / 1000)
        await self._meanwhile(asked.meanwhile)
        answer = asked.answer
        if any(isinstance(fact, e.CancelAsked) for fact in asked.meanwhile) and not isinstance(answer, e.ModelAnswered):
            await _for_ever()  # until the drive has seen it
        if isinstance(answer, e.ModelAnswered):
            return ModelReply(
                parts=as_said(answer.parts),
                finish=answer.finish,
                usage=answer.usage,
                format=answer.format,
                model=answer.model,
                cost_nano_usd=answer.cost_nano_usd,
                price_source=answer.price_source,
            )
        if answer is not None and answer.not_before is None:
            raise ModelError(as_said(answer.failure.message))
        self._script.stop()
        return await _for_ever()


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


class _RecordedCalls(Executor):
    """Judges calls as today's executor does, and lets each end as it ended."""

    def __init__(self, today: Executor, script: _Script) -> None:
        self._today = today
        self._script = script

    def guards(self, state: SessionState, call: CallState) -> Sequence[AnyGuard]:
        """Return today's guards."""
        return self._today.guards(state, call)

    def judge(self, state: SessionState, call: CallState, now: int) -> e.Event:
        """Judge, and compare."""
        fact = self._today.judge(state, call, now)
        self._script.judged(call, fact)
        return fact

    def context(self, state: SessionState, call: CallState) -> ToolContext:
        """Return a context nobody will use."""
        return ToolContext(session=state.session, call=call.call.id, attempt=call.attempt, idempotency_key="")

    async def run(self, state: SessionState, call: CallState, context: ToolContext, seconds: float, output_bytes: int) -> Done:
        """Return how the call ended; nothing is run."""
        del state, context, seconds, output_bytes
        outcome = self._script.turn.outcome(call.call.id)
        if outcome is None or self._script.over.is_set():
            self._script.stop()
            await _for_ever()
        self._script.started.add(call.call.id)
        outcome = replace(outcome, attempt=call.attempt) if isinstance(outcome, e.CallSucceeded | e.CallFailed) else outcome
        return Done((as_said(outcome),))


class _RecordedShapes(Outputs):
    """Judges answers by the types that are known here, and where a shape's type is not, as they were judged."""

    def __init__(self, today: Outputs, script: _Script) -> None:
        super().__init__()
        self._today = today
        self._script = script

    def value(self, shape: OutputShape, text: str) -> Any:
        """Return the value of an answer, or raise what was said of it."""
        why = None if self._today.knows(shape) else self._script.turn.misshapen.get(self._script.rounds)
        if why is not None:
            raise OutputInvalid(as_said(why))
        return self._today.value(shape, text)


# -- the play ----------------------------------------------------------------------------------------------------------


class _Branching(Sink):
    """A sink that already knows the states its branches begin with."""

    known: SessionState = SessionState("")

    async def load(self, session: str, *, at: int | None = None) -> SessionState:
        """Return the known state, or fold."""
        return self.known if at is not None and at == self.known.seq else await super().load(session, at=at)


@word(kw_only=True, slots=False)
class _Stage(Word):
    """Where turns are played: a store in memory with the whole past, and the code of today."""

    session: str
    store: SQLiteStore
    clock: HeldClock
    sink: _Branching
    model: str
    tools: Tools
    executor: Executor
    guards: Guards
    config: e.Config
    outputs: Outputs
    hooks: Hooks

    async def play(self, turn: _Turn) -> _Script:
        """Play one turn on a branch that begins right before it."""
        self.clock.move(max(turn.at - self.clock.now(), 0) / 1000)
        script = _Script(turn, self.tools)
        self.sink.known, name = turn.before, f"replay of turn {turn.before.turns + 1} at {turn.seq}"
        parent = e.Parent(relation="fork", session=self.session, seq=turn.before.seq)
        state = await self.sink.open(self.config, name, parent=parent)
        facts: list[e.Event] = [e.InputReceived(parts=one.parts, mode=one.mode, key=one.key, output=one.output) for one in turn.before.inputs]
        facts += [e.NoteAdded(text=note.text, why="replay") for note in turn.before.notes]
        state = await self.sink.record(state, list(map(as_said, [*facts, *turn.early])))
        go_on, deaf = turn.continues is not None, self.hooks.add(script.hear, e.TurnEnded)
        while not script.over.is_set():
            state = await self._driven(script, name, state, go_on=go_on)
            if state.turn is None or script.over.is_set() or not await self._decided(script, state):
                break
            state, go_on = await self.sink.claim(name), False
        deaf()
        _compare_end(script)
        return script

    async def _driven(self, script: _Script, name: str, state: SessionState, *, go_on: bool) -> SessionState:
        """Let the drive go as far as it can, or until the script is over."""

        async def meanwhile(facts: Sequence[e.Event]) -> None:
            for fact in facts:
                await self._reported(name, fact)
                drive.notice()

        model = _RecordedModel(self.model, script, meanwhile, self.clock)
        shapes = _RecordedShapes(self.outputs, script)
        drive = Drive(self.sink, self.store, self.clock, model, self.tools, _RecordedCalls(self.executor, script), state, go_on=go_on, guards=self.guards, outputs=shapes)
        running, over = asyncio.create_task(drive.run()), asyncio.create_task(script.over.wait())
        try:
            await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED)
            if script.over.is_set() and not running.done():
                running.cancel()
                await asyncio.wait([running])
                return drive.kept
            return await running
        finally:
            over.cancel()
            running.cancel()
            await asyncio.wait([running, over])

    async def _reported(self, name: str, fact: e.Event) -> None:
        while True:
            try:
                await self.sink.report(await self.sink.load(name), (as_said(fact),))
            except HeadMoved:
                continue
            return

    async def _decided(self, script: _Script, state: SessionState) -> bool:
        """Let persons decide as they did; False when they did not, or ended the turn."""
        answered = False
        for call in state.unresolved:
            facts = [fact for _, fact in script.turn.calls.get(call.call.id, ())]
            asked = next((place for place, fact in enumerate(facts) if isinstance(fact, e.CallApprovalAsked)), len(facts))
            answer = next((fact for fact in facts[asked + 1 :] if fact.kind in {"call.approved", *e.TERMINAL}), None)
            if isinstance(answer, e.CallApproved | e.CallDenied):
                answer = replace(answer, digest=call.digest or "")
            if call.place != "waiting" or answer is None or (script.turn.cancelled and isinstance(answer, e.CallAborted)):
                continue
            await self._reported(state.session, replace(answer, attempt=1) if isinstance(answer, e.CallSucceeded | e.CallFailed) else answer)
            answered = True
        return answered


def _compare_end(script: _Script) -> None:
    """Compare how the turn ended."""
    turn, now = script.turn, script.end
    if turn.ended is None or now is None:
        return
    seq, end = turn.ended
    further = turn.asked.get(script.rounds + 1)
    if further is not None and not turn.compacted:
        script.differs(further.seq, "the next step", "another request", f"the end of the turn ({now.status})")
    elif (end.status, end.reason) != (now.status, now.reason) and not turn.cancelled and not turn.compacted:
        script.differs(seq, "the end of the turn", (end.status, end.reason), (now.status, now.reason))


async def replay(store: Store, session: str, *, model: str, tools: Tools, executor: Executor, guards: Guards, config: e.Config, outputs: Outputs) -> Replay:
    """Play a session's turns against the code and the configuration of today, up to the first divergence."""
    if await store.find(session) is None:
        raise SessionNotFound(f"There is no session {session!r}.", session=session)
    clock, hooks = HeldClock(0), Hooks()
    async with SQLiteStore(":memory:", clock=clock, lease_seconds=LEASE_SECONDS) as stage:
        await import_(stage, clock, await export(store, session))
        history = [opened(record) for record in await stage.read(session)][:-1]  # but for what the import added
        play = _Stage(
            session=session,
            store=stage,
            clock=clock,
            sink=_Branching(stage, clock, SystemChance(), OWNER, hooks=hooks),
            hooks=hooks,
            model=model,
            tools=tools,
            executor=executor,
            guards=guards,
            config=config,
            outputs=outputs,
        )
        turns = requests = calls = 0
        left_out: list[str] = []
        for turn in _turns(history):
            script = await play.play(turn)
            turns, requests, calls = turns + 1, requests + script.rounds, calls + len(script.started)
            left_out += [script.left_out] if script.left_out else []
            if script.divergence is not None:
                return Replay(session=session, turns=turns, requests=requests, calls=calls, divergence=script.divergence, left_out=tuple(left_out))
        return Replay(session=session, turns=turns, requests=requests, calls=calls, left_out=tuple(left_out))
