"""Every error a caller can meet, in one tree.

    PowerAgentError
    ├─ InvalidInput             what was handed in cannot be kept; nothing was written
    │   ├─ InvalidSessionId
    │   ├─ KeyNeedsSession
    │   ├─ KeyConflict  InputRefused
    │   ├─ AttachmentRefused    the model cannot take what is attached
    │   ├─ EventTooLarge
    │   ├─ ImportRefused        it is no whole and genuine export
    │   │   └─ ExportRedacted
    │   ├─ UsageError           the command line was not understood
    │   ├─ ConfigError          a setting is unknown, or has a value it cannot have
    │   ├─ PriceUnknown         there is a limit of money, and nobody knows what a request costs
    │   ├─ AgentNotFound        the code that makes the agent is not there, or does not make one
    │   └─ BadPolicy            a rule that could never do what it says
    ├─ SessionError             the session is not in a state that allows this
    │   ├─ SessionNotFound  SessionExists  SessionBusy  SessionPending
    │   ├─ SessionClosed  SessionErased  NothingToResume  HasForks
    │   └─ CallNotFound  SettleNotAllowed  AlreadySettled
    ├─ LogError                 the log refused a fact, or another writer was first
    │   ├─ IllegalMove          the fact does not follow from what is kept
    │   ├─ HeadMoved            somebody appended; read the tail and decide again
    │   └─ OwnershipLost        a new owner took the session; stop
    ├─ ToolError                what a tool was asked for, or gave back, cannot be used
    │   ├─ BadArguments
    │   │   ├─ PathRefused      the path leads, or could lead, out of the root
    │   │   ├─ FileProtected    inside the root, and still not the model's to touch
    │   │   └─ UrlRefused       the URL leads, or could lead, to where the public network does not
    │   ├─ FileChanged  EditRefused  SearchFailed  OutcomeUnknown
    │   └─ WebFailed            a page or a search of the web did not come
    ├─ OutputInvalid            the answer does not have the shape that was asked for
    ├─ ModelError               the model did not answer; `retryable` says whether another attempt may help
    │   ├─ ContextTooLong       the request is larger than what the model reads
    │   └─ ReplayDiverged       a recording was asked for something that was not recorded
    ├─ WireError                a server could not be reached, fell silent, or sent more or less than it should
    └─ StoreError               the file, the disk, the version
        ├─ StoreNotFound  StoreForeign  StoreNewer  StoreChanged  StoreDamaged
        ├─ StoreOnNetwork  StoreReadOnly  StoreFull  StoreBusy
        └─ StoreFailed  StoreClosed  StoreForked

`code` is stable for ever: scripts and tests may match on it. The message says what happened, `hint` what a person can do
about it. The other fields are plain data.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class PowerAgentError(Exception):
    """The root: has a stable `code`, a message, a `hint`, and says whether trying again may help (`retryable`)."""

    code: ClassVar[str] = "power_agent"
    retryable: bool = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.message!r})"

    def as_dict(self) -> dict[str, Any]:
        """The error as plain data, for logs and `--json`."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "retryable": self.retryable, **self.fields}

    @classmethod
    def all_codes(cls) -> dict[str, type[Self]]:
        """The codes of this class and everything below it."""
        found = {cls.code: cls}
        for child in cls.__subclasses__():
            found |= child.all_codes()
        return found


def _rebuild(kind: type[PowerAgentError], message: str, hint: str, fields: dict[str, Any]) -> PowerAgentError:
    return kind(message, hint=hint, **fields)


# -- what was handed in ------------------------------------------------------------------------------------------------


class InvalidInput(PowerAgentError):
    """What was handed in cannot be kept or sent. Nothing was written."""

    code = "invalid_input"
    default_hint = "Change what was handed in; nothing of it was kept."


class InvalidSessionId(InvalidInput):
    """A session id is 1 to 200 characters, without control characters and without a leading @."""

    code = "invalid_session_id"
    default_hint = "Use 1 to 200 characters, no control characters, no leading @."


