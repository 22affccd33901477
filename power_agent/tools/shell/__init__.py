"""A shell beneath a root as tools: `StatefulAgentLoop(tools=[*files("."), *shell(".")])`.

    surroundings.py  the environment a command finds
    reaper.py        the process between us and what a command starts
    running.py       a command under its reaper, as its owner sees it
    leftovers.py     what an earlier attempt left running, found by its mark
    gathering.py     output in bounded memory, and live
    standing.py      where a session stands; which scripts are part of an approval
    bash.py          bash
    jobs.py          job_start, job_look, job_wait, job_stop

A command runs under a reaper and is dead, with everything it started, before its call has an outcome: after its end, its time, a
cancellation, a lost lease or the death of its owner. Nobody promises that it can be repeated (recovery: ask). It brings its own
rules: what only reads beneath the root runs, everything else is asked about.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import JsonValue

from power_agent.limits import MAX_COMMAND_SECONDS
from power_agent.policy.commands import Nature
from power_agent.tools.define import FunctionTool
from power_agent.tools.shell.bash import Bash
from power_agent.tools.shell.jobs import MAX_WAIT_SECONDS, Jobs
from power_agent.tools.shell.leftovers import bury
from power_agent.tools.shell.running import LATE_SECONDS
from power_agent.tools.shell.standing import Ground, binding
from power_agent.tools.shell.surroundings import environment, program
from power_agent.tools.shell_judge import ShellJudge, on_disk

__all__ = ["ShellTool", "shell"]


class ShellTool(FunctionTool):
    """A tool that takes a command line: it is judged, and bound to the folder it runs in and the scripts it reads."""

    nature = Nature(does="shell")
    follows = "bash"

    def __init__(self, function: Callable[..., Any], ground: Ground, judge: ShellJudge, **promises: Any) -> None:
        super().__init__(function, **promises)
        self._ground = ground
        self.root = ground.root
        self.judge = judge

    def binds(self, arguments: Mapping[str, JsonValue], said: Iterable[str] = ()) -> dict[str, JsonValue]:
        """Return the folder (relative to the root) and the digests of the scripts; `said` are earlier answers, the latest first."""
        return binding(self._ground, self.judge, arguments, said)

    async def bury(self, idempotency_key: str) -> bool:
        """End what an earlier attempt left running; True when nothing of it is left."""
        return await bury(idempotency_key)


class JobTool(ShellTool):
    """Starts what is meant to outlive its call, so that nothing of it is buried; its probe tells whether it began."""

    bury = None  # type: ignore[assignment]


class LookTool(FunctionTool):
    """Looks after what an approved call began, or ends it: nobody needs to be asked."""

    nature = Nature(does="reads")


def shell(root: str | os.PathLike[str] = ".", *, jobs: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None) -> list[FunctionTool]:
    """Return tools that run commands beneath `root`: bash; with a folder for `jobs` also job_start, job_look, job_wait and job_stop.

    Commands see an environment of their own, in which no keys of ours stand; `env` adds to it. Jobs outlive this process until they
    end or their time is over; their folder must stay the same for them to be found again.
    """
    ground = Ground(root)
    judge = ShellJudge(on_disk(ground.root))
    surroundings = environment(ground.root, env or {})
    bash = Bash(ground, surroundings, program("bash", surroundings), lambda argv, _: argv)
    tools: list[FunctionTool] = [ShellTool(bash.bash, ground, judge, seconds=MAX_COMMAND_SECONDS + 4 * LATE_SECONDS)]
    if jobs is not None:
        kept = Jobs(jobs, ground.root, bash)
        tools.append(JobTool(kept.job_start, ground, judge, probe=kept.probe))
        tools += [LookTool(one, recovery="rerun", seconds=MAX_WAIT_SECONDS + LATE_SECONDS) for one in (kept.job_look, kept.job_wait, kept.job_stop)]
    return tools
