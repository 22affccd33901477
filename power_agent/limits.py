"""A bound on everything, in one room: the unit is in the name, the reason beside it.

`None` means unbounded. Reaching a limit of a turn ends it politely with `status="limit"`; resuming with a higher one goes on.
"""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal

from power_agent.errors import InvalidInput
from power_agent.givens import is_number
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
    max_same_calls: int | None = 12
    """The same calls with the same arguments, answer after answer; the model is told before that."""
    max_rounds_without_progress: int | None = 20
    """Rounds in a row whose calls all fail, or come to what they came to before; the model is told before that."""
    last_answer: bool = False
    """Whether the model may say where things stand when a turn reaches a limit: one more request, without tools."""
    max_turn_seconds: float | None = None
    """Wall time of a turn, waits for a person included: one deadline over all attempts of all its requests, and the waits between
    them. A request that is under way is given up at that moment; a tool that runs has `max_tool_seconds`. A call that has no place to run
    in by then is not begun any more. One that a person approved still is, unless its place would be that of a thread left behind."""
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


_ABOVE_ZERO = frozenset(
    {"max_same_calls", "max_rounds_without_progress", "max_tool_seconds", "max_parallel_calls", "max_output_bytes_in_context", "max_context_tokens", "max_event_bytes"}
)
"""Where 0 would not mean that nothing is left, but that nothing works."""


def possible(limits: object) -> Limits:
    """Return limits that a person hands in, or raise `InvalidInput`. Those that are read from a log were lived under, and are not asked."""
    if not isinstance(limits, Limits):
        raise InvalidInput(f"{limits!r:.100} are no limits.", hint="Write limits=Limits(max_rounds_per_turn=…).")
    for one in fields(limits):
        value, (kind, _, unbounded) = getattr(limits, one.name), str(one.type).partition(" | ")
        if (value is None and unbounded) or (kind == "bool" and isinstance(value, bool)):
            continue
        number = float(value) if isinstance(value, Decimal) and value.is_finite() else value  # as the log has it: what is left of a budget is one
        least = "above 0" if one.name in _ABOVE_ZERO else "from 0 on"
        if kind == "bool" or not is_number(number) or (kind == "int" and number != int(number)) or number < 0 or (number == 0 and least == "above 0"):
            wanted = "True or False" if kind == "bool" else f"{'a whole number' if kind == 'int' else 'a number'} {least}{', or None: unbounded' if unbounded else ''}"
            raise InvalidInput(f"{one.name}={value!r:.100} is not possible.", hint=f"It is {wanted}.", limit=one.name)
    return limits


