"""Makes a context smaller, as a fact: which exchanges may go, what the strategies propose, which proposal is kept.

    measure   how large is it, how large may it be
    propose   the strategies, in their order; they may ask a model, which the drive records and pays for
    judge     a proposal counts when it follows from the log, makes the context smaller and keeps what has to stay

What stays: the first instructions word for word while they are short, the last exchanges, and the request that is being worked on,
word for word behind the summary that folds it away. A range ends only where the context may be cut, so that no call is parted
from its output, and begins behind the last one, so that ranges never overlap. Nothing here writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from power_agent import events as e
from power_agent.context import cut_places, shown
from power_agent.errors import IllegalMove, LogError, ModelError, StoreError
from power_agent.events import Envelope
from power_agent.gauge import Bounds, Count, bounds, crude, estimated, of_coming, of_context, of_message
from power_agent.givens import fitting
from power_agent.limits import ENOUGH_SHARE, FIRST_SHARE, MAX_REQUEST_CHARACTERS, RECENT_SHARE, ROOM_SHARE
from power_agent.messages import Message, Output
from power_agent.offer import answering, offered
from power_agent.ports import Crowded, Exchange, Model, Smaller, Strategy, Tools
from power_agent.report import ContextReport, report
from power_agent.state import Said, SessionState, Summed, evolve
from power_agent.strategies import Summarise, TrimOutputs, shortened
from power_agent.word import replace

REQUEST = "{summary}\n\n[The request that is being worked on, word for word]\n{request}"
NOTHING = "nothing may go"
_log = logging.getLogger("power_agent")

Ask = Callable[[str, str], Awaitable[str]]
"""Asks the model for summaries: instructions and a text, answered by a text."""


class GivenUp(Exception):
    """Nobody wants the compaction any more: the turn was cancelled, or the session is somebody else's."""


class Compactor:
    """Measures contexts and finds what makes them smaller. It keeps nothing between sessions. `aside` is the share of a bound that
    is kept free for what is shown beside the log.
    """

    def __init__(
        self, model: Model, tools: Tools, *, strategies: Sequence[Strategy] | None = None, summariser: Model | None = None, count: Count = crude, aside: float = 0.0
    ) -> None:
        self._aside = aside
        self._model = model
        self._tools = tools
        self._strategies: tuple[Strategy, ...] = (TrimOutputs(), Summarise()) if strategies is None else tuple(strategies)
        for one in self._strategies:
            fitting(one, "strategy", ("name", "__call__"), "Pass Summarise(), TrimOutputs(), SlidingWindow(), or an object with a name and an async __call__.")
        self._summariser = summariser
        self.count = count

    # -- measuring -----------------------------------------------------------------------------------------------------

    def bounds(self, state: SessionState) -> Bounds:
        """Return how large the context of a session may be."""
        config = state.turn.config if state.turn is not None else state.config
        found = bounds(window_of(answering(self._model, state)), config.limits.max_context_tokens, config.settings)
        return found if found.soft is None else replace(found, soft=int(found.soft * (1 - self._aside)))

    def tokens(self, state: SessionState) -> int:
        """Return how large it is."""
        return of_context(state, offered(self._tools, state), self.count)

    def coming(self, state: SessionState) -> int:
        """Return how large the next request is."""
        return self.tokens(state) + of_coming(state, self.count)

    def report(self, state: SessionState) -> ContextReport:
        """Return what fills the context of a session."""
        return report(state, offered(self._tools, state), self.bounds(state), self.count)

    def summariser(self, state: SessionState) -> Model:
        """Return who makes summaries: the model that was named for it, else whoever answers."""
        return self._summariser or answering(self._model, state)

    # -- making it smaller ---------------------------------------------------------------------------------------------

    async def propose(self, state: SessionState, ask: Ask, *, request: str = "", by: str | None = None, asked_for: bool = False) -> e.ContextCompacted | str:
        """Return the compaction to be kept, or why nothing can be made smaller. `request` is what is being worked on."""
        plan = _Plan(self, state, request, by, asked_for=asked_for)
        found, why = list[e.ContextCompacted](), list[str]()
        for strategy in self._strategies:
            proposal = await _asked(strategy, plan.crowded(ask, self._ask_room(state)))
            judged = proposal if isinstance(proposal, str) else plan.judged(strategy.name, proposal)
            if isinstance(judged, str):
                why += [f"{strategy.name}: {judged}"] if judged != NOTHING else []
            elif (judged.tokens_after or 0) <= plan.enough:
                return judged
            else:
                found.append(judged)
        return min(found, key=lambda one: one.tokens_after or 0) if found else "; ".join(why) or NOTHING

    def _ask_room(self, state: SessionState) -> int | None:
        window = window_of(self.summariser(state))
        return None if window is None else bounds(window, None).soft

    def estimate(self, state: SessionState, offer: SessionState) -> int:
        """Estimate a whole context without what was measured, with the tools that a state offers: the first compaction brings the
        tools for recalling, and must not seem to have failed because of them.
        """
        return estimated(state, offered(self._tools, offer), self.count)


