"""Processes as the system shows them: which live, and that they are gone."""

from __future__ import annotations

import time
from pathlib import Path

from power_agent.process import start_time

PATIENCE_SECONDS = 30.0


def alive(*pids: int) -> list[int]:
    """Return those that live; a corpse does not."""
    return [pid for pid in pids if start_time(pid) is not None]


def noted(folder: Path, names: list[str]) -> list[int]:
    """Wait until each of these files holds a pid, and return them."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        texts = [(folder / name).read_text().strip() if (folder / name).exists() else "" for name in names]
        if all(texts):
            return [int(text) for text in texts]
        time.sleep(0.005)
    raise AssertionError(f"no pid in all of {names}")


def gone(*pids: int) -> bool:
    """Wait until none of these lives any more; False when that does not happen."""
    end = time.monotonic() + PATIENCE_SECONDS
    while alive(*pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
