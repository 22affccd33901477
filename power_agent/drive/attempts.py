"""One attempt at a model: who makes it, what it may cost, waiting for its end, and the fact that came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from power_agent import events as e
from power_agent.compaction import window_of
from power_agent.drive.ledger import Ledger
from power_agent.drive.tasks import looked_at, own_failure, stopped
from power_agent.errors import ContextTooLong, ModelError, PriceUnknown
from power_agent.gauge import answer_tokens
from power_agent.limits import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, MAX_MODEL_ATTEMPTS
from power_agent.machine import AskModel, turn_deadline
from power_agent.messages import AnswerPart, Call, Usage
from power_agent.ports import Glimpse, Model, ModelReply, ModelRequest, SoFar, Tried
from power_agent.word import replace

CANCELLED, OVER = object(), object()
"""Why somebody is not waited for any more: the turn was cancelled or ended by others; its time was over."""
RESERVED = "what was reserved, because no tokens were counted"
"""The source of a cost that nobody told, where a limit of money has to go by something."""


class Attempts:
    """Makes attempts, for an answer in a turn or for a summary."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def chosen(self, model: Model, attempt: int, tried: Sequence[Tried], last: str | None = None) -> Model:
        """Return who makes an attempt: the model, or of several the one that they choose."""
        choose: Callable[[SoFar], Model] | None = getattr(model, "choose", None)
        return model if choose is None else choose(SoFar(session=self._ledger.state.session, attempt=attempt, tried=tuple(tried), last=last))

    def check_priced(self, *models: Model) -> None:
        """Refuse to spend money within a limit where nobody knows what a request costs."""
        if not self._counts_money:
            return
        unknown = [name for one in models if _price(one, Usage(1, 1)) is None for name in getattr(one, "unpriced", None) or (one.name,)]
        if unknown:
            names = ", ".join(dict.fromkeys(unknown))
            raise PriceUnknown(f"There is a limit of money, and nobody knows what {names} costs. Nothing was asked.", models=names)

    @property
    def _counts_money(self) -> bool:
        limits = self._ledger.config.limits
        return limits.max_cost_usd_per_turn is not None or limits.max_cost_usd_per_session is not None

    def _paid(self, model: Model, reply: ModelReply) -> ModelReply:
        """Return a reply with its cost, where the model does not tell it with the reply but by its `cost`."""
        if reply.cost_nano_usd is not None:
            return reply
        if reply.usage.total:
            cost, source = _price(model, reply.usage), reply.price_source or model.name
        else:
            request = self._ledger.state.request
            cost, source = request.reserved_cost_nano_usd if request is not None and self._counts_money else None, RESERVED
        return reply if cost is None else replace(reply, cost_nano_usd=cost, price_source=source)

    def reserve(self, model: Model, tokens: int) -> tuple[int | None, int]:
        """Return what a request of that size may cost and how many tokens it may use, its answer included."""
        answer, most = answer_tokens(window_of(model), self._ledger.config.settings), getattr(model, "max_output_tokens", None)
        answer = min(answer, most) if isinstance(most, int) else answer
        return _price(model, Usage(tokens, answer)), tokens + answer

    async def until_cancelled(self, model: Model, request: ModelRequest, glimpse: Glimpse) -> ModelReply | None:
        """Ask and wait for an answer, with what it cost; None when the turn was cancelled first."""
        with own_failure():
            asked = model.ask(request, glimpse)
        reply = await waited(self._ledger, asked)
        if reply is CANCELLED:
            return None
        if reply is OVER:
            raise ModelError("The time of the turn was over before the answer came.", retryable=True)
        if not isinstance(reply, ModelReply):
            raise ModelError(f"The model returned {type(reply).__name__}; its ask() must return a ModelReply, or raise ModelError.")
        return self._paid(model, reply)

    def failed(self, step: AskModel, error: ModelError, most: int = MAX_MODEL_ATTEMPTS) -> e.ModelFailed:
        """Return the fact that an attempt failed, and when the next one may be made: of the same model, or of another one of a chain."""
        again = (error.retryable or error.again_in is not None) and step.attempt < most and not isinstance(error, ContextTooLong)
        wait = 0.0
        if again and error.again_in is not None:
            wait = min(error.again_in, MAX_BACKOFF_SECONDS)
        elif again:
            wait = max(backoff(step.attempt), min(max(error.retry_after or 0.0, 0.0), MAX_BACKOFF_SECONDS))
        failure = e.Failure(code=error.code, message=error.message[:4_000])
        not_before = self._ledger.clock.now() + round(wait * 1000) if again else None
        return e.ModelFailed(round=step.round, attempt=step.attempt, failure=failure, retryable=error.retryable, not_before=not_before, lost=not error.unspent)


async def waited(ledger: Ledger, work: Awaitable[Any]) -> Any:
    """Wait for what somebody else's code comes to, but no longer than the turn goes on: else CANCELLED or OVER, and the code is stopped."""
    here = _place(ledger)
    alone = asyncio.shield(work) if asyncio.isfuture(work) else work  # a future may be somebody else's as well
    task: asyncio.Task[Any] = asyncio.ensure_future(cast("asyncio.Future[Any]", alone))
    task.add_done_callback(looked_at)
    try:
        while not task.done():
            await ledger.pause({task})
            if not task.done() and (ledger.state.cancel is not None or _place(ledger) != here):
                return CANCELLED
            deadline = None if ledger.state.turn is None else turn_deadline(ledger.state.turn)
            if not task.done() and deadline is not None and ledger.clock.now() >= deadline:
                return OVER
        with own_failure():
            return await task
    finally:
        if not task.done():
            await stopped([task])


def _place(ledger: Ledger) -> tuple[int, int]:
    """Name the turn and the request that are open."""
    turn, request = ledger.state.turn, ledger.state.request
    return 0 if turn is None else turn.number, 0 if request is None else request.seq


def attempts_of(model: Model, most: int = MAX_MODEL_ATTEMPTS) -> int:
    """Return how many attempts an answer may take."""
    wanted = getattr(model, "attempts", most)
    return max(wanted, most) if isinstance(wanted, int) else most


def _price(model: Model, usage: Usage) -> int | None:
    price: Callable[[Usage], int | None] | None = getattr(model, "cost", None)
    return None if price is None else price(usage)


def answered(step: AskModel, asked: Model, reply: ModelReply) -> e.ModelAnswered:
    """Turn a reply into the fact, giving each call our id. Who answered is said where that is not who was asked."""
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
        model=None if reply.model in {asked.name, asked.name.partition(":")[2]} else reply.model,
        cost_nano_usd=reply.cost_nano_usd,
        price_source=reply.price_source,
    )


def backoff(attempt: int) -> float:
    """Return how long to wait after a failed attempt; tenacity knows the formula."""
    from tenacity import RetryCallState, wait_exponential, wait_random  # noqa: PLC0415  only when something failed

    call = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    call.attempt_number = attempt
    waits = wait_exponential(multiplier=FIRST_BACKOFF_SECONDS, max=60.0) + wait_random(0.0, FIRST_BACKOFF_SECONDS)
    return float(waits(call))
