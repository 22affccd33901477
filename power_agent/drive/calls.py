"""Calls: judged, begun, waited for, given up, and what is done about those that are in doubt.

Only the tasks that run in this very process are remembered here; everything else is in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from power_agent import events as e
from power_agent.drive.attempts import CANCELLED, OVER
from power_agent.drive.counsel import MOVED, Counsel
from power_agent.drive.ledger import Ledger
from power_agent.drive.tasks import stopped
from power_agent.errors import IllegalMove, InvalidInput
from power_agent.executor import STOPPED, Executor, wanted
from power_agent.givens import name_of
from power_agent.limits import CANCEL_GRACE_SECONDS, EFFECT_MARGIN, LOOK_SECONDS
from power_agent.machine import RunCalls, earliest_deadline
from power_agent.outcomes import Done, lost
from power_agent.ports import ToolContext
from power_agent.state import CallState

_log = logging.getLogger("power_agent")


class Calls:
    """The calls of one session, as far as they are in the hands of its owner."""

    def __init__(self, ledger: Ledger, counsel: Counsel, executor: Executor) -> None:
        self._ledger = ledger
        self._counsel = counsel
        self._executor = executor
        self.running: dict[str, asyncio.Task[Done]] = {}
        self._contexts: dict[str, ToolContext] = {}
        self._recovering: set[str] = set()
        self.placeless: frozenset[str] = frozenset()  # judged, and not begun because nothing more had a place
        self._left_behind: list[tuple[str, Callable[[], bool]]] = []  # threads nobody can stop, by tool; each keeps its place
        self._told_of = 0  # the turn of which it was said that they take its places
        self._late: dict[str, asyncio.Task[Done]] = {}  # what such threads come to

    @property
    def blocked(self) -> bool:
        """Whether threads that were left behind hold every place."""
        return bool(self._left_behind) and sum(alive() for _, alive in self._left_behind) >= self._ledger.config.limits.max_parallel_calls

    def found(self) -> None:
        """Take up the calls that are in doubt already: the promises of their tools decide first."""
        self._recovering = {call.call.id for call in self._ledger.state.unresolved if call.place == "doubted"}

    async def recover(self) -> bool:
        """Do what is to be done about doubted calls; False: nothing is."""
        if not self._recovering:
            return False
        calls = self._ledger.state.calls
        doubted = [calls[name] for name in sorted(self._recovering & calls.keys())]
        doubted = [call for call in doubted if call.place == "doubted" and not call.permitted_by]
        if doubted:
            await self._recover(doubted)
        return bool(doubted)

    async def stop(self) -> None:
        """Stop what runs, whatever came of it."""
        await stopped(self.running.values())
        self.running.clear()

    async def interrupt(self) -> list[Done]:
        """Stop what runs, and return what is known of each."""
        running = list(self.running.values())
        await stopped(running)
        return [task.result() for task in running if task.done() and not task.cancelled() and task.exception() is None]

    def let_go(self) -> None:
        """Hear no more of late results: from here on nobody owns the session in whose name they could count."""
        for late in self._late.values():
            late.cancel()

    async def see_to(self, step: RunCalls) -> None:
        """Give up, doubt, judge and begin calls, as the step says."""
        cancel, calls = self._ledger.state.cancel, self._ledger.state.calls
        for name in step.abort:
            by, reason = ((cancel.by or "a person"), cancel.reason) if cancel else ("power_agent", "the turn is at its limit")
            self._ledger.stage(e.CallAborted(call=name, by=by, reason=reason))
        for name in step.expired:
            self._ledger.stage(e.CallDenied(call=name, by="deadline", reason="nobody answered in time"))
        reasons = {name: await self._executor.bury(self._ledger.state, calls[name]) for name in step.doubt}
        for name, reason in reasons.items():
            self._ledger.stage(e.CallDoubted(call=name, attempt=calls[name].attempt, reason=reason))
        if step.doubt:
            self._recovering |= set(step.doubt)
            return
        await self._judge(step.run)

    async def _judge(self, names: Sequence[str]) -> None:
        """Let each call have its verdict, and begin those that may run, as far as there are places."""
        for name in names:
            if not await self._guard(name):
                return
        starting = self._stage_verdicts(names)
        if starting:
            if await self._ledger.keep():
                await self._begin(starting)
        elif self.placeless and await self._ledger.keep():
            self._tell_of_threads()
            deadline = earliest_deadline(self._ledger.state.unresolved)
            soon = self._ledger.clock.now() + round(LOOK_SECONDS * 1000)
            await self.wait(min(deadline or soon, soon) if self._left_behind else deadline)  # a thread's end wakes nobody

    def _tell_of_threads(self) -> None:
        """Say once in a turn that calls wait for places which threads hold that nobody can stop."""
        turn = self._ledger.state.turn
        if not self._left_behind or turn is None or self._told_of == turn.number:
            return
        self._told_of = turn.number
        tools = ", ".join(sorted({tool for tool, _ in self._left_behind}))
        _log.warning("Session %s, turn %d: calls wait for places that threads of %s hold, which took too long and still run.", self._ledger.state.session, turn.number, tools)

    def _stage_verdicts(self, names: Sequence[str]) -> list[str]:
        """Stage the next fact about each call, and return those that begin. One without a place is judged once, so that a person is asked
        at once, and again when it has one: what counts is what is so when it begins.
        """
        starting, placeless = list[str](), list[str]()
        self._left_behind = [(tool, alive) for tool, alive in self._left_behind if alive()]
        places = self._ledger.config.limits.max_parallel_calls - len(self.running) - len(self._left_behind)
        for name in names:  # no await from here on: what is staged as started begins, or is dropped with the draft
            if name not in self._ledger.state.calls or self._ledger.state.calls[name].resolved:
                continue
            full = len(starting) >= places
            if full and name in self.placeless:
                placeless.append(name)
                continue
            fact = self._executor.judge(self._ledger.state, self._ledger.state.calls[name], self._ledger.clock.now())
            if full and isinstance(fact, e.CallStarted):
                placeless.append(name)
                continue
            if isinstance(fact, e.CallStarted):
                starting.append(name)
            self._ledger.stage(fact)
        self.placeless = frozenset(placeless)
        return starting

    async def _guard(self, name: str) -> bool:
        """Let the guards look at a call. False: the head moved while one of them thought, decide again."""
        for one in self._executor.guards(self._ledger.state, self._ledger.state.calls[name]):
            verdict = await self._counsel.consult(one, wanted(self._ledger.state, self._ledger.state.calls[name]))
            if verdict is MOVED or verdict is CANCELLED:
                return False
            if verdict is OVER:
                self._ledger.stage(e.CallAborted(call=name, by="power_agent", reason=f"the guard {name_of(one)} had not decided when the time of the turn was over"))
                break
            self._ledger.stage(*self._executor.guarded(self._ledger.state.calls[name], one, verdict))
            if name not in self._ledger.state.calls or self._ledger.state.calls[name].resolved:
                break
        return True

    async def _begin(self, names: Sequence[str]) -> None:
        """Start effects whose intent is durable, while a good part of the lease is left."""
        if self._ledger.clock.now() - self._ledger.kept.at > self._ledger.store.lease_ms * (1 - EFFECT_MARGIN):
            await self._ledger.look()
            await self._ledger.sink.renew(self._ledger.kept)
        self._recovering -= set(names)
        for name in names:
            call = self._ledger.state.calls[name]
            context = self._contexts[name] = self._executor.context(self._ledger.state, call)
            work = self._executor.run(self._ledger.state, call, context, self._ledger.config.limits.max_tool_seconds, self._ledger.config.limits.max_output_bytes_in_context)
            self.running[name] = asyncio.create_task(work, name=f"call {name}")

    async def _recover(self, calls: Sequence[CallState]) -> None:
        """Let the promises of the tools decide what happens to doubted calls; what nobody promised stays for a person.

        A call stays in `_recovering` until what was decided is in the log: when the head moves first, it is decided again.
        """
        for call in calls:
            promise, name = self._executor.promise(self._ledger.state, call), call.call.id
            if self._ledger.state.cancel is not None and promise == "rerun":
                self._ledger.stage(e.CallAborted(call=name, by=self._ledger.state.cancel.by or "a person", reason=self._ledger.state.cancel.reason))
            elif self._ledger.state.cancel is None and promise in {"rerun", "keyed"}:
                self._ledger.stage(e.CallRetried(call=name, by=f"recovery ({promise})"))
            elif self._ledger.state.cancel is None and promise == "probe":
                if await self._ledger.keep():
                    await self._probe(call)
                return
            else:
                self._recovering.discard(name)

    async def _probe(self, call: CallState) -> None:
        """Ask whether a call happened. The question has no effects, so it may be asked again after a crash."""
        name = call.call.id
        done = await self._executor.probe(call, self._executor.context(self._ledger.state, call), self._ledger.config.limits.max_output_bytes_in_context)
        await self._ledger.look()
        again = bool(done.facts) and isinstance(done.facts[0], e.CallRetried)
        if not done.facts or (again and self._executor.objection(self._ledger.state, call) is not None):
            self._recovering.discard(name)
        elif name in self._ledger.state.calls and self._ledger.state.calls[name].place == "doubted":
            self.stage_outcome(done)

    async def wait(self, until: int | None) -> None:
        """Wait for a call that runs here, for a moment, or for news from outside; stage what came."""
        known = self._ledger.kept
        while self._ledger.kept is known and not self._collect():
            if self._ledger.state.cancel is not None:
                await self._wind_down()
                return
            seconds = None if until is None else (until - self._ledger.clock.now()) / 1000
            if seconds is not None and seconds <= 0:
                return
            await self._ledger.pause({*self.running.values(), *self._late.values()}, seconds)

    def _collect(self) -> bool:
        """Stage the outcomes of calls that are done."""
        finished = [name for name, task in self.running.items() if task.done()]
        for name in finished:
            task, call = self.running.pop(name), self._ledger.state.calls.get(name)
            context = self._contexts.pop(name, None)
            if call is None:
                continue
            self.stage_outcome(Done((lost(call, STOPPED),)) if task.cancelled() else task.result())
            if context is not None and context.still_alive():
                self._left_behind.append((call.call.name, context.still_alive))
                self._late[name] = asyncio.create_task(self._executor.late(call, context, self._ledger.config.limits.max_output_bytes_in_context))
        return self._collect_late() or bool(finished)

    def _collect_late(self) -> bool:
        """Stage what threads came to that were given up: it counts while their calls are in doubt."""
        ended = [name for name, task in self._late.items() if task.done()]
        for name in ended:
            done = self._late.pop(name).result()
            if name in self._ledger.state.calls and self._ledger.state.calls[name].place == "doubted":
                self.stage_outcome(done)
        return bool(ended)

    def stage_outcome(self, done: Done) -> None:
        """Stage what came of a call; it is dropped when a person ended the call first."""
        try:
            self._ledger.stage(*done.facts, blobs=done.blobs)
        except IllegalMove:
            return
        except InvalidInput as error:  # too deep, too large: it happened all the same
            call, attempt = getattr(done.facts[0], "call", ""), getattr(done.facts[0], "attempt", 1)
            failure = e.Failure(code=error.code, message=f"It ran; only its result cannot be kept: {error.message[:1_000]}")
            self._ledger.stage(e.CallFailed(call=call, attempt=attempt, failure=failure, by=getattr(done.facts[0], "by", None)))

    async def _wind_down(self) -> None:
        """The turn is cancelled: tell the tools, give them a moment, stop them, and stage what is known of each."""
        for context in self._contexts.values():
            context.cancelled = True
        if self.running:
            await asyncio.wait(self.running.values(), timeout=CANCEL_GRACE_SECONDS)
            await stopped(self.running.values())
            for name, task in list(self.running.items()):
                if not task.done():  # it does not even stop: leave it behind
                    self.running.pop(name)
                    self.stage_outcome(Done((lost(self._ledger.state.calls[name], STOPPED),)))
        self._collect()
