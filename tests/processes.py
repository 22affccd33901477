"""Processes as the system shows them: which live, and that they are gone."""

from __future__ import annotations

import time
from pathlib import Path

from power_agent.process import start_time

PATIENCE_SECONDS = 180.0
"""Longer than anything takes on a machine that has much else to do: it guards against waiting for ever."""
PROMPT_SECONDS = 25.0
"""For what comes at once, and for nobody who waited for a lease of 30 s: the owner was interrupted, or is dead."""

LEAVERS = {
    "setsid": "setsid sh -c 'echo $$ > one; exec sleep 1000' & while [ ! -s one ]; do sleep 0.01; done",
    "nohup": "nohup sh -c 'echo $$ > one; exec sleep 1000' >/dev/null 2>&1 & while [ ! -s one ]; do sleep 0.01; done",
    "double fork": "(sh -c 'echo $$ > one; exec sleep 1000' &) ; while [ ! -s one ]; do sleep 0.01; done",
    "no mark": "setsid env -i sh -c 'echo $$ > one; exec sleep 1000' & while [ ! -s one ]; do sleep 0.01; done",
    "deaf": "setsid sh -c 'trap \"\" TERM HUP; echo $$ > one; while :; do sleep 1; done' & while [ ! -s one ]; do sleep 0.01; done",
    "stopped": "setsid sh -c 'echo $$ > one; kill -STOP $$' & while [ ! -s one ]; do sleep 0.01; done",
}
"""Ways to leave a process behind; its pid stands in the file `one`."""


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
