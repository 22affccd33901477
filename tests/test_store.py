"""The SQLite store keeps the contract, and what only it promises: about its file, its settings, its locks and its views."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import pathlib
import sqlite3
import subprocess
import sys
import textwrap
import time
from hashlib import sha256
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS, PROMPT_SECONDS

from power_agent import Call, Sink, SQLiteStore, Text, Usage, errors
from power_agent import events as e
from power_agent.chance import CountedChance, SystemChance
from power_agent.clock import HeldClock, SystemClock
from power_agent.limits import COMMITS_PER_CHECKPOINT
from power_agent.ports import Append, Fact, Kept
from power_agent.store import file
from power_agent.store.file import file_system
from power_agent.store.migrate import APPLICATION_ID, current
from power_agent.store.writer import Writer
from power_agent.testing import StoreContract
from power_agent.testing.store_contract import NOW, adding, erasing, fact, note, opening, said, taking, wrongs

LOCAL = "36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw"


# -- the contract ------------------------------------------------------------------------------------------------------


class TestFull(StoreContract):
    def make(self, tmp_path):
        return SQLiteStore(tmp_path / "agent.db")

    reopen = make

    def restored(self, target):
        return SQLiteStore(target)


class TestNormal(StoreContract):
    def make(self, tmp_path):
        return SQLiteStore(tmp_path / "agent.db", durability="normal")

    reopen = make

    def restored(self, target):
        return SQLiteStore(target)


class TestMemory(StoreContract):
    def make(self, tmp_path):
        return SQLiteStore(":memory:")

    def restored(self, target):
        return SQLiteStore(target)


# -- helpers -----------------------------------------------------------------------------------------------------------


def mode(path):
    return Path(path).stat().st_mode & 0o777


def size(path):
    return Path(path).stat().st_size if Path(path).exists() else 0


def changed_at(path):
    return Path(path).stat().st_mtime_ns


def rows(path, sql):
    """Read over a connection of our own, as a person with the sqlite3 shell would."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(sql)]


