"""What a test needs from the machine: missing is a failure where everything must run, and a reason with a remedy elsewhere."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(program: str, how: str) -> str:
    """Return where a program is; without it fail on CI, and skip elsewhere with what installs it."""
    found = shutil.which(program)
    if found is None:
        missing = f"{program} is missing. Install it: {how}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
