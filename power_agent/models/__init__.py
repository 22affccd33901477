"""What answers."""

from power_agent.models.scripted import Answer, ScriptedModel

__all__ = ["Answer", "ScriptedModel"]
