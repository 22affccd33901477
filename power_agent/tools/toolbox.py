"""The tools of one loop, by name: those it was made with, and those that come and go on its shelves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Any

from power_agent.errors import InvalidInput
from power_agent.events import ToolRef
from power_agent.givens import listed
from power_agent.ports import Shelf, Tool, ToolSpec
from power_agent.tools.define import FunctionTool


class Toolbox:
    """Finds a tool by the name the model uses. Names are unique; their order is stable, so that prompts can be cached.

    Its own tools come first: a shelf cannot put another one in their place, nor in the place of an earlier shelf's.
    """

    def __init__(self, tools: Iterable[Tool | Shelf | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self.shelves: list[Shelf] = []
        self._refs: tuple[ToolRef, ...] | None = None
        self._specs: tuple[ToolSpec, ...] | None = None
        for one in listed(tools, "Tools", "tools"):
            self.add(one)

    def add(self, one: Tool | Shelf | Callable[..., Any]) -> None:
        """Add a tool, a plain function as one, or a shelf of tools."""
        if hasattr(one, "tools") and not hasattr(one, "spec") and not callable(one):
            self.shelves.append(one)
            return
        made: Tool = one if hasattr(one, "spec") else FunctionTool(one)  # type: ignore[assignment]
        if made.spec.name in self._tools:
            raise InvalidInput(f"There are two tools called {made.spec.name!r}.", hint="Give one of them another name: @tool(name=…).")
        self._tools[made.spec.name] = made
        self._refs = self._specs = None

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name."""
        return self._tools.get(name) or (self._all().get(name) if self.shelves else None)

    def _all(self) -> dict[str, Tool]:
        """Return what is there now; who came first keeps the name."""
        if not self.shelves:
            return self._tools
        found = dict(self._tools)
        for one in chain.from_iterable(shelf.tools for shelf in self.shelves):
            found.setdefault(one.spec.name, one)
        return found

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._all().values())

    def __len__(self) -> int:
        return len(self._all())

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._all())

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is shown; put together anew only where a shelf may hold others by now."""
        if self._specs is None or self.shelves:
            self._specs = tuple(one.spec for one in self)
        return self._specs

    @property
    def refs(self) -> tuple[ToolRef, ...]:
        """What the log says about them; said anew only where a shelf may hold others by now."""
        if self._refs is None or self.shelves:
            self._refs = self._referred()
        return self._refs

    @property
    def standing(self) -> Collection[str]:
        """The names of those that are on no shelf."""
        return self._tools.keys()

    def _referred(self) -> tuple[ToolRef, ...]:
        return tuple(ToolRef(name=one.spec.name, digest=spec_digest(one.spec), foreign=bool(getattr(one, "foreign", False))) for one in self)


def spec_digest(spec: ToolSpec) -> str:
    """Return the digest of what the model is shown of a tool."""
    shown = json.dumps([spec.name, spec.description, spec.parameters], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