def descriptors(path):
    """Return the descriptors of this process that lead to a file."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(number.readlink()) == str(path):
                found.append(number.name)
    return found


async def pragma(store, name):
    return await store._writer.run(lambda db: db.execute(f"PRAGMA {name}").fetchone()[0])


async def until(truth, seconds=PATIENCE_SECONDS):
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


# -- settings and the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
@pytest.mark.parametrize("place", ["file", ":memory:"])
async def test_settings_are_in_force(tmp_path, durability, synchronous, place):
    """What acknowledgements and erasure rest on is read back from the very connection that commits."""
    async with SQLiteStore(tmp_path / "agent.db" if place == "file" else place, durability=durability) as store:
        assert await pragma(store, "synchronous") == synchronous
        assert await pragma(store, "wal_autocheckpoint") == 0
        assert await pragma(store, "recursive_triggers") == 1
        assert await pragma(store, "secure_delete") == 1
        assert await pragma(store, "foreign_keys") == 1
        assert await pragma(store, "application_id") == APPLICATION_ID == int.from_bytes(b"pwga", "big")
        assert await pragma(store, "user_version") == current()
        if place == "file":
            assert await pragma(store, "journal_mode") == "wal"
            assert await pragma(store, "mmap_size") == 0
            assert await pragma(store, "busy_timeout") >= 5_000


async def test_full_durability_is_the_default(tmp_path):
    async with SQLiteStore(tmp_path / "agent.db") as store:
        assert await pragma(store, "synchronous") == 2


@pytest.mark.parametrize(("error", "named"), [(OSError(5, "I/O error"), errors.StoreFailed), (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), errors.StoreDamaged)])
async def test_after_an_error_of_any_layer_nothing_more_is_written(tmp_path, monkeypatch, error, named):
    """Whatever of the disk shows in a commit: it is named, and the writer stays failed."""

    def failing(_db):
        raise error

    async with SQLiteStore(tmp_path / "log.db") as store:
        await store.append(opening("alice"))
        with monkeypatch.context() as broken:
            broken.setattr("power_agent.store.commit.check_unchanged", failing)
            with pytest.raises(named):
                await store.append(adding("alice", 1, note("lost")))
        with pytest.raises(errors.StoreFailed, match="failed before"):
            await store.append(adding("alice", 1, note("later")))


async def test_a_checkpoint_without_descriptors_is_no_failure_of_the_disk(tmp_path, monkeypatch, caplog):
    """The side lock cannot be opened for a moment: nothing of the data was touched, and the store goes on."""

    @contextlib.contextmanager
    def failing(_path, _seconds=0):
        raise OSError(errno.EMFILE, "Too many open files")
        yield

    monkeypatch.setattr("power_agent.store.writer.COMMITS_PER_CHECKPOINT", 1)
    async with SQLiteStore(tmp_path / "log.db") as store:
        with monkeypatch.context() as crowded:
            crowded.setattr("power_agent.store.file.side_lock", failing)
            await store.append(opening("alice"))
            await until(lambda: "Too many" in caplog.text)
        await store.append(adding("alice", 1, note("a")))

        def broken(_db):
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr("power_agent.store.writer.checkpoint", broken)
        with contextlib.suppress(errors.StoreFailed):  # its checkpoint, or already the one before it
            await store.append(adding("alice", 2, note("b")))
        await until(lambda: "I/O" in caplog.text)
        with pytest.raises(errors.StoreFailed, match="failed before"):
            await store.append(adding("alice", 3, note("c")))


async def test_a_setting_that_sqlite_does_not_take_is_refused(tmp_path, monkeypatch):
    """If SQLite does not confirm the durability, the store does not open."""
    monkeypatch.setattr(file, "SYNCHRONOUS", {"full": 3, "normal": 1})
    with pytest.raises(errors.StoreFailed, match="synchronous"):
        await SQLiteStore(tmp_path / "agent.db").__aenter__()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
async def test_files_are_private(tmp_path, umask):
    """The file, its write-ahead log, its index and its lock are readable by their owner only, whatever the umask says."""
    before = os.umask(umask)
    try:
        path = tmp_path / "agent.db"
        async with SQLiteStore(path) as store:
            await store.append(opening("alice"))
            await store.backup(str(tmp_path / "copy.db"))
            for name in ("agent.db", "agent.db-wal", "agent.db-shm", "agent.db-lock", "copy.db"):
                assert mode(tmp_path / name) == 0o600, name
    finally:
        os.umask(before)


async def test_the_last_close_folds_the_log_into_the_file(tmp_path):
    """After the last close one file holds everything; before it, it does not go away."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path) as store:
        async with SQLiteStore(path) as same:
            await same.append(opening("alice"))
        assert size(f"{path}-wal") > 0
        await store.append(opening("bob"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["agent.db", "agent.db-lock"]
    assert [row["session"] for row in rows(path, "SELECT session FROM sessions ORDER BY 1")] == ["alice", "bob"]
    assert descriptors(path) == []


async def test_stores_of_one_file_share_a_writer(tmp_path):
    """Opened twice in one loop, by whatever spelling of the path, a file has one connection; its settings cannot differ."""
    (tmp_path / "sub").mkdir()
    async with SQLiteStore(tmp_path / "agent.db") as store, SQLiteStore(f"{tmp_path}/sub/../agent.db") as same:
        assert store._writer is same._writer
        with pytest.raises(errors.InvalidInput, match="durability") as caught:
            await SQLiteStore(tmp_path / "agent.db", durability="normal").__aenter__()
        assert "same durability" in caught.value.hint
        await store.append(opening("alice"))
        assert await same.find("alice")
    async with SQLiteStore(tmp_path / "agent.db", durability="normal") as other:
        assert await other.find("alice")
    assert not Writer.open


async def test_who_asks_at_the_same_moment_is_kept_together(tmp_path):
    """Forty sessions at once take few commits, round after round: one, and one for all who asked while it was made."""
    names = [f"s{number}" for number in range(40)]
    async with SQLiteStore(tmp_path / "agent.db") as store:
        await asyncio.gather(*(store.append(opening(name)) for name in names))
        seen: list[str] = []
        await store._writer._db.set_trace_callback(seen.append)
        for head in range(1, 11):
            await asyncio.gather(*(store.append(adding(name, head, note("a"))) for name in names))
        assert seen.count("COMMIT") <= 11
        for head in range(11, 21):
            await store.append(adding("s0", head, note("a")))
        assert seen.count("COMMIT") <= 21


async def test_a_connection_that_went_away_is_told_to_whoever_writes(tmp_path):
    """An append is refused, then and later; nobody waits for ever."""
    async with SQLiteStore(tmp_path / "agent.db") as store:
        await store.append(opening("alice"))
        await store._writer._db.close()
        for _ in range(2):
            with pytest.raises(ValueError, match="closed"):
                await asyncio.wait_for(store.append(adding("alice", 1, note("a"))), 10)


async def test_leases_of_one_writer_have_one_length(tmp_path):
    """The thread that renews leases serves one length of lease: another one in the same process is refused, not quietly let run out."""
    async with SQLiteStore(tmp_path / "agent.db"):
        with pytest.raises(errors.InvalidInput, match="lease"):
            async with SQLiteStore(tmp_path / "agent.db", lease_seconds=1.0):
                pass


async def test_a_short_lease_is_renewed_and_a_taken_one_is_lost(tmp_path):
    """What is held stays held without the event loop's help; what somebody else took is found lost."""
    async with SQLiteStore(tmp_path / "agent.db", lease_seconds=0.3) as store:
        now = SystemClock().now
        await store.append(opening("alice", hold_until=now() + 300))
        await store.hold("alice", 1, "owner-1")
        first = (await store.find("alice")).deadline
        time.sleep(0.5)  # noqa: ASYNC251  a blocked loop is the point
        assert (await store.find("alice")).deadline > first
        await store.append(taking("alice", 1, epoch=2, why="dead", at=now(), hold_until=now() + 60_000))
        await until(lambda: store.lost("alice", 1))
        assert not store.lost("alice", 2)


async def test_a_released_lease_is_not_renewed(tmp_path):
    async with SQLiteStore(tmp_path / "agent.db", lease_seconds=0.15) as store:
        await store.append(opening("alice", hold_until=SystemClock().now() + 150))
        await store.hold("alice", 1, "owner-1")
        await store.append(adding("alice", 1, note("a"), hold_until=0))
        await asyncio.sleep(0.2)
        assert (await store.find("alice")).deadline == 0
        assert not store.lost("alice", 1)


# -- checkpoints -------------------------------------------------------------------------------------------------------


async def test_the_write_ahead_log_stays_bounded(tmp_path):
    """5,000 commits leave it under eight megabytes at every moment; the file itself grows."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path, durability="normal") as store:
        await store.append(opening("alice"))
        largest = 0
        for head in range(1, 5_001):
            await store.append(adding("alice", head, note("a")))
            if head % 25 == 0:
                largest = max(largest, size(f"{path}-wal"))
        assert 100_000 < largest < 8_000_000
        assert size(path) > 500_000


async def test_checkpoints_wait_for_the_side_lock(tmp_path):
    """While somebody else holds the lock on the side file, nothing is copied into the file and commits go on; afterwards it is."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path, durability="normal") as store:
        await store.append(opening("alice"))
        before = (size(path), changed_at(path))
        with open(f"{path}-lock", "rb") as side:  # noqa: ASYNC230, PTH123
            fcntl.flock(side, fcntl.LOCK_EX)
            begin = time.monotonic()
            for head in range(1, 2 * COMMITS_PER_CHECKPOINT + 2):
                await store.append(adding("alice", head, note("a")))
            assert time.monotonic() - begin < PROMPT_SECONDS, "a commit waited for the lock"
            assert (size(path), changed_at(path)) == before
        for head in range(2 * COMMITS_PER_CHECKPOINT + 2, 3 * COMMITS_PER_CHECKPOINT + 3):
            await store.append(adding("alice", head, note("a")))
        assert size(path) > before[0]


async def test_an_erased_text_is_nowhere(tmp_path):
    """After an erasure neither the file nor the write-ahead log holds the text, while the store is still open."""
    path = tmp_path / "agent.db"
    secret = "the-very-secret-text-" * 50
    blob = (b"the-very-secret-blob-" * 1000, "the-very-secret-snapshot")
    async with SQLiteStore(path) as store:
        await store.append(opening("alice", blobs={sha256(blob[0]).hexdigest(): blob[0]}))
        await store.append(adding("alice", 1, said(secret, key="the-very-secret-key"), *(note(secret) for _ in range(200))))
        await store.keep_snapshot("alice", 2, 1, blob[1])
        await store.append(erasing("alice", 202))
        await store.scrub()
        script = "import sys; print(sum(open(one, 'rb').read().count(b'the-very-secret') for one in sys.argv[1:]))"  # in a process of its own: locks
        found = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(path), f"{path}-wal"], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "0"


# -- where the file lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"])
async def test_network_file_systems_are_refused(tmp_path, monkeypatch, system):
    """A store on a network file system does not open, says what to do, and leaves no file there."""
    _mounted(monkeypatch, f"{LOCAL}\n40 36 0:35 / {tmp_path} rw,relatime shared:2 - {system} host:/export rw,vers=4.2")
    with pytest.raises(errors.StoreOnNetwork, match="network") as caught:
        await SQLiteStore(tmp_path / "agent.db").__aenter__()
    assert "local disk" in caught.value.hint
    assert system in caught.value.message
    assert list(tmp_path.iterdir()) == []


async def test_a_link_does_not_lead_onto_the_network(tmp_path, monkeypatch):
    """What counts is where the file itself lies, not the link that names it; two names of one file have one lock."""
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "agent.db").touch()
    (tmp_path / "agent.db").symlink_to(tmp_path / "remote" / "agent.db")
    _mounted(monkeypatch, f"{LOCAL}\n40 36 0:35 / {tmp_path}/remote rw - nfs4 host:/export rw")
    with pytest.raises(errors.StoreOnNetwork):
        async with SQLiteStore(tmp_path / "agent.db"):
            pass


