"""Every socket in the wall: what the heart expects from the hands.

An adapter is named after the outside thing it speaks to (`SQLiteStore`, `SystemClock`). Records are what a store keeps;
facts are what it is asked to keep.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from pydantic import JsonValue

from power_agent.events import Envelope, Finish, Purpose, Recovery, ToolRef, Trim
from power_agent.messages import AnswerPart, Message, OutputShape, Usage
from power_agent.word import Word, word

Durability = Literal["full", "normal"]


class Fact(NamedTuple):
    """An event ready to be kept: its kind, its exact text, and what the store enforces uniqueness by."""

    kind: str
    at: int
    body: str
    call: str | None = None
    key: str | None = None


class Record(NamedTuple):
    """A kept event as it lies on disk. `body` is None once erased; `digest` stands there in its place."""

    position: int
    session: str
    seq: int
    epoch: int
    at: int
    kind: str
    body: str | None
    digest: bytes | None
    hash: bytes


class SessionRow(NamedTuple):
    """Where a session stands in the store, and who holds it until when."""

    session: str
    head: int
    tip: bytes
    epoch: int
    owner: str | None
    deadline: int
    erased: bool = False
    parent: str | None = None
    base: int = 0


class Tip(NamedTuple):
    """A place in a session and the hash of the event there, in hex: kept elsewhere, it vouches for everything before it."""

    seq: int
    hash: str


class Place(NamedTuple):
    """The seq and hash behind which a forked session begins; `holder` keeps the event at that seq."""

    holder: str
    seq: int


@word(kw_only=True)
class Append(Word):
    """What one commit shall add to one session.

    `head` is the last seq the writer knows. `epoch` is the owner's; None means a fact from outside, kept at whatever epoch
    is current; the events that take ownership (`session.opened`, `owner.changed`) name the owner themselves. `hold_until` renews the
    lease in the same commit, 0 releases it.
    """

    session: str
    head: int
    facts: Sequence[Fact]
    salt: bytes
    epoch: int | None = None
    hold_until: int | None = None
    blobs: Mapping[str, bytes] | None = None
    branch: Place | None = None


class Blob(NamedTuple):
    """Large content and its name, the SHA-256 of it."""

    digest: str
    content: bytes


@word(kw_only=True)
class Adoption(Word):
    """Events that come from another store as they are: same bytes, same hashes, same epochs.

    They go on behind `head`, whose hash is `tip`: nothing (0) or the place of a fork (`branch`) for a session that is not here
    yet, else the last event that is. `arrivals` is read in the database thread, inside the transaction. `holder` is an owner who
    need not be waited for. `facts` are new ones that the store adds at the last epoch.
    """

    session: str
    head: int
    tip: bytes
    salt: bytes
    arrivals: Callable[[], Iterable[Record | Blob]]
    known: bool = False
    branch: Place | None = None
    holder: str | None = None
    facts: Sequence[Fact] = ()


class Kept(NamedTuple):
    """What became of an `Append`: where the first fact stands and the hash of each."""

    seq: int
    epoch: int
    position: int
    hashes: tuple[bytes, ...]


class Store(Protocol):
    """Keeps facts: durable when it answers, in order, for ever.

    `append` either keeps all facts of the request or none and raises: `HeadMoved`, `OwnershipLost`, `SessionBusy` (a
    takeover came too early), `KeyConflict` (by key), `IllegalMove` (a second outcome), `SessionNotFound`, `SessionExists`,
    `SessionErased`, or a `StoreError`. After `StoreFailed` nothing more is kept through this store.
    """

    @property
    def lease_ms(self) -> int:
        """How long a lease lasts."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def append(self, request: Append) -> Awaitable[Kept]:
        """Keep facts, all or none; durable when what is awaited is there. A coroutine will do; a store that returns a future, and has
        begun by then, saves whoever calls a task for each commit.
        """
        ...

    async def adopt(self, adoptions: Sequence[Adoption], now: int) -> None:
        """Keep events of another store, all of them or none; every hash is computed anew. The sessions are given up afterwards.

        Raises as `append` does, and `ImportRefused` when what arrives is not what the hashes say.
        """
        ...

    async def read(self, session: str, *, after: int = 0, upto: int | None = None, limit: int | None = None, kinds: Collection[str] | None = None) -> list[Record]:
        """Read kept events of a session and, for a fork, of its ancestors up to its place, in order."""
        ...

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Read kept events of all sessions in the order of their commits; the cursor is `position`."""
        ...

    def follow(self, session: str | None = None, *, after: int = 0) -> AsyncIterator[list[Record]]:
        """Yield what is kept behind a cursor, of one session (by seq) or of all (by position), for ever and whoever wrote it; ends
        when the store is closed.
        """
        ...

    async def find(self, session: str) -> SessionRow | None:
        """Look a session up."""
        ...

    async def sessions(self, *, after: str = "", limit: int = 1000, parent: str | None = None) -> list[SessionRow]:
        """List sessions by id; with `parent` only its forks."""
        ...

    async def find_key(self, session: str, key: str) -> int | None:
        """Return the seq of the input that has this key."""
        ...

    async def scrub(self) -> None:
        """Leave nothing of what was erased outside the tables (logs, caches); `StoreBusy` when somebody is in the way.

        Appending `session.erased` destroys every body, key, blob and snapshot before it in the same commit.
        """
        ...

    async def blob(self, session: str, digest: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        """Read (a part of) a blob that an event of the session, or of a fork's ancestor, refers to."""
        ...

    async def hold(self, session: str, epoch: int, owner: str) -> None:
        """Keep the lease alive, without help of the event loop, until `release`."""
        ...

    async def renew(self, session: str, epoch: int, until: int) -> bool:
        """Renew the lease now; False: the session is at another epoch."""
        ...

    async def release(self, session: str, epoch: int) -> None:
        """Give the session up, so that the next owner need not wait."""
        ...

    def lost(self, session: str, epoch: int) -> bool:
        """Say whether a lease that is held was found lost."""
        ...

    async def snapshot(self, session: str, fold: int) -> tuple[int, str] | None:
        """Read the cached state that this version of the fold made: its seq and its text."""
        ...

    async def keep_snapshot(self, session: str, seq: int, fold: int, text: str) -> None:
        """Cache a state. It may be dropped at any time."""
        ...

    async def backup(self, target: str) -> None:
        """Write a consistent copy of the whole store to a new file."""
        ...

    def verify(self, session: str | None = None) -> AsyncIterator[str]:
        """Recompute every hash; yield a sentence for each thing that is wrong."""
        ...


