"""The verbs that decide and end. They need no agent: a person may settle what another process waits for, from anywhere."""

from __future__ import annotations

import contextlib
import getpass
import json
import sys
from typing import Annotated, Any

import typer

from power_agent.cli import options
from power_agent.cli.advice import DONE
from power_agent.cli.agents import reading_loop
from power_agent.cli.config import Settings
from power_agent.cli.config import close as closest
from power_agent.cli.glance import looking, named, sessions
from power_agent.cli.glance import session as seen
from power_agent.cli.running import run
from power_agent.cli.saying import SEAL, one_line, voice
from power_agent.cli.telling import arguments, as_data, due, said, until
from power_agent.clock import SystemClock
from power_agent.errors import SessionPending, UsageError
from power_agent.policy.showing import shown
from power_agent.results import PendingCall, pending_of
from power_agent.settling import Abort, Approve, Decision, Deny, Result, Retry
from power_agent.state import SessionState
from power_agent.state.shape import Input

LONG_CHARACTERS = 200
"""Of one argument: a longer one stands on lines of its own."""
DECISIONS = ("approve", "deny", "retry", "result", "abort")
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the log, and the model is told.", show_default=False)]


def message(words: list[str]) -> str:
    """Return what was typed, or what stands on standard input when that was a single -."""
    if words != ["-"]:
        return " ".join(words)
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"Standard input is not UTF-8 text: {error}.", hint="Convert it first, for example with iconv.") from error


def known(path: str, ref: str) -> str:
    """Return the session that is meant, which must be there."""
    with looking(path) as db:
        return named(db, ref)


# -- what waits --------------------------------------------------------------------------------------------------------


def show_pending(name: str, calls: list[PendingCall], *, cancelled: bool = False) -> None:
    """Tell each call that waits, and what may be typed about it."""
    for call in calls:
        first, *rest = in_question(call).split("\n")
        voice.note(SEAL, f"{call.id} is ", (call.state, "bold yellow"), f": {first}")
        for line in [*rest, *due_of(call)]:
            voice.note(f"    {line}")
        voice.commands("try:", _commands(name, call, cancelled=cancelled))


def due_of(call: PendingCall) -> list[str]:
    """Say until when a call waits for a person, where that is not for ever."""
    return [due(call.deadline, SystemClock().now())] if call.state == "waiting" and call.deadline is not None else []


def in_question(call: PendingCall) -> str:
    """Return what a person decides about: all that would run, and nothing that looks like something else. A text of several lines
    stands on lines of its own.
    """
    said = call.question or call.why
    if call.tainted is not None and call.tainted not in said:
        said = f"{said} The model has read what anybody may have written: {call.tainted}."
    why = f"  {shown(said)}"
    if not any(isinstance(value, str) and ("\n" in value or len(value) > LONG_CHARACTERS) for value in call.arguments.values()):
        whole = shown(f"{call.tool}({arguments(call.arguments)})")
        return whole + why if "\n" not in whole else f"{whole}\n{why.strip()}"
    lines = [f"{shown(call.tool)}{why}"]
    for name, value in call.arguments.items():
        inside = shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split("\n")
        lines += [f"  {shown(name)}: {inside[0]}"] if len(inside) == 1 else [f"  {shown(name)}:", *(f"  │ {line}" for line in inside)]
    return "\n".join(lines)


def possible(call: PendingCall, *, cancelled: bool = False) -> tuple[str, ...]:
    """Return the decisions that a call's state allows; nothing starts any more in a turn that is cancelled."""
    if call.state == "waiting":
        return ("result", "abort") if call.external else ("deny", "abort") if _expired(call) else ("approve", "deny", "abort")
    found = {"doubted": ("retry", "result", "abort"), "approved": ("abort",)}.get(call.state, ())
    return tuple(word for word in found if not (cancelled and word == "retry"))


def _expired(call: PendingCall) -> bool:
    """Say whether nobody answered in time."""
    return call.state == "waiting" and call.deadline is not None and call.deadline <= SystemClock().now()


def released(state: SessionState) -> set[str]:
    """Return the doubted calls that somebody told to run again: no person is needed any more, only somebody who resumes."""
    return {name for name, call in state.calls.items() if call.place == "doubted" and call.permitted_by is not None}


