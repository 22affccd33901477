"""More tools than a model reads well: it is shown a few and `search_tools`, and what it finds is offered from the next request on.

What is offered is a function of the log and the configuration: the answers of `search_tools` are folded into the state
(`state/found.py`), so a resume, a fork and a replay offer the same, in the same order. What is found stands behind what was offered
before, so that the beginning of a request stays what a provider's cache knows. A tool that is not offered can be called all the
same: the policy judges it, not whether it is in sight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic import JsonValue

from power_agent import events as e
from power_agent.errors import InvalidInput
from power_agent.gauge import crude, of_prefix, of_tool
from power_agent.limits import MAX_FOUND_AT_ONCE, MAX_FOUND_TOKENS, MAX_INDEXED_WORDS, MAX_TOOL_TOKENS, MAX_TOOLS
from power_agent.offer import too_late
from power_agent.ports import Tool, ToolContext, ToolSpec
from power_agent.ranking import Ranking, words_of
from power_agent.recall import OwnTool, Recall
from power_agent.state import SessionState
from power_agent.state.found import SEARCH
from power_agent.word import Word, word

EXCERPT_CHARACTERS = 200
NAME_WEIGHT = 3
"""How often the words of a tool's name count: names are chosen more carefully than descriptions."""
SPEC = ToolSpec(
    name=SEARCH,
    description=(
        "Find tools. There are many more than are shown; look here before you say that something cannot be done. Say in a few words what is to be done "
        "(list open issues, send mail). What is found can be called from the next message on."
    ),
    parameters={
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What is to be done, or the name of a tool."},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_FOUND_AT_ONCE, "description": "How many tools to find."},
        },
        "required": ["query"],
        "additionalProperties": False,
    },
)


@word(kw_only=True)
class ToolSearch(Word):
    """When tools are looked for instead of shown: above so many, or so many tokens of descriptions. `always` are the names of those
    that are shown all the same; `*` stands for anything.
    """

    above_tools: int = MAX_TOOLS
    above_tokens: int = MAX_TOOL_TOKENS
    always: tuple[str, ...] = ()


class _Shelf(NamedTuple):
    """Tools in a fixed order: those that are always shown, the others as an index."""

    specs: tuple[ToolSpec, ...]
    shown: tuple[ToolSpec, ...]
    others: dict[str, ToolSpec]
    ranking: Ranking | None


class Finding:
    """The tools of one loop; of many, those that are always shown and those that a session's model found. A tool of the user's called
    like the search comes first: then there is none.
    """

    def __init__(self, recall: Recall, search: ToolSearch | None = None) -> None:
        if search is not None and not isinstance(search, ToolSearch):
            raise InvalidInput(f"tool_search={search!r:.100} is not possible.", hint="Pass ToolSearch(above_tools=…), or None: all tools are shown.")
        self._recall = recall
        self._search = search
        self._kept: _Shelf | None = None
        self._begun: _Shelf | None = None
        self._own = SearchTools(self)

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, in sight or not."""
        return self._recall.get(name) or (self._own if name == SEARCH and self._search is not None else None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loop's own tools; of many, those of the ones that every session is shown."""
        return self._recall.names if self.shelf.ranking is None else tuple(spec.name for spec in self.specs)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What every session's model is shown."""
        shelf = self.shelf
        return self._recall.specs if shelf.ranking is None else (*shelf.shown, SPEC, *self._recall.own_specs)

    @property
    def refs(self) -> tuple[e.ToolRef, ...]:
        """What the log says about them: all, in sight or not."""
        return self._recall.refs

    @property
    def standing(self) -> Collection[str]:
        """The names of those that cannot come and go."""
        return self._recall.standing

    def specs_for(self, state: SessionState) -> tuple[ToolSpec, ...]:
        """Return what a session's model is shown. With a search the tools for recalling are there from the beginning: they would
        come between what was found before and after. Whether there is a search goes by the tools that an open turn may have.
        """
        shelf = self.without(too_late(self, state))
        if shelf.ranking is None:
            return self._recall.specs_for(state)
        return (*shelf.shown, SPEC, *self._recall.own_specs, *(shelf.others[name] for name in state.found if name in shelf.others))

    @property
    def shelf(self) -> _Shelf:
        """The tools as they are now; tools may come and go while the loop runs."""
        specs = self._recall.specs
        if self._kept is None or (self._kept.specs is not specs and self._kept.specs != specs):
            self._kept = self._shelved(specs)
        return self._kept

    def without(self, late: Collection[str]) -> _Shelf:
        """The tools without those that came too late for an open turn."""
        if not late:
            return self.shelf
        specs = tuple(spec for spec in self._recall.specs if spec.name not in late)
        if self._begun is None or self._begun.specs != specs:
            self._begun = self._shelved(specs)
        return self._begun

    def _shelved(self, specs: tuple[ToolSpec, ...]) -> _Shelf:
        search, taken = self._search, self._recall.get(SEARCH) is not None
        if search is None or taken or (len(specs) <= search.above_tools and of_prefix(None, specs, crude) <= search.above_tokens):
            return _Shelf(specs, specs, {}, None)
        shown = tuple(spec for spec in specs if any(fnmatchcase(spec.name, one) for one in search.always))
        names = {spec.name for spec in shown}
        others = {spec.name: spec for spec in specs if spec.name not in names}
        return _Shelf(specs, shown, others, Ranking(_words(spec) for spec in others.values()))

    def found(self, query: str, most: int, late: Collection[str] = ()) -> list[ToolSpec]:
        """Return the tools that speak most of what is looked for, the best first; one that is called by its name is the best."""
        shelf = self.without(late)
        if shelf.ranking is None:
            return []
        places, specs = shelf.ranking.best(words_of(query), most), list(shelf.others.values())
        named = [shelf.others[name] for name in dict.fromkeys(query.split()) if name in shelf.others]
        hits = list({spec.name: spec for spec in (*named, *(specs[place] for place in places))}.values())[:most]
        room, fitting = MAX_FOUND_TOKENS, list[ToolSpec]()
        for spec in hits:
            room -= of_tool(spec, crude)
            if fitting and room < 0:
                break
            fitting.append(spec)
        return fitting


class SearchTools(OwnTool):
    """Finds tools. What it answers is read by the fold."""

    spec = SPEC

    def __init__(self, finding: Finding) -> None:
        self._finding = finding

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> dict[str, JsonValue]:
        """Return what was found, by name and with what it does."""
        hits = self._finding.found(arguments["query"], min(arguments.get("limit", MAX_FOUND_AT_ONCE), MAX_FOUND_AT_ONCE), context.late)
        told: list[JsonValue] = [{"name": spec.name, "does": " ".join(spec.description.split())[:EXCERPT_CHARACTERS]} for spec in hits]
        return {"found": told, "note": "They can be called from now on." if told else "Nothing was found. Say it in other words."}


def _words(spec: ToolSpec) -> list[str]:
    """Return what is known of a tool as words; parameters count by their names and descriptions."""
    words = NAME_WEIGHT * words_of(spec.name)
    words += words_of(spec.description[: 8 * MAX_INDEXED_WORDS])[:MAX_INDEXED_WORDS]
    properties = spec.parameters.get("properties")
    for name, shape in list(properties.items())[:MAX_INDEXED_WORDS] if isinstance(properties, Mapping) else ():
        said = shape.get("description") if isinstance(shape, Mapping) else None
        words += words_of(name) + (words_of(said[: 2 * MAX_INDEXED_WORDS]) if isinstance(said, str) else [])
    return words[: 2 * MAX_INDEXED_WORDS]
