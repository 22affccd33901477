"""Sessions on their way: `export` and `import` between stores, `salvage` out of a damaged file."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast, get_args

import typer

from power_agent.cleaning import check_id
from power_agent.cli import options
from power_agent.cli.advice import DONE
from power_agent.cli.agents import NoAgent, reading_loop
from power_agent.cli.config import Settings
from power_agent.cli.config import close as closest
from power_agent.cli.deciding import known, me, store_of
from power_agent.cli.glance import looking
from power_agent.cli.glance import session as seen
from power_agent.cli.running import run
from power_agent.cli.saying import voice
from power_agent.cli.telling import as_data
from power_agent.editions.edition import Kind
from power_agent.errors import ImportRefused, SessionExists, StoreForeign, UsageError
from power_agent.hearsay import Origin
from power_agent.loop import StatefulAgentLoop
from power_agent.moving import Imported, inspect, spooled
from power_agent.newcomers import look, meet
from power_agent.ports import Tip
from power_agent.salvage import Salvage

if TYPE_CHECKING:
    from io import BufferedReader

CHUNK_BYTES = 1_048_576
_SQLITE = b"SQLite format 3\0"
ENDINGS: Mapping[Kind | None, str] = {None: ".jsonl", "markdown": ".md", "html": ".html", "atif": ".atif.json", "openai": ".openai.json", "anthropic": ".anthropic.json"}


def export(
    session: options.Session,
    target: Annotated[
        str | None, typer.Argument(metavar="[FILE|-]", help="A file that is not there yet, or - for standard output. In a pipe - is meant.", show_default=False)
    ] = None,
    *,
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="To read or hand on: markdown, html, atif, openai, anthropic.", show_default=False)] = None,
    redacted: Annotated[bool, typer.Option("--redacted", help="What happened without what was said; cannot be imported.", show_default=False)] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Write a session, with the past it shares with its ancestors, as lines that another store lets in. The session stays here too.

    Every hash is checked on the way. The tip that is told vouches for it all: keep it elsewhere, and verify --tip compares.
    With --format it is something to read (markdown, or html: one page that needs no network) or to hand on (atif, openai, anthropic).
    """
    voice.as_json = as_json
    kind = _kind(format_, redacted=redacted)
    path = store_of(store)
    name = known(path, session)
    file = _goal(name, target, ENDINGS[kind], as_json=as_json)

    async def work() -> Tip:
        async with reading_loop(path) as loop:
            made = await loop.export(name, format=kind, redacted=redacted)
            if file is not None:
                await made.to(file)
                return made.tip
            async for line in made:
                voice.bytes(line)
                if voice.gone:
                    break
            return made.tip

    tip = run(work())
    told = f"{tip.seq}:{tip.hash}"
    if file is not None and as_json:
        voice.data({"session": name, "file": str(file.absolute()), "bytes": file.stat().st_size, "events": tip.seq, "tip": told, "redacted": redacted, "format": kind})
    voice.note(f"{tip.seq} events of session {name}" + (f" are in {file}, {file.stat().st_size / 1e6:,.1f} MB." if file else "."))
    voice.note(f"  Its tip is {told}")
    if file is not None and not redacted and kind in {None, "atif"}:
        voice.options = []
        voice.commands("then:", [voice.command("import", file.name)])
    return DONE


def _kind(said: str | None, *, redacted: bool) -> Kind | None:
    """Return the format that is meant; None is our own, the only one that can be imported byte for byte."""
    if said is None:
        return None
    if said not in get_args(Kind):
        near = closest(said, get_args(Kind))
        raise UsageError(f"There is no format {said!r}.", hint=f"Did you mean {near}?" if near else f"Use {', '.join(get_args(Kind))}.", commands=[("export", "--help")])
    if redacted:
        raise UsageError("Only the export without --format can be redacted.", commands=[("export", "SESSION", "FILE", "--redacted")])
    return cast("Kind", said)


def _goal(name: str, target: str | None, ending: str, *, as_json: bool) -> Path | None:
    """Return the new file that is meant; None is standard output."""
    offered = f"{''.join(letter if letter.isalnum() or letter in '-_.' else '_' for letter in name).lstrip('-.') or 'session'}{ending}"
    if target is None and (as_json or sys.stdout.isatty()):
        raise UsageError("Where to is missing.", hint="Name a new file, or - for standard output.", commands=[("export", name, offered)])
    if target is None or target == "-":
        if as_json:
            raise UsageError("Standard output cannot hold the export and --json.", hint="Name a new file.", commands=[("export", name, offered, "--json")])
        return None
    file = Path(target)
    if not file.parent.is_dir():
        raise UsageError(f"There is no directory {file.parent}.", hint=f"Create it: mkdir -p {file.parent}", commands=[("export", name, file.name)])
    if file.exists():
        raise UsageError(f"{file} is there already.", hint="Name a new file; an export never replaces anything.", commands=[("export", name, "FILE")])
    return file


