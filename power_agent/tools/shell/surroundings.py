"""What a command finds around itself: an environment in which nothing of ours stands, and no program of the project is on the path.

The judge of command lines speaks of a bash without aliases and start-up files, and of a search path without folders beneath the
root. Here this is made true.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping

from power_agent.errors import InvalidInput

KEPT = ("HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "TMPDIR", "TZ", "USER")
"""What passes through. A list of what is secret is never complete; this is a list of what is not."""
FIXED = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "safe.bareRepository",
    "GIT_CONFIG_VALUE_0": "explicit",
    "GIT_CONFIG_KEY_1": "core.fsmonitor",
    "GIT_CONFIG_VALUE_1": "false",
}
"""git runs what a repository's configuration names; these are the two ways that are open without asking for anything."""
USUAL_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
MARK, REAPER_MARK = "POWER_AGENT_CALL", "POWER_AGENT_REAPER"
"""The variables that say to which call a process belongs."""
FOR_SHELLS = ("BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "RIPGREP_CONFIG_PATH", "GIT_DIR")
"""Variables that make harmless commands run others: the judge relies on their absence."""


def environment(root: str, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every command beneath a root."""
    for name in more:
        if name in FOR_SHELLS or name in {MARK, REAPER_MARK}:
            raise InvalidInput(f"{name} cannot be set for commands: what is judged harmless would not be.", hint="Leave it out.")
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    given = {**kept, **FIXED, **more}
    return {**given, "PATH": ":".join(_outside(more.get("PATH", os.environ.get("PATH", "")), root)) or USUAL_PATH}


def program(name: str, surroundings: Mapping[str, str]) -> str:
    """Return where a program is, as commands would find it."""
    found = shutil.which(name, path=surroundings["PATH"])
    if found is None:
        raise InvalidInput(f"There is no {name} on the search path.", hint=f"Install {name}.")
    return found


def _outside(path: str, root: str) -> Iterator[str]:
    """Yield the folders of a search path that a tool which writes beneath the root cannot fill."""
    for one in path.split(":"):
        if os.path.isabs(one) and not f"{os.path.realpath(one)}/".startswith(f"{root.rstrip('/')}/") and not f"{os.path.normpath(one)}/".startswith(f"{root.rstrip('/')}/"):
            yield one
