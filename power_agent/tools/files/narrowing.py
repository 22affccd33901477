"""Which files need not be opened, because a text that every match holds does not stand in them.

ripgrep says so quickly for thousands of files. It never says what was found: it has another language of patterns, and it opens
paths, not handles. What it names is opened and matched here, by the same rules as without it, so that its presence changes
nothing but the time; when it fails nothing is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from power_agent.limits import SEARCH_SECONDS
from power_agent.tools.files.names import Names

WORTH = 3
"""Characters from which on a text narrows anything."""
ARGUMENT_BYTES = 100_000
"""Of paths that one process is given."""
OPTIONS = ("--no-config", "--no-ignore", "--hidden", "--no-mmap", "--text", "--encoding=none", "--fixed-strings", "--files-with-matches", "--null", "--no-messages")


def must_hold(pattern: str, *, ignore_case: bool) -> str | None:
    """Return a text that stands in every line which the pattern matches; None: there is none, or nobody can tell."""
    parser: Any = getattr(re, "_parser", None)
    if ignore_case or parser is None:
        return None
    try:
        parsed = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return None
    if parsed.state.flags & (re.IGNORECASE | re.LOCALE):
        return None
    runs = [""]
    _collect(parsed, runs)
    longest = max(runs, key=len)
    return longest if len(longest) >= WORTH else None


def _collect(parsed: Any, runs: list[str]) -> None:
    """Gather the characters that must follow one another; whatever else comes ends a run."""
    for operation, argument in parsed:
        if str(operation) == "LITERAL" and chr(argument).isprintable():
            runs[-1] += chr(argument)
        elif str(operation) == "SUBPATTERN" and not argument[1] and not argument[2]:
            _collect(argument[3], runs)
        else:
            runs.append("")


def narrowed(root: str, paths: Sequence[Names], text: str) -> list[Names]:
    """Return those of the files in which a text may stand, in their order; without ripgrep all of them."""
    program = shutil.which("rg")
    if program is None:
        return list(paths)
    return [one for batch in _batches(paths) for one in _asked(program, root, batch, text)]


def _asked(program: str, root: str, paths: Sequence[Names], text: str) -> list[Names]:
    named = {b"./" + os.fsencode("/".join(names)): names for names in paths}
    command: list[str | bytes] = [program, *OPTIONS, "-e", text, "--", *named]
    try:
        told = subprocess.run(command, cwd=root, env={}, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SEARCH_SECONDS)  # noqa: S603  no shell
    except (OSError, subprocess.TimeoutExpired):
        return list(paths)
    if told.returncode not in {0, 1}:
        return list(paths)
    hits = set(told.stdout.split(b"\0"))
    return [names for path, names in named.items() if path in hits]


def _batches(paths: Sequence[Names]) -> Iterator[list[Names]]:
    batch: list[Names] = []
    size = 0
    for names in paths:
        size += sum(len(os.fsencode(name)) + 1 for name in names) + 10
        if batch and size > ARGUMENT_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(names)
    if batch:
        yield batch