async def test_a_link_and_its_file_share_one_lock(tmp_path):
    """The side file lies beside the file itself, so that two processes that use two names still exclude each other."""
    (tmp_path / "real").mkdir()
    async with SQLiteStore(tmp_path / "real" / "agent.db") as store:
        await store.append(opening("alice"))
    (tmp_path / "agent.db").symlink_to(tmp_path / "real" / "agent.db")
    async with SQLiteStore(tmp_path / "agent.db") as store:
        await store.append(opening("bob"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["agent.db", "real"]


def _mounted(monkeypatch, mounts):
    read = pathlib.Path.read_text
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self, *args, **more: mounts if str(self) == "/proc/self/mountinfo" else read(self, *args, **more))


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/", "ext4"),
        ("/home/ada", "ext4"),
        ("/mnt", "ext4"),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/deep/down", "nfs4"),
        ("/mnt/nfs-not", "ext4"),
        ("/mnt/nfs/local", "xfs"),
        ("/mnt/nfs/local/a", "xfs"),
        ("/mnt/with space", "cifs"),
        ("/mnt/with space/a", "cifs"),
        ("/mnt/with", "ext4"),
        ("/mnt/tab\tnew\nline\\slash", "9p"),
        ("/mnt/B\xfcro \U0001f600/a", "nfs"),
        ("/mnt/over/a", "tmpfs"),
        ("/mnt/ssh/x", "fuse.sshfs"),
        ("/mnt/many/x", "nfs4"),
    ],
)
def test_the_nearest_mount_counts(folder, expected):
    """The longest mount point above a folder decides, the last one mounted there; escapes in its name are read."""
    mounts = "\n".join(  # noqa: FLY002  a table reads better than one text
        [
            LOCAL,
            "broken line",
            "40 36 0:35 / /mnt/nfs rw shared:2 - nfs4 host:/e rw",
            "41 40 8:1 / /mnt/nfs/local rw - xfs /dev/sda1 rw",
            "42 36 0:36 / /mnt/with\\040space rw shared:3 master:4 - cifs //host/share rw",
            "43 36 0:37 / /mnt/tab\\011new\\012line\\134slash rw - 9p tag rw",
            "44 36 0:38 / /mnt/B\xfcro\\040\U0001f600 rw - nfs host:/e rw",
            "45 36 0:39 / /mnt/over rw - nfs host:/e rw",
            "46 45 0:40 / /mnt/over rw - tmpfs tmpfs rw",
            "47 36 0:41 / /mnt/ssh rw,user_id=0 - fuse.sshfs me@host:/ rw",
            "48 36 0:42 / /mnt/many rw a:1 b:2 c:3 d:4 - nfs4 host:/e rw",
        ]
    )
    assert file_system(Path(folder), mounts) == expected


