"""How the agent is found: code that makes one, or settings that describe one.

Only the verbs that may cost money come here. Looking and settling need no agent: they get a loop over the same log whose model
refuses to be asked.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from power_agent.cli.config import Settings, close
from power_agent.cli.glance import looking
from power_agent.errors import AgentNotFound, ConfigError, InvalidInput, ModelError, PowerAgentError
from power_agent.limits import Limits
from power_agent.loop import StatefulAgentLoop
from power_agent.ports import Glimpse, ModelReply, ModelRequest

OURS = "python:"
_MAKES = re.compile(r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*StatefulAgentLoop\(|^(?:async )?def (\w+)\(.*\)\s*->\s*[\"']?StatefulAgentLoop", re.MULTILINE)
_FILES, _CHARACTERS = 50, 100_000
_DESCRIBING = ("model", "system", "tools", "policy")


class NoAgent:
    """The model of a command that has no agent. It is never asked; if it is, that is a fault of ours."""

    name = "none:none"

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:  # noqa: ARG002  a model's signature
        """Refuse."""
        raise ModelError("This command has no agent, so no model can be asked.")


def reading_loop(path: str) -> StatefulAgentLoop:
    """Return a loop over an existing store that can look, settle and end, and can ask no model."""
    with looking(path):
        return StatefulAgentLoop(NoAgent(), store=path)


async def find_agent(settings: Settings) -> StatefulAgentLoop:
    """Return the agent that the settings name or describe."""
    named = settings.find("agent")
    if named is None:
        return _described(settings)
    spec = str(settings.get("agent"))
    for key, stated in settings.items():
        if stated.origin.startswith("flag") and (key in _DESCRIBING or key.startswith(("limits.", "settings."))):
            raise ConfigError(f"The agent {spec} brings its own {key}.", hint=f"Leave {stated.origin.removeprefix('flag ')} out, or the agent.", key=key)
    made = load(spec, named.folder)
    if not isinstance(made, StatefulAgentLoop):
        made = await _made(spec, made, settings)
    _check_store(spec, made, settings)
    return made


def _check_store(spec: str, made: StatefulAgentLoop, settings: Settings) -> None:
    """Refuse to keep the log elsewhere than where the other verbs were told to look."""
    stated, path = settings.find("store"), str(getattr(made.store, "path", "a store of its own"))
    if stated is None or stated.origin.startswith(("default", "user file")) or path in {settings.store, str(Path(settings.store).resolve())}:
        return
    hint = "Leave it out, or let the agent be a function with a parameter `store`."
    raise ConfigError(f"The agent {spec} keeps its log in {path}, but {stated.origin} says {stated.value}.", hint=hint, key="store")


async def _made(spec: str, maker: Any, settings: Settings) -> StatefulAgentLoop:
    """Call what makes the agent, sync or async; it may ask for the store that the command chose."""
    if not callable(maker):
        raise AgentNotFound(f"{spec} is of the type {type(maker).__name__}, not an agent.", hint="Name a StatefulAgentLoop, or a function that returns one.", agent=spec)
    try:
        wants_store = "store" in inspect.signature(maker).parameters
        made = maker(store=settings.store) if wants_store else maker()
        if inspect.isawaitable(made):
            made = await made
    except PowerAgentError:
        raise
    except Exception as error:
        raise _broken(spec, error, "could not make the agent") from error
    if not isinstance(made, StatefulAgentLoop):
        raise AgentNotFound(f"{spec} returned something of the type {type(made).__name__}, not an agent.", hint="It has to return a StatefulAgentLoop.", agent=spec)
    return made


def _described(settings: Settings) -> StatefulAgentLoop:
    """Build an agent from its description."""
    model = settings.get("model")
    if model is None:
        hint = "Name the code that makes it (--agent module:name), or describe it in power-agent.toml (at least `model`)."
        near = likely(Path.cwd()) or ["MODULE:NAME"]
        raise AgentNotFound("No agent is named and none is described.", hint=hint, agent="", commands=[("send", "SESSION", "MESSAGE", "--agent", one) for one in near[:2]])
    folders = {key: found.folder for key in ("model", "tools", "policy") if (found := settings.find(key))}
    tools: list[Any] = []
    for spec in settings.get("tools") or ():
        found = load(spec, folders["tools"])
        tools += found if isinstance(found, list | tuple) else [found]
    policy = load(settings.get("policy"), folders["policy"]) if settings.find("policy") else None
    return StatefulAgentLoop(
        load(model.removeprefix(OURS), folders["model"]) if model.startswith(OURS) else model,
        tools=tools,
        store=settings.store,
        system=settings.get("system"),
        limits=_limits(settings),
        policy=policy,
        settings=settings.table("settings"),
        durability=settings.get("durability"),
    )


def _limits(settings: Settings) -> Limits:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  only an agent that is described has limits here

    values = settings.table("limits")
    try:
        return TypeAdapter(Limits).validate_python(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = f"limits.{wrong['loc'][0] if wrong['loc'] else ''}"
        found = settings.find(key)
        raise ConfigError(f"{found.origin if found else 'limits'}: {key}: {wrong['msg']}.", hint="Mend it there, or set it with --set.", key=key) from error


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
        raise _broken(spec, error, "cannot be imported") from error
    except PowerAgentError:
        raise
    except Exception as error:
        raise _broken(spec, error, "cannot be imported") from error


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
        raise _broken(spec, error, "cannot be imported") from error
    return module


def _broken(spec: str, error: Exception, what: str) -> AgentNotFound:
    """Name the line of the user's own code, which is what they have to mend."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename and not frame.filename.startswith("<")]
    at = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return AgentNotFound(f"{spec} {what}: {type(error).__name__}: {error}{at}.", hint="It is the agent's own code that failed; --debug shows the traceback.", agent=spec)
