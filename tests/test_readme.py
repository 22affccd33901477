"""The README's promises are run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_snippets_run(snippet, tmp_path):
    """Every Python snippet runs as it stands, in an empty folder, without a warning."""
    told = subprocess.run([sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout


def test_what_it_links_to_is_there():
    """Every file the README names exists."""
    named = set(re.findall(r"`((?:tests|power_agent|migrations)/[\w./]+)`", README)) | {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
