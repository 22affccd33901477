"""The verbs that run an agent, and may therefore cost money: `send` and `resume`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from power_agent.chance import SystemChance
from power_agent.cli import options
from power_agent.cli.advice import INTERRUPTED, OF_STATUS
from power_agent.cli.agents import find_agent
from power_agent.cli.config import KINDS, Settings
from power_agent.cli.config import close as closest
from power_agent.cli.deciding import known, message, show_pending
from power_agent.cli.glance import Seen, looking, named
from power_agent.cli.glance import session as seen
from power_agent.cli.running import run
from power_agent.cli.saying import Aside, fancy, voice
from power_agent.cli.streaming import Left, Teller, leave, show_left, worked_off
from power_agent.cli.telling import as_data, priced, used
from power_agent.errors import SessionNotFound, StoreNotFound, UsageError
from power_agent.loop import StatefulAgentLoop
from power_agent.loop.intake import Said, WhenBusy, parts_of
from power_agent.messages import Attachment
from power_agent.results import TurnResult

NEW = "@new"
Stream = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="The text as it comes; on a terminal by itself. With --json a document per event and piece.", show_default=False)
]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="The same key is the same input: it never runs twice.", show_default=False)]
New = Annotated[bool, typer.Option("--new", help="Begin the session if there is none of that id.", show_default=False)]


def send(  # noqa: PLR0913  what a person may say at once
    session: options.Session,
    words: Annotated[list[str], typer.Argument(metavar="MESSAGE", help="What to say; - reads it from standard input.", show_default=False)],
    *,
    attach: Annotated[list[str] | None, typer.Option("--attach", metavar="FILE|URL", help="Send this with it; may be given several times.", show_default=False)] = None,
    key: Key = None,
    new: New = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who says it; kept in the log.", show_default=False)] = None,
    agent: options.Agent = None,
    model: options.Model = None,
    system: options.System = None,
    set_: options.Set = None,
    store: options.Store = None,
    when_busy: Annotated[str, typer.Option("--when-busy", metavar="HOW", help="While a turn is open: raise, queue (a turn of its own), steer (into that turn).")] = "raise",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Where another process works on it: stay until the turn is over.", show_default=False)] = True,
    stream: Stream = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> int:
    """Say something to a session and run the turn. The answer goes to stdout, on a terminal as it comes.

    SESSION is an id, the beginning of one, @last, or @new for a new one. With --no-wait a message to a session that another process
    works on is only left there; where nobody does, the turn runs here, because somebody has to run it.
    """
    voice.as_json, voice.quiet = as_json, quiet
    if when_busy not in get_args(WhenBusy):
        near = closest(when_busy, get_args(WhenBusy))
        raise UsageError(f"{when_busy!r} is no way to send.", hint=f"Did you mean {near}?" if near else "Use raise, queue or steer.", commands=[("send", "--help")])
    text = _said(message(words), attach or ())
    settings = Settings({"agent": agent, "model": model, "system": system, "store": store}, set_ or ())
    how = cast("WhenBusy", when_busy)

    async def act(loop: StatefulAgentLoop, name: str, teller: Teller) -> TurnResult | Left:
        if not wait:
            return await leave(loop, name, text, key=key, by=by, when_busy=how)
        async with loop.stream(text, name, key=key, by=by, when_busy=how) as items:
            async for item in items:
                teller.take(item)
            return items.result

    return _turn(settings, lambda path: _whom(path, session, agent, new=new), act, {"agent": agent, "model": model}, stream=stream, again=("send", session, "MESSAGE"))


def _said(text: str, attached: Sequence[str]) -> Said:
    """Return what is said with what is attached: files are read here, addresses are left to the provider."""
    if not attached:
        return text
    things = [Attachment.at(one) if "://" in one else Path(one) for one in attached]
    parts_of(things)  # what cannot be read, or is too large, is refused before an agent is looked for
    return [text, *things]


def resume(  # noqa: PLR0913  the same
    session: options.Session,
    *,
    agent: options.Agent = None,
    model: options.Model = None,
    system: options.System = None,
    set_: options.Set = None,
    store: options.Store = None,
    stream: Stream = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> int:
    """Go on with what a crash, a Ctrl-C, a limit or a decision left open. Nothing open: the last answer again."""
    voice.as_json, voice.quiet = as_json, quiet
    settings = Settings({"agent": agent, "model": model, "system": system, "store": store}, set_ or ())

    async def act(loop: StatefulAgentLoop, name: str, teller: Teller) -> TurnResult:
        teller.know({call: found.call.name for call, found in (await loop.state(name)).calls.items()})
        loop.listen(lambda kept: teller.take(kept) if kept.session == name else None)
        loop.look_on(lambda seen: teller.take(seen) if seen.session == name else None)
        return await loop.resume(name)

    return _turn(settings, lambda path: known(path, session), act, {"agent": agent, "model": model}, stream=stream, again=("resume", session))


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


Act = Callable[[StatefulAgentLoop, str, Teller], Awaitable[TurnResult | Left]]


def _turn(settings: Settings, whom: Callable[[str], str], act: Act, flags: dict[str, str | None], *, stream: bool | None, again: tuple[str, ...]) -> int:
    """Find agent and session, run a turn, show how it ended; an interruption says how to go on."""
    where: dict[str, str] = {}
    teller = Teller(sys.stdout, pieces=fancy(sys.stdout) and not voice.as_json and not voice.quiet if stream is None else stream)

    async def work() -> tuple[TurnResult | Left, bool]:
        loop = await find_agent(settings, again)
        path = where["path"] = str(getattr(loop.store, "path", settings.store))
        remember_store(settings, path)
        name = where["session"] = teller.session = whom(path)
        voice.progress(("session ", "dim"), name)
        async with loop:
            result = await act(loop, name, teller)
            await worked_off(loop, name)
            return result, isinstance(result, TurnResult) and result.status == "waiting" and (await loop.state(name)).cancel is not None

    try:
        with contextlib.redirect_stdout(Aside()):  # what the agent's own code prints is not the answer
            result, cancelled = run(work(), saying="Interrupting … (Ctrl-C once more to leave at once)")
    except KeyboardInterrupt:
        voice.end_piece()
        return interrupted(where.get("path"), where.get("session"), flags)
    voice.end_piece()
    if isinstance(result, Left):
        return show_left(result)
    show(result, flags, described=settings.find("agent") is None, cancelled=cancelled, told=teller.told == result.text)
    return OF_STATUS[result.status]


def remember_store(settings: Settings, path: str) -> None:
    """Let the commands we suggest find the same store, also when the agent brought its own."""
    found = settings.find("store")
    if found is not None and found.origin.startswith("flag"):
        voice.options = ["--store", str(found.value)]
    elif path not in {settings.store, str(Path(settings.store).resolve())}:
        with contextlib.suppress(ValueError):
            path = str(Path(path).relative_to(Path.cwd()))
        voice.options = ["--store", path]


def again(verb: str, name: str, flags: dict[str, str | None], *more: str) -> str:
    """Spell a command that needs the agent again."""
    return voice.command(verb, name, *(word for flag, value in flags.items() if value for word in (f"--{flag}", value)), *more)


def _raised(result: TurnResult) -> tuple[str, ...]:
    """Return what raises the limit that a turn reached, where it is one that can be set."""
    key = f"limits.{result.reason}"
    return ("--set", f"{key}=NUMBER") if key in KINDS else ()


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


def show(result: TurnResult, flags: dict[str, str | None], *, described: bool, cancelled: bool = False, told: bool = False) -> None:
    """Show how a turn ended: its text on stdout unless it was told as it came, the rest on stderr. `described`: the settings make the agent."""
    if voice.as_json:
        voice.data({"result": as_data(result)})
    elif result.text and not told:
        voice.text(result.text)
    name = result.session_id
    calls = f", {len(result.calls)} call{'s' if len(result.calls) != 1 else ''}" if result.calls else ""
    why = (result.failure.message if result.failure else "") or result.reason or ""
    if not voice.quiet:
        style = {"completed": "green", "waiting": "bold yellow"}.get(result.status, "red")
        cost = "" if result.cost_nano_usd is None else f", {priced(result.cost_nano_usd)}"
        voice.note((result.status, style), f": session {name}, turn {result.turn}{calls}, {used(result.usage)}{cost}" + (f". {why}" if why else ""))
    if result.status == "waiting":
        show_pending(name, list(result.pending), cancelled=cancelled)
        if not result.pending:
            voice.commands("try:", [again("resume", name, flags)])
    elif result.status in {"limit", "failed"}:
        raised = _raised(result) if result.status == "limit" else ()
        if raised and described:
            voice.note(f"Raise {raised[1].removesuffix('=NUMBER')} first, in power-agent.toml or for one command:")
        elif raised:
            voice.note(f"Raise {raised[1].removesuffix('=NUMBER')} first, where the agent is made: limits=Limits({result.reason}=…).")
        voice.commands("try:", [again("resume", name, flags, *(raised if described else ())), voice.command("history", name)])
    elif voice.options and not voice.quiet and not voice.as_json:  # the log is not where the other verbs look
        voice.commands("look:", [voice.command("history", name)])