class _Plan:
    """One context that is to become smaller: what may go, what stays, and how large the rest would be."""

    def __init__(self, compactor: Compactor, state: SessionState, request: str, by: str | None, *, asked_for: bool) -> None:
        self._compactor = compactor
        self._state = state
        self._request = request
        self._by = by
        limits = compactor.bounds(state)
        self.tokens = compactor.tokens(state)
        refused = state.turn is not None and state.turn.overfull
        self.bound = min(limits.soft or self.tokens, self.tokens) if refused or asked_for or limits.soft is None else limits.soft
        self._room, self.enough = int(self.bound * ROOM_SHARE), int(self.bound * ENOUGH_SHARE)
        self._urgent = refused or (limits.hard is not None and compactor.coming(state) > limits.hard)
        self._first = self._begin()
        self._exchanges, self._recent = self._parted()

    def _begin(self) -> int:
        """Return the first seq of the next range: behind the last one, and behind first instructions that are to stay."""
        transcript = self._state.transcript
        if self._state.compacted_to or not len(transcript) or not isinstance(transcript[0], Said):
            return self._state.compacted_to + 1
        seq, tokens = transcript[0].seq, 0
        for entry, message in shown(self._state):
            if entry.seq != seq:
                break
            tokens += of_message(message, self._compactor.count)
        return seq + 1 if tokens <= self.bound * FIRST_SHARE else 1

    def _parted(self) -> tuple[tuple[Exchange, ...], tuple[Exchange, ...]]:
        """Part the exchanges into those that may go and the last ones, which stay."""
        places, count = set(cut_places(self._state)), self._compactor.count
        exchanges, open_ones = list[Exchange](), list[tuple[int, Message]]()
        may = [(entry.seq, message) for entry, message in shown(self._state) if entry.seq >= self._first and not isinstance(entry, Summed)]
        for place, (seq, message) in enumerate(may):
            open_ones.append((seq, message))
            if seq in places and (place + 1 == len(may) or may[place + 1][0] != seq):  # what happened at one moment stays together
                messages = tuple(one for _, one in open_ones)
                exchanges.append(Exchange(first=open_ones[0][0], last=seq, messages=messages, tokens=sum(of_message(one, count) for one in messages)))
                open_ones = []
        stay, tokens = 0, 0
        for exchange in reversed(exchanges):
            tokens += exchange.tokens
            if stay and tokens > self.bound * RECENT_SHARE:
                break
            stay += 1
        return tuple(exchanges[: len(exchanges) - stay]), tuple(exchanges[len(exchanges) - stay :])

    def crowded(self, ask: Ask, ask_room: int | None) -> Crowded:
        """Return what a strategy is shown."""
        return Crowded(
            session=self._state.session,
            exchanges=self._exchanges,
            recent=self._recent,
            summaries=tuple(entry.text for entry in self._state.transcript if isinstance(entry, Summed)),
            tokens=self.tokens,
            room=self._room,
            urgent=self._urgent,
            count=self._compactor.count,
            ask=ask,
            ask_room=ask_room,
        )

    def judged(self, strategy: str, proposal: Smaller | None) -> e.ContextCompacted | str:
        """Turn a proposal into a fact, or say why not: it is not possible, loses what has to stay, or does not help."""
        if proposal is None or not (proposal.trimmed or (proposal.summary or "").strip()):
            return NOTHING
        summary = (proposal.summary or "").strip()
        event = self._folded(strategy, proposal, summary) if summary else self._trimmed(strategy, proposal)
        if event is None or not self._may_trim(proposal):
            return "what it proposes has to stay"
        try:
            after = evolve(self._state, Envelope(self._state.session, self._state.seq + 1, self._state.epoch, self._state.at, event, kind=event.kind))
        except IllegalMove as refused:
            _log.warning("What the strategy %s proposes for session %r is not possible: %s", strategy, self._state.session, refused)
            return "what it proposes is not possible"
        before, left, shown_then = (self._compactor.estimate(*pair) for pair in ((self._state, self._state), (after, self._state), (after, after)))
        if -(-self.tokens * left // before) >= self.tokens:
            return "what it proposes is not smaller"
        return replace(event, tokens_before=self.tokens, tokens_after=-(-self.tokens * shown_then // before))  # by the measure of what it was

    def _may_trim(self, proposal: Smaller) -> bool:
        """Say whether outputs that are to be trimmed are none of those that stay."""
        may = (*self._exchanges, *(self._recent if self._urgent else ()))
        outputs = {part.call for one in may for message in one.messages for part in message.parts if isinstance(part, Output)}
        return outputs.issuperset(trim.call for trim in proposal.trimmed)

    def _folded(self, strategy: str, proposal: Smaller, summary: str) -> e.ContextCompacted | None:
        folded = [exchange for exchange in self._exchanges if exchange.last <= proposal.upto]
        if not folded or folded[-1].last != proposal.upto:
            return None
        replaces = tuple(entry.seq for entry in self._state.transcript if isinstance(entry, Summed))
        if self._request and self._hides_request(proposal.upto):
            summary = REQUEST.format(summary=summary, request=shortened(self._request, MAX_REQUEST_CHARACTERS))
        return e.ContextCompacted(from_seq=self._first, to_seq=proposal.upto, summary=summary, replaces=replaces, trimmed=proposal.trimmed, strategy=strategy, by=self._by)

    def _hides_request(self, upto: int) -> bool:
        """Say whether nothing of the request that is being worked on would be left standing."""
        turn = self._state.turn
        return turn is not None and not any(isinstance(entry, Said) and entry.input in turn.about and not self._first <= entry.seq <= upto for entry in self._state.transcript)

    def _trimmed(self, strategy: str, proposal: Smaller) -> e.ContextCompacted | None:
        calls = {trim.call for trim in proposal.trimmed}
        may = (*self._exchanges, *(self._recent if self._urgent else ()))
        of = [one for one in may if any(getattr(part, "call", None) in calls for message in one.messages for part in message.parts)]
        if not of:
            return None
        return e.ContextCompacted(from_seq=of[0].first, to_seq=of[-1].last, summary=None, trimmed=proposal.trimmed, strategy=strategy, by=self._by)


async def _asked(strategy: Strategy, crowded: Crowded) -> Smaller | str | None:
    """Ask a strategy. One that fails has nothing to propose, and says why."""
    try:
        return await strategy(crowded)
    except (GivenUp, LogError, StoreError):  # not the strategy's fault: the session cannot go on here
        raise
    except ModelError as error:
        return f"it got no answer: {error}"
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return "it was cancelled from within"
    except Exception as error:  # noqa: BLE001  whatever a user's own raises
        _log.exception("The strategy %s failed for session %r.", strategy.name, crowded.session)
        return f"it failed: {type(error).__name__}"


def window_of(model: Model) -> int | None:
    """Return the window of a model, if it says how large that is."""
    window = getattr(model, "context_window", None)
    return window if isinstance(window, int) and window > 0 else None
