"""What was there before: a turn that somebody left open, or that somebody else works on. Nothing goes on before a person says so."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from power_agent.cli.advice import pid
from power_agent.cli.chat.asking import Choice, for_a_person
from power_agent.cli.chat.keys import CtrlC, interrupts
from power_agent.cli.chat.opening import standing
from power_agent.cli.glance import Seen, living
from power_agent.cli.telling import row
from power_agent.errors import SessionBusy
from power_agent.limits import LOOK_SECONDS
from power_agent.state import SessionState

if TYPE_CHECKING:
    from power_agent.cli.chat.talk import Talk

LOOK_BACK_EVENTS = 12
NEEDS = {"waiting", "doubted", "interrupted"}


async def take_over(talk: Talk, found: Seen) -> None:
    """Offer what a session needs before anything new is said."""
    if found.standing == "running":
        talk.screen.line(("It is at work elsewhere: ", "yellow"), f"process {pid(found.owner or '')}.", whole=True)
        if await _chosen(talk, [Choice("follow", "watch it"), Choice("later", "go to the prompt")]) == "follow":
            await follow(talk)
    elif found.standing in NEEDS:
        await carry_on(talk)
    elif found.why:
        talk.screen.line((f"{found.why}", "yellow"), *([("  /resume goes on with it", "dim")] if found.standing in {"limit", "failed"} else []), whole=True)


async def carry_on(talk: Talk) -> None:
    """Go on with an open turn: decide what waits, or resume, abort, look."""
    state = await talk.known(quietly=True)
    if state is not None and for_a_person(state):
        if await talk.decided():
            await talk.resume()
    elif state is not None:
        await _resume_or_not(talk, state)


async def _resume_or_not(talk: Talk, state: SessionState) -> None:
    running = next((f" {call.call.name} ({call.call.id}) was running." for call in state.unresolved if call.place == "started"), "")
    talk.screen.blank()
    if state.turn is None:
        talk.screen.line(("Something was said and not taken up", "bold"), f" at event {state.inputs[0].seq if state.inputs else state.seq}.", whole=True)
        choices = [Choice("resume", "take it up"), Choice("look", "at what happened last"), Choice("later", "leave it as it is")]
    else:
        talk.screen.line(("A turn was left open", "bold"), f" at event {state.seq}.{running}", whole=True)
        choices = [Choice("resume", "carry on from there"), Choice("abort", "end the turn"), Choice("look", "at what happened last"), Choice("later", "leave it as it is")]
    while (word := await _chosen(talk, choices)) == "look":
        for kept in await talk.loop.history(talk.session, after=max(state.seq - LOOK_BACK_EVENTS, 0)):
            talk.screen.line(*row(kept))
    if word == "resume":
        await talk.resume()
    elif word == "abort":
        ended = await talk.loop.abort_pending(talk.session, reason="aborted in chat", by=talk.me)
        talk.screen.line("  The turn is ended" + (f"; so are {', '.join(f'{one.id} {one.tool} (was {one.state})' for one in ended)}." if ended else "."), whole=True)


async def busy(talk: Talk, text: str, error: SessionBusy) -> bool:
    """Somebody else works on this session: leave the message behind their turn, or watch, or neither. True when it was left."""
    owner = str(error.fields.get("owner") or "")
    talk.screen.line(("This session is at work elsewhere: ", "yellow"), f"process {pid(owner)}. One turn at a time; nothing is wrong.", whole=True)
    choices = [Choice("queue", "your message is the next turn, and you see both"), Choice("follow", "watch; your message waits here"), Choice("later", "your message waits here")]
    word = await _chosen(talk, choices)
    if word == "queue":
        state = await talk.loop.state(talk.session)
        await talk.through(lambda: talk.loop.send(text, talk.session, by=talk.me, when_busy="queue"), text, after=state.seq)
    elif word == "follow":
        await follow(talk)
    return word == "queue"


async def follow(talk: Talk) -> None:
    """Watch until nobody works on the session any more; Ctrl-C ends the watching alone."""
    state = await talk.loop.state(talk.session)
    enough = asyncio.Event()
    talk.stage.status.begin()
    async with talk.stage.seen(talk.loop, talk.session, after=max(state.turn.seq - 1, 0) if state.turn is not None else state.seq):
        with interrupts.to(enough.set):
            while not enough.is_set() and (held := await talk.loop.store.find(talk.session)) is not None and living(held.owner, held.deadline):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), LOOK_SECONDS)
            if not enough.is_set():
                await asyncio.sleep(LOOK_SECONDS)  # what was written last is on its way
    await talk.stage.measure(talk.loop, talk.session)
    found = standing(talk.path, talk.session)
    if found is not None and not enough.is_set() and found.standing in NEEDS:
        await carry_on(talk)


async def _chosen(talk: Talk, choices: list[Choice]) -> str:
    """Return the word that a person typed; the last one when they typed none."""
    talk.asking.offer(choices)
    try:
        word = await talk.asking.word([choice.word for choice in choices])
    except CtrlC:
        talk.warned = True
        word = None
    return choices[-1].word if word is None else word[0]