MAX_ID_CHARACTERS = 200
"""Session ids and keys: long enough for a URL's path, short enough for an index."""
MAX_JSON_DEPTH = 200
"""Nesting of JSON that comes from outside; far above real use, far below the interpreter's stack."""
MAX_JSON_DIGITS = 4_300
"""Digits of one integer in JSON from outside, the interpreter's own bound; more would stall the parser."""
MAX_BLOB_BYTES = 536_870_912
"""One blob. SQLite itself refuses from 1 GB; half of that keeps a copy in memory bearable."""
MAX_UPLOAD_BYTES = 52_428_800
"""One attachment of a message: the most that any provider takes in one request."""
MAX_EXPORT_LINE_BYTES = 134_217_728
"""One line of an export: several times the largest fact in its escaped form, and still bearable in memory."""
EXPORT_PIECE_BYTES = 393_216
"""How much of a blob stands in one line of an export."""
MAX_FOREIGN_BYTES = 536_870_912
"""A recording of another harness, which is read as a whole: hundreds of times what a long day leaves behind."""
MAX_LINEAGE = 1_000
"""Ancestors of one fork that an import follows."""
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
MAX_SEEN_STATES = 100
"""States that a loop remembers of sessions it looks at from outside, so that the next look need not read them again."""
MAX_RESUMED_AT_ONCE = 64
"""Sessions that are taken up side by side when all that was left is resumed."""
MAX_PASSED_OVER = 120
"""Looks at which a session that was resumed in vain is passed over before it is tried again: an hour, where somebody looks every half minute."""
MAX_MODEL_ATTEMPTS = 6
"""Attempts of one request to a model before the turn fails: with growing waits about two minutes of trouble are sat out."""
FIRST_BACKOFF_SECONDS = 0.5
"""The wait after a first failed attempt, doubled each time, with jitter so that many sessions do not come back at once."""
CANCEL_GRACE_SECONDS = 2.0
"""How long a running tool may go on after it was told that the turn is cancelled, before it is stopped."""
STOP_SECONDS = 5.0
"""How long stopped work is waited for, so that its end can be recorded, before it is left behind."""
MAX_ASK_SECONDS = 3_155_760_000.0
"""How long a policy may let a question wait before it is denied: a hundred years. Who means for ever sets no deadline."""
PROBE_SECONDS = 30.0
"""How long a probe may take to find out whether a call happened."""
SNAPSHOT_EVENTS = 500
"""Events since the last cached state before another one is cached: folding them takes some five milliseconds, caching a state of so many one."""
MAX_OBJECTIONS = 3
"""How often guards may hold up the end of one turn: a check that can never be satisfied must not keep a model busy for ever."""
MAX_MISSHAPEN_ANSWERS = 3
"""How often an answer may have another shape than was asked for before the turn fails: who is wrong three times stays wrong."""
MAX_RECALL_HITS = 10
"""Events in one answer of a search in what was folded away."""
RECALL_EXCERPT_CHARACTERS = 300
"""Of each of them, around the word that was found."""
RECALL_CHARACTERS = 8_000
"""Read in one go from what was folded away: a few pages, so that looking something up does not fill the context anew."""
MAX_SURROUNDINGS_CHARACTERS = 24_000
"""What providers of context may show with one request, all together."""
SURROUNDINGS_SHARE = 0.1
"""The most of a context's bound that they may take; it is kept free for them."""
MAX_PROJECT_BYTES = 65_536
"""Of one file with a project's instructions."""
SAME_CALLS_TOLD = 3
"""After so many of the same calls in a row, and again after as many more, the model is told."""
STALLED_ROUNDS_TOLD = 5
"""The same for rounds that get nowhere."""
MAX_EMPTY_ANSWERS = 2
"""How often an empty answer is asked about before it is taken for the end of the turn."""
MAX_CONTINUATIONS = 3
"""How often an answer that was cut by length is continued."""
MAX_STREAM_ITEMS = 1_000
"""What waits for a slow reader of a stream: above it glimpses are let go and facts are read from the log instead."""
TAIL_SECONDS = 0.01
"""How often somebody who follows the log asks whether another process wrote; asking costs microseconds and reads nothing."""
LOOK_SECONDS = 0.25
"""How often an owner that waits for a model or a tool looks whether somebody asked it to stop: one look costs one row."""
BYTES_PER_TOKEN = 3
"""For estimates: English has about four, code and other scripts about three; too many tokens is the safe mistake."""
MESSAGE_TOKENS = 4
"""What a message costs beside its content, at the providers that say so."""
ATTACHMENT_TOKENS = 1_600
"""An image at the size providers scale to; only an estimate until the provider has counted."""
MANY_ENTRIES = 512
"""Entries that were counted by a provider and are weighed one by one all the same; of more in a session opened anew, a sample."""
SAMPLED_ENTRIES = 96
"""How many of the longest entries are weighed then, and how many of the others."""
CALIBRATING_TOKENS = 500
"""From so many estimated tokens on, a provider's own count of them says how it counts, and not what it adds by itself."""
LEAST_CALIBRATION, MOST_CALIBRATION = 0.4, 3.0
"""How far counts of providers may be from the estimate; beyond it something else was counted."""
ANSWER_TOKENS = 8_192
"""Kept free for the answer when the settings do not say how long it may get."""
ANSWER_SHARE = 0.25
"""The most of a small window that is kept free for the answer."""
ROOM_SHARE = 0.6
"""Share of its bound that a context shall have after a compaction, so that the next one is not due at once."""
ENOUGH_SHARE = 0.8
"""Share of its bound that will do: a strategy that comes below it is taken, and none after it is asked."""
RECENT_SHARE = 0.3
"""Share of that bound whose last exchanges a compaction leaves as they are; the very last exchange stays whatever its size."""
FIRST_SHARE = 0.1
"""The first instructions stay word for word while they are not larger than this share of the bound."""
MAX_REQUEST_CHARACTERS = 4_000
"""Of the request being worked on, word for word behind a summary that folds it away."""
MAX_QUEUE_SECONDS = 300.0
"""How long a request stands in a queue on this side, for a pace or for a server that is left alone; beyond it the wait goes into the log."""
MAX_SUMMARY_ATTEMPTS = 3
"""Attempts of one summary: fewer than of a turn's request, because a turn can go on without."""
MAX_COMPACTIONS = 8
"""Compactions in a row before one request: each makes the context smaller, so more of them would mean that something is wrong."""
EFFECT_MARGIN = 0.5
"""Share of the lease that must be left when an effect starts; below it the owner makes sure that it still is one."""

