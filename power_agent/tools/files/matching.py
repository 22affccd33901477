"""The process that matches: a pattern against texts that it is handed, one answer per text.

A pattern comes from a model, and one can be written that runs for ever; inside the interpreter nothing could stop it. Here it can
be killed. This file is run as it lies, so it needs the standard library only; it opens no file and knows no path.

    pattern as JSON line -> ok, or what is wrong with it
    number of the first line and length as JSON line, then the text -> the lines found as JSON line
"""

from __future__ import annotations

import json
import re
import resource
import sys
from typing import Any, BinaryIO

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 60
SHOWN = 400
"""Characters of a line that are told."""


def lines_found(pattern: re.Pattern[str], raw: bytes, first: int, context: int, limit: int) -> list[tuple[int, str, bool]]:
    """Return number and text of lines that match, and of lines around them; the last field tells which is which."""
    lines = raw.decode(errors="surrogateescape").split("\n")
    if lines[-1] == "":
        lines.pop()
    found: dict[int, tuple[int, str, bool]] = {}
    matches = 0
    for at, line in enumerate(lines):
        match = pattern.search(line.removesuffix("\r"))
        if match is None:
            continue
        found[at] = (first + at, _part(line.removesuffix("\r"), match.start()), True)
        for near in range(max(0, at - context), min(len(lines), at + context + 1)):
            found.setdefault(near, (first + near, _part(lines[near].removesuffix("\r"), 0), False))
        matches += 1
        if matches >= limit:
            break
    return [found[at] for at in sorted(found)]


def _part(line: str, at: int) -> str:
    """Return a line, or what is around a place in it."""
    if len(line) <= SHOWN:
        return line
    start = max(0, min(at - SHOWN // 4, len(line) - SHOWN))
    return f"{'…' * (start > 0)}{line[start : start + SHOWN]}{'…' * (start + SHOWN < len(line))}"


def serve(come: BinaryIO, go: BinaryIO) -> None:
    """Answer until nothing comes any more."""
    wanted = json.loads(come.readline())
    try:
        pattern = re.compile(wanted["pattern"], re.IGNORECASE if wanted["ignore_case"] else 0)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        _say(go, {"wrong": str(error) or type(error).__name__})
        return
    _say(go, {})
    while line := come.readline():
        piece = json.loads(line)
        raw = come.read(piece["size"])
        _say(go, lines_found(pattern, raw, piece["first"], wanted["context"], wanted["limit"]))


def _say(go: BinaryIO, what: Any) -> None:
    go.write(json.dumps(what).encode() + b"\n")
    go.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    serve(sys.stdin.buffer, sys.stdout.buffer)