def _commands(name: str, call: PendingCall, *, cancelled: bool) -> list[str]:
    """Spell what a person may type about a call that waits for one."""
    if call.state not in {"waiting", "doubted"}:
        return [voice.command("resume", name)]
    words = [word for word in possible(call, cancelled=cancelled) if (call.state, word) != ("waiting", "abort") or call.external]
    promised = [voice.command("resume", name)] if _expired(call) or call.recovery != "ask" else []
    return promised + [voice.command("settle", name, call.id, word, *(("VALUE",) if word == "result" else ())) for word in words]


def pending(session: options.MaybeSession = None, *, store: options.Store = None, as_json: options.Json = False) -> int:
    """Show the calls without an outcome, of one session or of all."""
    voice.as_json = as_json
    path = store_of(store)
    with looking(path) as db:
        names = [named(db, session)] if session else [one.session for one in sessions(db) if one.calls]

    async def work() -> list[tuple[str, PendingCall, bool, bool]]:
        async with reading_loop(path) as loop:
            states = [await loop.state(name) for name in names]
        return [(state.session, call, state.cancel is not None, call.id in released(state)) for state in states for call in pending_of(state)]

    found = run(work())
    if as_json:
        documents = [
            {
                "session": name,
                **as_data(call),
                "decisions": possible(call, cancelled=cancelled),
                "shown": in_question(call),
                "expires_at": until(call.deadline),
                "expired": _expired(call),
            }
            for name, call, cancelled, _ in found
        ]
        voice.data({"pending": documents})
        return DONE
    for name, call, cancelled, decided in found:
        first, *rest = in_question(call).split("\n")
        voice.line(SEAL, f"{name}  {call.id}  ", (call.state, "bold yellow"), f"  {first}", whole=True)
        for line in [*rest, *due_of(call)]:
            voice.line(f"    {line}", whole=True)
        voice.commands("try:", [voice.command("resume", name)] if decided else _commands(name, call, cancelled=cancelled))
    if not found:
        voice.note("Nothing is pending.")
    return DONE


