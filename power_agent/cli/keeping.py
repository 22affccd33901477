"""The verbs about the file itself: `verify` and `backup`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from power_agent.cli import options
from power_agent.cli.advice import DAMAGED, DONE
from power_agent.cli.deciding import store_of
from power_agent.cli.glance import looking, named
from power_agent.cli.glance import sessions as listed
from power_agent.cli.running import run
from power_agent.cli.saying import voice
from power_agent.errors import UsageError
from power_agent.ports import Record, SessionRow, Store
from power_agent.store import SQLiteStore
from power_agent.store.verify import check_chain, check_file

_SHORTEST_TIP = 8


class _Counted:
    """A store that tells how much of it was read."""

    def __init__(self, store: Store, total: int) -> None:
        self._store = store
        self._total = total
        self.read_events = 0

    async def find(self, session: str) -> SessionRow | None:
        return await self._store.find(session)

    async def blob(self, session: str, digest: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        return await self._store.blob(session, digest, start=start, length=length)

    async def read(self, session: str, *, after: int = 0, upto: int | None = None, limit: int | None = None, kinds: Collection[str] | None = None) -> list[Record]:
        records = await self._store.read(session, after=after, upto=upto, limit=limit, kinds=kinds)
        self.read_events += len(records)
        voice.status(f"verifying {session}: {self.read_events:,} of {max(self._total, self.read_events):,} events")
        return records


def verify(
    session: options.MaybeSession = None,
    *,
    tip: Annotated[str | None, typer.Option("--tip", metavar="SEQ:HASH", help="A tip that was kept elsewhere: shows a log whose end was cut off.", show_default=False)] = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Recompute every hash and every move. Exit code 4 when something is wrong.

    Without SESSION the file's own check, its guards and its blobs are looked at too. What is printed for each session is its tip;
    keep it elsewhere, and --tip tells one day whether the end of the log is still there.
    """
    voice.as_json = as_json
    path = store_of(store)
    wrong: list[str] = []
    with looking(path) as db:
        names = [named(db, session)] if session else [one.session for one in listed(db)]
        total = db.execute("SELECT coalesce(sum(head - base), 0) FROM sessions" + (" WHERE session = ?" if session else ""), (names[0],) if session else ()).fetchone()[0]
        if tip is not None and not session:
            raise UsageError("A tip is of one session.", hint="Name the session.", commands=[("verify", "SESSION", "--tip", "SEQ:HASH")])
        if not session:
            voice.status(f"verifying the file {path} ({Path(path).stat().st_size / 1e6:,.1f} MB)")
            wrong += check_file(db)
    tips: dict[str, str] = {}
    run(_chains(path, names, total, tip, wrong, tips))
    voice.status("")
    if as_json:
        voice.data({"store": path, "good": not wrong, "wrong": wrong, "tips": tips})
    else:
        voice.table([[name, ("good", "green"), one] for name, one in tips.items()])
        for sentence in wrong:
            voice.line(("wrong: ", "bold red"), sentence)
    if wrong:
        voice.note(
            ("error[verify]", "bold red"), f": {len(wrong)} thing{'s are' if len(wrong) > 1 else ' is'} not what was kept. The other sessions are good as far as they are listed."
        )
        voice.commands("try:", [voice.command("doctor"), voice.command("history", names[0])] if names else [voice.command("doctor")])
    return DAMAGED if wrong else DONE


async def _chains(path: str, names: list[str], total: int, tip: str | None, wrong: list[str], tips: dict[str, str]) -> None:
    async with SQLiteStore(path) as opened:
        counted = _Counted(opened, total)
        for name in names:
            found = [sentence async for sentence in check_chain(cast("Store", counted), name)]
            row = await opened.find(name)
            if tip is not None and not found:
                found += await _against(opened, name, tip)
            wrong += found
            if row is not None and not found:
                tips[name] = f"{row.head}:{row.tip.hex()}"


async def _against(store: Store, name: str, tip: str) -> list[str]:
    """Compare the log with a tip that was kept elsewhere."""
    number, colon, digest = tip.partition(":")
    if not colon or not number.isdigit() or len(digest) < _SHORTEST_TIP:
        raise UsageError(f"{tip!r} is no tip.", hint="A tip is SEQ:HASH, as verify prints it.", commands=[("verify", name)])
    seq = int(number)
    records: list[Any] = await store.read(name, after=seq - 1, upto=seq)
    if not records:
        return [f"Session {name!r} has no event {seq}: its end was cut off."]
    return [] if records[0].hash.hex().startswith(digest.lower()) else [f"Session {name!r}, event {seq}: its hash is not the one of the tip."]


def backup(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A file that is not there yet.", show_default=False)],
    *,
    store: options.Store = None,
    as_json: options.Json = False,
) -> int:
    """Write a consistent copy of the whole store, whole or not at all, while others go on writing. Go on with one of the two: what was approved may begin in both."""
    voice.as_json = as_json
    path = store_of(store)
    with looking(path):
        pass
    if not target.parent.is_dir():
        raise UsageError(f"There is no directory {target.parent}.", hint=f"Create it: mkdir -p {target.parent}", commands=[("backup", target.name)])
    if target.exists():
        raise UsageError(f"{target} is there already.", hint="Name a new file; a copy never replaces anything.", commands=[("backup", "TARGET")])

    async def work() -> None:
        async with SQLiteStore(path) as opened:
            await opened.backup(str(target))

    voice.status(f"copying {path}")
    run(work())
    voice.status("")
    size = target.stat().st_size
    if as_json:
        voice.data({"store": path, "backup": str(target.absolute()), "bytes": size})
    voice.note(f"{target} holds the whole store, {size / 1e6:,.1f} MB.")
    voice.options = []
    voice.commands("try:", [voice.command("verify", "--store", str(target))])
    return DONE
