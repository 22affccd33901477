"""A quick look at the file, through its own views: which sessions are there, and which one is meant.

The file is opened the way every store opens it, and must be there: looking never creates one. Completion of session ids lives
here too; it never complains, because somebody is in the middle of typing.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from power_agent import process
from power_agent.cli.advice import pid
from power_agent.cli.config import KINDS, close
from power_agent.cli.saying import safe
from power_agent.cli.telling import due
from power_agent.clock import SystemClock
from power_agent.errors import SessionNotFound, StoreError, StoreNotFound, UsageError
from power_agent.store.file import Log, open_log, translated
from power_agent.store.migrate import APPLICATION_ID

LAST = "@last"
_SESSIONS = "SELECT session, head, owner, deadline, erased, parent, opened_at, changed_at, turn_open, base FROM sessions "
_SHOWN = 8


class OpenCall(NamedTuple):
    """A call without an outcome. `deadline`: whoever is asked about it has until then. `external`: they are asked for its result."""

    call: str
    tool: str
    state: str
    deadline: int | None = None
    external: bool = False


class Seen(NamedTuple):
    """A session as the listing shows it. `standing` is one word, `why` a sentence, `commands` what goes on from there."""

    session: str
    events: int
    standing: str
    why: str
    commands: tuple[tuple[str, ...], ...]
    calls: tuple[OpenCall, ...]
    parent: str | None
    opened_at: int
    changed_at: int
    owner: str | None
    deadline: int
    base: int = 0

    @property
    def stuck(self) -> bool:
        """Whether nothing goes on until somebody types something."""
        return self.standing in {"waiting", "doubted", "interrupted", "limit", "failed"}

    @property
    def needs_person(self) -> bool:
        """Whether only a decision about a call helps."""
        return self.standing in {"waiting", "doubted"}


@contextlib.contextmanager
def looking(path: str) -> Iterator[Log]:
    """Open an existing file for a look."""
    if path == ":memory:":
        raise UsageError("A store in memory holds nothing between two commands.", hint="Name a file with --store.")
    if not Path(path).is_file() or not Path(path).stat().st_size:
        raise _no_store(path)
    with translated(path), contextlib.closing(open_log(path, "full")) as db:
        db.execute("PRAGMA query_only = ON").fetchall()
        yield db


def _no_store(path: str) -> StoreNotFound:
    others = [other.name for other in neighbours(Path(path).parent) if str(other) != path]
    if others:
        hint, commands = f"There is another store beside it: {', '.join(others[:3])}.", [("sessions", "--store", other) for other in others[:2]]
        return StoreNotFound(f"There is no store at {path}.", path=path, hint=hint, commands=commands)
    return StoreNotFound(f"There is no store yet at {path}.", path=path, hint="The first send creates it; --store or POWER_AGENT_STORE names another.")


def neighbours(folder: Path) -> list[Path]:
    """Return the stores in a folder, by the number in their header: other programs' files get no lock and no side file from us."""
    found = []
    for path in sorted(folder.glob("*.db"))[:_SHOWN]:
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            if db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
                found.append(path)
    return found


class _Row(NamedTuple):
    """A row of the view."""

    session: str
    head: int
    owner: str | None
    deadline: int
    erased: int
    parent: str | None
    opened_at: int | None
    changed_at: int | None
    turn_open: int
    base: int


Calls = tuple[OpenCall, ...]
Commands = tuple[tuple[str, ...], ...]
Standing = tuple[str, str, Commands]


def sessions(db: Log, limit: int = -1) -> list[Seen]:
    """List sessions, the one that changed last first."""
    pending: dict[str, list[OpenCall]] = {}
    for session, call, tool, state in db.execute("SELECT session, call, tool, state FROM pending"):
        pending.setdefault(session, []).append(_open_call(db, session, call, tool, state))
    rows = [_Row(*row) for row in db.execute(_SESSIONS + "ORDER BY changed_at DESC, session LIMIT ?", (limit,)).fetchall()]
    return [_seen(db, row, tuple(pending.get(row.session, ()))) for row in rows]


def session(db: Log, name: str) -> Seen | None:
    """Return one session as the listing shows it."""
    row = db.execute(_SESSIONS + "WHERE session = ?", (name,)).fetchone()
    if row is None:
        return None
    found = db.execute("SELECT call, tool, state FROM pending WHERE session = ?", (name,)).fetchall()
    return _seen(db, _Row(*row), tuple(_open_call(db, name, *one) for one in found))


