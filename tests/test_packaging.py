"""What is installed works: from a wheel, from a checkout, with the SQL it needs and nothing in the way of others."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from power_agent.store import migrate

ROOT = Path(__file__).parent.parent
ASK = "from power_agent.store.migrate import migrations, __file__ as at; print(at); print([number for number, _ in migrations()])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout, the way pip does."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = target.glob("*.whl")
    return built


def test_wheel_holds_the_migrations_inside_the_package(wheel):
    """The SQL travels in the package; no top-level package called migrations is installed."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "power_agent/migrations/sqlite/0001_log.sql" in names
    assert {"power_agent/editions/page.css", "power_agent/editions/page.js"} <= set(names)  # what a page carries
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"power_agent"}
    assert {"power_agent/py.typed", "power_agent/README.md", "power_agent/skill/SKILL.md", "power_agent/testing/README.md"} <= set(names)
    assert not [name for name in names if "tests/" in name or name.endswith(".pyc")]


def test_wheel_finds_its_migrations(wheel, tmp_path):
    """Unpacked where no checkout is near, the package finds its SQL and can tell its story."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    script = f"import sys; sys.path = [{str(tmp_path / 'site')!r}] + [p for p in sys.path if {str(ROOT)!r} not in (p, p.rstrip('/'))]; {ASK}"
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    assert told[0].startswith(str(tmp_path))
    assert told[1] == str([number for number, _ in migrate.migrations()])


def test_editable_install_finds_the_migrations_beside_the_package():
    """In a checkout the SQL lies beside the package, and there only."""
    told = subprocess.run([sys.executable, "-c", ASK], cwd="/", check=True, capture_output=True, text=True).stdout.splitlines()
    assert told[1] == str([number for number, _ in migrate.migrations()])
    if told[0].startswith(str(ROOT)):
        assert not (ROOT / "power_agent" / "migrations").exists()


def test_migrations_are_numbered_without_gaps():
    """0001, 0002, … in order."""
    numbers = [number for number, _ in migrate.migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_command_is_installed():
    """`power-agent` is on the path of the environment and says its version."""
    command = Path(sysconfig.get_path("scripts")) / "power-agent"
    told = subprocess.run([command, "--version"], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "0.1.0.dev0"
