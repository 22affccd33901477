"""The file itself: created privately, on a local disk, and opened the one way that keeps promises.

Only SQLite ever opens the database file: closing any other descriptor of it would drop SQLite's locks. Whoever switches to the
write-ahead log, migrates, checkpoints or closes holds the lock on a side file (`….db-lock`), because SQLite before 3.51.3 has a
race between two connections that checkpoint at the same moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from power_agent import errors
from power_agent.failpoints import passing
from power_agent.limits import LOCK_SECONDS
from power_agent.ports import Durability
from power_agent.store.migrate import check, migrate

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "9p", "fuse.sshfs", "fuse.glusterfs", "fuse.davfs2", "fuse.s3fs", "fuse.rclone", "davfs"}
)
SYNCHRONOUS = {"full": 2, "normal": 1}
OLDEST_SQLITE = (3, 38, 0)


def prepare(path: str) -> tuple[int, int]:
    """Create the file if it is missing, readable by its owner only; return its device and inode."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise errors.StoreError(f"This Python is linked to SQLite {sqlite3.sqlite_version}; {needed} is needed.", path=path, hint="Use a newer Python.")
    try:
        found = _created(path)
    except ValueError as error:
        raise errors.StoreNotFound(f"{path!r} is not a path: {error}.", path=path) from error
    except OSError as error:
        raise of_system(error, path) from error
    if found.st_size == 1:  # SQLite takes a file of one byte for an empty one
        raise errors.StoreForeign(f"{path} is not a database.", path=path)
    return found.st_dev, found.st_ino


def _created(path: str) -> os.stat_result:
    folder = Path(path).parent
    if not folder.is_dir():
        raise errors.StoreNotFound(f"There is no directory {folder}.", path=path, hint=f"Create it: mkdir -p {folder}")
    if Path(path).is_dir():
        raise errors.StoreNotFound(f"{path} is a directory.", path=path, hint="Name a file in it.")
    system = file_system(folder.resolve())
    if system in NETWORK:
        raise errors.StoreOnNetwork(f"{path} lies on a network file system ({system}).", path=path)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # new, so no lock of SQLite's can be lost
    return Path(path).stat()


def file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that a folder lies on, or "" where the system does not say."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    above = {str(one) for one in (folder, *folder.parents)}
    best, system = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5:  # noqa: PLR2004  the mount point is the fifth
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        if len(point) >= len(best) and point in above:
            best, system = point, after.split()[0]
    return system


