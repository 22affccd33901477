"""A shell as a person has it: commands in a pipe or in a real terminal, an agent in a file, and a store in which everything happened."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from processes import PATIENCE_SECONDS

from power_agent import Call, Limits, ModelError, ScriptedModel, StatefulAgentLoop
from power_agent.events import Envelope
from power_agent.policy import Allow, Ask, Verdict, Wanted
from power_agent.ports import ModelRequest

AGENT = '''
import asyncio, os, time
from power_agent import Call, ScriptedModel, StatefulAgentLoop
from power_agent.policy import Allow, Ask

def pay(to: str, euros: int) -> str:
    """Pay somebody."""
    return f"{to} has {euros} euros"

async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "waited"

def policy(wanted):
    return Ask("Really?") if wanted.tool == "pay" and wanted.arguments["euros"] > 100 else Allow()

def script(request):
    text = [message.text for message in request.messages if message.role == "user"][-1]
    if request.messages[-1].role == "tool":
        return "Done."
    if text.startswith("pay"):
        return [Call("pay", {"to": "Ada", "euros": int(text.split()[1])})]
    if text == "print":
        print("printed by the agent")
    if text.startswith("wait"):
        return [Call("wait", {"seconds": float(text.split()[1])})]
    return f"You said: {text}"

def make(store):
    return StatefulAgentLoop(ScriptedModel(script), tools=[pay, wait], policy=policy, store=store)

async def make_later(store):
    return make(store)

def broken():
    raise RuntimeError("no bank today")

number = 3
model = ScriptedModel(script)
tools = [pay, wait]
'''
BAD = "\x1b[31mred\x1b]0;title\x07 [bold]tag[/bold] \x9b5m \u202e"
COMMAND = [sys.executable, "-W", "error", "-m", "power_agent"]
_TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Told(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """The JSON document on stdout."""
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """Return the environment without anything that would change what is printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("POWER_AGENT_") and name not in {"NO_COLOR", "CI", "FORCE_COLOR", "COLUMNS", "TERM"}}
    return {**own, "PYTHONPATH": str(Path(__file__).parent.parent), **more}


def piped(*words: str, cwd: Path, stdin: bytes = b"", **more: str) -> Told:
    """Run a command in a pipe."""
    ran = subprocess.run([*COMMAND, *words], cwd=cwd, input=stdin, capture_output=True, check=False, env=environment(**more), timeout=PATIENCE_SECONDS)
    return Told(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


class Terminal:
    """A command in a terminal of its own: both of its streams come back together, and keys can be typed."""

    def __init__(self, *words: str, cwd: Path, columns: int = 100, program: Sequence[str] = COMMAND, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        command = [sys.executable, "-c", _TAKE_TERMINAL, *program, *words]
        self.process = subprocess.Popen(command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**{"TERM": "xterm-256color", **more}), start_new_session=True)
        os.close(theirs)
        self.shown = b""

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self._ours, keys.encode())

    def until(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a text is shown."""
        end = time.monotonic() + seconds
        while text.encode() not in self.shown:
            assert time.monotonic() < end, self.shown
            assert self._read(0.1) or text.encode() in self.shown, self.shown

    def _read(self, seconds: float) -> bool:
        """Read what comes; False when the other side is gone."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            chunk = os.read(self._ours, 65_536)
        except OSError:
            return False
        self.shown += chunk
        return bool(chunk)

    def end(self, seconds: float = PATIENCE_SECONDS) -> Told:
        """Wait for the end."""
        until = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < until, self.shown
        code = self.process.wait(seconds)
        os.close(self._ours)
        return Told(code, self.shown.decode())


# -- a store in which everything happened ------------------------------------------------------------------------------


def pay(to: str, euros: int) -> str:
    """Pay somebody."""
    return f"{to} has {euros} euros"


async def hang() -> str:
    """Never end."""
    await asyncio.sleep(3600)
    return "never"


def _policy(wanted: Wanted) -> Verdict:
    return Ask(f"Pay {wanted.arguments['to']}?") if wanted.tool == "pay" and int(str(wanted.arguments["euros"])) > 100 else Allow()


def _script(request: ModelRequest) -> Any:
    text = [message.text for message in request.messages if message.role == "user"][-1]
    if request.messages[-1].role == "tool" and text != "forever":
        return f"Done. {BAD}"
    match text.split():
        case ["pay", *_]:
            return [Call("pay", {"to": "Ada", "euros": 5}), Call("pay", {"to": "Bob", "euros": int(text.split()[1])})]
        case ["hang"]:
            return [Call("hang")]
        case ["fail"]:
            return ModelError("The provider said no.")
        case ["forever"]:
            return [Call("pay", {"to": "Ada", "euros": 1})]
    return f"You said: {text}"


async def _live(path: Path) -> None:
    limits = Limits(max_rounds_per_turn=3)
    started = asyncio.Event()

    def heard(kept: Envelope) -> None:
        if kept.kind == "call.started":
            started.set()

    async with StatefulAgentLoop(ScriptedModel(_script), tools=[pay, hang], policy=_policy, store=path, limits=limits, listeners=[heard]) as loop:
        await loop.send("hello", "done")
        await loop.send("pay 5", "done", by="ada")
        await loop.send("hello", "closed")
        await loop.close_session("closed", reason="over")
        await loop.send("hello", "erased")
        await loop._sink.erase(await loop._sink.claim("erased"), "asked to", "ada")
        await loop.send("fail", "failed")
        await loop.send("forever", "limited")
        await loop.send(f"hello {BAD}", "dirty")
        await loop.send("pay 500", "waiting")
        for name in ("doubted", "crashed"):
            started.clear()
            task = asyncio.ensure_future(loop.send("hang", name))
            await started.wait()
            task.cancel()
            await asyncio.wait([task])
        await loop.resume("doubted")


def eventful(folder: Path) -> Path:
    """Write the store and the agent's file into a folder."""
    (folder / "agent.py").write_text(AGENT, encoding="utf-8")
    path = folder / "power-agent.db"
    asyncio.run(_live(path))
    return path
