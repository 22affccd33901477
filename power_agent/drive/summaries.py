"""Making the context smaller: what is proposed is asked for, paid for and kept in one commit with the answer it was made from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from power_agent import events as e
from power_agent.compaction import Compactor, GivenUp
from power_agent.drive.attempts import Attempts, answered, attempts_of
from power_agent.drive.calls import Calls
from power_agent.drive.ledger import Ledger
from power_agent.drive.tasks import looked_at, stopped
from power_agent.errors import IllegalMove, InvalidInput, ModelError
from power_agent.limits import MAX_COMPACTIONS, MAX_SUMMARY_ATTEMPTS, Limits
from power_agent.machine import AskModel, turn_deadline, used_up
from power_agent.messages import Message, Text
from power_agent.ports import Model, ModelReply, ModelRequest, Tried
from power_agent.sink import opened

WHAT_TO_DO = "Name a model that can sum it up: models={'summary': …}; raise Limits.max_context_tokens; or pass compaction=[TrimOutputs(), SlidingWindow()], which ask nobody."
_log = logging.getLogger("power_agent")


class Summaries:
    """Makes one session's context smaller, or remembers that nothing does."""

    def __init__(self, ledger: Ledger, attempts: Attempts, calls: Calls, compactor: Compactor) -> None:
        self._ledger = ledger
        self._attempts = attempts
        self._calls = calls
        self._compactor = compactor
        self._stuck: tuple[int, int] | None = None  # where nothing made the context smaller
        self._tried = 0
        self._warned: int | None = None
        self._limits: Limits | None = None
        self._watching = asyncio.Lock()
        self._asked_for: asyncio.Future[None] | None = None  # None: nobody is asked to make anything smaller

    @property
    def stuck(self) -> bool:
        """Whether nothing makes the context as it stands smaller."""
        return self._stuck is not None and self._stuck == self._words()

    @property
    def _summariser(self) -> Model:
        return self._compactor.summariser(self._ledger.state)

    def begin_anew(self) -> None:
        """The context fits: whatever is tried from here on is tried for another reason."""
        self._tried = 0

    def _words(self) -> tuple[int, int]:
        """Name the context as it stands: the turn, and where its last words are."""
        transcript = self._ledger.state.transcript
        return self._ledger.state.turns, transcript[-1].seq if transcript else 0

    async def compact(self, by: str | None = None, *, asked_for: bool = False, limits: Limits | None = None) -> None:
        """Make the context smaller, or remember that nothing does. Between turns others' `limits` may hold than those of the last turn."""
        self._limits = limits
        self._attempts.check_priced(self._summariser)
        here = self._words()
        if not await self._ledger.keep():  # a range names events by their place: they must have one
            return
        self._tried += 1
        if self._ledger.state.place == "asking" or self._tried > MAX_COMPACTIONS:
            self._stuck = here
            return
        proposing = self._compactor.propose(self._ledger.state, self._ask_watched, request=await self._about(), by=by, asked_for=asked_for)
        try:
            fact = await self._while_wanted(proposing)
        except GivenUp:
            return
        if isinstance(fact, str):
            self._say_why(fact, logging.INFO if asked_for else logging.WARNING)
        if isinstance(fact, str) or not await self._keep_compacted(fact):
            self._stuck = here

    async def _while_wanted(self, proposing: Coroutine[Any, Any, e.ContextCompacted | str]) -> e.ContextCompacted | str:
        """Wait for what the strategies propose, but no longer than the turn goes on: they may be anybody's. The log is watched by who holds
        the lock, here or where one of them asks for a summary.
        """
        task = asyncio.create_task(proposing)
        task.add_done_callback(looked_at)
        try:
            while not task.done():
                self._asked_for = asyncio.get_running_loop().create_future()
                async with self._watching:
                    await self._ledger.pause({task, self._asked_for})
                    if not task.done() and not self._asked_for.done() and self._is_over():
                        _log.warning("What was to make the context of session %r smaller was stopped: its turn goes on no longer.", self._ledger.kept.session)
                        raise GivenUp
            return task.result()
        finally:
            self._asked_for = None
            await stopped([task])

    def _is_over(self) -> bool:
        state = self._ledger.state
        deadline = None if state.turn is None else turn_deadline(state.turn)
        return state.cancel is not None or (deadline is not None and self._ledger.clock.now() >= deadline)

    async def _ask_watched(self, instructions: str, text: str) -> str:
        refused = InvalidInput("A strategy asked for a summary when it was over, or in another event loop.", hint="Await what it asks for before it returns.")
        if self._asked_for is None or self._asked_for.get_loop() is not asyncio.get_running_loop():
            raise refused
        if not self._asked_for.done():
            self._asked_for.set_result(None)
        async with self._watching:
            if self._asked_for is None:
                raise refused
            return await self._ask_for_summary(instructions, text)

    def _say_why(self, why: str, level: int) -> None:
        """Say once in a turn that nothing makes the context smaller. Who asked for it hears so anyway; else it goes on to grow, and each turn tries again."""
        state = self._ledger.state
        if self._warned != state.turns:
            self._warned = state.turns
            tokens, bound = self._compactor.coming(state), self._compactor.bounds(state).soft
            _log.log(level, "Nothing makes the context of session %r smaller: %d tokens, and %s are meant (%s). %s", state.session, tokens, bound or "fewer", why, WHAT_TO_DO)

    async def _keep_compacted(self, fact: e.ContextCompacted) -> bool:
        """Keep a compaction in one commit with the answer it was made from. What others add meanwhile does not touch its range."""
        while True:
            try:
                self._ledger.stage(fact)
            except (IllegalMove, InvalidInput) as error:
                _log.warning("A compaction of session %r cannot be kept: %s", self._ledger.kept.session, error)
                return False
            if await self._ledger.keep():
                return True

    async def _ask_for_summary(self, instructions: str, text: str) -> str:
        """Ask the model for summaries; each attempt is kept and paid for. Raises when there is nothing to be had."""
        count = self._compactor.count
        tried: list[Tried] = []
        while self._ledger.state.cancel is None:
            self._check_limits()
            before = self._ledger.state.request or self._ledger.state.setback
            step = AskModel(self._ledger.state.turns, 0, before.attempt + 1 if before is not None and before.purpose == "summary" else 1)
            model = self._attempts.chosen(self._summariser, step.attempt, tried)
            cost, tokens = self._attempts.reserve(model, count(instructions) + count(text))
            self._ledger.stage(
                e.ModelAsked(turn=step.turn, round=0, attempt=step.attempt, purpose="summary", model=model.name, reserved_tokens=tokens, reserved_cost_nano_usd=cost)
            )
            if not await self._ledger.keep():
                continue
            request = ModelRequest(
                model=model.name,
                system=instructions,
                messages=(Message("user", (Text(text),)),),
                session=self._ledger.state.session,
                replies=self._ledger.state.replies,
                attempt=step.attempt,
                purpose="summary",
                tokens=tokens,
            )
            try:
                reply = await self._attempts.until_cancelled(model, request, lambda _kind, _text: None)
            except Exception as raised:  # noqa: BLE001  an adapter's bug is no reason to end the turn
                error = raised if isinstance(raised, ModelError) else ModelError(f"{type(raised).__name__}: {raised}")
                tried.append(Tried(model=model.name, final=not error.retryable))
                await self._summary_failed(step, error)
                continue
            if reply is None:
                break
            self._ledger.stage(answered(step, model, reply))
            return _summary_of(reply)
        raise GivenUp

    def _check_limits(self) -> None:
        """Refuse to ask for a summary where the limits leave no request."""
        reached = used_up(self._ledger.state, self._limits or self._ledger.config.limits, self._ledger.clock.now())
        if reached is not None:
            _log.warning("No summary is asked for in session %r: it is at its limit (%s).", self._ledger.kept.session, reached)
            raise ModelError(f"No summary was asked for: the limit {reached} is reached.", unspent=True)

    async def _summary_failed(self, step: AskModel, error: ModelError) -> None:
        """Keep that an attempt failed and wait for the next one, or raise when there is none."""
        self._ledger.stage(failed := self._attempts.failed(step, error, attempts_of(self._summariser, MAX_SUMMARY_ATTEMPTS)))
        if failed.not_before is None:
            raise error
        while not await self._ledger.keep():
            pass
        turn = self._ledger.state.turn
        until = min(failed.not_before, failed.not_before if turn is None else turn_deadline(turn) or failed.not_before)
        while self._ledger.state.cancel is None and self._ledger.clock.now() < until:
            await self._calls.wait(until)

    async def _about(self) -> str:
        """Return the words of the request that is being worked on."""
        texts = list[str]()
        for seq in self._ledger.state.turn.about if self._ledger.state.turn is not None else ():
            for record in await self._ledger.store.read(self._ledger.state.session, after=seq - 1, upto=seq):
                event = opened(record).event
                texts += [part.text for part in event.parts if isinstance(part, Text)] if isinstance(event, e.InputReceived) else []
        return "\n\n".join(texts)


def _summary_of(reply: ModelReply) -> str:
    """Return the text of a summary that can be relied on: a whole one."""
    text = "".join(part.text for part in reply.parts if isinstance(part, Text)).strip()
    if not text or reply.finish not in {"stop", "other"}:
        raise ModelError(f"The summary is not usable: {len(text)} characters, finish {reply.finish!r}.")
    return text
