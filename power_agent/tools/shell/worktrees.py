"""Second places to work in, of the same repository: git worktrees beneath the root.

git is run with words, not with a command line, without the repository's hooks, and under a reaper as every command is. What is
asked of it is harmless to try again: git refuses to add what is there, and to remove what holds work.
"""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

from power_agent.errors import PathRefused, ToolError
from power_agent.limits import COMMAND_SECONDS
from power_agent.ports import ToolContext
from power_agent.tools.files.names import file_meant, shown
from power_agent.tools.shell.bash import Wrap, how
from power_agent.tools.shell.gathering import Gathered
from power_agent.tools.shell.running import Command, run
from power_agent.tools.shell.standing import Ground

OPTIONS = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
SAID_BYTES = 20_000
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}$")]
"""Of a branch or a commit; one that begins with a dash would be an option."""
Path = Annotated[str, Field(min_length=1, max_length=1_000)]


class Worktrees:
    """The worktrees of the repository at the root."""

    def __init__(self, ground: Ground, surroundings: dict[str, str], program: str, wrap: Wrap) -> None:
        self._ground = ground
        self._surroundings = surroundings
        self._program = program
        self._wrap = wrap

    async def worktree_list(self, context: ToolContext) -> str:
        """List the worktrees of this repository: where they are, and on which branch."""
        return await self._git(context, "list", "--porcelain")

    async def worktree_add(self, context: ToolContext, path: Path, branch: Name, start: Name = "HEAD") -> str:
        """Make a worktree on a new branch, so that work can go on there without touching this one.

        Args:
            path: Where it shall be, from the root; there must be nothing.
            branch: The name of the new branch.
            start: The commit or branch it begins at.
        """
        return await self._git(context, "add", "-b", branch, "--", self._beneath(path), start)

    async def worktree_remove(self, context: ToolContext, path: Path) -> str:
        """Remove a worktree that holds no work of its own; its branch stays.

        Args:
            path: Where it is, from the root.
        """
        return await self._git(context, "remove", "--", self._beneath(path))

    def _beneath(self, path: str) -> str:
        """Return a path beneath the root, or raise `PathRefused`; no part of it may be a link."""
        names = file_meant(path, self._ground.root)
        target = self._ground.path("/".join(names))
        if os.path.realpath(target) != target:
            raise PathRefused(f"A link is on the way to {shown(names)}.", hint="Name the place itself, from the root.")
        return target

    async def _git(self, context: ToolContext, *words: str) -> str:
        gathered = Gathered(SAID_BYTES)
        argv = self._wrap((self._program, *OPTIONS, "worktree", *words), self._ground.root)
        command = Command(argv, self._ground.root, self._surroundings, context.idempotency_key, COMMAND_SECONDS)
        ended = await run(command, gathered.take, lambda: context.cancelled)
        if ended.why == "exit" and ended.status == 0:
            return gathered.text.rstrip("\n") or "Done."
        raise ToolError(f"{gathered.text.rstrip()}\n[{how(ended, COMMAND_SECONDS)}]", untouched=ended.why == "exit")