def import_(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="An export or another harness's session, or - for standard input.", show_default=False)],
    *,
    from_: Annotated[str, typer.Option("--from", metavar="KIND", help="What it is: power-agent, atif, claude-code, codex.")] = "auto",
    name: Annotated[str | None, typer.Option("--as", metavar="ID", help="What another harness's session is called here.", show_default=False)] = None,
    by: options.By = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Let an exported session in, after every byte of it was checked; a store that is not there yet is created. Its id goes to stdout.

    Approvals that were given elsewhere are void here, and nothing runs by itself. The same export twice changes nothing.
    What Claude Code or Codex recorded, or an ATIF trajectory, becomes a session that the next send goes on with; --from says what
    it is where that cannot be seen. What is refused leaves nothing behind, no new store either.
    """
    voice.as_json = as_json
    if from_ not in {"auto", *get_args(Origin)}:
        near = closest(from_, get_args(Origin))
        raise UsageError(f"{from_!r} is no kind of session.", hint=f"Did you mean {near}?" if near else f"Use {', '.join(get_args(Origin))}.", commands=[("import", "--help")])
    origin = cast("Origin", from_)
    path, settings = store_of(store), Settings({"store": store})
    if path == ":memory:":
        raise UsageError("A store in memory holds nothing between two commands.", hint="Name a file with --store.")
    if source != "-":
        _look_into(Path(source))

    fresh, received = not Path(path).exists(), _received() if source == "-" else None

    async def work() -> Imported:
        with received or await spooled(source) as file:
            if fresh:
                await asyncio.to_thread(_inspected, file, origin, name)
                file.seek(0)
            async with StatefulAgentLoop(NoAgent(), store=path, durability=settings.get("durability")) as loop:
                return await loop.import_(file if source == "-" else source, format=origin, session_id=name, by=by or me())

    try:
        done = run(work())
    except SessionExists as error:
        there = str(error.fields.get("session", "@last"))
        raise SessionExists(error.message, session=there, hint=error.hint, commands=[("history", there), ("import", source, "--store", "NEW.db")]) from error
    with looking(path) as db:
        found = seen(db, done.session)
    if as_json:
        voice.data({**as_data(done._asdict()), "standing": found.standing if found else ""})
    else:
        voice.line(done.session, whole=True)
    told = {"new": "is new here", "extended": "was extended", "same": "was here already; nothing was changed"}[done.status]
    voice.note(f"Session {done.session} {told}: {done.seq} events in {path}." + (f" {found.why}" if found and found.why else ""))
    if found and any(one.state == "approved" for one in found.calls):
        voice.note("An approval that was given elsewhere is void here; resume asks again.")
    go_on = found.commands if found else ()
    go_on = go_on or (("history", done.session), ("send", done.session, "MESSAGE", *settings.unnamed()))
    voice.commands("try:", [voice.command(*words) for words in go_on])
    return DONE


def _look_into(file: Path) -> None:
    """Refuse at once what is no export, so that no store is created for it."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(_SQLITE)) if file.is_file() else b"{"
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", hint="Name a file that export wrote, or -.", commands=[("import", "--help")]) from error
    if begin == _SQLITE:
        raise ImportRefused(f"{file} is a store, not an export.", hint="Export a session of it first.", commands=[("sessions", "--store", str(file)), ("export", "SESSION", "-")])


def _inspected(file: BinaryIO, origin: Origin, name: str | None) -> None:
    """Refuse what cannot be let in before a store is made for it."""
    kind = look(file) if cast("str", origin) == "auto" else origin
    if name is not None:
        check_id(name)
    if kind == "power-agent":
        if name is not None:
            raise UsageError(
                "An export keeps the id of its session.", hint="Leave --as out; a fork has an id of its own.", commands=[("import", "FILE"), ("fork", "SESSION", "--as", name)]
            )
        inspect(file)
    else:
        meet(file, kind)


def _received() -> BinaryIO:
    """Keep what comes from standard input in a nameless file. Nobody else is at work yet: whoever waits for the rest can be interrupted."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  handed to the caller
    stdin = cast("BufferedReader", sys.stdin.buffer)
    while chunk := stdin.read1(CHUNK_BYTES):  # what is there: a read of more would go on behind an interruption
        file.write(chunk)
    file.seek(0)
    return file


def salvage(
    damaged: Annotated[Path, typer.Argument(metavar="DAMAGED", help="The damaged store, which nobody has open. It is not touched.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="NEW", help="A file that is not there yet.", show_default=False)],
    *,
    as_json: options.Json = False,
) -> int:
    """Save the longest good beginning of every session of a damaged store into a new one, and say what is lost.

    A session whose end is lost may have done more than is known: what had not ended there is in doubt, and a person decides.
    """
    from power_agent.salvage import salvage as saved  # noqa: PLC0415  a verb of the same name

    voice.as_json = as_json
    if not target.parent.is_dir():
        raise UsageError(f"There is no directory {target.parent}.", hint=f"Create it: mkdir -p {target.parent}", commands=[("salvage", str(damaged), target.name)])
    if target.exists():
        raise UsageError(f"{target} is there already.", hint="Name a new file; nothing is ever replaced.", commands=[("salvage", str(damaged), "NEW")])
    _is_store(damaged)
    voice.status(f"reading {damaged}")
    found: Salvage = run(saved(damaged, target))
    voice.status("")
    if as_json:
        voice.data(
            {"damaged": str(damaged.absolute()), "store": str(target.absolute()), "sessions": [as_data(one._asdict()) for one in found.sessions], "unreadable": found.unreadable}
        )
    else:
        for line in str(found).splitlines():
            voice.line(line, whole=True)
    kept = sum(bool(one.kept) for one in found.sessions)
    voice.note(f"{kept} of {len(found.sessions)} sessions are in {target}; {damaged} is as it was.")
    voice.commands("try:", [voice.command(verb, "--store", str(target)) for verb in ("verify", "sessions")])
    return DONE


def _is_store(damaged: Path) -> None:
    """Refuse what never was a store: of a damaged one at least the first page says what it is, or nothing can be saved."""
    if damaged.is_file():
        with damaged.open("rb") as opened:
            if opened.read(len(_SQLITE)) != _SQLITE:
                raise StoreForeign(f"{damaged} does not begin like a store.", path=str(damaged), hint="Restore the last backup.", commands=[("paths",)])