def _open_call(db: Log, session: str, call: str, tool: str, state: str) -> OpenCall:
    """Tell a doubted call about which somebody decided already from one that waits for that, and until when one waits."""
    if state == "doubted":
        last = db.execute("SELECT kind FROM log WHERE session = ? AND call = ? ORDER BY seq DESC LIMIT 1", (session, call)).fetchone()
        return OpenCall(call, tool, "retried" if last and last[0] == "call.retried" else state)
    if state != "waiting":
        return OpenCall(call, tool, state)
    asked = "SELECT seq, body ->> '$.deadline', body ->> '$.external' FROM log WHERE session = ? AND call = ? ORDER BY seq DESC LIMIT 1"
    seq, deadline, external = db.execute(asked, (session, call)).fetchone() or (0, None, None)
    if not external and db.execute("SELECT 1 FROM log WHERE session = ? AND seq > ? AND kind = 'session.imported'", (session, seq)).fetchone():
        return OpenCall(call, tool, "requested")  # what was asked elsewhere is asked anew
    return OpenCall(call, tool, state, deadline, bool(external))


def _seen(db: Log, row: _Row, calls: Calls) -> Seen:
    standing, why, commands = _standing(db, row, calls)
    return Seen(row.session, row.head, standing, why, commands, calls, row.parent, row.opened_at or 0, row.changed_at or 0, row.owner, row.deadline, row.base)


def _standing(db: Log, row: _Row, calls: Calls) -> Standing:
    if row.erased:
        return "erased", "Its contents were destroyed.", ()
    if row.turn_open and living(row.owner, row.deadline):
        return "running", f"Process {pid(row.owner or '')} works on it.", (("tail", row.session), ("cancel", row.session))
    if row.turn_open:
        return _open(db, row.session, calls)
    return _untouched(db, row) if row.parent is not None else _at_rest(db, row.session)


def _untouched(db: Log, row: _Row) -> Standing:
    """Say how a fork stands; as long as nothing happened in it, by what its parents did up to where it left them."""
    name, upto = row.session, row.head
    while True:
        found = db.execute("SELECT kind FROM log WHERE session = ? AND seq <= ? AND kind IN ('turn.started', 'turn.ended') ORDER BY seq DESC LIMIT 1", (name, upto)).fetchone()
        up = db.execute("SELECT parent, base FROM sessions WHERE session = ?", (name,)).fetchone()
        if found is not None or up is None or up[0] is None:
            break
        name, upto = up
    if found is not None and found[0] == "turn.started" and name != row.session and not _left(db, row.session):
        return "idle", f"A turn of {name} was open where it left; it can go on here.", (("resume", row.session),)
    return _at_rest(db, row.session)


def _at_rest(db: Log, name: str) -> Standing:
    """Say how a session stands between turns."""
    last = db.execute("SELECT kind FROM log WHERE session = ? AND kind <> 'owner.changed' ORDER BY seq DESC LIMIT 1", (name,)).fetchone()
    if last and last[0] == "session.closed":
        return "closed", "It takes no more input.", ()
    left = _left(db, name)
    if last and last[0] == "input.received":
        return "interrupted", left, (("resume", name),)
    ended = db.execute("SELECT body FROM log WHERE session = ? AND kind = 'turn.ended' ORDER BY seq DESC LIMIT 1", (name,)).fetchone()
    told = json.loads(ended[0] or "{}") if ended else {}
    if told.get("status") in {"limit", "failed"}:
        failure, reason = (told.get("failure") or {}).get("message"), told.get("reason")
        why = failure or (_limit(reason) if reason and told["status"] == "limit" else reason) or "The last turn did not complete."
        return told["status"], f"{why} {left}".rstrip(), (("resume", name),)
    return ("interrupted", left, (("resume", name),)) if left else ("idle", "", ())


def _limit(reason: str) -> str:
    """Say which limit a turn reached; only a higher one lets it go on."""
    return f"It reached {reason}." + (" Raise it before you resume." if f"limits.{reason}" in KINDS else "")