MAX_PATH_BYTES = 4_000
"""A path a tool is given; below what every system takes, so that a name is refused here and not half way down."""
MAX_NAME_BYTES = 255
"""One name of a path, as file systems have it."""
MAX_PATH_DEPTH = 100
"""Directories below each other that a tool walks down: each costs an open descriptor."""
MAX_EDIT_BYTES = 16_777_216
"""A file that is read whole, to be edited; larger ones can be read in part and searched."""
MAX_SCAN_BYTES = 1_073_741_824
"""How much of a larger file is passed over to reach the lines that were asked for."""
MAX_PICTURE_BYTES = 3_750_000
"""Of a picture that a file tool attaches: in base64 that is 5 MB, the least of what providers take."""
MAX_PICTURE_PIXELS = 8_000
"""On its longer side: the same."""
MAX_SHOWN_BYTES = 30_000
"""What one answer of the file tools holds: below `max_output_bytes_in_context`, so that nothing of it is cut a second time."""
MAX_SHOWN_LINES = 2_000
"""Lines that are read when nobody says how many."""
MAX_SHOWN_LINE = 2_000
"""Characters of one line; generated files have lines of megabytes."""
MAX_FOUND = 1_000
"""Names in one list; a model asks again, more narrowly."""
MAX_WALKED = 200_000
"""Names looked at while searching, so that a search in a very large tree ends."""
MAX_IGNORE_BYTES = 262_144
"""An ignore file; beyond it is no ignore file."""
SEARCH_SECONDS = 20.0
"""How long one search may match: a pattern can be made that would take longer than the universe has existed."""
FILE_LOCK_SECONDS = 5.0
"""How long a write waits for another write in the same directory."""
CONNECT_SECONDS = 10.0
"""How long a connection to a server may take, TLS included."""
FIRST_BYTE_SECONDS = 600.0
"""How long a server may think before it says anything: an answer that is not streamed comes all at once, after minutes."""
BETWEEN_BYTES_SECONDS = 180.0
"""How long a server may fall silent in the middle: a model that reasons without showing it does."""
WHOLE_ANSWER_SECONDS = 3_600.0
"""How long one answer may take altogether; a server that sends a byte a second ends here."""
LINGER_SECONDS = 2.0
"""How long the end of a stream is waited for once the answer is whole: counts may follow, and the connection can be used again."""
MAX_BODY_BYTES = 67_108_864
"""One answer of a server, unpacked. What a fact may hold is far less; base64 and event frames around it are more."""
MAX_WIRE_EVENT_BYTES = 33_554_432
"""One event or line of a stream: some formats repeat the whole answer in the last one."""
MAX_ERROR_BYTES = 65_536
"""What is read of an error's body; a page of HTML need not be."""