@contextlib.contextmanager
def side_lock(path: str, seconds: float = LOCK_SECONDS) -> Iterator[bool]:
    """Hold the lock on the side file, waiting at most that long; yields whether it was had. Opened anew each time, so that a
    forked child can never keep it.
    """
    descriptor = os.open(f"{path}-lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        else:
            return True


class Log(sqlite3.Connection):
    """A connection whose `execute` also takes a function: a whole commit is one visit to the database thread.

    aiosqlite queues what it is given and cannot recall it. A transaction spread over awaits can therefore be left open by a
    cancellation; a function cannot.
    """

    path = ""
    place: tuple[int, int] | None = None
    """Device and inode of the file; None: it is in memory."""

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        """Run SQL, or a function of this connection."""
        if callable(sql):
            return _Done(sql(self, *parameters))
        return super().execute(sql, parameters)

    def close(self) -> None:
        """Close; the last one to do so copies the write-ahead log into the file, so it happens under the side lock."""
        if not self.path:
            super().close()
            return
        with contextlib.ExitStack() as locked:
            with contextlib.suppress(OSError):  # its folder is gone, or no descriptor is left; not closed here, it would be a moment later, without the lock as well
                locked.enter_context(side_lock(self.path))
            with translated(self.path):
                super().close()


class _Done:
    """The answer of a function, in the shape of a cursor."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def fetchall(self) -> object:
        return self._answer


def open_log(path: str, durability: Durability) -> Log:
    """Open, check, bring up to date. Runs in the database thread."""
    if path == ":memory:":
        db = sqlite3.connect(path, factory=Log, isolation_level=None, check_same_thread=False)
        _set_up(db, durability)
        migrate(db, path)
        return db
    with translated(path), side_lock(path) as had:
        if not had:
            raise errors.StoreBusy(f"Another process has been opening or closing {path} for {LOCK_SECONDS:.0f} s.", path=path)
        with _looked_at(path):
            db = sqlite3.connect(_address(path, "rw"), uri=True, factory=Log, isolation_level=None, check_same_thread=False, timeout=LOCK_SECONDS)
            try:
                check(db, path)
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                if mode != "wal":
                    raise errors.StoreFailed(f"{path} cannot use a write-ahead log; SQLite answered {mode!r}.", path=path)
                _set_up(db, durability)
                migrate(db, path)
            except BaseException:
                db.close()
                raise
        db.path, db.place = path, place_of(path)
        return db


def place_of(path: str) -> tuple[int, int]:
    """Return device and inode of what is at a path. Asked behind the opening: to write to a lower layer's file may move it."""
    found = os.stat(path)  # noqa: PTH116  asked with each commit
    return found.st_dev, found.st_ino


def check_place(db: Log) -> tuple[int, int] | None:
    """Refuse a file that is not at its path any more: who opens the path next would not find what is written to it."""
    try:
        if db.place is None or place_of(db.path) == db.place:
            return db.place
        what = "replaced by another file"
    except (FileNotFoundError, NotADirectoryError):
        what = "moved or removed"
    raise errors.StoreChanged(f"{db.path} was {what} while it was open here.", path=db.path)


def _address(path: str, mode: str) -> str:
    return f"{Path(path).resolve().as_uri()}?mode={mode}"


@contextlib.contextmanager
def _looked_at(path: str) -> Iterator[None]:
    """Refuse what is not ours over a connection that cannot write: closing a writing one would copy a foreign log into its file.

    It stays open until the writing one is there: the first connection reads all of a log whose last process died, and the next one
    would read it again.
    """
    with contextlib.closing(sqlite3.connect(_address(path, "ro"), uri=True, timeout=LOCK_SECONDS)) as db:
        try:
            check(db, path)
        except sqlite3.OperationalError as error:  # its last process died: only a writing connection can read it
            if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
                raise
        yield


def _set_up(db: sqlite3.Connection, durability: Durability) -> None:
    """Settings belong to the connection, not to the file: set all of them, read back the one that acknowledgements rest on."""
    for pragma in ("recursive_triggers = ON", "secure_delete = ON", "foreign_keys = ON", "mmap_size = 0", "wal_autocheckpoint = 0"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    db.execute(f"PRAGMA synchronous = {durability}")
    if db.execute("PRAGMA synchronous").fetchone()[0] != SYNCHRONOUS[durability]:
        raise errors.StoreFailed(f"SQLite did not accept synchronous = {durability}.", path="")


def checkpoint(db: Log, *, truncate: bool = False, seconds: float = 0.0) -> bool:
    """Copy the write-ahead log into the file, unless somebody else is at it; says whether all of it was copied."""
    if not db.path:
        return True
    with side_lock(db.path, seconds) as had:
        if not had:
            return False
        passing("before", ("checkpoint",))
        busy, pages, copied = db.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})").fetchone()
        passing("after", ("checkpoint",))
        return not busy and pages == copied


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise of_sqlite(error, path) from error
    except UnicodeDecodeError as error:
        raise errors.StoreDamaged(f"{path} is damaged: {error}.", path=path) from error
    except OSError as error:
        raise of_system(error, path) from error


def of_sqlite(error: sqlite3.Error, path: str) -> errors.StoreError:
    """Name what SQLite's error means for the store."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    match code & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            return errors.StoreForeign(f"{path} is not a database.", path=path)
        case sqlite3.SQLITE_FULL:
            return errors.StoreFull(f"There is no space left for {path}.", path=path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return errors.StoreBusy(f"{path} was locked by another process for {LOCK_SECONDS:.0f} s.", path=path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return errors.StoreReadOnly(f"{path} cannot be opened for writing: {error}.", path=path)
        case sqlite3.SQLITE_CORRUPT:
            return errors.StoreDamaged(f"{path} is damaged: {error}.", path=path)
        case _:
            return errors.StoreFailed(f"{path}: {error}.", path=path)


def of_system(error: OSError, path: str) -> errors.StoreError:
    """Name what the system's error means for the store."""
    import errno  # noqa: PLC0415  only on the way to an error

    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return errors.StoreReadOnly(f"{path} cannot be written: {error.strerror}.", path=path)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return errors.StoreFull(f"There is no space left for {path}.", path=path)
    return errors.StoreFailed(f"{path}: {error.strerror or error}.", path=path)
