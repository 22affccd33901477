"""What guards say: before a request, before a call, at the end of a turn; and whether an answer has the shape that was asked for.

A guard may think for long, and while it thinks others may add facts: then its verdict is about the past and does not count.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable
from typing import Any, cast

from power_agent import events as e
from power_agent.drive.attempts import CANCELLED, OVER, waited
from power_agent.drive.ledger import Ledger
from power_agent.drive.tasks import dropped, own_failure
from power_agent.errors import OutputInvalid
from power_agent.givens import name_of
from power_agent.guards import AnyGuard, Ending, Guards, settled
from power_agent.limits import MAX_MISSHAPEN_ANSWERS, MAX_OBJECTIONS
from power_agent.machine import EndTurn
from power_agent.messages import OutputShape, Text
from power_agent.outputs import Outputs
from power_agent.policy import Refuse
from power_agent.state import Answered, Turn

MOVED = object()
"""A guard thought so long that others added facts: what it says is about the past."""
MISSHAPEN = "Your answer does not have the shape that was asked for:\n{errors}\nGive the whole answer again in that shape, and nothing else."
_log = logging.getLogger("power_agent")


class Counsel:
    """Asks guards on behalf of one drive."""

    def __init__(self, ledger: Ledger, guards: Guards, outputs: Outputs) -> None:
        self._ledger = ledger
        self._guards = guards
        self._outputs = outputs

    async def consult(self, one: AnyGuard, subject: Any) -> Any:
        """Ask a guard: its verdict, what it raised, MOVED when the head moved while it thought, or why it was stopped (CANCELLED, OVER)."""
        try:
            with own_failure():
                verdict: Any = one(subject)
        except Exception as error:  # noqa: BLE001  what could not be looked at does not happen
            return error
        if not inspect.isawaitable(verdict):
            return verdict
        if not await self._ledger.keep():
            await dropped(verdict)
            return MOVED
        known = self._ledger.kept
        verdict = await waited(self._ledger, _thought(verdict))
        if verdict is CANCELLED or verdict is OVER:
            return verdict
        await self._ledger.look()  # it may have thought for long
        return verdict if self._ledger.kept is known else MOVED

    async def held_up(self, step: EndTurn) -> bool:
        """Look at an answer's shape and let the guards look at the end of a turn. True: there is an objection, or the head moved; decide again."""
        turn = cast("Turn", self._ledger.state.turn)
        last = self._ledger.state.transcript[-1]
        text = "".join(part.text for part in last.parts if isinstance(part, Text)) if isinstance(last, Answered) else ""
        if turn.output is not None and self._misshapen(turn, turn.output, text):
            return True
        if turn.objections >= MAX_OBJECTIONS:
            return False
        for one in self._guards.at("end"):
            verdict = await self.consult(one, Ending(session=self._ledger.kept.session, turn=step.turn, text=text, rounds=turn.round, objections=turn.objections))
            if verdict is MOVED or verdict is CANCELLED:
                return True
            if verdict is OVER:  # it may have had an objection
                self._ledger.stage(e.TurnEnded(turn=step.turn, status="limit", reason="max_turn_seconds"))
                return True
            if isinstance(verdict, Exception):
                _log.warning("The guard %s failed at the end of turn %s of session %r, and is passed over: %r", name_of(one), step.turn, self._ledger.kept.session, verdict)
                continue
            objection = settled(verdict, "end")
            if isinstance(objection, Refuse):
                self._ledger.stage(
                    e.GuardDecided(guard=name_of(one), at="end", verdict="refused", reason=objection.reason),
                    e.NoteAdded(text=f"Not finished yet: {objection.reason}", why=f"guard {name_of(one)}"),
                )
                return True
        return False

    def _misshapen(self, turn: Turn, shape: OutputShape, text: str) -> bool:
        """Say whether an answer has another shape than it must have. The model is told what is wrong; in the end the turn fails."""
        try:
            self._outputs.value(shape, text)
        except OutputInvalid as error:
            why = error.message[:4_000]
            self._ledger.stage(e.GuardDecided(guard=e.OUTPUT, at="end", verdict="refused", reason=why), e.NoteAdded(text=MISSHAPEN.format(errors=why), why=e.OUTPUT))
            if turn.misshapen + 1 >= MAX_MISSHAPEN_ANSWERS:  # the note is for whoever resumes it
                failure = e.Failure(code=error.code, message=why, details={"answer": text[:4_000]})
                self._ledger.stage(e.TurnEnded(turn=turn.number, status="failed", reason=error.code, failure=failure))
            return True
        return False


async def _thought(verdict: Awaitable[Any]) -> Any:
    """Wait for a verdict; return what its guard raised: that is a verdict, too."""
    try:
        with own_failure():
            return await verdict
    except Exception as error:  # noqa: BLE001  what could not be looked at does not happen
        return error