class KeyNeedsSession(InvalidInput):
    """An idempotency key only means something inside a session."""

    code = "key_needs_session"
    default_hint = "Pass session_id together with key."


class KeyConflict(InvalidInput):
    """The same key was used before in this session, with other content."""

    code = "key_conflict"
    default_hint = "Use a new key for new content."
    session: str
    key: str


class InputRefused(InvalidInput):
    """A guard refused the input. It was not kept."""

    code = "input_refused"
    default_hint = "Nothing of it was kept but the refusal; see the guard named in the message."


class AttachmentRefused(InvalidInput):
    """The model is known not to take what is attached; nothing was kept."""

    code = "attachment_refused"
    default_hint = "Send something that it takes, or use a model that takes this."


class EventTooLarge(InvalidInput):
    """One fact is larger than the store keeps in a row."""

    code = "event_too_large"
    default_hint = "Pass large content as an attachment, or raise Limits.max_event_bytes."
    bytes: int
    limit: int


class ImportRefused(InvalidInput):
    """What was to be imported is not a whole and genuine export. Nothing was written."""

    code = "import_refused"
    default_hint = "Export the session again; a changed or cut export cannot be mended."


class ExportRedacted(ImportRefused):
    """A redacted export shows what happened without what was said; there is nothing to go on with."""

    code = "export_redacted"
    default_hint = "Import the full export of the session."


class UsageError(InvalidInput):
    """The command line was not understood. Nothing was done."""

    code = "usage"


class ConfigError(InvalidInput):
    """A setting is unknown, is missing, or has a value it cannot have."""

    code = "config"


class AgentNotFound(InvalidInput):
    """The code that makes the agent is not there, cannot be loaded, or makes something else."""

    code = "agent_not_found"


class PriceUnknown(InvalidInput):
    """A limit of money is set and nobody knows what a model costs. Nothing was asked."""

    code = "price_unknown"
    default_hint = (
        'Install the extra `prices`, say the price of a model that is named (prices={"provider:model": {"input": …, "output": …}}, dollars for a million '
        "tokens), give a model object of yours a method cost(usage) (10⁻⁹ dollars), or leave the limit out."
    )
    models: str


class BadPolicy(InvalidInput):
    """A policy names a tool, an argument, an action or a pattern that does not exist. It was not used."""

    code = "bad_policy"
    default_hint = "Mend the policy: a rule that cannot match protects nobody."


# -- the session is not in a state that allows this --------------------------------------------------------------------


class SessionError(PowerAgentError):
    """The session is not in a state that allows this."""

    code = "session"
    session: str


class SessionNotFound(SessionError):
    """There is no session of that id in this store."""

    code = "session_not_found"
    default_hint = "sessions() lists the ids there are."


class SessionExists(SessionError):
    """A session of that id is already there."""

    code = "session_exists"
    default_hint = "Choose another id."


class SessionBusy(SessionError):
    """Another living owner works on the session, or one of whom nothing can be known from here (in another container, on another machine):
    that one counts as living until its lease runs out, at `deadline`.
    """

    code = "session_busy"
    retryable = True
    default_hint = 'Wait, or ask for the end of its turn with cancel(); what is sent can wait there too, with when_busy="queue" or "steer".'
    owner: str
    deadline: int


def holder(owner: str | None) -> str:
    """Name an owner as people know it, by its process: `boot id/pid namespace/pid/…` is for programs."""
    parts = (owner or "").split("/")
    return f"process {parts[2]}" if len(parts) > 2 else owner or "nobody"  # noqa: PLR2004  the third one


class SessionPending(SessionError):
    """A turn is open and nobody works on it: resume it, settle its calls, or abort them."""

    code = "session_pending"
    default_hint = "Call resume(), settle() or abort_pending() first."


class SessionClosed(SessionError):
    """The session was closed: it can be read, not continued."""

    code = "session_closed"
    default_hint = "Fork it to go on from here."