COMMAND_SECONDS = 120.0
"""How long a command may take when nobody says how long: most that take longer wait for something that never comes."""
MAX_COMMAND_SECONDS = 3_600.0
"""How long a command may take at most; what takes longer is a job."""
MAX_COMMAND_OUTPUT_BYTES = 1_048_576
"""What is kept of a command's output, half from its beginning and half from its end; the context sees less, the rest is in a blob."""
MAX_JOB_SECONDS = 86_400.0
"""How long a job may run: it has no owner that waits for it, so it must end by itself."""
MAX_JOB_OUTPUT_BYTES = 16_777_216
"""What is kept of a job's output on disk: the newest."""
MAX_URL_CHARACTERS = 4_000
"""A URL that a model names; servers refuse longer ones, and what is longer carries something away."""
MAX_REDIRECTS = 5
"""Redirects that are followed, each judged like a URL of its own."""
MAX_ADDRESSES_TRIED = 3
"""Addresses of one host that are tried in turn."""
RESOLVE_SECONDS = 10.0
"""How long it may take to find a host's addresses."""
FETCH_SECONDS = 60.0
"""One page, with all its redirects."""
FETCH_SILENCE_SECONDS = 20.0
"""How long a server of a page may say nothing."""
MAX_PAGE_BYTES = 2_097_152
"""What is read of a page, unpacked; articles are far below it."""
MAX_WEB_HITS = 20
"""Results of one search of the web."""
MAX_WEB_ANSWER_BYTES = 1_048_576
"""What a search service may answer."""
MAX_QUERY_CHARACTERS = 500
"""A question to a search service."""
MAX_EXCERPT_CHARACTERS = 500
"""What is shown of a page that a search found."""
MAX_NESTED = 8
"""Lists in lists, quotes in quotes of a page that are still drawn deeper."""
MAX_TOOLS = 100
"""Tools that are shown in full; of more, a model is shown a few and looks for the others."""
MAX_TOOL_TOKENS = 30_000
"""The same for what their descriptions take, by an estimate: long schemas fill a context as well as many."""
MAX_FOUND_AT_ONCE = 8
"""Tools that one search finds."""
MAX_FOUND_TOKENS = 8_000
"""What their descriptions may take together, by an estimate; the best one is found whatever it takes."""
MAX_FOUND_TOOLS = 64
"""Tools that a session's model found and is shown; above it the older half is let go."""
MAX_INDEXED_WORDS = 400
"""Words of a tool's description by which it can be found."""

MCP_CONNECT_SECONDS = 60.0
"""How long a server of tools may take to say what it offers: the first start of some fetches them from a registry."""
MCP_WAIT_SECONDS = 5.0
"""How long a call waits for a server that is about to be started again, before it fails without having been sent."""
MCP_STOP_SECONDS = 1.0
"""How long a server may take to end by itself once its input is closed."""
MAX_MCP_BACKOFF_SECONDS = 60.0
"""The longest wait before a server that keeps ending is started once more."""
MCP_STEADY_SECONDS = 30.0
"""A server that served this long is not one that keeps ending: its next end counts as the first."""
MAX_MCP_MESSAGE_BYTES = 33_554_432
"""One message of a server: an attachment of 24 MB in base64. A longer line is not read to its end; the connection is given up."""
MAX_MCP_TOOLS = 1_000
"""Tools of one server; no model reads more, and a server can send for ever."""
MAX_MCP_PAGES = 100
"""Pages of one list of tools."""
MAX_MCP_TOOL_BYTES = 65_536
"""One tool as a server describes it; a larger one is left out."""
MAX_MCP_DESCRIPTION_CHARACTERS = 4_000
"""Of one tool's description, as the model is shown it."""
MAX_MCP_DIFFERENCE_CHARACTERS = 3_000
"""Of what is new about a tool, as a person is shown it beside the call."""
MAX_MCP_ERRORS_BYTES = 8_192
"""The last words of a server on its stderr."""
MCP_RELIST_SECONDS = 1.0
"""Between two readings of the list of tools of a server that says that it changed, again and again."""
