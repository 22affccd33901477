"""Bring a file to the current schema: numbered SQL, one transaction each, never edited after release.

The files lie in `migrations/sqlite` beside the package in a checkout and inside the package in a wheel.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path

from power_agent.errors import StoreForeign, StoreNewer

APPLICATION_ID = 0x70776761  # "pwga"


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """Return the number and text of every migration, in order."""
    package = Path(__file__).resolve().parent.parent
    for home in (package / "migrations" / "sqlite", package.parent / "migrations" / "sqlite"):
        found = sorted(home.glob("[0-9][0-9][0-9][0-9]_*.sql"))
        if found:
            return tuple((int(path.name[:4]), path.read_text(encoding="utf-8")) for path in found)
    raise FileNotFoundError(f"The SQL of the store is missing: neither {package}/migrations nor {package.parent}/migrations holds it.")


def current() -> int:
    """Return the number of the newest schema this code knows."""
    return migrations()[-1][0]


def check(db: sqlite3.Connection, path: str) -> int:
    """Return the file's schema number, 0 for a fresh file; refuse what is not ours or too new. Writes nothing."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if application == 0 and version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return 0
    if application != APPLICATION_ID:
        raise StoreForeign(f"{path} is a database of another program.", path=path)
    if version > current():
        raise StoreNewer(f"{path} has schema {version}; this power_agent knows up to {current()}.", path=path)
    return version


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Apply what is missing. Killed anywhere, the file has the old schema or the new one."""
    for number, sql in migrations():
        if check(db, path) >= number:
            continue
        db.execute("BEGIN IMMEDIATE")
        try:
            if check(db, path) < number:  # another process may have been quicker
                for statement in statements(sql):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def statements(sql: str) -> list[str]:
    """Split SQL text into statements, so that all of them fit into one transaction."""
    found, part = [], ""
    for line in sql.splitlines(keepends=True):
        part += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(part):
            found.append(part)
            part = ""
    return found
