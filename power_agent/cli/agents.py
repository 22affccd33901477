"""How the agent is found: code that makes one, or settings that describe one.

Only the verbs that may cost money come here. Looking and settling need no agent: they get a loop over the same log whose model
refuses to be asked.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from power_agent.cli.code import broken, likely, load
from power_agent.cli.config import Settings
from power_agent.cli.describing import described
from power_agent.cli.glance import looking
from power_agent.cli.outsiders import opened
from power_agent.cli.saying import voice
from power_agent.errors import AgentNotFound, ConfigError, ModelError, PowerAgentError
from power_agent.loop import StatefulAgentLoop
from power_agent.ports import Glimpse, ModelReply, ModelRequest

_DESCRIBING = ("model", "prices", "system", "tools", "toolboxes", "policy", "files", "mcp", "secret_patterns")
_TABLES = ("limits.", "settings.", "policy.", "files.", "models.", "prices.", "web.", "tool_search.", "mcp.", "secrets.")


class NoAgent:
    """The model of a command that has no agent. It is never asked; if it is, that is a fault of ours."""

    name = "none:none"

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:  # noqa: ARG002  a model's signature
        """Refuse."""
        raise ModelError("This command has no agent, so no model can be asked.")


def reading_loop(path: str) -> StatefulAgentLoop:
    """Return a loop over an existing store that can look, settle and end, and can ask no model."""
    with looking(path):
        return StatefulAgentLoop(NoAgent(), store=path, secrets=voice.secrets)


async def find_agent(settings: Settings, again: tuple[str, ...], *, asks: bool = True) -> StatefulAgentLoop:
    """Return the agent that the settings name or describe; without `asks` its model need not be within reach. `again` is what was typed."""
    named = settings.find("agent")
    if named is None and settings.find("model") is None:
        hint = "Name the code that makes it (--agent module:name), or describe it in power-agent.toml (at least `model`)."
        near = likely(Path.cwd()) or ["MODULE:NAME"]
        raise AgentNotFound("No agent is named and none is described.", hint=hint, agent="", commands=[(*again, "--agent", one) for one in near[:2]])
    if named is None:
        servers = await opened(settings)
        try:
            agent = described(settings, servers, asks=asks)
        except BaseException:
            if servers is not None:
                await servers.close()
            raise
        finally:
            if servers is not None:
                servers.lend()
        voice.hide(agent.secrets)
        return agent
    spec = str(settings.get("agent"))
    for key, stated in settings.items():
        if stated.origin.startswith("flag") and (key in _DESCRIBING or key.startswith(_TABLES)):
            flag = stated.origin.removeprefix("flag ")
            hint = f"Set it in the code and leave {flag} out, or leave the agent out and describe one."
            raise ConfigError(f"The agent {spec} is made by code, and {key} is set there, not by {flag}.", hint=hint, key=key)
    made = load(spec, named.folder)
    if not isinstance(made, StatefulAgentLoop):
        made = await _made(spec, made, settings)
    _check_store(spec, made, settings)
    voice.hide(made.secrets.and_also(settings.secrets(all_of_them=False)))
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
        raise broken(spec, error, "could not make the agent") from error
    if not isinstance(made, StatefulAgentLoop):
        raise AgentNotFound(f"{spec} returned something of the type {type(made).__name__}, not an agent.", hint="It has to return a StatefulAgentLoop.", agent=spec)
    return made
