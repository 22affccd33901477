"""A bound on everything, in one room: the unit is in the name, the reason beside it.

`None` means unbounded. Reaching a limit of a turn ends it politely with `status="limit"`; resuming with a higher one goes on.
"""

from __future__ import annotations

from power_agent.word import Word, word


@word(kw_only=True)
class Limits(Word):
    """What one session and one turn may use."""

    max_rounds_per_turn: int | None = 50
    """Requests to the model in one turn; a model that never stops asking is stopped here."""
    max_tokens_per_turn: int | None = None
    max_tokens_per_session: int | None = None
    max_cost_usd_per_turn: float | None = None
    max_cost_usd_per_session: float | None = None
    max_turn_seconds: float | None = None
    """Wall time of a turn, waits for a person included."""
    max_tool_seconds: float = 600.0
    """One call; a tool that needs longer says so itself."""
    max_parallel_calls: int = 8
    """Calls of one message that run side by side."""
    max_output_bytes_in_context: int = 32_768
    """Of one tool's output; the rest is kept as a blob, the model sees head and tail."""
    max_context_tokens: int | None = None
    """When the context outgrows this it is compacted; None: what the model's window allows."""
    max_event_bytes: int = 16_777_216
    """One fact in the log. Rows far above this make reading uneven; larger content is an attachment."""


MAX_ID_CHARACTERS = 200
"""Session ids and keys: long enough for a URL's path, short enough for an index."""
MAX_JSON_DEPTH = 200
"""Nesting of JSON that comes from outside; far above real use, far below the interpreter's stack."""
MAX_JSON_DIGITS = 4_300
"""Digits of one integer in JSON from outside, the interpreter's own bound; more would stall the parser."""
MAX_BLOB_BYTES = 536_870_912
"""One blob. SQLite itself refuses from 1 GB; half of that keeps a copy in memory bearable."""
MAX_HISTORY_EVENTS = 1_000
"""Events in one answer of `history`; an iterator gives all."""

LEASE_SECONDS = 30.0
"""How long an owner that stopped answering keeps a session. Long enough for a laptop's hiccup, short enough to wait for."""
LEASE_RENEWAL_SECONDS = 10.0
"""A lease is renewed after a third of its time, so that two missed renewals are survived."""
LOCK_SECONDS = 10.0
"""How long a write waits for another process that holds the file, before it says StoreBusy."""
COMMITS_PER_CHECKPOINT = 256
"""Commits until the write-ahead log is copied into the file: about 4 MB of it, the size at which SQLite's own habit does so."""
READ_CHUNK_EVENTS = 2_000
"""Events read per visit to the database thread: long reads leave room for commits in between."""
MAX_PLACE = 2**63 - 1
"""The largest number that SQLite keeps: a place in the log, or milliseconds, beyond it means nothing."""
MAX_BACKOFF_SECONDS = 3_600
"""The longest wait between two attempts, whatever a server asks for or a clock that jumped pretends."""
MAX_LIVE_STATES = 1_000
"""States of idle sessions a loop keeps in memory, so that the next input need not read the log again."""
MAX_MODEL_ATTEMPTS = 6
"""Attempts of one request to a model before the turn fails: with growing waits about two minutes of trouble are sat out."""
FIRST_BACKOFF_SECONDS = 0.5
"""The wait after a first failed attempt, doubled each time, with jitter so that many sessions do not come back at once."""
CANCEL_GRACE_SECONDS = 2.0
"""How long a running tool may go on after it was told that the turn is cancelled, before it is stopped."""
STOP_SECONDS = 5.0
"""How long stopped work is waited for, so that its end can be recorded, before it is left behind."""
PROBE_SECONDS = 30.0
"""How long a probe may take to find out whether a call happened."""
SNAPSHOT_EVENTS = 2_000
"""Events since the last cached state before another one is cached: folding them takes some twenty milliseconds."""
MAX_OBJECTIONS = 3
"""How often guards may hold up the end of one turn: a check that can never be satisfied must not keep a model busy for ever."""
MAX_STREAM_ITEMS = 1_000
"""What waits for a slow reader of a stream: above it glimpses are let go and facts are read from the log instead."""
TAIL_SECONDS = 0.01
"""How often somebody who follows the log asks whether another process wrote; asking costs microseconds and reads nothing."""
LOOK_SECONDS = 0.25
"""How often an owner that waits for a model or a tool looks whether somebody asked it to stop: one look costs one row."""
EFFECT_MARGIN = 0.5
"""Share of the lease that must be left when an effect starts; below it the owner makes sure that it still is one."""