class Clock(Protocol):
    """The time, and waiting for it."""

    def now(self) -> int:
        """Milliseconds of the wall clock since 1970, shared between processes."""
        ...

    def elapsed(self) -> float:
        """Seconds of a clock that never jumps, for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Chance(Protocol):
    """Where new names and nonces come from."""

    def session_id(self) -> str:
        """Return a new session id."""
        ...

    def nonce(self) -> str:
        """Return 128 random bits in hex."""
        ...


@word(kw_only=True)
class ToolSpec(Word):
    """A tool as the model is shown it."""

    name: str
    description: str
    parameters: Mapping[str, JsonValue]


@word(kw_only=True)
class ModelRequest(Word):
    """What a model is asked. A provider translates it; it holds nothing that is not in the log or the configuration.

    `replies` counts the answers and failures that the session's log already holds, `attempt` the attempts of this round.
    `purpose` is `summary` where a context is to be made smaller. `attachments` are the bytes of the blobs that the messages refer to, by digest.
    `output` is the shape the answer must have, as JSON in its text.
    `tokens` is an estimate of what it comes to with its answer.
    """

    model: str
    system: str | None
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    settings: Mapping[str, JsonValue] | None = None
    session: str = ""
    replies: int = 0
    attempt: int = 1
    purpose: Purpose = "turn"
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    output: OutputShape | None = None
    tokens: int = 0


@word(kw_only=True)
class ModelReply(Word):
    """A whole answer."""

    parts: tuple[AnswerPart, ...]
    finish: Finish = "stop"
    usage: Usage = Usage()
    format: str | None = None
    model: str | None = None
    cost_nano_usd: int | None = None
    price_source: str | None = None


Glimpse = Callable[[str, str], None]
"""Called with the kind (`text`, `reasoning`, `arguments`, `progress`) and a piece of something that is still on its way."""


@word(kw_only=True)
class Glimpsed(Word):
    """A piece of something that is on its way, told to whoever looks on and never kept.

    `void` takes back everything glimpsed of an attempt: it failed, and nothing of it counts. `progress` comes from the tool of
    `call`. `skipped` says that a slow reader missed `text` glimpses; what they belonged to comes whole, as a fact.
    """

    session: str
    kind: Literal["text", "reasoning", "arguments", "progress", "void", "skipped"]
    text: str = ""
    turn: int = 0
    round: int = 0
    attempt: int = 0
    call: str | None = None


class Model(Protocol):
    """Something that answers. It keeps nothing between requests.

    More may be there. `secrets`: the keys it uses, by name, to be hidden. `context_window`: how many tokens a request and its answer
    may have; a context that comes near is compacted. `max_output_tokens`: how long its answer gets at most; `accepts`: what may be
    attached; `refuses(attachment)`, a method: why it cannot be taken, as far as that is known beforehand, or None; asked before an input is
    kept. `cost(usage)`: what a request of that usage costs, in 10⁻⁹ dollars, or None; it is reserved before a request leaves. A model that
    is several has `choose`, and `attempts` (see `Chain`). `another(name)`: the model of that name, if this one can stand for it; an open
    turn goes on with the one it began with.
    """

    @property
    def name(self) -> str:
        """`provider:model`."""
        ...

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        """Answer, telling pieces on the way; raise `ModelError`, which says whether another attempt may help."""
        ...


@word(kw_only=True)
class Tried(Word):
    """An attempt that came to nothing: whose, and whether another one of the same model is `final`ly of no use."""

    model: str
    final: bool = False


@word(kw_only=True)
class SoFar(Word):
    """What the log says before an attempt: which number it has, what was tried before for the same answer, and who answered last in the session."""

    session: str = ""
    attempt: int = 1
    last: str | None = None
    tried: tuple[Tried, ...] = ()


class Chain(Model, Protocol):
    """Several models as one. Each attempt is made, and recorded, by the one it chooses."""

    @property
    def attempts(self) -> int:
        """How many attempts an answer may take."""
        ...

    def choose(self, so_far: SoFar) -> Model:
        """Return who makes the next attempt. Called before it is recorded, perhaps more than once: it must be quick, and what it holds back must
        be let go by itself.

        What that one raises says in `again_in` when the next attempt may follow; `retryable` says whether it may be its own.
        """
        ...


class ToolContext:
    """What a running tool knows about its call; `binds` is what the call was judged with beside its arguments, `late` are the names of
    tools that its turn did not begin with and cannot call. Tools that cannot be stopped (threads) set `still_alive`, and `left`: what came
    of it in the end as (value, error), also when nobody waited that long.
    """

    def __init__(
        self,
        *,
        session: str,
        call: str,
        attempt: int,
        idempotency_key: str,
        deps: Any = None,
        progress: Callable[[str], None] | None = None,
        binds: Mapping[str, JsonValue] | None = None,
        late: Collection[str] = (),
    ) -> None:
        self.session = session
        self.call = call
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.deps = deps
        self.binds: Mapping[str, JsonValue] = binds or {}
        self.late = late
        self.cancelled = False
        self.still_alive: Callable[[], bool] = lambda: False
        self.left: Awaitable[tuple[Any, BaseException | None]] | None = None
        self._progress = progress

    def progress(self, text: str) -> None:
        """Tell whoever watches how far it is. A glimpse: not kept."""
        if self._progress is not None:
            self._progress(text)


@word()
class Happened(Word):
    """A probe's answer: it did, and this was the result."""

    value: Any = None


