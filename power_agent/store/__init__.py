"""Where facts are kept: one SQLite file."""

from power_agent.store.sqlite import SQLiteStore

__all__ = ["SQLiteStore"]