def test_a_mount_that_is_not_unicode_is_no_obstacle():
    """The name of some other mount, broken as it may be, does not keep a store from opening; below it the type is found, too."""
    mounts = f"{LOCAL}\n49 36 0:43 / /mnt/bad\udcff rw - nfs4 host:/e rw"
    assert file_system(Path("/home"), mounts) == "ext4"
    assert file_system(Path("/mnt/bad\udcff/a"), mounts) == "nfs4"


def test_without_mountinfo_nothing_is_refused(monkeypatch):
    """Where the system does not say what is mounted, the store opens."""

    def missing(*_args, **_more):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    assert file_system(Path("/")) == ""


async def test_errors_of_opening_say_what_to_do(tmp_path):
    """A wrong durability, a missing directory, a directory, a foreign file: each says what a person can do, and touches nothing."""
    with pytest.raises(errors.InvalidInput, match="fast") as caught:
        SQLiteStore(tmp_path / "agent.db", durability="fast")
    assert '"full" or "normal"' in caught.value.hint
    with pytest.raises(errors.StoreNotFound) as caught:
        await SQLiteStore(tmp_path / "missing" / "agent.db").__aenter__()
    assert f"mkdir -p {tmp_path / 'missing'}" in caught.value.hint
    with pytest.raises(errors.StoreNotFound) as caught:
        await SQLiteStore(tmp_path).__aenter__()
    assert "file" in caught.value.hint
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to look like one\n" * 100)
    with pytest.raises(errors.StoreForeign, match="not a database") as caught:
        await SQLiteStore(text).__aenter__()
    assert "another path" in caught.value.hint
    assert text.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE theirs (a)")
        db.commit()
    before = foreign.read_bytes()
    with pytest.raises(errors.StoreForeign, match="another program"):
        await SQLiteStore(foreign).__aenter__()
    assert foreign.read_bytes() == before
    with pytest.raises(errors.StoreError, match="open already"):
        async with SQLiteStore(tmp_path / "agent.db") as store:
            await store.__aenter__()
    assert not Writer.open


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(errors.StoreReadOnly) as caught:
        await SQLiteStore(tmp_path / "closed" / "agent.db").__aenter__()
    assert "mode" in caught.value.hint


