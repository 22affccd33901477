"""What can be set about an answer, under one name for every wire format, and what is passed through untouched.

    StatefulAgentLoop("openai:gpt-5", settings={"temperature": 0.2, "max_output_tokens": 2_000, "extra": {"service_tier": "flex"}})

`Settings.of` reads the mapping that the configuration holds; a name or a type that is not known here is refused with a
suggestion, because a misspelt setting that is silently ignored is found months later. Each format writes what it can say under
its own names. What it cannot say it leaves out when that only bends the answer (`seed`, `top_p`, `reasoning_effort`), and refuses
with `unsayable` when the answer would be a different one (`tool_choice`). `extra` holds the format's own fields: it is merged
into the body last, level by level, and wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from power_agent.errors import InvalidInput
from power_agent.word import Word, word


@word(kw_only=True)
class Settings(Word):
    """The settings every format knows. None: what the provider does by itself."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    """How long the answer may get, reasoning included where the provider counts it so."""
    stop: tuple[str, ...] = ()
    """Texts at which the answer ends."""
    tool_choice: str | None = None
    """`auto`, `none`, `required` (one of them, whichever), or `tool:name` for exactly that one."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may hold several calls."""
    reasoning_effort: str | None = None
    """`none`, `minimal`, `low`, `medium`, `high`, or a word of the provider's own."""
    reasoning_tokens: int | None = None
    """A budget in tokens, for formats that have one; where both are set and the format knows both, the budget counts."""
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the wire format itself, merged into the body last."""

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> Settings:
        """Read settings as they stand in the configuration, or say what is wrong with them."""
        known = {one.name for one in fields(cls)}
        for name in settings or {}:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"Did you mean {close[0]!r}?" if close else f"The settings are {', '.join(sorted(known))}; a field of the provider's own goes into extra."
                raise InvalidInput(f"There is no setting called {name!r}.", hint=hint)
        values = {name: _checked(name, value) for name, value in (settings or {}).items() if value is not None}
        return cls(**values)

    @property
    def chosen_tool(self) -> str | None:
        """The one tool that must be called, if the choice names one."""
        return self.tool_choice[5:] if self.tool_choice is not None and self.tool_choice.startswith("tool:") else None


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the provider's own fields laid over it: objects level by level, everything else replaced."""
    result = dict(body)
    for name, value in extra.items():
        known = result.get(name)
        result[name] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def unsayable(format_name: str, name: str, value: object) -> InvalidInput:
    """Return the error for a setting that a format has no word for."""
    return InvalidInput(f"The format {format_name} cannot say {name}={value!r}.", hint=f"Leave {name} out of the settings.")


_NUMBERS = {"temperature", "top_p"}
_WHOLE = {"max_output_tokens", "reasoning_tokens", "seed"}
_CHOICES = {"auto", "none", "required"}


def _checked(name: str, value: Any) -> Any:
    """Return a setting in the type it has here."""
    if name in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if name in _WHOLE and isinstance(value, int) and not isinstance(value, bool) and (value > 0 or name == "seed"):
        return value
    if name == "stop":
        texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
        if texts and all(isinstance(text, str) and text for text in texts):
            return texts
        if value in ([], ()):
            return ()
    if name == "parallel_tool_calls" and isinstance(value, bool):
        return value
    if name == "reasoning_effort" and isinstance(value, str) and value:
        return value
    if name == "tool_choice" and isinstance(value, str) and (value in _CHOICES or (value.startswith("tool:") and len(value) > len("tool:"))):
        return value
    if name == "extra" and isinstance(value, Mapping):
        return value
    raise InvalidInput(f"{value!r} is no value for the setting {name}.", hint=_HINTS.get(name, "It is a number." if name in _NUMBERS else "It is a whole number above 0."))


_HINTS = {
    "seed": "It is a whole number.",
    "stop": "It is a text, or a list of texts.",
    "parallel_tool_calls": "It is True or False.",
    "reasoning_effort": 'It is a word: "low", "medium", "high" …',
    "tool_choice": 'It is "auto", "none", "required", or "tool:" and the name of a tool.',
    "extra": "It is a mapping of the provider's own fields.",
}
