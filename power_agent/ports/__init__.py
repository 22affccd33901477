"""Every socket in the wall: what the heart expects from the hands, by the side of the wall it is on.

An adapter is named after the outside thing it speaks to (`SQLiteStore`, `SystemClock`). Records are what a store keeps;
facts are what it is asked to keep.
"""

from power_agent.ports.contexts import Crowded, Exchange, Smaller, Strategy
from power_agent.ports.model import Chain, Glimpse, Glimpsed, Model, ModelReply, ModelRequest, SoFar, ToolSpec, Tried
from power_agent.ports.store import Adoption, Append, Blob, Durability, Fact, Kept, Place, Record, SessionRow, Store, Tip
from power_agent.ports.tools import BoundTool, BuryingTool, ChangingTool, DidNotHappen, FollowingTool, Happened, ProbeAnswer, Shelf, Tool, ToolContext, Tools, Unknown
from power_agent.ports.world import Chance, Clock, DeadCheck, Guard, Listener

__all__ = [
    "Adoption",
    "Append",
    "Blob",
    "BoundTool",
    "BuryingTool",
    "Chain",
    "Chance",
    "ChangingTool",
    "Clock",
    "Crowded",
    "DeadCheck",
    "DidNotHappen",
    "Durability",
    "Exchange",
    "Fact",
    "FollowingTool",
    "Glimpse",
    "Glimpsed",
    "Guard",
    "Happened",
    "Kept",
    "Listener",
    "Model",
    "ModelReply",
    "ModelRequest",
    "Place",
    "ProbeAnswer",
    "Record",
    "SessionRow",
    "Shelf",
    "Smaller",
    "SoFar",
    "Store",
    "Strategy",
    "Tip",
    "Tool",
    "ToolContext",
    "ToolSpec",
    "Tools",
    "Tried",
    "Unknown",
]
