"""Replacing a file: the whole new content under another name, durable, then one rename, durable too.

At every moment the name holds the old content or the new one. Writes in one directory wait for each other, so that nobody
replaces what he has not seen; a writer that knows nothing of that can only slip in between the last look and the rename.
The unfinished file is called after its call. A later attempt of the same call finds and removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator

from power_agent.errors import FileChanged
from power_agent.failpoints import passing
from power_agent.limits import FILE_LOCK_SECONDS
from power_agent.tools.files.content import version_of, whole_in
from power_agent.tools.files.names import Names, shown
from power_agent.tools.files.room import TEMPORARY, Room

NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT_BITS = 0o777
"""Of a mode. A program that runs as somebody else loses that when it is rewritten, as the kernel has it."""
NO_REPLACE = 1
"""RENAME_NOREPLACE of Linux."""


def current(room: Room, names: Names) -> bytes | None:
    """Return the content of a file; None: it is not there."""
    try:
        with room.directory(names[:-1]) as handle:
            return current_in(room, handle, names)
    except FileNotFoundError:
        return None


def current_in(room: Room, handle: int, names: Names) -> bytes | None:
    """Return the content of a file in an open directory; None: it is not there."""
    room.check_database(handle, names)
    try:
        return whole_in(room, handle, names)
    except FileNotFoundError:
        return None


def replace(room: Room, names: Names, content: bytes | None, *, seen: str | None, key: str) -> None:
    """Put a content in the place of the one whose version was seen (None: of nothing); None as content removes the file.

    Raises `FileChanged`, and has written nothing, when something else is there. Durable when it returns.
    """
    with room.directory(names[:-1], make=content is not None, writing=True) as handle, _alone(handle, names):
        temporary = f"{TEMPORARY[0]}{key[:32]}{TEMPORARY[1]}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=handle)
        before = current_in(room, handle, names)
        _check(names, before, seen)
        if content is None:
            os.unlink(names[-1], dir_fd=handle)
        else:
            _write(handle, names[-1], temporary, content, old=before is not None)
            try:
                _check(names, current_in(room, handle, names), seen)
                passing("before", ("rename",))
                if before is None:
                    _rename_new(handle, temporary, names)
                else:
                    os.replace(temporary, names[-1], src_dir_fd=handle, dst_dir_fd=handle)
                passing("after", ("rename",))
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=handle)
                raise
        os.fsync(handle)


def _check(names: Names, before: bytes | None, seen: str | None) -> None:
    if before is None and seen is not None:
        raise FileChanged(f"{shown(names)} is not there any more. Nothing was written.", hint="")
    if before is not None and seen is None:
        raise FileChanged(f"{shown(names)} is there already. Nothing was written.", hint="Read it, and pass its version.")
    if before is not None and version_of(before) != seen:
        raise FileChanged(f"{shown(names)} is not at version {seen} but at another. Nothing was written.")


def _write(handle: int, name: str, temporary: str, content: bytes, *, old: bool) -> None:
    """Write a content under another name, with the mode and the attributes of what it will replace, and make it durable."""
    file = os.open(temporary, NEW, 0o600 if old else 0o666, dir_fd=handle)
    try:
        if old:
            _dress(handle, name, file)
        passing("before", ("content",))
        view = memoryview(content)
        half = len(view) // 2
        while view:
            view = view[os.write(file, view[: half or None]) :]
            passing("in", ("content",))
        os.fsync(file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=handle)
        raise
    finally:
        os.close(file)


def _dress(handle: int, name: str, file: int) -> None:
    """Give a new file the mode, the group and the attributes of an old one."""
    old = os.stat(name, dir_fd=handle, follow_symlinks=False)
    with contextlib.suppress(OSError):  # it may belong to somebody else; then the new one is ours
        os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, stat.S_IMODE(old.st_mode) & KEPT_BITS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
            try:
                for attribute in os.listxattr(source):
                    with contextlib.suppress(OSError):
                        os.setxattr(file, attribute, os.getxattr(source, attribute))
            finally:
                os.close(source)


def _rename_new(handle: int, temporary: str, names: Names) -> None:
    """Give a file its name, only if nobody else has it."""
    try:
        if not _renamed(handle, os.fsencode(temporary), os.fsencode(names[-1])):
            os.link(temporary, names[-1], src_dir_fd=handle, dst_dir_fd=handle, follow_symlinks=False)
            os.unlink(temporary, dir_fd=handle)
    except FileExistsError:
        raise FileChanged(f"{shown(names)} was made by somebody else meanwhile. Nothing was written.") from None


def _renamed(handle: int, old: bytes, new: bytes) -> bool:
    """Rename without replacing, where the system can; False: it cannot."""
    rename = getattr(_LIBC, "renameat2", None)
    if rename is None:
        return False
    if rename(handle, old, handle, new, NO_REPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS}:
        return False
    raise OSError(number, os.strerror(number))


_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def _alone(handle: int, names: Names) -> Iterator[None]:
    """Let no other of our writes into the directory, of this process or another. The lock ends with its holder."""
    until = time.monotonic() + FILE_LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise FileChanged(f"Somebody else writes beside {shown(names)} for {FILE_LOCK_SECONDS:g} s now. Nothing was written.", hint="Try again.") from None
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
