"""A turn as a person sees it come: text on stdout, facts on stderr; and a message that is only left for another process.

Glimpses are not facts. What was told of an answer counts when its fact says the same; what was taken back, or missed, is told whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import NamedTuple, TextIO

from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.cli.advice import DONE, pid
from power_agent.cli.glance import living
from power_agent.cli.saying import voice
from power_agent.cli.telling import in_full, learn_tools, row
from power_agent.events import Envelope
from power_agent.limits import LOOK_SECONDS
from power_agent.loop import StatefulAgentLoop
from power_agent.loop.intake import Said, WhenBusy
from power_agent.messages import Text
from power_agent.ports import Glimpsed
from power_agent.results import TurnResult


class Teller:
    """Tells facts and, with `pieces`, the text between them. `told` is the last answer, as far as it stands on stdout."""

    def __init__(self, stdout: TextIO, *, pieces: bool) -> None:
        self.session = ""
        self.told = ""
        self._stdout = stdout
        self._pieces = pieces
        self._tools: dict[str, str] = {}

    def know(self, tools: Mapping[str, str]) -> None:
        """Learn which call is of which tool, of those that were made before."""
        self._tools |= tools

    def take(self, item: Envelope | Glimpsed) -> None:
        """Tell one thing."""
        if voice.as_json:
            self._document(item)
        elif isinstance(item, Glimpsed):
            self._glimpse(item)
        else:
            self._fact(item)

    def _document(self, item: Envelope | Glimpsed) -> None:
        if not self._pieces:
            return
        if isinstance(item, Glimpsed):
            found = {"kind": item.kind, "text": item.text, "turn": item.turn, "round": item.round, "attempt": item.attempt, "call": item.call}
            voice.data({"session": item.session, "glimpse": found}, self._stdout)
        else:
            voice.data({"session": self.session, **in_full(item)}, self._stdout)

    def _glimpse(self, seen: Glimpsed) -> None:
        if not self._pieces:
            return
        if seen.kind == "text":
            self.told += seen.text
            voice.piece(seen.text, self._stdout)
        elif seen.kind == "void" and self.told:
            self.told = ""
            voice.end_piece()
            voice.note(("  (this attempt failed; what was told of it does not count)", "yellow"))
        elif seen.kind == "skipped":
            self.told = ""

    def _fact(self, kept: Envelope) -> None:
        learn_tools(self._tools, kept)
        event = kept.event
        if self._pieces and isinstance(event, e.ModelAnswered):
            text = "".join(part.text for part in event.parts if isinstance(part, Text))
            if text != self.told:
                voice.end_piece()
                voice.piece(text, self._stdout)
            voice.end_piece()
            self.told = text
            if all(isinstance(part, Text) for part in event.parts):
                return  # all of it was just told
        elif isinstance(event, e.ModelAsked):
            self.told = ""
        voice.progress(*row(kept, self._tools))


# -- left for another process ------------------------------------------------------------------------------------------


class Left(NamedTuple):
    """A message that another process will take up."""

    session: str
    seq: int
    owner: str


async def leave(loop: StatefulAgentLoop, name: str, text: Said, *, key: str | None, by: str | None, when_busy: WhenBusy) -> TurnResult | Left:
    """Keep a message and go, if somebody else takes it up. Where the turn came to us we stay for its end: leaving would interrupt it."""
    key = key or SystemChance().session_id()
    result = await loop.send(text, name, key=key, by=by, when_busy=when_busy, wait=False)
    row = await loop.store.find(name)
    if result.status != "waiting" or row is None:
        return result
    if not living(row.owner, row.deadline) or pid(row.owner or "") == str(os.getpid()):  # ours, or over by now: the same input again, and how it ended
        return await loop.send(text, name, key=key, by=by, when_busy=when_busy)
    return Left(name, result.input_seq, row.owner or "")


async def worked_off(loop: StatefulAgentLoop, name: str) -> None:
    """Stay until what others queued behind our turn is done too: they wait for this process, and leaving would interrupt it."""
    while (row := await loop.store.find(name)) is not None and living(row.owner, row.deadline) and pid(row.owner or "") == str(os.getpid()):  # noqa: ASYNC110  the lease in the file says it, and wakes nobody
        await asyncio.sleep(LOOK_SECONDS)


def show_left(left: Left) -> int:
    """Say who takes the message up."""
    if voice.as_json:
        voice.data({"left": {"session": left.session, "input_seq": left.seq, "pid": pid(left.owner)}})
    voice.note(f"Kept as event {left.seq} of session {left.session}; process {pid(left.owner)} takes it up.")
    voice.commands("try:", [voice.command("tail", left.session)])
    return DONE
