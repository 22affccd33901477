"""Code by its name: `module:name`, or `file.py:name`. Whatever is wrong with the user's own code is said without a traceback."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from power_agent.cli.config import close
from power_agent.errors import AgentNotFound, InvalidInput, PowerAgentError

_MAKES = re.compile(r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*StatefulAgentLoop\(|^(?:async )?def (\w+)\(.*\)\s*(?:->\s*[\"']?StatefulAgentLoop|:\s*return StatefulAgentLoop\()", re.MULTILINE)
_FILES, _CHARACTERS = 50, 100_000


def load(spec: str, folder: Path) -> Any:
    """Return what `module:name` (or `file.py:name`) names, seen from a folder."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        meant = [one for one in likely(folder) if one.split(":")[0] in {spec, spec.removesuffix(".py"), spec.removesuffix(":")}]
        raise AgentNotFound(f"{spec!r} names no code.", hint=f"Did you mean {meant[0]}?" if meant else "Write module:name or path/to/file.py:name.", agent=spec)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found: Any = _module(spec, place, folder)
    for step in name.split("."):
        if not hasattr(found, step):
            near = close(step, [known for known in vars(found) if not known.startswith("_")]) if hasattr(found, "__dict__") else None
            raise AgentNotFound(f"{place} has no {name!r}.", hint=f"Did you mean {place}:{near}?" if near else "Check the name behind the colon.", agent=spec)
        found = getattr(found, step)
    return found


def likely(folder: Path) -> list[str]:
    """Return what in a folder's own files looks like an agent; the files are read, not run."""
    found = []
    for path in sorted(folder.glob("*.py"))[:_FILES]:
        with contextlib.suppress(OSError):
            found += [f"{path.stem}:{name}" for pair in _MAKES.findall(path.read_text(encoding="utf-8", errors="replace")[:_CHARACTERS]) for name in pair if name]
    return found


def _module(spec: str, place: str, folder: Path) -> ModuleType:
    if place.endswith(".py"):
        return _file(spec, (folder / Path(place).expanduser()).absolute())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            near = close(place, [path.stem for path in folder.glob("*.py")])
            raise AgentNotFound(
                f"There is no module {place!r}.", hint=f"Did you mean {near}?" if near else f"It is looked for in {folder} and in what is installed.", agent=spec
            ) from error
        raise broken(spec, error, "cannot be imported") from error
    except PowerAgentError:
        raise
    except Exception as error:
        raise broken(spec, error, "cannot be imported") from error


def _file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        near = close(path.name, [one.name for one in path.parent.glob("*.py")]) if path.parent.is_dir() else None
        raise AgentNotFound(f"There is no file {path}.", hint=f"Did you mean {near}?" if near else "Check the path before the colon.", agent=spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        described = importlib.util.spec_from_file_location(path.stem, path)
        if described is None or described.loader is None:
            raise AgentNotFound(f"{path} is not Python.", hint="Name a .py file.", agent=spec)
        module = importlib.util.module_from_spec(described)
        sys.modules[path.stem] = module
        described.loader.exec_module(module)
    except InvalidInput:
        raise
    except Exception as error:
        raise broken(spec, error, "cannot be imported") from error
    return module


def broken(spec: str, error: Exception, what: str) -> AgentNotFound:
    """Name the line of the user's own code, which is what they have to mend."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename and not frame.filename.startswith("<")]
    at = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return AgentNotFound(f"{spec} {what}: {type(error).__name__}: {error}{at}.", hint="It is the agent's own code that failed; --debug shows the traceback.", agent=spec)