async def test_a_newer_file_is_refused(tmp_path):
    """A file of a newer schema is not opened and not written; an open one that somebody migrated takes no more facts."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path) as store:
        await store.append(opening("alice"))
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
        with pytest.raises(errors.StoreChanged) as caught:
            await store.append(adding("alice", 1, note("a")))
        assert caught.value.retryable
        assert "again" in caught.value.hint
        assert len(await store.read("alice")) == 1
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {current()}")
        await store.append(adding("alice", 1, note("a")))  # it was no failure of the disk
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    with pytest.raises(errors.StoreNewer) as caught:
        await SQLiteStore(path).__aenter__()
    assert "Upgrade" in caught.value.hint
    assert rows(path, "PRAGMA user_version") == [{"user_version": 99}]


# -- the file under it -------------------------------------------------------------------------------------------------

PLACES = ("agent.db", "agent.db-wal", "agent.db-shm")


def put_aside(folder):
    for name in PLACES:
        (folder / name).rename(folder / f"old-{name}")


async def test_to_look_a_session_up_waits_for_no_writer(tmp_path):
    """Not for one who holds the file for long, either where a lease is longer than one's own."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path) as store:
        await Sink(store, SystemClock(), SystemChance(), "me").open(session="s")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE session SET deadline = deadline + 600000")
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(5):
                assert (await store.find("s")).owner == "me"
            other.execute("ROLLBACK")


async def test_closed_when_its_folder_is_gone(tmp_path):
    """What was acknowledged went along with the folder; to close is no error, and leaves no connection behind."""
    folder = tmp_path / "here"
    folder.mkdir()
    async with SQLiteStore(folder / "agent.db") as store:
        await Sink(store, SystemClock(), SystemChance(), "me").open(session="s")
        folder.rename(tmp_path / "there")
    async with SQLiteStore(tmp_path / "there" / "agent.db") as store:
        assert [row.session for row in await store.sessions()] == ["s"]


@pytest.mark.parametrize("what", ["replaced", "moved", "removed"])
async def test_nothing_is_acknowledged_into_a_file_that_is_not_there_any_more(tmp_path, what):
    """Who opens the path next would not find it: no commit, no backup, and no follower goes on. Back in its place, it is the same file."""
    async with SQLiteStore(tmp_path / "agent.db") as store:
        await store.append(opening("alice"))
        await store.backup(tmp_path / "backup.db")
        await store.append(adding("alice", 1, note("a")))
        follower = store.follow("alice", after=2)
        following = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0.05)
        if what == "removed":
            for name in PLACES:
                (tmp_path / name).unlink()
        else:
            put_aside(tmp_path)
        if what == "replaced":
            (tmp_path / "backup.db").rename(tmp_path / "agent.db")
        async with asyncio.timeout(PROMPT_SECONDS):
            with pytest.raises(errors.StoreChanged):
                await following
        with pytest.raises(errors.StoreChanged, match="replaced by another" if what == "replaced" else "moved or removed"):
            await store.append(adding("alice", 2, note("lost")))
        with pytest.raises(errors.StoreChanged):
            await store.backup(tmp_path / "nightly.db")
        with pytest.raises(errors.StoreChanged):
            await anext(store.follow())
        assert not (tmp_path / "nightly.db").exists()
        assert len(await store.read("alice")) == 2
        if what == "moved":
            for name in PLACES:
                (tmp_path / f"old-{name}").rename(tmp_path / name)
            await store.append(adding("alice", 2, note("kept")))
            await store.backup(tmp_path / "nightly.db")
    if what == "replaced":
        async with SQLiteStore(tmp_path / "agent.db") as store:
            assert len(await store.read("alice")) == 1


