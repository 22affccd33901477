"""The house as it is drawn is the house as it stands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import power_agent

PACKAGE = Path(power_agent.__file__).parent
ROOT = PACKAGE.parent
HEAVY = {"genai_prices", "httpx", "tiktoken", "tenacity", "typer", "rich", "mcp", "requests", "prompt_toolkit"}


def rooms() -> set[str]:
    """Every file with code in it, and every apartment."""
    files = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    return {path.name for path in files if path.name != "__init__.py" and path.parts[0] not in {"testing", "cli"}} | {f"{path.parts[0]}/" for path in files if len(path.parts) > 1}


def test_drawing_names_every_room():
    """power_agent/README.md draws each room once, and none that is not there."""
    drawing = (PACKAGE / "README.md").read_text(encoding="utf-8").split("```")[1]
    words = {word.strip("·(),") for word in drawing.split()}
    drawn = {word for word in words if word.endswith((".py", "/")) and word != "__init__.py"}
    assert drawn == rooms()


def test_front_door_opens_to_what_it_lists():
    """Every public name is there, sorted, and nothing else is public."""
    assert power_agent.__all__ == sorted(power_agent.__all__)
    module = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in module.body if isinstance(node, ast.If)]
    homes = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert homes.keys() | {"__version__"} == set(power_agent.__all__) == set(dir(power_agent))
    assert {name: f"power_agent.{home}" for name, home in power_agent._HOMES.items()} == homes
    assert all(hasattr(power_agent, name) for name in power_agent.__all__)
    with pytest.raises(AttributeError, match="StatefulAgentLop"):
        power_agent.StatefulAgentLop  # noqa: B018


def test_importing_loads_nothing_heavy():
    """`import power_agent` brings no HTTP client, tokenizer or terminal library, and builds no schema."""
    unmade = "assert e._reader.cache_info().currsize == e._writer.cache_info().currsize == 0"
    script = f"import sys, power_agent, power_agent.events as e; power_agent.StatefulAgentLoop; print(*sys.modules); {unmade}"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not HEAVY & set(loaded)
    assert {"power_agent", "aiosqlite", "pydantic"} <= set(loaded)


def test_help_needs_no_database():
    """`power-agent --help` loads what reads command lines, and neither the store nor pydantic nor what paints."""
    script = "import sys; from power_agent.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stderr.split()
    assert not (HEAVY - {"typer"} | {"aiosqlite", "pydantic", "sqlite3"}) & set(loaded)


def test_top_level_is_what_was_asked_for():
    """The repository's top level holds what its users were promised."""
    expected = {"pyproject.toml", "power_agent", "tests", "migrations", "examples", "README.md", "LICENSE", "CHANGELOG.md"}
    assert expected <= {path.name for path in ROOT.iterdir()}


def test_types_are_shipped():
    """The package says that it is typed."""
    assert (PACKAGE / "py.typed").is_file()
