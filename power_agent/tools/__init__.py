"""What the model may call."""

from power_agent.tools.define import DidNotHappen, FunctionTool, Happened, Probe, Unknown, tool
from power_agent.tools.toolbox import Toolbox

__all__ = ["DidNotHappen", "FunctionTool", "Happened", "Probe", "Toolbox", "Unknown", "tool"]
