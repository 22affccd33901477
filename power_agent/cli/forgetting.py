"""The verbs that destroy: `erase` and `prune`. They ask a person, or want to be told `--yes`; they never take a guess at what was meant."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from power_agent.cli import options
from power_agent.cli.advice import DONE
from power_agent.cli.agents import reading_loop
from power_agent.cli.deciding import Reason, known, me, store_of
from power_agent.cli.glance import Seen, living, looking
from power_agent.cli.glance import sessions as listed
from power_agent.cli.looking import AGES
from power_agent.cli.running import run
from power_agent.cli.saying import safe, voice
from power_agent.errors import HasForks, SessionPending, UsageError
from power_agent.results import pending_of

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.", show_default=False)]


def erase(
    session: options.Session,
    *,
    forks: Annotated[bool, typer.Option("--forks", help="Erase everything that branched off it too.", show_default=False)] = False,
    yes: Yes = False,
    reason: Reason = None,
    by: options.By = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Destroy the contents of a session for good. That it was there, and the chain of hashes, stays.

    On a terminal its id has to be typed. Backups and exports are out of reach.
    """
    voice.as_json = as_json
    path = store_of(store)
    name = known(path, session)
    if yes and session != name:
        raise UsageError(f"With --yes the whole id is wanted, not {session!r}.", hint="What is destroyed is not guessed.", commands=[("erase", name, "--yes")])
    with looking(path) as db:
        found = {one.session: one for one in listed(db)}
    branches = _branches(found, name)
    going = [one for one in [name, *branches] if found[one].standing != "erased"]
    if name not in going:
        return _told([], f"Session {name} was erased already.")
    if branches and not forks:
        hint = "Erase them with it (--forks), or leave it."
        shared = f"{len(branches)} session{'s share' if len(branches) > 1 else ' shares'} its past: {', '.join(branches[:5])}."
        raise HasForks(shared, session=name, hint=hint, commands=[("history", name, "--graph"), ("erase", name, "--forks")])
    run(_between_turns(path, going))
    for one in going:
        voice.note(f"  {one}: {found[one].standing}, {found[one].events} events")
    if (
        not yes
        and _asked(
            f"This destroys {'it' if len(going) == 1 else f'these {len(going)}'} for good. Type {name} to do it: ", ("erase", name, *(["--forks"] if forks else []), "--yes")
        )
        != name
    ):
        raise UsageError("That is not its id; nothing was erased.", commands=[("erase", name)])

    async def work() -> None:
        async with reading_loop(path) as loop:
            await loop.erase(name, reason=reason or "erased", forks="erase" if forks else "refuse", by=by or me())

    run(work())
    return _told(going, f"Erased: {', '.join(going)}. Backups and exports were not touched.")


async def _between_turns(path: str, names: list[str]) -> None:
    """Refuse before anybody is asked, and before anything is written, what cannot be erased yet."""
    async with reading_loop(path) as loop:
        for name in names:
            state, row = await loop.state(name), await loop.store.find(name)
            if state.turn is not None and row is not None and not living(row.owner, row.deadline):
                message = f"Turn {state.turn.number} of session {name!r} is open."
                raise SessionPending(message, session=name, calls=pending_of(state), hint="End it first, then erase.", commands=[("pending", name), ("abort", name)])


def _branches(found: dict[str, Seen], name: str) -> list[str]:
    """Return the living sessions that branched off one, and off those."""
    names, left = list[str](), [name]
    while left:
        up = left.pop()
        inside = [one.session for one in found.values() if one.parent == up]
        names += [one for one in inside if found[one].standing != "erased"]
        left += inside
    return names


def _told(erased: list[str], told: str) -> int:
    if voice.as_json:
        voice.data({"erased": erased})
    voice.note(told)
    return DONE


def _asked(question: str, instead: tuple[str, ...]) -> str:
    """Ask the person; where there is none, nothing is done."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("Nobody is here to be asked.", hint="Say --yes.", commands=[instead])
    print(safe(question), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def prune(
    *,
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Closed at least so long ago: 90d, 12w, 36h.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which they are.", show_default=False)] = False,
    yes: Yes = False,
    by: options.By = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Erase sessions that were closed long ago and of which no fork is left. Only what was listed is erased."""
    voice.as_json = as_json
    seconds = _seconds(older_than)
    path = store_of(store)

    async def find() -> list[str]:
        async with reading_loop(path) as loop:
            return await loop.prune(older_than_seconds=seconds, dry_run=True)

    async def forget(names: list[str]) -> None:
        async with reading_loop(path) as loop:
            for number, name in enumerate(names, 1):
                voice.status(f"erasing {number} of {len(names)}")
                await loop.erase(name, reason="retention", by=by or me())

    names = run(find())
    if not as_json:
        for name in names:
            voice.line(name, whole=True)
    if names and not dry_run:
        question = f"This destroys {len(names)} session{'s' if len(names) > 1 else ''} for good. Type yes to do it: "
        if not yes and _asked(question, ("prune", "--older-than", older_than, "--yes")) != "yes":
            raise UsageError("Nothing was erased.", commands=[("prune", "--older-than", older_than, "--dry-run")])
        run(forget(names))
        voice.status("")
    if as_json:
        voice.data({"sessions": names, "erased": not dry_run})
    _told_pruned(len(names), older_than, dry_run=dry_run)
    return DONE


def _told_pruned(number: int, age: str, *, dry_run: bool) -> None:
    if not number:
        voice.note(f"No session was closed more than {age} ago.")
    elif dry_run:
        voice.note(f"{number} would be erased: closed more than {age} ago.")
        voice.commands("try:", [voice.command("prune", "--older-than", age, "--yes")])
    else:
        voice.note(f"{number} {'were' if number > 1 else 'was'} erased. Backups and exports were not touched.")


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)", age.strip())
    if found is None:
        raise UsageError(f"{age!r} is no age.", hint="Write 90d, 12w, 36h.", commands=[("prune", "--help")])
    return float(found[1]) * AGES[found[2]]