@word()
class DidNotHappen(Word):
    """A probe's answer: it did not; it may run now."""


@word()
class Unknown(Word):
    """A probe's answer: cannot tell."""


ProbeAnswer = Happened | DidNotHappen | Unknown


class Tool(Protocol):
    """Something the model may call.

    Attributes may be there: `nature` (what calls do to the world), `secrets` (names of those it may have), `reads_untrusted` (True, or a
    function of a call's arguments: anybody may have written what it returns), `foreign` (strangers wrote its name and description),
    `repeats` (it returns what the session has seen before).
    """

    @property
    def spec(self) -> ToolSpec:
        """What the model is shown."""
        ...

    @property
    def recovery(self) -> Recovery:
        """What happens to a call found started without an outcome."""
        ...

    @property
    def seconds(self) -> float | None:
        """How long one attempt may take; None: what the limits say."""
        ...

    @property
    def external(self) -> bool:
        """Whether it is not run here: its result is handed in."""
        ...

    @property
    def threaded(self) -> bool:
        """Whether it runs where nobody can stop it: as long as its process lives, an attempt may still be under way."""
        ...

    def runs(self, idempotency_key: str) -> bool:
        """Whether an attempt of that call still runs in this process, left behind where nobody could stop it."""
        ...

    def check(self, arguments: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Return the arguments as the tool wants them, or raise `BadArguments`."""
        ...

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Do it. Raising means: it failed, and the model is told."""
        ...

    async def ask_probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ProbeAnswer:
        """Find out whether an earlier attempt happened; only asked where `recovery` is `"probe"`."""
        ...


class BoundTool(Tool, Protocol):
    """A tool whose calls depend on more than their arguments. An approval is for all of it, and void when any of it changes."""

    def binds(self, arguments: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Return what a call depends on, as JSON: the working directory (`folder`), the digest of a script. It must be quick and
        without effects; it is asked before the policy and again before the start. If it raises, the call is denied.
        """
        ...


class FollowingTool(Tool, Protocol):
    """A bound tool whose calls go on where earlier calls of the session stopped, such as a shell in the folder where it stands."""

    @property
    def follows(self) -> str:
        """The name of the tool whose earlier answers `binds` wants to know."""
        ...

    def binds(self, arguments: Mapping[str, JsonValue], said: Iterable[str]) -> Mapping[str, JsonValue]:
        """As for a bound tool; `said` are the texts of earlier answers that are in the context, the latest first."""
        ...


class BuryingTool(Tool, Protocol):
    """A tool that starts processes, of which an earlier attempt may have left some."""

    async def bury(self, idempotency_key: str) -> bool:
        """End whatever an earlier attempt of that call left running; True when nothing of it is left. It must be quick."""
        ...


class ChangingTool(Tool, Protocol):
    """A tool that others may change while it is used, such as one of an MCP server."""

    @property
    def difference(self) -> str | None:
        """What is new about it, for the person whose approval became void by it."""
        ...


class Shelf(Protocol):
    """Tools that come and go while an agent runs: handed to a loop beside its tools, opened and closed with it.

    What it offers is kept apart from what was handed in as a tool: a name that is there already is not taken again. An attribute may be
    there: `secrets`, what it uses, by name, to be hidden.
    """

    @property
    def tools(self) -> Iterable[Tool]:
        """What is there now; the order is stable, so that prompts can be cached."""
        ...

    async def open(self) -> None:
        """Make it ready; it may be opened several times and is then closed as often."""
        ...

    async def close(self) -> None:
        """Let it go, with everything that it started."""
        ...


class Tools(Protocol):
    """All tools, by name."""

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        ...

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is shown."""
        ...

    @property
    def refs(self) -> tuple[ToolRef, ...]:
        """What the log says about them."""
        ...

    @property
    def standing(self) -> Collection[str]:
        """The names of those that cannot come and go while the agent runs."""
        ...


@word(kw_only=True)
class Exchange(Word):
    """A part of a context that is folded away whole or not at all: words, or an answer with the outputs of its calls."""

    first: int
    last: int
    messages: tuple[Message, ...]
    tokens: int


@word(kw_only=True)
class Crowded(Word):
    """A context that has to become smaller: `tokens` now, `room` is what it shall have.

    `exchanges` may be folded away, oldest first, and `summaries` (of what was folded away before) with them; `recent` stays.
    `ask(instructions, text)` asks the model for summaries, whose request may have `ask_room` tokens; what that costs is counted.
    `urgent`: no request can be sent as it stands; outputs among `recent` may be trimmed too.
    """

    session: str
    exchanges: tuple[Exchange, ...]
    recent: tuple[Exchange, ...]
    summaries: tuple[str, ...]
    tokens: int
    room: int
    urgent: bool
    count: Callable[[str], int]
    ask: Callable[[str, str], Awaitable[str]]
    ask_room: int | None = None


@word(kw_only=True)
class Smaller(Word):
    """What a strategy proposes: `summary` in place of everything up to the exchange that ends with `upto`, or outputs to trim."""

    upto: int = 0
    summary: str | None = None
    trimmed: tuple[Trim, ...] = ()


class Strategy(Protocol):
    """A way to make a context smaller. It only proposes: what does not fit the log, or does not help, is not taken.

    What it raises is logged and means that it has nothing to propose. It must not have effects.
    """

    @property
    def name(self) -> str:
        """The name by which the log knows it."""
        ...

    async def __call__(self, crowded: Crowded) -> Smaller | None:
        """Propose something, or nothing."""
        ...


class Listener(Protocol):
    """Hears of what was kept, after the fact. It must not block; what it raises is logged and changes nothing."""

    def __call__(self, kept: Envelope) -> None:
        """Hear of one event."""
        ...


class DeadCheck(Protocol):
    """Says whether an owner is known to be dead; False also when nobody can know."""

    def __call__(self, owner: str, /) -> bool:
        """Judge one owner."""
        ...


class Guard(Protocol):
    """May refuse or change something before it happens. What it decides is kept."""

    def __call__(self, subject: Any) -> Awaitable[Any]:
        """Judge one subject."""
        ...
