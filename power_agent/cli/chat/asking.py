"""What a person decides, in place. What is shown is exactly what will run, and only a word that was typed behind it decides.

Nothing here runs anything: a decision is a fact, by the same verb that `settle` uses, and the turn goes on afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

from power_agent.cli.chat.keys import Keys
from power_agent.cli.chat.screen import Screen
from power_agent.cli.deciding import due_of, in_question, me, possible, released
from power_agent.cli.saying import Part
from power_agent.errors import PowerAgentError
from power_agent.loop import StatefulAgentLoop
from power_agent.results import PendingCall, pending_of
from power_agent.settling import Abort, Approve, Decision, Deny, Result, Retry
from power_agent.state import SessionState

WORDS = {"approve": "yes", "deny": "no", "retry": "retry", "result": "result …", "abort": "abort"}
MEANS = {
    "approve": "runs exactly this, once",
    "deny": "does not run it; what you add is told to the model",
    "retry": "runs it again: it did not happen, or may happen twice",
    "result": "it happened, and this came of it",
    "abort": "ends it without an outcome",
}
LATER = "later"


class Choice(NamedTuple):
    """A word that may be typed, and what it does."""

    word: str
    does: str


def for_a_person(state: SessionState) -> list[PendingCall]:
    """Return the calls about which only a person can say something."""
    decided = released(state)
    return [call for call in pending_of(state) if call.state in {"waiting", "doubted"} and call.id not in decided]


class Asking:
    """Asks about calls that wait, one after the other."""

    def __init__(self, screen: Screen, keys: Keys) -> None:
        self._screen = screen
        self._keys = keys

    async def settled(self, loop: StatefulAgentLoop, session: str) -> bool:
        """Have everything decided that waits for a person; False when they want to do so later."""
        while calls := for_a_person(state := await loop.state(session)):
            call = calls[0]
            decision = await self._decided(call, cancelled=state.cancel is not None)
            if decision is None:
                return False
            try:
                await loop.settle(session, call.id, decision, by=me())
            except PowerAgentError as error:  # somebody else was quicker, or the moment has passed
                self._screen.line((f"  {error.message}", "yellow"), whole=True)
        return True

    async def _decided(self, call: PendingCall, *, cancelled: bool) -> Decision | None:
        """Show one call as it would run and return what was decided; None: later."""
        self._screen.blank()
        self._screen.line(("? ", "bold yellow"), (f"{call.id} ", "dim"), ("waits for you" if call.state == "waiting" else "may have taken effect", "bold"), whole=True)
        self._screen.lines(in_question(call), indent="  │ ")
        for line in due_of(call):
            self._screen.line(f"  {line}", whole=True)
        can = [name for name in possible(call, cancelled=cancelled) if (call.state, name) != ("waiting", "abort") or call.external]
        self.offer([Choice(WORDS[name], MEANS[name]) for name in can] + [Choice(LATER, "leaves it waiting, also for another shell")])
        while True:
            word = await self.word([WORDS[name].split()[0] for name in can] + [LATER])
            if word is None or word[0] == LATER:
                return None
            decision = _meant(*word)
            if decision is not None:
                return decision
            wrong = "Say what the result was: result …" if word[0] == "result" else f"It runs as it is shown or not at all; {word[0]} stands alone."
            self._screen.line((f"  {wrong}", "yellow"), whole=True)

    def offer(self, choices: list[Choice]) -> None:
        """Show what may be typed."""
        wide = max(len(choice.word) for choice in choices)
        for choice in choices:
            self._screen.line("  ", (f"{choice.word:<{wide}}", "bold"), (f"  {choice.does}", "dim"), whole=True)

    async def word(self, words: list[str]) -> tuple[str, str] | None:
        """Read one of these words and what stands behind it; nothing else, and no key alone, means anything. None at the end of input."""
        while True:
            typed = await self._keys.decision("  › ")
            if typed is None:
                return None
            word, _, rest = typed.strip().partition(" ")
            if word.lower().rstrip(",:") in words:
                return word.lower().rstrip(",:"), rest.strip()
            told: list[Part] = ["  Type "]
            for number, one in enumerate(words):
                told += [(one, "bold"), "." if number == len(words) - 1 else " or " if number == len(words) - 2 else ", "]
            self._screen.line(*told, whole=True)


def _meant(word: str, rest: str) -> Decision | None:
    """Return the decision. What lets something run takes no more words: "yes, but only five" is no yes."""
    match word:
        case "yes":
            return None if rest else Approve()
        case "retry":
            return None if rest else Retry()
        case "no":
            return Deny(reason=rest) if rest else Deny()
        case "result":
            return Result(rest) if rest else None
        case _:
            return Abort(reason=rest) if rest else Abort()
