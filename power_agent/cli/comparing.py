"""The verbs that compare: two sessions or two moments (`diff`), and what was recorded with the agent of today (`replay`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from power_agent.cli import options
from power_agent.cli.advice import DONE, FAILED, NOT_THERE
from power_agent.cli.agents import find_agent, reading_loop
from power_agent.cli.config import Settings
from power_agent.cli.deciding import known, store_of
from power_agent.cli.glance import looking
from power_agent.cli.glance import session as seen
from power_agent.cli.running import run
from power_agent.cli.saying import voice
from power_agent.cli.telling import as_data
from power_agent.difference import Difference
from power_agent.errors import InvalidInput, UsageError
from power_agent.replay import Replay
from power_agent.word import replace

_PLUMBING = {"owner", "epoch"}
"""Who worked on it says nothing about what came of it; --json has it."""
_STYLES = {"+": "green", "-": "red"}
_LONGEST = 2_000
"""Characters of one side of a divergence that are shown; --json has all of it."""


def diff(
    session: options.Session,
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]", help="Another session, for example a fork. Without: the same one.", show_default=False)] = None,
    *,
    before: Annotated[int | None, typer.Option("--before", metavar="SEQ", min=1, help="SESSION as it stood after this event. Else now.", show_default=False)] = None,
    after: Annotated[int | None, typer.Option("--after", metavar="SEQ", min=1, help="OTHER, or SESSION, as it stood after this event. Else now.", show_default=False)] = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Show what two sessions, or one session at two events, do not share: messages, calls, settings, what was spent."""
    voice.as_json = as_json
    path = store_of(store)
    name, second = known(path, session), known(path, other) if other else None
    if second is None and before is None:
        with looking(path) as db:
            parent = one.parent if (one := seen(db, name)) else None
        commands = [("diff", parent, name)] if parent else []
        raise UsageError("There is nothing to compare it with.", hint="Name another session, or an event with --before.", commands=[*commands, ("diff", name, "--before", "SEQ")])

    async def work() -> Difference:
        async with reading_loop(path) as loop:
            return await loop.diff(name, second, before=before, after=after)

    found = run(work())
    for asked, (whose, last) in ((before, found.before), (after, found.after)):
        if asked is not None and asked != last:
            raise InvalidInput(f"Session {whose!r} has no event {asked}; its last is {last}.", hint="", commands=[("history", whose)], exit_code=NOT_THERE)
    if as_json:
        voice.data({**as_data(found), "different": bool(found)})
        return DONE
    told = replace(found, changes=tuple(change for change in found.changes if change.name not in _PLUMBING))
    for line in str(told).splitlines():
        voice.line((line, _STYLES.get(line[0], "")))
    return DONE


def _wanted(session: str, set_: Sequence[str] | None, as_json: bool, **flags: str | None) -> tuple[Settings, str]:
    """Return what describes the agent of today, and the whole name of the session."""
    voice.as_json = as_json
    return Settings(flags, set_ or ()), known(store_of(flags["store"]), session)


def compact(
    session: options.Session,
    *,
    agent: options.Agent = None,
    model: options.Model = None,
    system: options.System = None,
    set_: options.Set = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Make the context of a session that is between turns smaller now. A summary is a request to the agent's model."""
    settings, name = _wanted(session, set_, as_json, agent=agent, model=model, system=system, store=store)

    async def work() -> bool:
        async with await find_agent(settings, ("compact", name)) as loop:
            return await loop.compact(name, by="the command line")

    smaller = run(work())
    if as_json:
        voice.data({"session": name, "compacted": smaller})
    else:
        voice.note("Made smaller." if smaller else "There is nothing that could be folded away.")
    return DONE


def replay(
    session: options.Session,
    *,
    agent: options.Agent = None,
    model: options.Model = None,
    system: options.System = None,
    set_: options.Set = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Play recorded answers and results against the agent of today: exit code 0 when all goes the same way, 1 at the first divergence.

    No model is asked, no tool is run, nothing is written; policy, guards and settings are those of the agent that is named.
    """
    settings, name = _wanted(session, set_, as_json, agent=agent, model=model, system=system, store=store)

    async def work() -> Replay:
        async with await find_agent(settings, ("replay", name), asks=False) as loop:
            return await loop.replay(name)

    found = run(work())
    split = found.divergence
    if as_json:
        voice.data({**as_data(found), "same": split is None})
        return FAILED if split else DONE
    for reason in found.left_out:
        voice.note(f"Not compared: {reason}")
    compared = f"{found.turns} turns, {found.requests} requests, {found.calls} calls"
    if split is None:
        voice.line(("same", "green"), f": {compared} would go the same way.")
        return DONE
    voice.line(("diverged", "bold red"), f" at event {split.seq}, after {compared}: {split.what}", whole=True)
    for label, side in (("recorded", split.recorded), ("now", split.now)):
        text = str(side)
        voice.line(f"  {label:<9}", text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… (--json has all of it)", whole=True)
    voice.commands("try:", [voice.command("show", name, "--event", str(split.seq))])
    return FAILED
