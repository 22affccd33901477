"""What calls run, and what is known of a call that nobody saw the end of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from pydantic import JsonValue

from power_agent.events import Recovery, ToolRef
from power_agent.ports.model import ToolSpec
from power_agent.word import Word, word


class ToolContext:
    """What a running tool knows about its call; `binds` is what the call was judged with beside its arguments, `late` are the names of
    tools that its turn did not begin with and cannot call. Tools that cannot be stopped (threads) set `still_alive`, and `left`: what came
    of it in the end as (value, error), also when nobody waited that long.
    """

    def __init__(
        self,
        *,
        session: str,
        call: str,
        attempt: int,
        idempotency_key: str,
        deps: Any = None,
        progress: Callable[[str], None] | None = None,
        binds: Mapping[str, JsonValue] | None = None,
        late: Collection[str] = (),
    ) -> None:
        self.session = session
        self.call = call
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.deps = deps
        self.binds: Mapping[str, JsonValue] = binds or {}
        self.late = late
        self.cancelled = False
        self.still_alive: Callable[[], bool] = lambda: False
        self.left: Awaitable[tuple[Any, BaseException | None]] | None = None
        self._progress = progress

    def progress(self, text: str) -> None:
        """Tell whoever watches how far it is. A glimpse: not kept."""
        if self._progress is not None:
            self._progress(text)


@word()
class Happened(Word):
    """A probe's answer: it did, and this was the result."""

    value: Any = None


@word()
class DidNotHappen(Word):
    """A probe's answer: it did not; it may run now."""


@word()
class Unknown(Word):
    """A probe's answer: cannot tell."""


ProbeAnswer = Happened | DidNotHappen | Unknown


class Tool(Protocol):
    """Something the model may call.

    Attributes may be there: `nature` (what calls do to the world), `secrets` (names of those it may have), `reads_untrusted` (True, or a
    function of a call's arguments: anybody may have written what it returns), `foreign` (strangers wrote its name and description),
    `repeats` (it returns what the session has seen before).
    """

    @property
    def spec(self) -> ToolSpec:
        """What the model is shown."""
        ...

    @property
    def recovery(self) -> Recovery:
        """What happens to a call found started without an outcome."""
        ...

    @property
    def seconds(self) -> float | None:
        """How long one attempt may take; None: what the limits say."""
        ...

    @property
    def external(self) -> bool:
        """Whether it is not run here: its result is handed in."""
        ...

    @property
    def threaded(self) -> bool:
        """Whether it runs where nobody can stop it: as long as its process lives, an attempt may still be under way."""
        ...

    def runs(self, idempotency_key: str) -> bool:
        """Whether an attempt of that call still runs in this process, left behind where nobody could stop it."""
        ...

    def check(self, arguments: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Return the arguments as the tool wants them, or raise `BadArguments`."""
        ...

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Do it. Raising means: it failed, and the model is told."""
        ...

    async def ask_probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:
        """Find out whether an earlier attempt happened; only asked where `recovery` is `"probe"`."""
        ...


class BoundTool(Tool, Protocol):
    """A tool whose calls depend on more than their arguments. An approval is for all of it, and void when any of it changes."""

    def binds(self, arguments: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Return what a call depends on, as JSON: the working directory (`folder`), the digest of a script. It must be quick and
        without effects; it is asked before the policy and again before the start. If it raises, the call is denied.
        """
        ...


class FollowingTool(Tool, Protocol):
    """A bound tool whose calls go on where earlier calls of the session stopped, such as a shell in the folder where it stands."""

    @property
    def follows(self) -> str:
        """The name of the tool whose earlier answers `binds` wants to know."""
        ...

    def binds(self, arguments: Mapping[str, JsonValue], said: Iterable[str]) -> Mapping[str, JsonValue]:
        """As for a bound tool; `said` are the texts of earlier answers that are in the context, the latest first."""
        ...


class BuryingTool(Tool, Protocol):
    """A tool that starts processes, of which an earlier attempt may have left some."""

    async def bury(self, idempotency_key: str) -> bool:
        """End whatever an earlier attempt of that call left running; True when nothing of it is left. It must be quick."""
        ...


class ChangingTool(Tool, Protocol):
    """A tool that others may change while it is used, such as one of an MCP server."""

    @property
    def difference(self) -> str | None:
        """What is new about it, for the person whose approval became void by it."""
        ...


class Shelf(Protocol):
    """Tools that come and go while an agent runs: handed to a loop beside its tools, opened and closed with it.

    What it offers is kept apart from what was handed in as a tool: a name that is there already is not taken again. An attribute may be
    there: `secrets`, what it uses, by name, to be hidden.
    """

    @property
    def tools(self) -> Iterable[Tool]:
        """What is there now; the order is stable, so that prompts can be cached."""
        ...

    async def open(self) -> None:
        """Make it ready; it may be opened several times and is then closed as often."""
        ...

    async def close(self) -> None:
        """Let it go, with everything that it started."""
        ...


class Tools(Protocol):
    """All tools, by name."""

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        ...

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is shown."""
        ...

    @property
    def refs(self) -> tuple[ToolRef, ...]:
        """What the log says about them."""
        ...

    @property
    def standing(self) -> Collection[str]:
        """The names of those that cannot come and go while the agent runs."""
        ...