async def test_the_same_file_on_other_ways_is_no_change(tmp_path, monkeypatch):
    """A relative path and a later change of the directory, a link, and a link that is turned elsewhere while it is open."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "agent.db")
    monkeypatch.chdir(tmp_path)
    async with SQLiteStore("real/agent.db") as one, SQLiteStore("link/agent.db") as two, SQLiteStore("link.db") as three:
        monkeypatch.chdir("/")
        await one.append(opening("alice"))
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(tmp_path)
        await two.append(adding("alice", 1, note("a")))
        await three.append(adding("alice", 2, note("b")))
        await two.backup(tmp_path / "backup.db")


# -- the end of a process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_a_store_never_closed_does_not_keep_the_process(tmp_path, held):
    """Who forgets to close loses nothing, does not hang, and sees no traceback."""
    script = textwrap.dedent(f"""
        import asyncio
        from power_agent import SQLiteStore
        from power_agent.testing.store_contract import opening
        async def main():
            global store
            store = SQLiteStore({str(tmp_path / "agent.db")!r})
            await store.__aenter__()
            await store.append(opening("alice"))
            if {held}:
                await store.hold("alice", 1, "owner-1")
        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [row["session"] for row in rows(tmp_path / "agent.db", "SELECT session FROM log")] == ["alice"]


def test_a_lease_is_not_renewed_for_an_event_loop_that_is_closed(tmp_path):
    """Nobody closed the store; nobody works on what it holds either, and the lease runs out."""

    async def leave() -> Writer:
        store = SQLiteStore(tmp_path / "agent.db", lease_seconds=0.3)
        await store.__aenter__()
        await store.append(opening("alice"))
        await store.hold("alice", 1, "owner-1")
        assert store._writer is not None
        return store._writer

    before = set(Writer.open)
    writer = asyncio.run(leave())
    try:
        assert writer.leases._thread is not None
        writer.leases._thread.join(PROMPT_SECONDS)
        assert not writer.leases._thread.is_alive()
    finally:
        for key in set(Writer.open) - before:
            Writer.open.pop(key)
        asyncio.run(writer._db.close())


async def test_an_opening_that_was_cancelled_leaves_nothing_open(tmp_path):
    """Wherever the opening is cancelled, the file is closed again and nobody remembers it."""
    path = tmp_path / "agent.db"
    for steps in range(6):
        opening_it = asyncio.create_task(SQLiteStore(path).__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening_it.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            store = await opening_it
            await store.__aexit__(None, None, None)
        assert not Writer.open
        await until(lambda: not descriptors(path) and not descriptors(f"{path}-wal"))


def test_a_store_left_open_in_a_dead_loop_is_not_found_by_the_next(tmp_path):
    """A writer belongs to its loop: a later loop, even one at the same address, gets a writer of its own."""
    path = tmp_path / "agent.db"
    left, used = [], set()

    async def leave():
        store = SQLiteStore(path)
        await store.__aenter__()
        await store.append(opening("alice"))
        left.append(store._writer)

    async def come(session):
        async with SQLiteStore(path) as store:
            assert store._writer not in left
            await store.append(opening(session))

    try:
        asyncio.run(leave())
        used = set(Writer.open)
        gc.collect()
        for number in range(30):
            asyncio.run(come(f"s{number}"))
    finally:
        for key in used:
            Writer.open.pop(key, None)
        for writer in left:
            asyncio.run(writer.leases.close())
            asyncio.run(writer._db.close())


# -- one bad request ---------------------------------------------------------------------------------------------------


async def test_a_request_that_cannot_be_bound_fails_alone(tmp_path):
    """What SQLite cannot take is told to the one who sent it; nobody else is cancelled, and nobody who came later waits for ever."""
    async with SQLiteStore(tmp_path / "agent.db") as store:
        for name in ("alice", "bob", "carol", "dora"):
            await store.append(opening(name))
        bad = [
            adding("bob", 1, note("a"), at=2**63),
            adding("bob", 1, note("a"), hold_until=2**63),
            Append(session="bad \udcff", head=1, facts=[fact(note("a"))], salt=b"salt", epoch=1),
            Append(session="bob", head=1, facts=[Fact("no.such.kind", NOW, "{}")], salt=b"salt", epoch=1),
            Append(session="bob", head=1, facts=[], salt=b"salt", epoch=1),
        ]
        head = 1
        for request in bad:
            together = asyncio.gather(*map(store.append, [adding("alice", head, note("a")), request, adding("carol", head, note("a"))]), return_exceptions=True)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            late = asyncio.ensure_future(store.append(adding("dora", head, note("a"))))
            first, wrong, third = await asyncio.wait_for(together, PROMPT_SECONDS)
            gc.collect()
            assert isinstance(wrong, errors.PowerAgentError), repr(wrong)
            assert isinstance(first, Kept), repr(first)
            assert isinstance(third, Kept), repr(third)
            assert isinstance(await asyncio.wait_for(late, PROMPT_SECONDS), Kept)
            head += 1
        assert len(await store.read("bob")) == 1


async def test_a_text_too_long_for_sqlite_fails_alone(tmp_path):
    """A fact or blob beyond what SQLite takes is refused; the others are kept, and the store has not failed."""
    async with SQLiteStore(tmp_path / "agent.db") as store:
        await store._writer.run(lambda db: db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000) and None)
        for name in ("alice", "bob", "carol"):
            await store.append(opening(name))
        large = b"x" * 1_000_001
        for head, request in enumerate([adding("bob", 1, note("x" * 1_000_001)), adding("bob", 1, note("a"), blobs={sha256(large).hexdigest(): large})], 1):
            requests = [adding("alice", head, note("a")), request, adding("carol", head, note("a"))]
            first, wrong, third = await asyncio.wait_for(asyncio.gather(*map(store.append, requests), return_exceptions=True), PROMPT_SECONDS)
            assert isinstance(wrong, errors.InvalidInput), repr(wrong)
            assert isinstance(first, Kept), repr(first)
            assert isinstance(third, Kept), repr(third)


