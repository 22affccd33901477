"""Where there is no Linux: everything can be imported, nothing is claimed that does not hold, and the doctor says so.

Another system is played as far as Python shows it: its name, the names that are missing there, a C library without Linux's own calls,
and no /proc. In its own process, because nothing of that can be taken back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS

PLAYED = """
import asyncio, builtins, ctypes, importlib, json, multiprocessing, os, pathlib, pkgutil, select, selectors, shutil, signal, socket, subprocess, sys, sysconfig, tempfile
import aiosqlite, httpx, pydantic, typer, rich.console  # what is not ours may know the system it runs on

sysconfig.get_config_vars()
LINUX = "O_PATH O_TMPFILE listxattr getxattr setxattr removexattr memfd_create eventfd pidfd_open sched_getaffinity sched_setaffinity splice copy_file_range getrandom"
for name in LINUX.split():
    if hasattr(os, name):
        delattr(os, name)
for module, names in ((signal, "SIGPWR SIGSTKFLT SIGRTMIN SIGRTMAX"), (socket, "AF_NETLINK AF_VSOCK")):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


class Library:
    def __init__(self, *args, **more):
        pass

    def __getattr__(self, name):
        if name in {"prctl", "renameat2"}:
            raise AttributeError(name)
        if name == "syscall":
            os.abort()  # a number of Linux is another call there, or the end
        raise AttributeError(name)


def away(path):
    return isinstance(path, (str, bytes, os.PathLike)) and (os.fsdecode(path) == "/proc" or os.fsdecode(path).startswith(("/proc/", "/sys/")))


def without_proc(function):
    def asked(path=".", *args, **more):
        if away(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **more)
    return asked


ctypes.CDLL = Library
for place, name in ((builtins, "open"), (os, "open"), (os, "listdir"), (os, "stat"), (os, "lstat"), (os, "readlink"), (os, "scandir")):
    setattr(place, name, without_proc(getattr(place, name)))
import io
io.open = builtins.open
os.path.isdir = lambda path: False if away(path) else os.path.exists(path) and __import__("stat").S_ISDIR(os.stat(path).st_mode)
os.path.exists = lambda path: not away(path) and os.access(path, os.F_OK)
which = shutil.which
shutil.which = lambda name, *args, **more: None if name == "bwrap" else which(name, *args, **more)
sys.platform = "darwin"
"""
IMPORTS = """
import power_agent
failed = {}
for found in pkgutil.walk_packages(power_agent.__path__, "power_agent."):
    if found.name == "power_agent.__main__":
        continue
    try:
        importlib.import_module(found.name)
    except BaseException as error:
        failed[found.name] = repr(error)
print(json.dumps(failed))
"""
CLAIMS = """
from power_agent.process import me, proven_dead, start_time
from power_agent.tools.shell.leftovers import bury
from power_agent.tools.shell.sandbox import sandbox_report
from power_agent import Call, ScriptedModel, StatefulAgentLoop, files, shell
from power_agent.errors import InvalidInput
from power_agent.policy import allow_all

root = tempfile.mkdtemp()
told = {"start": start_time(os.getpid()), "dead": proven_dead(me()), "buried": asyncio.run(bury("any")), "sandbox": sandbox_report().holds}
try:
    shell(root, jobs=tempfile.mkdtemp())
except InvalidInput as error:
    told["jobs"] = error.message

async def main():
    calls = [Call("write", {"path": "a.txt", "content": "x"}), Call("bash", {"command": "echo hello"})]
    async with StatefulAgentLoop(ScriptedModel([calls, "done"]), tools=[*files(root), *shell(root)], store=":memory:", policy=allow_all) as loop:
        await loop.send("go", "s")
        return [kept.event.output for kept in await loop.history("s") if kept.kind == "call.succeeded"]

told["outputs"] = asyncio.run(main())
print(json.dumps(told))
"""
DOCTOR = """
from power_agent.cli.health import _processes, _sandbox
print(json.dumps([_processes()._asdict(), _sandbox()._asdict()]))
"""


def elsewhere(script: str):
    """Run a script where there is no Linux; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", PLAYED + script], capture_output=True, text=True, env=environment, timeout=PATIENCE_SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr[-4_000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_every_room_can_be_imported():
    """No call and no name of Linux is needed to import anything."""
    assert elsewhere(IMPORTS) == {}


def test_nothing_is_claimed_that_does_not_hold():
    """Files and commands work; who is dead is not known, what was left is not claimed to be ended, there is no sandbox and there are no jobs."""
    told = elsewhere(CLAIMS)
    assert told["outputs"][0].startswith("a.txt")
    assert told["outputs"][1] == "hello\n[exit 0]\n[in .]"
    assert (told["start"], told["dead"], told["buried"], told["sandbox"]) == (None, False, False, False)
    assert "Linux" in told["jobs"]


def test_the_doctor_says_what_does_not_hold():
    """And on Linux that it does."""
    processes, sandbox = elsewhere(DOCTOR)
    assert processes["state"] == "warn"
    assert "can survive it" in processes["told"]
    assert (sandbox["state"], sandbox["told"].startswith("None was proven")) == ("note", True)


@pytest.mark.skipif(sys.platform != "linux", reason="it speaks of Linux")
def test_the_doctor_on_linux():
    """Here they are followed."""
    from power_agent.cli.health import _processes

    assert _processes().state == "good"
