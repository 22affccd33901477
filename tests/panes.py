"""A command in a terminal that is one: tmux draws it, keys are typed into it, and what a person would see is read off it."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Self

from needs import needs
from processes import PATIENCE_SECONDS
from shell import COMMAND, environment

SETTINGS = "set -g history-limit 30000\nset -g escape-time 0\nset -g allow-rename on\n"
_NUMBERS = itertools.count()
SGR = re.compile(r"\x1b\[[0-9;]*m")


class Pane:
    """One window of a tmux of its own, gone behind `with`."""

    def __init__(self, *words: str, cwd: Path, columns: int = 80, lines: int = 30, program: list[str] | None = None, **more: str) -> None:
        self._tmux = [needs("tmux", "apt-get install tmux"), "-S", str(cwd / f"tmux.{next(_NUMBERS)}"), "-f", str(cwd / "tmux.conf")]
        self._cwd = cwd
        self.raw = cwd / "raw"
        (cwd / "tmux.conf").write_text(SETTINGS, encoding="utf-8")
        own = environment(XDG_STATE_HOME=str(cwd / "state"), XDG_CONFIG_HOME=str(cwd / "settings"), **more)
        self._environment = {name: value for name, value in own.items() if not name.endswith("_API_KEY")}
        term = [f"TERM={more['TERM']}"] if "TERM" in more else []
        line = shlex.join(["env", *term, *(program or COMMAND), *words])
        number = next(_NUMBERS)
        self._pid, self._code, listened = (cwd / f"{what}.{number}" for what in ("pid", "code", "listened"))
        inner = f"until test -e {listened.name}; do sleep 0.01; done; echo $$ > {self._pid.name}; exec {line}"  # nothing of it is missed
        outer = f"trap : INT; sh -c {shlex.quote(inner)}; code=$?; echo $code > {self._code.name}; while :; do sleep 60; done"
        self.run("new-session", "-d", "-x", str(columns), "-y", str(lines), "-c", str(cwd), outer)
        self.run("pipe-pane", "-o", f"cat > {shlex.quote(str(self.raw))}")
        listened.touch()

    def run(self, *words: str) -> str:
        """Tell tmux something."""
        return subprocess.run([*self._tmux, *words], cwd=self._cwd, env=self._environment, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._tmux, "kill-server"], env=self._environment, check=False, capture_output=True)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def type(self, text: str, *keys: str) -> None:
        """Type a text as it is, then keys by their names, all at once."""
        codes = {"Enter": "\r", "C-c": "\x03", "C-d": "\x04", "M-Enter": "\x1b\r", "C-j": "\n", "Up": "\x1b[A", "Tab": "\t"}
        whole = text + "".join(codes[key] for key in keys)
        self.run("send-keys", "-H", *(f"{byte:02x}" for byte in whole.encode()))

    def say(self, text: str) -> None:
        """Type a line."""
        self.type(text, "Enter")

    # -- what is seen --------------------------------------------------------------------------------------------------

    def screen(self, *, past: bool = True, joined: bool = True, painted: bool = False) -> str:
        """Return what stands there, with what was scrolled away."""
        flags = [*(["-S", "-"] if past else []), *(["-J"] if joined else []), *(["-e"] if painted else [])]
        return "\n".join(line.rstrip() for line in self.run("capture-pane", "-p", *flags).split("\n")).rstrip("\n")

    def until(self, text: str, times: int = 1) -> str:
        """Wait until a text is seen, so many times; returns all that is seen then."""
        end = time.monotonic() + PATIENCE_SECONDS
        while (seen := self.screen()).count(text) < times:
            assert time.monotonic() < end, f"{text!r} is not seen {times} times in:\n{seen}"
            assert not self.ended(), f"it ended with {self.ended()} before {text!r} was seen in:\n{seen}"
            time.sleep(0.02)
        return seen

    def ready(self) -> str:
        """Wait until a message can be typed; returns all that is seen then."""
        return self._at("›")

    def asked(self) -> str:
        """Wait until a question can be answered; returns all that is seen then."""
        return self._at("  ›")

    def _at(self, prompt: str) -> str:
        """Wait until the cursor stands behind a prompt, with nothing behind it yet."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            row = int(self.run("display-message", "-p", "#{cursor_y}"))
            lines = self.run("capture-pane", "-p").split("\n")
            if row < len(lines) and lines[row].rstrip() == prompt:
                return self.screen()
            assert time.monotonic() < end, self.screen()
            assert not self.ended(), f"it ended with {self.ended()}:\n{self.screen()}"
            time.sleep(0.02)

    def ended(self) -> str:
        """Return the exit code of the command, as a shell tells it, or nothing while it runs."""
        return self._code.read_text().strip() if self._code.exists() else ""

    def end(self) -> str:
        """Wait for the end of the command."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (code := self.ended()):
            assert time.monotonic() < end, self.screen()
            time.sleep(0.02)
        return code

    @property
    def pid(self) -> int:
        """The process in it."""
        return int(self._pid.read_text())
