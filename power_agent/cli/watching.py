"""`tail`: what is kept, live, of one session or of all, whoever drives them. It reads and never asks for anything."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator
from typing import Annotated, cast

import typer

from power_agent.cli import options
from power_agent.cli.advice import DONE
from power_agent.cli.agents import reading_loop
from power_agent.cli.deciding import store_of
from power_agent.cli.glance import looking, named
from power_agent.cli.glance import session as seen
from power_agent.cli.running import run
from power_agent.cli.saying import voice
from power_agent.cli.telling import in_full, learn_tools, row
from power_agent.events import Envelope
from power_agent.loop import StatefulAgentLoop

_LAST = {"session.closed", "session.erased"}


def tail(
    session: options.MaybeSession = None,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="Begin with so many of the last events.")] = 10,
    after: Annotated[int | None, typer.Option("--after", metavar="CURSOR", min=0, help="Begin behind this seq; without SESSION behind this position.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f/-F", help="Go on until the session is closed or Ctrl-C.", show_default=False)] = True,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Watch a session that another process drives, or all of them. With --json each event is a document of its own.

    Nothing is missed or told twice: to go on after a break, pass the last seq (of all sessions: the last position) to --after.
    """
    voice.as_json = as_json
    path = store_of(store)
    with looking(path) as db:
        name = named(db, session) if session else None
        found = seen(db, name) if name else None
        end = found.events if found else int(db.execute("SELECT coalesce(max(pos), 0) FROM log").fetchone()[0])
    ended = found is not None and found.standing in {"closed", "erased"}
    run(_tell(path, name, max(end - lines, 0) if after is None else after, None if follow and not ended else end))
    sys.stdout.flush()
    return DONE


async def _tell(path: str, name: str | None, after: int, upto: int | None) -> None:
    if upto is not None and after >= upto:
        return
    tools: dict[str, dict[str, str]] = {}
    async with reading_loop(path) as loop, contextlib.aclosing(cast("AsyncGenerator[Envelope]", loop.watch(name, after=after))) as news:
        async for kept in news:
            whose = name or kept.session
            if voice.as_json:
                voice.data({"session": whose, **in_full(kept)})
            else:
                if whose not in tools:
                    tools[whose] = await _tools(loop, whose, kept)
                learn_tools(tools[whose], kept)
                voice.line(*([] if name else [(f"{whose}  ", "bold")]), *row(kept, tools[whose]))
            if voice.gone or (name and kept.kind in _LAST) or (upto is not None and (kept.seq if name else kept.position) >= upto):
                return


async def _tools(loop: StatefulAgentLoop, name: str, kept: Envelope) -> dict[str, str]:
    """Return which call is of which tool, of those that were made before we began to watch."""
    if kept.seq == 1:
        return {}
    before = await loop.state(name, at=kept.seq - 1)
    return {call: found.call.name for call, found in before.calls.items()}
