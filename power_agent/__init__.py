"""An agent that cannot forget, and never does a thing twice by accident.

The front door: the public names and no logic. See `power_agent/README.md` for the house behind it.
"""

from power_agent.errors import PowerAgentError
from power_agent.events import Config, Envelope, Event
from power_agent.limits import Limits
from power_agent.messages import Attachment, Call, Message, Reasoning, Text, Usage
from power_agent.sink import Sink
from power_agent.state import SessionState, evolve, fold
from power_agent.store import SQLiteStore

__version__ = "0.1.0.dev0"

__all__ = [
    "Attachment",
    "Call",
    "Config",
    "Envelope",
    "Event",
    "Limits",
    "Message",
    "PowerAgentError",
    "Reasoning",
    "SQLiteStore",
    "SessionState",
    "Sink",
    "Text",
    "Usage",
    "__version__",
    "evolve",
    "fold",
]
