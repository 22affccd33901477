"""Servers of tools, side by side: `StatefulAgentLoop(tools=[MCPServers(servers_of(".mcp.json"))])`.

What a server says of its tools lowers nothing: each call is asked about where nobody allowed it, and what was found started is
doubted. Only the owner's `reads` says otherwise, and no longer of a tool that changed since it was first seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Self

from pydantic import JsonValue

from power_agent.errors import BadArguments, ConfigError, InvalidInput
from power_agent.events import Recovery
from power_agent.limits import MCP_CONNECT_SECONDS
from power_agent.messages import restored
from power_agent.policy.commands import Nature
from power_agent.policy.verdicts import Allow, Ask, Deny, Policy, Verdict, Wanted, judging
from power_agent.ports import Clock, ProbeAnswer, ToolContext, ToolSpec, Unknown
from power_agent.tools.mcp.connection import Connection, MCPStatus
from power_agent.tools.mcp.definitions import Definition
from power_agent.tools.mcp.described import MCPServer
from power_agent.tools.mcp.memory import Memory, OfProcess
from power_agent.word import replace

_KINDS: Mapping[str, tuple[type, ...]] = {"string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float), "array": (list,), "object": (dict,)}


class MCPTool:
    """A tool of a server, as it was when the model was shown it."""

    external = False
    threaded = False
    reads_untrusted = True
    foreign = True

    def __init__(self, connection: Connection, definition: Definition) -> None:
        self._connection = connection
        self._definition = definition
        self.spec = ToolSpec(name=definition.called, description=definition.description, parameters=definition.parameters)
        self.seconds = connection.server.seconds
        self.difference = connection.differences.get(definition.called)
        reads = self.difference is None and any(fnmatchcase(definition.name, one) for one in connection.server.reads)
        self.recovery: Recovery = "rerun" if reads else "ask"
        self.nature = Nature(does="reads" if reads else "changes")

    def __repr__(self) -> str:
        return f"MCPTool({self.spec.name!r})"

    def runs(self, idempotency_key: str) -> bool:  # noqa: ARG002  a tool's signature
        """Nothing of it runs in this process."""
        return False

    def binds(self, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:  # noqa: ARG002  the same
        """An approval is for this tool of this server, and void when either is another one."""
        return {"server": self._connection.server.shown, "definition": self._definition.digest}

    def check(self, arguments: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Return the arguments, or say what is plainly wrong with them. The rest is the server's to judge: its patterns run there, not here."""
        given: dict[str, Any] = restored(dict(arguments))
        schema: Mapping[str, Any] = self.spec.parameters
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        wrong = [f"{name} is missing" for name in (required if isinstance(required, list) else []) if name not in given]
        if schema.get("additionalProperties") is False:
            wrong += [f"there is no {name}" for name in given if name not in properties]
        for name, value in given.items():
            kind = properties.get(name, {}).get("type") if isinstance(properties.get(name), dict) else None
            kinds = _KINDS.get(kind, ()) if isinstance(kind, str) else ()
            if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and kind != "boolean")):
                wrong.append(f"{name} wants {kind}")
        try:
            str(given).encode()
        except UnicodeEncodeError:
            wrong.append("there is text that is not Unicode")
        if wrong:
            raise BadArguments(f"Wrong arguments for {self.spec.name}: {'; '.join(wrong)}. It was not run.", tool=self.spec.name)
        return given

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Call the server."""
        return await self._connection.call(self._definition, arguments, context.progress)

    async def ask_probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:  # noqa: ARG002  the same
        """Nobody can tell."""
        return Unknown()


class MCPServers:
    """Servers whose tools an agent may call. Hand it to a loop among its tools, or use it in `async with`.

    `memory` knows which tools each server had when it was first seen; what differs from that is shown to whoever is asked. A server that
    cannot be started hinders no other: `status()` says why.
    """

    def __init__(self, servers: Iterable[MCPServer] = (), *, memory: Memory | None = None, clock: Clock | None = None, connect_seconds: float = MCP_CONNECT_SECONDS) -> None:
        self._memory = memory or OfProcess()
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._described: dict[str, MCPServer] = {}
        self._connections: dict[str, Connection] = {}
        self._opened = 0
        self._tools: tuple[MCPTool, ...] | None = None
        for one in servers:
            self._take(one)

    def _take(self, server: MCPServer) -> None:
        server.checked()
        if server.name in self._described:
            raise ConfigError(f"There are two servers called {server.name!r}.", hint="Give one of them another name.", key="mcp")
        self._described[server.name] = server

    @property
    def tools(self) -> tuple[MCPTool, ...]:
        """What the servers offer now, in the order of their names."""
        if self._tools is None:
            self._tools = tuple(MCPTool(link, one) for _, link in sorted(self._connections.items()) for one in link.definitions.values())
        return self._tools

    @property
    def secrets(self) -> dict[str, str]:
        """What variables of the environment bring into a server's own environment and headers: it knows it, and may repeat it."""
        return {name: value for one in self._described.values() for name, value in one.given().items()}

    def _moved(self) -> None:
        self._tools = None

    # -- opening and closing ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the servers, unless somebody did, and wait until each is ready or was tried once. Who gives up has not opened them."""
        self._opened += 1
        try:
            if not self._connections:
                self._begin(list(self._described.values()))
            await asyncio.gather(*(link.settled() for link in self._connections.values()))
        except BaseException:
            await self.close()
            raise

    def _begin(self, servers: list[MCPServer]) -> None:
        try:
            import mcp  # noqa: F401, PLC0415  only who has a server
        except ImportError as error:
            raise InvalidInput("Servers of tools need the package mcp.", hint='Install it: pip install "power-agent[mcp]"') from error
        links = [Connection(one, self._memory, self._moved, clock=self._clock, connect_seconds=self._connect_seconds) for one in servers]
        for link in links:
            self._connections[link.server.name] = link
            link.begin()

    async def close(self) -> None:
        """Let the servers go; what still runs there is in doubt."""
        self._opened = max(self._opened - 1, 0)
        if self._opened == 0:
            await asyncio.gather(*(self._stop(name) for name in list(self._connections)))

    def lend(self) -> None:
        """Leave the servers open for whoever opens them next, and closes them then."""
        self._opened = max(self._opened - 1, 0)

    async def _stop(self, name: str) -> None:
        link = self._connections.pop(name, None)
        self._moved()
        if link is not None:
            await link.end()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # -- while they run ----------------------------------------------------------------------------------------------------

    async def add(self, server: MCPServer) -> MCPStatus:
        """Take one more in, and start it where the others run; its tools are there with the next request.

        What variables bring into its environment is hidden only by loops that are made later: name it in a running one's `secrets` before.
        """
        self._take(server)
        if self._opened:
            try:
                self._begin([server])
                await self._connections[server.name].settled()
            except BaseException:
                await self.remove(server.name)
                raise
        return next(one for one in self.status() if one.name == server.name)

    async def remove(self, name: str) -> None:
        """Let one go. A call that runs there is in doubt; one that waits for approval will find no tool."""
        if self._described.pop(name, None) is None:
            raise ConfigError(f"There is no server {name!r}.", hint=f"There are: {', '.join(self._described) or 'none'}.", key="mcp")
        await self._stop(name)

    def accept(self, name: str) -> None:
        """Take the tools that a server offers now for the ones that are known; nothing about them is new any more."""
        self._connections[name].accept()

    def differences(self) -> dict[str, str]:
        """Return what is new about which tool."""
        return {name: told for link in self._connections.values() for name, told in link.differences.items()}

    def status(self) -> tuple[MCPStatus, ...]:
        """Say how each server stands."""
        closed = (MCPStatus(name=one.name, state="closed", shown=one.shown) for one in self._described.values() if one.name not in self._connections)
        return (*(link.status() for _, link in sorted(self._connections.items())), *closed)

    def wary(self, policy: Policy) -> Policy:
        """Return a policy that asks about what the other one allows, as long as the tool is not what it was when it was first seen, and
        shows the difference to whoever is asked.
        """
        judging(policy)

        def judge(wanted: Wanted) -> Verdict:
            verdict = policy(wanted)
            new = self.differences().get(wanted.tool)
            if new is None or isinstance(verdict, Deny):
                return verdict
            return Ask(new, "changed tool") if isinstance(verdict, Allow) else replace(verdict, question="\n".join(filter(None, (verdict.question, new))))

        return judge