# -- views -------------------------------------------------------------------------------------------------------------


async def test_views_tell_the_story(tmp_path):
    """`log`, `sessions`, `pending` and `usage` show a turn with calls of every state to whoever opens the file with a shell."""
    path = tmp_path / "agent.db"
    clock = HeldClock(NOW)
    names = ("asked", "wait", "approved", "started", "doubted", "again", "done", "denied")
    calls = tuple(Call(f"tool-{name}", {"n": number}, id=f"t1r1c{number}") for number, name in enumerate(names, 1))
    async with SQLiteStore(path, clock=clock) as store:
        sink = Sink(store, clock, CountedChance(), "me")
        await sink.open(session="idle")
        state = await sink.open(session="busy")
        clock.move(5)
        state = await sink.record(state, [said("go", key="k"), e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="m")])
        state = await sink.record(state, [e.ModelAnswered(round=1, parts=(Text("well"), *calls), finish="calls", usage=Usage(10, 5, 3, 0, 2), cost_nano_usd=700)])
        story = [
            e.CallApprovalAsked(call="t1r1c2", rule="r", digest="d2"),
            e.CallApprovalAsked(call="t1r1c3", rule="r", digest="d3"),
            e.CallApproved(call="t1r1c3", digest="d3", by="ada"),
            e.CallStarted(call="t1r1c4"),
            e.CallStarted(call="t1r1c5"),
            e.CallDoubted(call="t1r1c5", attempt=1, reason="?"),
            e.CallStarted(call="t1r1c6"),
            e.CallDoubted(call="t1r1c6", attempt=1, reason="?"),
            e.CallRetried(call="t1r1c6", by="ada"),
            e.CallStarted(call="t1r1c6", attempt=2),
            e.CallStarted(call="t1r1c7"),
            e.CallSucceeded(call="t1r1c7", output=1),
            e.CallDenied(call="t1r1c8", by="ada", reason="no"),
        ]
        clock.move(5)
        state = await sink.record(state, story)
        seen = {row["tool"]: (row["session"], row["call"], row["state"], row["attempt"], row["arguments"]) for row in rows(path, "SELECT * FROM pending")}
        assert seen == {
            "tool-asked": ("busy", "t1r1c1", "requested", 0, '{"n":1}'),
            "tool-wait": ("busy", "t1r1c2", "waiting", 0, '{"n":2}'),
            "tool-approved": ("busy", "t1r1c3", "approved", 0, '{"n":3}'),
            "tool-started": ("busy", "t1r1c4", "started", 1, '{"n":4}'),
            "tool-doubted": ("busy", "t1r1c5", "doubted", 1, '{"n":5}'),
            "tool-again": ("busy", "t1r1c6", "started", 2, '{"n":6}'),
        }
        assert {call.call.id: call.place for call in state.unresolved} == {row["call"]: row["state"] for row in rows(path, "SELECT * FROM pending")}
        (busy, idle) = rows(path, "SELECT * FROM sessions ORDER BY session")
        assert busy == {
            "session": "busy",
            "head": state.seq,
            "epoch": 1,
            "owner": "me",
            "deadline": NOW + 10_000 + store.lease_ms,
            "erased": 0,
            "parent": None,
            "base": 0,
            "opened_at": NOW,
            "changed_at": NOW + 10_000,
            "turn_open": 1,
        }
        assert (idle["head"], idle["turn_open"], idle["opened_at"], idle["changed_at"]) == (1, 0, NOW, NOW)
        log = rows(path, "SELECT * FROM log WHERE session = 'busy' ORDER BY pos")
        records = await store.read("busy")
        assert [(row["pos"], row["seq"], row["epoch"], row["at"], row["kind"], row["body"]) for row in log] == [
            (record.position, record.seq, record.epoch, record.at, record.kind, record.body) for record in records
        ]
        assert [row["call"] for row in log][-2:] == ["t1r1c7", "t1r1c8"]
        ends = [e.CallAborted(call=call.call.id, by="ada", reason="enough") for call in state.unresolved]
        state = await sink.record(state, [*ends, e.ModelAsked(turn=1, round=2, model="m")])
        state = await sink.record(state, [e.ModelAnswered(round=2, parts=(Text("bye"),), usage=Usage(20, 1)), e.TurnEnded(turn=1)])
        assert rows(path, "SELECT * FROM pending") == []
        assert rows(path, "SELECT * FROM usage") == [{"session": "busy", "answers": 2, "input": 30, "output": 6, "cached": 3, "reasoning": 2, "cost_nano_usd": 700, "unpriced": 1}]
        assert [row["turn_open"] for row in rows(path, "SELECT * FROM sessions")] == [0, 0]
        fork = await sink.open(session="fork", parent=e.Parent(relation="fork", session="busy", seq=7))
        (forked,) = rows(path, "SELECT * FROM sessions WHERE session = 'fork'")
        assert (forked["parent"], forked["base"], forked["head"], forked["opened_at"], forked["turn_open"]) == ("busy", 7, 8, NOW + 10_000, 0)
        await sink.erase(fork, "law")
        assert rows(path, "SELECT kind, body IS NULL AS gone FROM log WHERE session = 'fork'") == [{"kind": "session.opened", "gone": 1}, {"kind": "session.erased", "gone": 0}]
        assert rows(path, "SELECT * FROM pending") == []


