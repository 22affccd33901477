"""Places where a process can be told to die, so that tests can kill it exactly there.

`POWER_AGENT_FAILPOINT={before|in|after}:{event or effect}[:nth]` in the environment makes the nth passage of that place a
SIGKILL: no cleanup, no last word. Without the variable a passage costs one comparison. `before` a commit nothing of it is on
disk; `in` it everything is written but nothing committed; `after` it is durable, and nobody has been told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

_ARMED = os.environ.get("POWER_AGENT_FAILPOINT")
_passages = 0


def passing(when: str, names: Iterable[str]) -> None:
    """Pass a place; die here if this is the passage that was asked for."""
    if _ARMED is None:
        return
    global _passages  # noqa: PLW0603  one process, one life
    wanted, name, *nth = _ARMED.split(":")
    for passed in names:
        if (when, passed) == (wanted, name):
            _passages += 1
            if _passages == int(nth[0] if nth else 1):
                os.kill(os.getpid(), signal.SIGKILL)
