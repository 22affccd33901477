"""The verbs on one page, by family, and how a line that was typed becomes one of them.

A verb's room is imported when the verb is run: `--help` and completion load no database, no HTTP client, no tokenizer. To add a
verb, write a function in its family's room and add a line here.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any, NamedTuple, cast

import typer
from typer import core

from power_agent.cli.saying import LastWord, voice
from power_agent.errors import UsageError


class Verb(NamedTuple):
    """Where a verb lives and what it does in a few words."""

    family: str
    room: str
    told: str


VERBS: dict[str, Verb] = {
    "demo": Verb("Try it", "demo", "an agent is killed in the middle of a call, and nothing is lost or done twice"),
    "bench": Verb("Try it", "bench", "what the log costs on this disk, beside raw SQLite"),
    "chat": Verb("Run", "chat", "talk with an agent: streaming, approvals in place, Ctrl-C interrupts, kill -9 loses nothing"),
    "send": Verb("Run", "sending", "say something to a session and run the turn"),
    "resume": Verb("Run", "sending", "go on after a crash, a Ctrl-C, a limit or a decision"),
    "pending": Verb("Decide", "deciding", "the calls without an outcome"),
    "settle": Verb("Decide", "deciding", "approve, deny, retry, abort a call, or hand in its result"),
    "abort": Verb("Decide", "deciding", "end every unresolved call and the open turn"),
    "cancel": Verb("Decide", "deciding", "ask a running turn to end"),
    "close": Verb("Decide", "deciding", "let a session take no more input"),
    "fork": Verb("Branch", "branching", "begin a session that shares another one's past, up to any event"),
    "diff": Verb("Branch", "comparing", "what two sessions, or two moments of one, do not share"),
    "compact": Verb("Run", "comparing", "make a session's context smaller now; what is folded away stays in the log"),
    "replay": Verb("Branch", "comparing", "would the agent of today go the way that was recorded?"),
    "sessions": Verb("Look", "looking", "all sessions and where each stands"),
    "history": Verb("Look", "looking", "what happened, an event per line; --timeline and --graph draw it"),
    "show": Verb("Look", "looking", "a session now or at any event; one event in full; what the model sees"),
    "tail": Verb("Look", "watching", "watch one session or all of them, whoever drives them"),
    "stats": Verb("Look", "counting", "tokens, tools, durations"),
    "export": Verb("Move", "carrying", "a session as a file that another store lets in"),
    "import": Verb("Move", "carrying", "let an exported session in, after checking every byte"),
    "salvage": Verb("Move", "carrying", "what can be saved of a damaged store, into a new one"),
    "verify": Verb("Keep", "keeping", "recompute every hash and every move"),
    "backup": Verb("Keep", "keeping", "a consistent copy of the whole store"),
    "erase": Verb("Forget", "forgetting", "destroy what a session holds, lawfully and visibly; asks first"),
    "prune": Verb("Forget", "forgetting", "erase what was closed long ago; --dry-run says what"),
    "tools": Verb("Set up", "providers", "what an agent's model may call, and what each tool promises"),
    "mcp": Verb("Set up", "outside", "servers of other people's tools: list, status, approve, revoke; serve: this store as one"),
    "models": Verb("Set up", "providers", "who can answer, and which keys are set"),
    "doctor": Verb("Set up", "health", "what is wrong here, and the command that helps"),
    "config": Verb("Set up", "health", "what is set, and who set it"),
    "paths": Verb("Set up", "health", "where everything is"),
    "errors": Verb("Learn", "teaching", "what each error means, and what to type"),
    "skill": Verb("Learn", "teaching", "what teaches a coding agent to use this library"),
}


class Verbs(core.TyperGroup):
    """A group whose commands are made when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  the framework's signature
        """Return the names, in the order of the page."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  the same
        """Import a verb's room and make its command."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(getattr(import_module(f"power_agent.cli.{verb.room}"), f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name))
        return typer.main.get_command(alone)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb, or say which one was meant."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from power_agent.cli.config import close  # noqa: PLC0415  only for a misspelt verb

            near = close(args[0], VERBS)
            hint = f"Did you mean {near}?" if near else f"The verbs are: {', '.join(VERBS)}."
            raise UsageError(f"power-agent does not know {args[0]!r}.", hint=hint, commands=[(near, "--help") if near else ("--help",)])
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:  # noqa: ARG002  the same
        """Offer verbs without importing their rooms."""
        item = cast("Any", core).CompletionItem
        return [item(name, help=verb.told) for name, verb in VERBS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the same
        """Print the page."""
        for family in dict.fromkeys(verb.family for verb in VERBS.values()):
            with formatter.section(family):
                formatter.write_dl([(name, verb.told) for name, verb in VERBS.items() if verb.family == family])


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="SESSION is an id, the beginning of one, or @last. Every verb takes --json. --debug shows tracebacks. "
    "Exit codes: 0 done, 1 failed, 2 usage, 3 no such session, 4 verification failed, 5 waits for a person, 6 limit, "
    "7 owned by another process, 8 store unusable, 130 interrupted.",
)


@app.callback()
def bare(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", show_default=False)] = False,
    store: Annotated[str | None, typer.Option("--store", metavar="FILE", help="Without a verb: the log that is looked at.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Without a verb: the state of things as JSON.", show_default=False)] = False,
) -> int:
    """Agents whose life is a log: see what they did, free what is stuck, script the rest."""
    if version:
        from power_agent import __version__  # noqa: PLC0415  rarely asked for

        voice.write(__version__)
        raise typer.Exit
    if context.invoked_subcommand is not None:
        if store is not None:
            raise UsageError("--store stands before the verb.", hint="Options of a verb stand behind it.", commands=[(context.invoked_subcommand, "--help")])
        return 0
    voice.as_json = voice.as_json or as_json
    from power_agent.cli.home import home  # noqa: PLC0415  a verb does not need it

    return home(store)


def typed(words: list[str]) -> int:
    """Do what was typed; returns the exit code. What the framework refuses becomes an error of ours."""
    command = typer.main.get_command(app)
    try:
        return int(command.main(words, prog_name="power-agent", standalone_mode=False) or 0)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        verb = next((word for word in words if word in VERBS), None)
        message = " ".join(error.format_message().split())
        hint = "Options of a verb stand behind it." if verb is None or words.index(verb) else ""
        raise UsageError(message if message.endswith((".", "?")) else f"{message}.", hint=hint, commands=[(verb, "--help") if verb else ("--help",)]) from error


def forgiving() -> None:
    """Let odd locales and closed pipes be no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(cast("Any", stream), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    logging.lastResort = LastWord()
