"""What the log amounts to: the state of a session, the tables of legal moves, and the fold."""

from power_agent.state.folding import evolve, fold
from power_agent.state.moves import CALL_MOVES, MOVES, RESOLVED, CallPlace, Place
from power_agent.state.shape import (
    Answered,
    CallState,
    Entry,
    Input,
    LastTurn,
    Measured,
    Outcome,
    Returned,
    Said,
    SessionState,
    Spent,
    Summed,
    Told,
    Transcript,
    Turn,
)
from power_agent.state.snapshot import FOLD, freeze, thaw

__all__ = [
    "CALL_MOVES",
    "FOLD",
    "MOVES",
    "RESOLVED",
    "Answered",
    "CallPlace",
    "CallState",
    "Entry",
    "Input",
    "LastTurn",
    "Measured",
    "Outcome",
    "Place",
    "Returned",
    "Said",
    "SessionState",
    "Spent",
    "Summed",
    "Told",
    "Transcript",
    "Turn",
    "evolve",
    "fold",
    "freeze",
    "thaw",
]
