"""A directory full of traps, and what lies outside of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

SECRET = "SECRET-CONTENT"  # noqa: S105  nothing is behind it


class House:
    """A root, and things outside that nobody may read or change through it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.outside = folder / "outside"
        self.evil = folder / "root-evil"
        for one in (self.root, self.outside, self.evil, self.root / "sub", self.root / ".git" / "hooks", self.root / "bare" / "objects", self.root / "bare" / "refs"):
            one.mkdir(parents=True)
        for one in (self.outside / "secret.txt", self.evil / "secret.txt"):
            one.write_text(SECRET)
        self._files()
        self._links()
        os.mkfifo(self.root / "pipe")
        with socket.socket(socket.AF_UNIX) as made:
            here = Path.cwd()
            os.chdir(self.root)  # a socket's name must be short
            try:
                made.bind("socket")
            finally:
                os.chdir(here)
        self._before = self.beyond()

    def _files(self) -> None:
        for name in (
            "ok.txt",
            "sub/a.txt",
            ".git/config",
            "bare/config",
            "bare/HEAD",
            "twin",
            "ledger",
            "ledger-wal",
            "state.db",
            "state.db-wal",
            "state.db-lock",
            "power-agent.db",
        ):
            (self.root / name).write_text("honest\n")
        (self.root / ".env").write_text(SECRET)
        (self.root / "keys").mkdir()
        (self.root / "keys" / "server.key").write_text(SECRET)
        (self.root / os.fsdecode(b"caf\xe9.txt")).write_text("honest\n")

    def _links(self) -> None:
        os.link(self.outside / "secret.txt", self.root / "hard")
        os.link(self.root / "twin", self.root / "hard-in")
        links = {
            "link-out": "../outside/secret.txt",
            "link-abs": str(self.outside / "secret.txt"),
            "link-dir": "../outside",
            "link-new": "../outside/new.txt",
            "link-loop": "link-loop",
            "link-chain": "link-out",
            "link-in": "ok.txt",
            "link-root": "/",
            "link-here": ".",
            "sub/link-up": "../..",
            "link-environ": "/proc/self/environ",
            "link-cwd": "/proc/self/cwd",
            "link-fd": "/proc/self/fd/0",
            "link-zero": "/dev/zero",
            "link-tty": "/dev/tty",
        }
        for name, target in links.items():
            (self.root / name).symlink_to(target)

    def beyond(self) -> dict[str, bytes]:
        """Everything outside the root."""
        return {str(path): path.read_bytes() for place in (self.outside, self.evil) for path in sorted(place.rglob("*")) if path.is_file()}

    def untouched(self) -> bool:
        """Whether what lies outside is as it was."""
        return self.beyond() == self._before