class SessionErased(SessionError):
    """The contents were erased; only the chain of hashes is left."""

    code = "session_erased"
    default_hint = "Begin a new session."


class NothingToResume(SessionError):
    """There has never been a turn in this session, or it is closed."""

    code = "nothing_to_resume"
    default_hint = "Use send() to begin a turn."


class HasForks(SessionError):
    """Other sessions share this one's past."""

    code = "has_forks"
    default_hint = 'Pass forks="erase" to erase them too.'


class CallNotFound(SessionError):
    """The session has no unresolved call of that id."""

    code = "call_not_found"
    default_hint = "pending() lists the unresolved calls."
    call: str


class SettleNotAllowed(SessionError):
    """That decision is not possible in the call's state."""

    code = "settle_not_allowed"
    default_hint = "pending() says where the call stands."
    call: str


class AlreadySettled(SessionError):
    """Somebody decided otherwise before."""

    code = "already_settled"
    default_hint = "history() shows what was decided, and by whom."
    call: str


# -- the log -----------------------------------------------------------------------------------------------------------


class LogError(PowerAgentError):
    """The log refused a fact."""

    code = "log"
    session: str


class IllegalMove(LogError):
    """The fact does not follow from what is kept. Nothing was changed."""

    code = "illegal_move"
    default_hint = "Look at the state again; verify() tells whether the log is sound."
    kind: str
    place: str


class HeadMoved(LogError):
    """Somebody else appended to the session first. Read the tail, fold it, decide again."""

    code = "head_moved"
    default_hint = "Look again and repeat it."
    retryable = True
    head: int


class OwnershipLost(LogError):
    """Another owner took the session over. Stop: nothing more is written in its name."""

    code = "ownership_lost"
    default_hint = "Open the session again; what this owner had not recorded is doubted."
    epoch: int


# -- tools and models --------------------------------------------------------------------------------------------------


class ToolError(PowerAgentError):
    """What a tool was asked for, or gave back, cannot be used. `untouched` is the tool's word that nothing happened: raised from a
    running tool, it keeps the model from being told that this attempt may have.
    """

    code = "tool"
    tool: str
    untouched: bool = False


class BadArguments(ToolError):
    """The model's arguments do not fit the tool's parameters. The tool was not run."""

    code = "bad_arguments"
    untouched = True


class PathRefused(BadArguments):
    """The path leads out of the root, could be made to, or is not one. Nothing was touched."""

    code = "path_refused"


class FileProtected(BadArguments):
    """What lies there decides what runs later or holds a secret; a model's tool leaves it alone. Nothing was touched."""

    code = "file_protected"
    default_hint = "A person can change it by hand."


class UrlRefused(BadArguments):
    """The URL leads inside the network, could be made to, or is not one. Nothing was connected to; `why` says what was wrong."""

    code = "url_refused"
    why: str


class FileChanged(ToolError):
    """The file is not what the model read. Nothing was written."""

    code = "file_changed"
    untouched = True
    retryable = True
    default_hint = "Read it again."


class EditRefused(ToolError):
    """The edit or the patch does not fit the file, or fits in more than one place. Nothing was written."""

    code = "edit_refused"
    untouched = True


class SearchFailed(ToolError):
    """The search took longer, or more memory, than it may have."""

    code = "search_failed"


class WebFailed(ToolError):
    """A page or a search of the web did not come: there is no such host, nobody answered, too slow, or an error was answered."""

    code = "web_failed"

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False, **fields: Any) -> None:
        super().__init__(message, hint=hint, **fields)
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, {**self.fields, "retryable": self.retryable})


class OutcomeUnknown(ToolError):
    """It was begun, and nobody can say what became of it. Raised from a running tool it leaves the call in doubt, for a person to decide."""

    code = "outcome_unknown"
    default_hint = "Find out whether it happened; then settle the call: retry, result or abort."


