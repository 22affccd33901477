"""What the model is asked in a turn: put together from the log, looked at by guards, recorded, sent, and its answer staged."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from power_agent import events as e
from power_agent.cleaning import storable
from power_agent.compaction import Compactor
from power_agent.context import render
from power_agent.drive.attempts import CANCELLED, OVER, Attempts, answered, attempts_of, waited
from power_agent.drive.counsel import MOVED, Counsel
from power_agent.drive.ledger import Ledger
from power_agent.drive.tasks import dropped, own_failure
from power_agent.errors import IllegalMove, InvalidInput, LogError, ModelError, StoreError
from power_agent.gauge import of_part
from power_agent.givens import name_of
from power_agent.guards import Asking, Guards, settled
from power_agent.machine import LAST, AskModel
from power_agent.messages import ContentPart, Text
from power_agent.offer import answering, offered, recorded, too_late
from power_agent.policy import Change, Refuse
from power_agent.ports import Glimpse, Glimpsed, Model, ModelReply, ModelRequest, Tools, ToolSpec
from power_agent.prefix import Prefix
from power_agent.state import Said, SessionState, evolve
from power_agent.surroundings import Asked, Provider, bounded, failed, parts_of, with_surroundings
from power_agent.word import replace

_log = logging.getLogger("power_agent")


class Questions:
    """Asks one model on behalf of one drive."""

    def __init__(  # noqa: PLR0913  what a request is made of
        self,
        ledger: Ledger,
        attempts: Attempts,
        counsel: Counsel,
        *,
        model: Model,
        tools: Tools,
        guards: Guards,
        compactor: Compactor,
        providers: Sequence[Provider],
        glimpse: Callable[[Glimpsed], None] | None,
    ) -> None:
        self._ledger = ledger
        self._attempts = attempts
        self._counsel = counsel
        self._model = model
        self._tools = tools
        self._guards = guards
        self._compactor = compactor
        self._providers = tuple(providers)
        self._glimpse = glimpse
        self._warned = 0

    async def ask(self, step: AskModel) -> None:
        """Record the intent, ask, and stage the answer or the failure."""
        self._say_who_stands_in()
        self._attempts.check_priced(self._answering(), self._compactor.summariser(self._ledger.state))
        around = await self._surroundings(step)
        if around is None:
            return
        model = self._chosen(step)
        asked = self._asking(step, model, around)
        shown = self._with_taken_in(asked)
        rendered = self._request(step, shown, asked)
        prefix: Prefix = shown.transcript.memo.setdefault("prefix", Prefix())
        self._ledger.stage(replace(asked, prefix_digest=prefix.digest(rendered)))
        request = await self._guarded(step, rendered)
        if request is None or not await self._ledger.keep():
            return
        if blobs := render(self._ledger.state).blobs:
            request = replace(request, attachments=await self._attachments(blobs))
        try:
            reply = await self._attempts.until_cancelled(model, request, self._piece(step))
        except ModelError as error:
            self._void(step, error)
        except Exception as error:  # noqa: BLE001  an adapter's bug ends the turn, not the session
            self._void(step, ModelError(f"{type(error).__name__}: {error}"))
        else:
            if reply is not None:
                self._stage_answer(step, model, reply)

    def _with_taken_in(self, asked: e.ModelAsked) -> SessionState:
        """Return the state with what a request takes in: inputs that steer, and notes."""
        state = self._ledger.state
        if not asked.inputs and not state.notes:
            return state
        return evolve(state, e.Envelope(state.session, state.seq + 1, state.epoch, self._ledger.clock.now(), asked))

    def _chosen(self, step: AskModel) -> Model:
        """Return who makes this attempt: the log knows what was tried for the same answer, and who answered last."""
        state = self._ledger.state
        tried = state.turn.tried if state.turn is not None and step.attempt > 1 else ()
        return self._attempts.chosen(self._answering(), step.attempt, tried, state.answered_by)

    def _answering(self) -> Model:
        """Return who answers in this turn."""
        return answering(self._model, self._ledger.state)

    def _say_who_stands_in(self) -> None:
        """Warn where a turn began with a model that this process does not have; once in a turn."""
        state, own = self._ledger.state, self._model.name
        if state.turn is not None and self._warned != state.turn.number and recorded(self._model, state) is None:
            self._warned, began = state.turn.number, state.turn.config.model
            _log.warning("Turn %d of session %r began with the model %s, which this process does not have: %s goes on.", self._warned, state.session, began, own)

    async def _surroundings(self, step: AskModel) -> tuple[ContentPart, ...] | None:
        """Let the providers say what the model is shown beside the log. None: others added facts meanwhile, or the time is over; decide again."""
        if not self._providers:
            return ()
        said = next((entry.parts for entry in reversed(self._ledger.state.transcript) if isinstance(entry, Said)), ())
        asked = Asked(session=self._ledger.kept.session, turn=step.turn, round=step.round, text="".join(part.text for part in said if isinstance(part, Text)))
        parts = list[ContentPart]()
        for provider in self._providers:
            try:
                with own_failure():
                    shown: Any = provider(asked)
                if inspect.isawaitable(shown):
                    if not await self._ledger.keep():
                        await dropped(shown)
                        return None
                    known = self._ledger.kept
                    shown = await waited(self._ledger, shown)
                    if self._ledger.kept is not known:
                        return None
                if shown is CANCELLED or (shown is OVER and not self._last):
                    return None
                if shown is OVER:
                    raise TimeoutError("it did not come while the turn had time")
                parts += parts_of(shown)
            except (LogError, StoreError):
                raise
            except Exception as error:  # noqa: BLE001  whatever a provider raises
                failed(provider, asked.session, error)
        said_here, _ = self._ledger.sink.covered(tuple(parts))
        return bounded(said_here, self._compactor.bounds(self._ledger.state).soft)

    @property
    def _last(self) -> bool:
        """Whether the turn is at its limit already, and this is the one answer that it still has."""
        turn = self._ledger.state.turn
        return turn is not None and LAST in turn.habits.told

    def _asking(self, step: AskModel, model: Model, around: tuple[ContentPart, ...]) -> e.ModelAsked:
        """Return the intent to ask, with what the request may come to if nobody sees its end."""
        tokens = self._compactor.coming(self._ledger.state) + sum(of_part(part, self._compactor.count) for part in around)
        cost, tokens = self._attempts.reserve(model, tokens)
        return e.ModelAsked(
            turn=step.turn,
            round=step.round,
            attempt=step.attempt,
            model=model.name,
            inputs=step.inputs,
            reserved_tokens=tokens,
            reserved_cost_nano_usd=cost,
            context=around,
            untrusted=(bool(around) and any(getattr(provider, "untrusted", False) for provider in self._providers)) or self._strangers_came(),
        )

    def _strangers_came(self) -> bool:
        """Whether tools that strangers describe are there by now, of which the turn knew nothing when it began: a shelf is read anew each time."""
        state = self._ledger.state
        strange = {tool.name for tool in self._tools.refs if tool.foreign}
        if not strange or state.taint is not None or (state.turn is not None and any(tool.foreign for tool in state.turn.config.tools)):
            return False  # or the log knows already
        return bool(strange.difference(too_late(self._tools, state)))

    def _request(self, step: AskModel, state: SessionState, asked: e.ModelAsked) -> ModelRequest:
        """Put together what will be sent."""
        context = render(state)
        if context.why_not is not None:
            raise IllegalMove(f"The context of {state.session!r} cannot be sent: {context.why_not}.", session=state.session, kind="model.asked", place=state.place)
        config = state.turn.config if state.turn is not None else state.config
        return ModelRequest(
            model=asked.model,
            system=config.system,
            messages=with_surroundings(context.messages, storable(asked.context)),
            tools=self._specs(state),
            settings=config.settings,
            session=state.session,
            replies=state.replies,
            attempt=step.attempt,
            output=None if state.turn is None or LAST in state.turn.habits.told else state.turn.output,
            tokens=asked.reserved_tokens,
        )

    def _specs(self, state: SessionState) -> tuple[ToolSpec, ...]:
        """Return the tools that the next request offers: a function of the log and the configuration."""
        if state.turn is not None and LAST in state.turn.habits.told:
            return ()
        return offered(self._tools, state)

    async def _guarded(self, step: AskModel, request: ModelRequest) -> ModelRequest | None:
        """Let the guards look at a request. None: it is not sent, decide again."""
        for one in self._guards.at("model"):
            verdict = await self._counsel.consult(one, Asking(session=request.session, turn=step.turn, round=step.round, attempt=step.attempt, request=request))
            if verdict is CANCELLED or verdict is OVER:
                self._unsent(step, name_of(one))
            if verdict is MOVED or verdict is CANCELLED or verdict is OVER:
                return None
            match settled(verdict, "model"):
                case Refuse(reason=reason):
                    self._ledger.stage(e.GuardDecided(guard=name_of(one), at="model", verdict="refused", reason=reason))
                    self._ledger.stage(self._attempts.failed(step, ModelError(f"The guard {name_of(one)} refused the request: {reason}", unspent=True)))
                    return None
                case Change(to=wish, reason=reason):
                    change, _ = self._ledger.sink.covered(wish)  # what is sent is what the log says
                    self._ledger.stage(e.GuardDecided(guard=name_of(one), at="model", verdict="changed", reason=reason, change=dict(change)))
                    settings = {**(request.settings or {}), **(change.get("settings") or {})}
                    request = replace(request, system=change.get("system", request.system), settings=settings)
        return request

    def _unsent(self, step: AskModel, guard: str) -> None:
        """Stage that a request which stands in the log was not sent, because a guard was stopped before it decided."""
        if self._ledger.state.request is not None:
            error = ModelError(f"The guard {guard} did not decide while the turn went on. Nothing was sent.", retryable=True, unspent=True)
            self._ledger.stage(self._attempts.failed(step, error))

    async def _attachments(self, blobs: Collection[str]) -> dict[str, bytes]:
        """Read the bytes that messages refer to; what is missing the model's adapter will say."""
        found = {digest: await self._ledger.store.blob(self._ledger.kept.session, digest) for digest in sorted(blobs)}
        return {digest: content for digest, content in found.items() if content is not None}

    def _stage_answer(self, step: AskModel, asked: Model, reply: ModelReply) -> None:
        try:
            self._ledger.stage(answered(step, asked, reply))
        except InvalidInput as error:
            self._void(step, ModelError(f"The answer cannot be kept: {error.message}"))

    def _void(self, step: AskModel, error: ModelError) -> None:
        """Stage a failure; whoever looked on is told that nothing of this attempt counts."""
        self._ledger.stage(self._attempts.failed(step, error, attempts_of(self._answering())))
        self._piece(step)("void", error.message)

    def _piece(self, step: AskModel) -> Glimpse:
        """Return what shows pieces of one attempt's answer to whoever looks on."""
        show, session = self._glimpse, self._ledger.kept.session
        if show is None:
            return lambda _kind, _text: None
        return lambda kind, text: show(Glimpsed(session=session, kind=cast("Any", kind), text=text, turn=step.turn, round=step.round, attempt=step.attempt))
