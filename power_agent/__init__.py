"""An agent that cannot forget, and never does a thing twice by accident.

The front door: the public names and no logic. See `power_agent/README.md` for the house behind it.
"""

from power_agent.errors import ModelError, PowerAgentError, SessionBusy, SessionPending
from power_agent.events import Config, Envelope, Event
from power_agent.limits import Limits
from power_agent.loop import StatefulAgentLoop
from power_agent.messages import Attachment, Call, Message, Reasoning, Text, Usage
from power_agent.models import Answer, ScriptedModel
from power_agent.ports import DidNotHappen, Happened, ToolContext, Unknown
from power_agent.results import PendingCall, TurnResult
from power_agent.settling import Abort, Approve, Deny, Result, Retry
from power_agent.sink import Sink
from power_agent.state import SessionState, evolve, fold
from power_agent.store import SQLiteStore
from power_agent.tools import tool

__version__ = "0.1.0.dev0"

__all__ = [
    "Abort",
    "Answer",
    "Approve",
    "Attachment",
    "Call",
    "Config",
    "Deny",
    "DidNotHappen",
    "Envelope",
    "Event",
    "Happened",
    "Limits",
    "Message",
    "ModelError",
    "PendingCall",
    "PowerAgentError",
    "Reasoning",
    "Result",
    "Retry",
    "SQLiteStore",
    "ScriptedModel",
    "SessionBusy",
    "SessionPending",
    "SessionState",
    "Sink",
    "StatefulAgentLoop",
    "Text",
    "ToolContext",
    "TurnResult",
    "Unknown",
    "Usage",
    "__version__",
    "evolve",
    "fold",
    "tool",
]