def _left(db: Log, name: str) -> str:
    """Say what was said and not taken up. Inputs are taken in their order, so nothing older than one that a turn began with is left: of a
    session at rest this reads about one turn.
    """
    left, taken, oldest = list[int](), set[int](), 0
    rows = db.execute(
        "SELECT seq, kind, CASE WHEN kind <> 'input.received' THEN body ->> '$.inputs' END FROM log "
        "WHERE session = ? AND kind IN ('input.received', 'turn.started', 'model.asked') ORDER BY seq DESC",
        (name,),
    )
    for seq, kind, inputs in rows:
        if seq <= oldest:
            break
        if kind == "input.received" and seq not in taken:
            left.append(seq)
        taken.update(json.loads(inputs or "[]"))
        if kind == "turn.started" and inputs and not oldest:
            oldest = max(json.loads(inputs))
    if len(left) == 1:
        return f"What was said at event {left[0]} has not been taken up."
    return f"{len(left)} inputs have not been taken up, the first one at event {left[-1]}." if left else ""


def _open(db: Log, name: str, calls: Calls) -> Standing:
    """Say what an open turn waits for that nobody works on."""
    states = {one.state for one in calls}
    if not calls or states - {"waiting", "doubted"}:
        return "interrupted", "Its turn is open, and nobody works on it.", (("resume", name), ("abort", name))
    if "doubted" not in states:
        return _waiting(name, min(calls, key=lambda one: one.deadline or math.inf))
    call, tool, state = next(one for one in calls if one.state == "doubted")[:3]
    retry = () if _cancelled(db, name) else (("settle", name, call, "retry"),)
    return state, f"{tool} ({call}) may have taken effect.", (*retry, ("settle", name, call, "result", "VALUE"), ("settle", name, call, "abort"))


def _waiting(name: str, one: OpenCall) -> Standing:
    """Say what somebody is asked about, and until when."""
    now = SystemClock().now()
    over = one.deadline is not None and one.deadline <= now
    words = [("result", "VALUE"), ("abort",)] if one.external else [("deny",)] if over else [("approve",), ("deny",)]
    decide = [("settle", name, one.call, *said) for said in words] + ([("resume", name)] if over else [])
    when = "" if one.deadline is None else f": {due(one.deadline, now)}"
    return "waiting", f"{one.tool} ({one.call}) waits for a person{when}.", tuple(decide)


def _cancelled(db: Log, name: str) -> bool:
    """Say whether the open turn is to end: nothing starts in it any more."""
    row = db.execute("SELECT kind FROM log WHERE session = ? AND kind IN ('turn.started', 'cancel.asked') ORDER BY seq DESC LIMIT 1", (name,)).fetchone()
    return row is not None and row[0] == "cancel.asked"


def living(owner: str | None, deadline: int) -> bool:
    """Say whether somebody may be working: the lease holds, and nothing proves its holder dead."""
    return owner is not None and deadline >= SystemClock().now() and not process.proven_dead(owner)


# -- which one is meant ------------------------------------------------------------------------------------------------


def named(db: Log, ref: str) -> str:
    """Return the id that was meant: the id itself, `@last`, or the beginning of exactly one."""
    if ref == LAST:
        row = db.execute("SELECT session FROM log ORDER BY pos DESC LIMIT 1").fetchone()
        if row is None:
            raise SessionNotFound("There is no session in this store yet.", session=ref, hint="The first one begins with send @new.", commands=[("send", "@new", "MESSAGE")])
        return str(row[0])
    if db.execute("SELECT 1 FROM sessions WHERE session = ?", (ref,)).fetchone():
        return ref
    if ref.startswith("@") or not ref:
        raise UsageError(f"{ref!r} is not a session.", hint="Use an id, the beginning of one, or @last.", commands=[("sessions",)])
    found = beginning_with(db, ref)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)}{'' if len(found) < _SHOWN else ' or more'} sessions begin with {ref!r}: {', '.join(found)}.", hint="Type more of it.", commands=[("sessions",)]
        )
    near = close(ref, [row[0] for row in db.execute("SELECT session FROM sessions ORDER BY changed_at DESC LIMIT 1000")])
    raise SessionNotFound(f"There is no session {ref!r}.", session=ref, hint=f"Did you mean {near}?" if near else "")


def beginning_with(db: Log, start: str) -> list[str]:
    """Return some sessions whose ids begin so."""
    rows = db.execute("SELECT session FROM sessions WHERE substr(session, 1, ?) = ? ORDER BY changed_at DESC LIMIT ?", (len(start), start, _SHOWN))
    return [row[0] for row in rows]


def completions(store: str, start: str) -> list[str]:
    """Return ids for the shell to offer; nothing rather than an error."""
    try:
        with looking(store) as db:
            return [name for name in ([LAST] if LAST.startswith(start) else []) + beginning_with(db, start) if name == safe(name)]
    except (StoreError, UsageError):
        return []
