"""What answers. A name is fetched when it is first asked for: a script that tells a story needs no wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from power_agent.models.scripted import Answer, ScriptedModel

if TYPE_CHECKING:
    from power_agent.models.named import model

__all__ = ["Answer", "ScriptedModel", "model"]


def __getattr__(name: str) -> object:
    """Fetch `model` from its room."""
    if name != "model":
        raise AttributeError(f"module 'power_agent.models' has no attribute {name!r}")
    from power_agent.models.named import model  # noqa: PLC0415  only when a model is asked for by name

    return model
