"""The verbs that run an agent, and may therefore cost money: `send` and `resume`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from power_agent.chance import SystemChance
from power_agent.cli import options
from power_agent.cli.advice import INTERRUPTED, OF_STATUS
from power_agent.cli.agents import find_agent
from power_agent.cli.config import Settings
from power_agent.cli.deciding import known, message, show_pending
from power_agent.cli.glance import Seen, looking, named
from power_agent.cli.glance import session as seen
from power_agent.cli.running import run
from power_agent.cli.saying import voice
from power_agent.cli.telling import as_data, learn_tools, row, used
from power_agent.errors import SessionNotFound, StoreNotFound
from power_agent.limits import LOOK_SECONDS
from power_agent.loop import StatefulAgentLoop
from power_agent.results import TurnResult

NEW = "@new"
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="The same key is the same input: it never runs twice.", show_default=False)]
New = Annotated[bool, typer.Option("--new", help="Begin the session if there is none of that id.", show_default=False)]


def send(  # noqa: PLR0913  what a person may say at once
    session: options.Session,
    words: Annotated[list[str], typer.Argument(metavar="MESSAGE", help="What to say; - reads it from standard input.", show_default=False)],
    *,
    key: Key = None,
    new: New = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who says it; kept in the log.", show_default=False)] = None,
    agent: options.Agent = None,
    model: options.Model = None,
    system: options.System = None,
    set_: options.Set = None,
    store: options.Store = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> int:
    """Say something to a session and run the turn. The answer goes to stdout.

    SESSION is an id, the beginning of one, @last, or @new for a new one.
    """
    voice.as_json, voice.quiet = as_json, quiet
    text = message(words)
    settings = Settings({"agent": agent, "model": model, "system": system, "store": store}, set_ or ())
    return _turn(settings, lambda path: _whom(path, session, agent, new=new), lambda loop, name: loop.send(text, name, key=key, by=by), {"agent": agent})


def resume(
    session: options.Session,
    *,
    agent: options.Agent = None,
    model: options.Model = None,
    system: options.System = None,
    set_: options.Set = None,
    store: options.Store = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> int:
    """Go on with what a crash, a Ctrl-C, a limit or a decision left open. Nothing open: the last answer again."""
    voice.as_json, voice.quiet = as_json, quiet
    settings = Settings({"agent": agent, "model": model, "system": system, "store": store}, set_ or ())
    return _turn(settings, lambda path: known(path, session), lambda loop, name: loop.resume(name), {"agent": agent})


def _whom(path: str, ref: str, agent: str | None, *, new: bool) -> str:
    """Return the session to send to. A misspelt id must not begin a session of its own."""
    if ref == NEW:
        return SystemChance().session_id()
    try:
        with looking(path) as db:
            if new:
                return named(db, ref) if ref.startswith("@") else ref
            return named(db, ref)
    except (StoreNotFound, SessionNotFound) as error:
        if new and not ref.startswith("@"):
            return ref
        begin = ("send", ref if not ref.startswith("@") else NEW, *(() if ref.startswith("@") else ("--new",)), "MESSAGE", *(("--agent", agent) if agent else ()))
        message = error.message if isinstance(error, SessionNotFound) else f"There is no session {ref!r}: there is no store yet at {path}."
        raise SessionNotFound(message, session=ref, hint=error.hint if isinstance(error, SessionNotFound) else "", commands=[begin, ("sessions",)]) from error


def _turn(settings: Settings, whom: Callable[[str], str], act: Callable[[StatefulAgentLoop, str], Awaitable[TurnResult]], flags: dict[str, str | None]) -> int:
    """Find agent and session, run a turn, show how it ended; an interruption says how to go on."""
    where: dict[str, str] = {}

    async def work() -> tuple[TurnResult, bool]:
        loop = await find_agent(settings)
        path = where["path"] = str(getattr(loop.store, "path", settings.store))
        _remember_store(settings, path)
        name = where["session"] = whom(path)
        voice.progress(("session ", "dim"), name)
        async with loop, _followed(loop, name):
            result = await act(loop, name)
            return result, result.status == "waiting" and (await loop.state(name)).cancel is not None

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the agent's own code prints is not the answer
            result, cancelled = run(work(), saying="Interrupting … (Ctrl-C once more to leave at once)")
    except KeyboardInterrupt:
        return interrupted(where.get("path"), where.get("session"), flags)
    show(result, flags, cancelled=cancelled)
    return OF_STATUS[result.status]


def _remember_store(settings: Settings, path: str) -> None:
    """Let the commands we suggest find the same store, also when the agent brought its own."""
    found = settings.find("store")
    if found is not None and found.origin.startswith("flag"):
        voice.options = ["--store", str(found.value)]
    elif path not in {settings.store, str(Path(settings.store).resolve())}:
        with contextlib.suppress(ValueError):
            path = str(Path(path).relative_to(Path.cwd()))
        voice.options = ["--store", path]


@contextlib.asynccontextmanager
async def _followed(loop: StatefulAgentLoop, name: str) -> AsyncIterator[None]:
    """Tell a person who watches what is kept, as it is kept."""
    row = await loop.store.find(name)
    watching = asyncio.ensure_future(_tell(loop, name, row.head if row else 0))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _tell(loop: StatefulAgentLoop, name: str, after: int) -> None:
    tools: dict[str, str] = {}
    while True:
        with contextlib.suppress(SessionNotFound):  # until its first event is kept
            for kept in await loop.history(name, after=after):
                after = kept.seq
                learn_tools(tools, kept)
                voice.progress(*row(kept, tools))
        await asyncio.sleep(LOOK_SECONDS)


def again(verb: str, name: str, flags: dict[str, str | None]) -> str:
    """Spell a command that needs the agent again."""
    return voice.command(verb, name, *(("--agent", flags["agent"]) if flags.get("agent") else ()))


def interrupted(path: str | None, name: str | None, flags: dict[str, str | None]) -> int:
    """Say what is kept and how to go on."""
    found: Seen | None = None
    if path and name and path != ":memory:":
        with contextlib.suppress(StoreNotFound), looking(path) as db:
            found = seen(db, name)
    if voice.as_json:
        voice.data({"interrupted": {"session": found.session if found else None, "exit_code": INTERRUPTED}})
    if found is None:
        voice.note("Interrupted before anything was kept.")
    else:
        voice.note(f"Interrupted. Session {found.session} is kept, {found.events} events; nothing is lost.")
        voice.commands("try:", [again("resume", found.session, flags)])
    return INTERRUPTED


def show(result: TurnResult, flags: dict[str, str | None], *, cancelled: bool = False) -> None:
    """Show how a turn ended: its text on stdout, the rest on stderr."""
    if voice.as_json:
        voice.data({"result": as_data(result)})
    elif result.text:
        voice.text(result.text)
    name = result.session_id
    calls = f", {len(result.calls)} call{'s' if len(result.calls) != 1 else ''}" if result.calls else ""
    why = (result.failure.message if result.failure else "") or result.reason or ""
    if not voice.quiet:
        style = {"completed": "green", "waiting": "bold yellow"}.get(result.status, "red")
        voice.note((result.status, style), f": session {name}, turn {result.turn}{calls}, {used(result.usage)}" + (f". {why}" if why else ""))
    if result.status == "waiting":
        show_pending(name, list(result.pending), cancelled=cancelled)
        if not result.pending:
            voice.commands("try:", [again("resume", name, flags)])
    elif result.status in {"limit", "failed"}:
        voice.commands("try:", [again("resume", name, flags), voice.command("history", name)])
    elif voice.options and not voice.quiet and not voice.as_json:  # the log is not where the other verbs look
        voice.commands("look:", [voice.command("history", name)])
