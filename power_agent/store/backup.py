"""A copy of the whole store, whole or not there at all."""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

from power_agent import errors
from power_agent.store.file import translated


def backup(db: sqlite3.Connection, path: str, target: str) -> None:
    """Write a consistent copy to a new file: through SQLite, to a private name, to disk, and only then to its own."""
    goal = Path(target).absolute()
    if goal.exists():
        raise errors.StoreError(f"{goal} is there already.", path=str(goal), hint="Name a new file.")
    if not goal.parent.is_dir():
        raise errors.StoreNotFound(f"There is no directory {goal.parent}.", path=str(goal))
    unfinished = goal.with_name(f".{goal.name}.{secrets.token_hex(4)}.unfinished")
    try:
        with translated(path):
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            db.execute("VACUUM INTO ?", (str(unfinished),))
            for place in (unfinished, goal.parent):
                _to_disk(place)
            os.link(unfinished, goal)  # unlike a rename, refuses to replace
            _to_disk(goal.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