async def test_the_file_explains_its_numbers(tmp_path):
    """Every kind of event has its row in the table of kinds, and no other."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path):
        assert {row["code"]: row["name"] for row in rows(path, "SELECT * FROM kind")} == dict(e.CODES)


# -- backup ------------------------------------------------------------------------------------------------------------


async def test_a_backup_replaces_nothing(tmp_path):
    """An existing target is refused and left as it is; so is a directory that is not there."""
    async with SQLiteStore(tmp_path / "agent.db") as store:
        await store.append(opening("alice"))
        target = tmp_path / "copy.db"
        target.write_text("precious")
        with pytest.raises(errors.StoreError, match="there already") as caught:
            await store.backup(str(target))
        assert "new file" in caught.value.hint
        assert target.read_text() == "precious"
        with pytest.raises(errors.StoreNotFound):
            await store.backup(str(tmp_path / "missing" / "copy.db"))
        with pytest.raises(errors.StoreError):
            await store.backup(str(tmp_path / "agent.db"))
        assert await wrongs(store) == []


@pytest.mark.parametrize("failing", ["link", "fsync"])
async def test_a_failed_backup_leaves_nothing(tmp_path, monkeypatch, failing):
    """A backup that fails on its way leaves no unfinished file, and the store goes on."""
    (tmp_path / "copies").mkdir()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    async with SQLiteStore(tmp_path / "agent.db") as store:
        await store.append(opening("alice"))
        with monkeypatch.context() as patch:
            patch.setattr(f"power_agent.store.backup.os.{failing}", fail)
            with pytest.raises(errors.StoreFull):
                await store.backup(str(tmp_path / "copies" / "copy.db"))
        assert list((tmp_path / "copies").iterdir()) == []
        await store.append(adding("alice", 1, note("a")))
        await store.backup(str(tmp_path / "copies" / "copy.db"))
        assert [one.name for one in (tmp_path / "copies").iterdir()] == ["copy.db"]


async def test_a_backup_while_others_write_is_consistent(tmp_path):
    """The copy is the log up to some commit: a prefix, whole, sound; writers go on meanwhile."""
    async with SQLiteStore(tmp_path / "agent.db", durability="normal") as store:
        await store.append(opening("alice"))
        await store.append(adding("alice", 1, *(note("x" * 1000) for _ in range(3_000))))
        head, done = 3_001, asyncio.Event()

        async def write():
            nonlocal head
            while not done.is_set():
                await store.append(adding("alice", head, note("a"), note("b")))
                head += 2

        writing = asyncio.create_task(write())
        heads = []
        for number in range(3):
            heads.append(head)
            await store.backup(str(tmp_path / f"copy{number}.db"))
        assert head > heads[-1], "nobody wrote during the backup"
        done.set()
        await writing
        whole = await store.read("alice")
    for number, least in enumerate(heads):
        path = tmp_path / f"copy{number}.db"
        assert mode(path) == 0o600
        async with SQLiteStore(path) as copy:
            records = await copy.read("alice")
            assert records == whole[: len(records)]
            assert len(records) >= least
            assert len(records) % 2 == 1, "half a commit"
            assert await wrongs(copy) == []