def settle(  # noqa: PLR0913  a decision and who made it
    session: options.Session,
    call: Annotated[str, typer.Argument(metavar="CALL", help="The call's id, for example t1r1c1.", show_default=False)],
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="approve, deny, retry, result or abort.", show_default=False)],
    value: Annotated[list[str] | None, typer.Argument(metavar="[VALUE]", help="With result: what it was; - reads it from standard input.", show_default=False)] = None,
    *,
    reason: Reason = None,
    by: options.By = None,
    value_is_json: Annotated[bool, typer.Option("--parse", help="VALUE is JSON, not text.", show_default=False)] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Record one decision about one call. Works while another process waits for it, or days later; it never runs anything."""
    voice.as_json = as_json
    what = _decision(decision, value, reason, parse=value_is_json)
    path = store_of(store)
    name = known(path, session)

    async def work() -> tuple[list[PendingCall], SessionState]:
        async with reading_loop(path) as loop:
            return await loop.settle(name, call, what, by=by or me()), await loop.state(name)

    left, state = run(work())
    if as_json:
        voice.data({"session": name, "call": call, "decision": decision, "pending": as_data(left)})
    voice.note(f"Kept: {decision} {call} of session {name}.")
    needs_person = [one for one in left if one.state in {"waiting", "doubted"} and one.id not in released(state)]
    show_pending(name, needs_person, cancelled=state.cancel is not None)
    if not needs_person:
        _go_on(path, name)
    return DONE


def _go_on(path: str, name: str) -> None:
    """Say who goes on: a living owner by itself, else somebody who types it."""
    with looking(path) as db:
        found = seen(db, name)
    if found is not None and found.standing == "running":
        voice.note(f"{found.why} It goes on by itself.")
        voice.commands("try:", [voice.command("tail", name)])
    elif found is not None and found.standing == "interrupted":
        voice.note(found.why)
        voice.commands("try:", [voice.command("resume", name)])


def _decision(word: str, value: list[str] | None, reason: str | None, *, parse: bool) -> Decision:
    """Read a decision as it was typed."""
    if word not in DECISIONS:
        near = closest(word, DECISIONS)
        raise UsageError(f"{word!r} is not a decision.", hint=f"Did you mean {near}?" if near else f"Use one of {', '.join(DECISIONS)}.", commands=[("settle", "--help")])
    if value and word != "result":
        raise UsageError(f"{word} takes no value.", hint="Say why with --reason.", commands=[("settle", "--help")])
    if word == "result":
        if not value:
            raise UsageError("result needs what the result was.", hint='For example: settle SESSION CALL result "sent at noon"', commands=[("settle", "--help")])
        return Result(_value(message(value), parse=parse))
    told = {} if reason is None else {"reason": reason}
    return Approve(**told) if word == "approve" else Deny(**told) if word == "deny" else Retry(**told) if word == "retry" else Abort(**told)


def _value(text: str, *, parse: bool) -> Any:
    if not parse:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"VALUE is not JSON: {error}.", hint="Leave --parse out to hand it in as text.") from error


# -- ending ------------------------------------------------------------------------------------------------------------


def abort(
    session: options.Session,
    *,
    call: Annotated[list[str] | None, typer.Option("--call", metavar="CALL", help="Only this call; may be repeated.", show_default=False)] = None,
    reason: Reason = None,
    by: options.By = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """End every unresolved call and the open turn, so that the session can be sent to again."""
    voice.as_json = as_json
    path = store_of(store)
    name = known(path, session)

    async def work() -> list[PendingCall]:
        async with reading_loop(path) as loop:
            return await loop.abort_pending(name, reason=reason or "no reason given", call_ids=call, by=by or me())

    ended = run(work())
    if as_json:
        voice.data({"session": name, "aborted": as_data(ended)})
    voice.note(
        f"Aborted {len(ended)} call{'s' if len(ended) != 1 else ''} of session {name}"
        + (": " + ", ".join(f"{one.id} {one.tool} (was {one.state})" for one in ended) if ended else "")
        + "."
    )
    _go_on(path, name)
    return DONE


def cancel(session: options.Session, *, reason: Reason = None, by: options.By = None, store: options.Store = None, as_json: options.Json = False) -> int:
    """Ask for the end of the open turn, also one that another process runs."""
    voice.as_json = as_json
    path = store_of(store)
    name = known(path, session)

    async def work() -> bool:
        async with reading_loop(path) as loop:
            return await loop.cancel(name, reason=reason or "cancelled", by=by or me())

    kept = run(work())
    if as_json:
        voice.data({"session": name, "cancelled": kept})
    if not kept:
        voice.note(f"No turn of session {name} is open; nothing was cancelled.")
        _go_on(path, name)
        return DONE
    with looking(path) as db:
        found = seen(db, name)
    if found is not None and found.standing == "running":
        voice.note(f"Kept. {found.why} It stops within moments.")
    elif found is not None and found.commands:
        voice.note("Kept, but nobody works on it: the turn ends with the next resume, or at once with abort.")
        voice.commands("try:", [voice.command("abort", name), voice.command("resume", name)])
    return DONE


def close(
    session: options.Session,
    *,
    abort_first: Annotated[bool, typer.Option("--abort", help="End an open turn and drop queued input first.", show_default=False)] = False,
    reason: Reason = None,
    by: options.By = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Let a session take no more input. It stays readable."""
    voice.as_json = as_json
    path = store_of(store)
    name = known(path, session)

    async def work() -> tuple[Input, ...]:
        async with reading_loop(path) as loop:
            before = await loop.state(name)
            await loop.close_session(name, reason=reason or "closed", abort=abort_first, by=by or me())
            return () if before.closed else (await loop.state(name)).inputs

    try:
        dropped = run(work())
    except SessionPending as error:
        raise SessionPending(
            error.message, session=name, calls=error.fields.get("calls", []), hint="Finish it, or close with --abort.", commands=[("resume", name), ("close", name, "--abort")]
        ) from error
    if as_json:
        voice.data({"session": name, "closed": True, "dropped": [{"seq": item.seq, "text": said(item.parts)} for item in dropped]})
    voice.note(f"Session {name} is closed.")
    for item in dropped:
        voice.note(f"Dropped, never taken up: {item.seq} {one_line(said(item.parts))}")
    return DONE


def store_of(flag: str | None) -> str:
    """Return where the store is, and let the commands we suggest find it too."""
    settings = Settings({"store": flag})
    if flag is not None:
        voice.options = ["--store", flag]
    return settings.store


def me() -> str:
    """Return who types: the login name."""
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return "a person"
