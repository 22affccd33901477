"""Who this process is, and whether another one still lives.

An owner is named `boot id/pid namespace/pid/start time/token`. Processes of the same boot and namespace can be looked up: a pid
that is gone, or that started at another time, proves the owner dead. Of everybody else nothing is known, and their lease must
run out.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@cache
def _home() -> tuple[str, str]:
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = "-"
    return _read("/proc/sys/kernel/random/boot_id") or "-", namespace.strip("pid:[]") or "-"


def start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None when there is none, or only its corpse."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def me() -> str:
    """Return a new owner's name for this process."""
    boot, namespace = _home()
    pid = os.getpid()
    return f"{boot}/{namespace}/{pid}/{start_time(pid) or '-'}/{secrets.token_hex(4)}"


def proven_dead(owner: str) -> bool:
    """Say whether an owner is known to be dead. False also means: cannot be known from here."""
    return _lives(owner) is False


def lives_elsewhere(owner: str) -> bool:
    """Say whether an owner's process is another one and known to live. False also means: cannot be known from here."""
    return owner.split("/")[2:3] != [str(os.getpid())] and _lives(owner) is True


def _lives(owner: str) -> bool | None:
    parts = owner.split("/")
    if len(parts) != len(("boot", "namespace", "pid", "start", "token")) or not parts[2].isdigit():
        return None
    boot, namespace, pid, started, _ = parts
    if "-" in {boot, namespace, started} or (boot, namespace) != _home():
        return None  # another machine or container, or this one before it was started again: all look the same
    return start_time(int(pid)) == started