class ModelError(PowerAgentError):
    """The model did not answer. Adapters raise it with `retryable=` and, where the server said so, `retry_after` seconds.

    `unspent=True` is their word that nothing was used: nothing was sent, or the request was refused before anything of an answer came.
    Without it nobody knows, and what was reserved for the request counts against the limits.
    """

    code = "model"
    default_unspent: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False, retry_after: float | None = None, unspent: bool | None = None, **fields: Any) -> None:
        super().__init__(message, hint=hint, **fields)
        self.retryable = retryable
        self.retry_after = retry_after
        self.unspent = self.default_unspent if unspent is None else unspent
        self.again_in: float | None = None
        """Seconds until another model of a chain makes the next attempt, whatever became of this one; None: no chain, or none left."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, {**self.fields, "retryable": self.retryable, "retry_after": self.retry_after, "unspent": self.unspent})


class ContextTooLong(ModelError):
    """The request is larger than what the model reads. Asking again changes nothing."""

    code = "context_too_long"
    default_unspent = True
    default_hint = "The context is compacted and sent again; where that is not possible, compact the session or use a model with a larger window."


class ReplayDiverged(ModelError):
    """What a recording was asked is not what was recorded; the message says where and how they differ."""

    code = "replay_diverged"
    default_hint = "Where the change is meant, record the session again: run it with the real model and export it."


class OutputInvalid(PowerAgentError):
    """The answer does not have the shape that was asked for; the message says where."""

    code = "output_invalid"
    default_hint = "Look at the answer in the history; resume() asks once more, a simpler shape or another model may help."


class WireError(PowerAgentError):
    """A server could not be reached, fell silent, or sent more or less than it should. `retryable` says whether another attempt may help."""

    code = "wire"

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False, **fields: Any) -> None:
        super().__init__(message, hint=hint, **fields)
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, {**self.fields, "retryable": self.retryable})


# -- the file, the disk, the version -----------------------------------------------------------------------------------


class StoreError(PowerAgentError):
    """The file, the disk or the version."""

    code = "store"
    path: str


class StoreNotFound(StoreError):
    """The directory is missing, or the path cannot be a store."""

    code = "store_not_found"
    default_hint = "Create the directory, or choose another path."


class StoreForeign(StoreError):
    """The file is not ours. It was not touched."""

    code = "store_foreign"
    default_hint = "Choose another path for the store."


class StoreNewer(StoreError):
    """A newer power_agent wrote this. Nothing was written."""

    code = "store_newer"
    default_hint = "Upgrade power_agent."


class StoreChanged(StoreError):
    """Another process migrated, moved, removed or replaced the file while it was open here."""

    code = "store_changed"
    retryable = True
    default_hint = "See that the right file is at the path, and open the store again."


class StoreDamaged(StoreError):
    """What is on disk is not what was kept."""

    code = "store_damaged"
    default_hint = "Restore the last backup into a new path, or verify to see how far the log is good."


class StoreOnNetwork(StoreError):
    """A write-ahead log cannot live on a network file system."""

    code = "store_on_network"
    default_hint = "Put the store on a local disk."


class StoreReadOnly(StoreError):
    """The file or its directory cannot be written."""

    code = "store_read_only"
    default_hint = "Check the owner and the mode of the file and of its directory."


class StoreFull(StoreError):
    """The disk is full. What was acknowledged before is kept."""

    code = "store_full"
    retryable = True
    default_hint = "Free some space and resume."


class StoreBusy(StoreError):
    """Another process kept the file locked for too long."""

    code = "store_busy"
    default_hint = "Try again; if it lasts, find out who holds the file."
    retryable = True


class StoreFailed(StoreError):
    """The disk reported an error. Nothing more is written through this store: what it acknowledged before is kept."""

    code = "store_failed"
    default_hint = "Close the store, check the disk, open it again and resume."


class StoreClosed(StoreError):
    """The store was closed, or never opened."""

    code = "store_closed"
    default_hint = "Use it inside `async with`."


class StoreForked(StoreError):
    """This process is the child of a fork(): a database connection cannot be carried across."""

    code = "store_forked"
    default_hint = "Start the child anew instead (spawn, subprocess), or open the store after the fork only."
