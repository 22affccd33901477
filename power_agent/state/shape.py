"""What a state is made of. It holds what is active; the transcript is a view over a list shared by all states of one history,
so that a step costs the same on the first turn and on the ten-thousandth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, GetCoreSchemaHandler, JsonValue, Tag
from pydantic_core import CoreSchema, core_schema

from power_agent.events import Config, Cut, Failure, Mode, ModelAnswered, Parent, Purpose, Recovery
from power_agent.messages import AnswerPart, Call, ContentPart, OutputShape, Usage
from power_agent.ports import Tried
from power_agent.state.moves import RESOLVED, CallPlace, Place
from power_agent.word import Word, word


class Moving(Word):
    """A frozen thing of which a changed copy is made often: `replace`, at a fifth of its cost."""

    def moved(self, **changes: Any) -> Self:
        """Return a copy with changes."""
        copy = object.__new__(type(self))
        object.__setattr__(copy, "__dict__", self.__dict__ | changes)
        return copy


@word()
class Outcome(Word):
    """How a call ended. `touched`: it had been started, so it may have taken effect. `left`: it stayed behind in a parent."""

    touched: bool = False
    harmless: bool = False
    left: bool = False
    by: str | None = None
    reason: str | None = None
    output: JsonValue = None
    parts: tuple[ContentPart, ...] | None = None
    cut: Cut | None = None
    failure: Failure | None = None


@word(slots=False)
class CallState(Moving):
    """One call of the message that is being worked on."""

    call: Call
    place: CallPlace = "requested"
    attempt: int = 0
    rule: str | None = None
    question: str | None = None
    digest: str | None = None
    deadline: int | None = None
    external: bool = False
    recovery: Recovery = "ask"
    permitted_by: str | None = None
    reason: str | None = None
    process: str | None = None
    fence: str | None = None
    """What stands around an output that anybody may have written: nobody outside can know it."""
    outcome: Outcome | None = None

    @property
    def resolved(self) -> bool:
        """Whether it has its one outcome."""
        return self.place in RESOLVED


@word()
class Said(Word):
    """A person's words. `seq` is where the model was first shown them, `input` where they were received."""

    seq: int
    input: int
    parts: tuple[ContentPart, ...]
    entry: ClassVar = "said"


@word()
class Told(Word):
    """The harness's words to the model."""

    seq: int
    text: str
    entry: ClassVar = "told"


@word()
class Answered(Word):
    """The model's words and calls."""

    seq: int
    parts: tuple[AnswerPart, ...]
    format: str | None = None
    entry: ClassVar = "answered"


@word()
class Returned(Word):
    """The outcomes of all calls of one answer, in the order of the calls. `first` is the seq of that answer."""

    seq: int
    first: int
    calls: tuple[CallState, ...]
    trimmed: Mapping[str, str] = field(default_factory=dict)
    entry: ClassVar = "returned"


@word()
class Summed(Word):
    """A summary that stands for everything from `first` to `last`."""

    seq: int
    first: int
    last: int
    text: str
    entry: ClassVar = "summed"


def _which(entry: Any) -> str:
    """Name the type of an entry, by its class or, read from a cached state, by the fields that only this type has."""
    if not isinstance(entry, dict):
        return str(entry.entry)
    if "calls" in entry:
        return "returned"
    if "parts" in entry:
        return "said" if "input" in entry else "answered"
    return "summed" if "last" in entry else "told"


Entry = Annotated[
    Annotated[Said, Tag("said")] | Annotated[Told, Tag("told")] | Annotated[Answered, Tag("answered")] | Annotated[Returned, Tag("returned")] | Annotated[Summed, Tag("summed")],
    Discriminator(_which),
]


class Transcript:
    """An immutable sequence of entries that shares its list with the states before and after it.

    Adding to the newest view appends in place; adding to an older one (a branch) copies once. Nobody ever sees an entry
    beyond the length of their own view. `memo` is shared in the same way: whoever computes something from the entries one after
    the other may keep there how far it came.
    """

    __slots__ = ("_items", "_length", "memo")

    def __init__(self, items: Iterable[Entry] = ()) -> None:
        self._items = list(items)
        self._length = len(self._items)
        self.memo: dict[str, Any] = {}

    def add(self, *entries: Entry) -> Transcript:
        """Return a transcript with these at the end."""
        newest = len(self._items) == self._length
        items = self._items if newest else self._items[: self._length]
        items.extend(entries)
        longer = object.__new__(Transcript)  # a step that every fact with words takes: no empty list made first
        longer._items, longer._length, longer.memo = items, len(items), self.memo if newest else {}
        return longer

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        for index in range(self._length):
            yield self._items[index]

    def __getitem__(self, index: int) -> Entry:
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._items[index if index >= 0 else self._length + index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transcript) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Transcript({list(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let a snapshot hold it as a list."""
        return core_schema.no_info_after_validator_function(
            cls, handler(list[Entry]), serialization=core_schema.plain_serializer_function_ser_schema(list, return_schema=handler(list[Entry]))
        )


@word()
class Measured(Word):
    """How many tokens the context had up to an event, as a provider counted it or a compaction left it. 0: nobody knows."""

    seq: int = 0
    tokens: int = 0


@word(slots=False)
class Spent(Moving):
    """What was used. `lost_…` was reserved for requests of which nobody knows what they used; `unpriced` counts answers of unknown cost."""

    usage: Usage = Usage()
    cost_nano_usd: int = 0
    unpriced: int = 0
    lost_tokens: int = 0
    lost_cost_nano_usd: int = 0

    @property
    def tokens(self) -> int:
        """Tokens used and tokens that may have been."""
        return self.usage.total + self.lost_tokens

    def paid(self, answer: ModelAnswered) -> Spent:
        """Add an answer."""
        if answer.cost_nano_usd is None:
            return self.moved(usage=self.usage + answer.usage, unpriced=self.unpriced + 1)
        return self.moved(usage=self.usage + answer.usage, cost_nano_usd=self.cost_nano_usd + answer.cost_nano_usd)

    def since(self, before: Spent) -> Spent:
        """Return what was added to an earlier sum."""
        return Spent(
            self.usage - before.usage,
            self.cost_nano_usd - before.cost_nano_usd,
            self.unpriced - before.unpriced,
            self.lost_tokens - before.lost_tokens,
            self.lost_cost_nano_usd - before.lost_cost_nano_usd,
        )

    def lost(self, request: Request) -> Spent:
        """Add what a request reserved whose outcome will never be known."""
        return self.moved(lost_tokens=self.lost_tokens + request.reserved_tokens, lost_cost_nano_usd=self.lost_cost_nano_usd + request.reserved_cost_nano_usd)


@word()
class Request(Word):
    """A request to the model that was recorded and has no recorded end."""

    seq: int
    purpose: Purpose
    round: int
    attempt: int
    reserved_tokens: int = 0
    reserved_cost_nano_usd: int = 0
    model: str = ""


@word()
class Setback(Word):
    """The last attempt failed. With `not_before` another one follows."""

    purpose: Purpose
    attempt: int
    failure: Failure
    retryable: bool
    not_before: int | None
    at: int


@word()
class Input(Word):
    """An input nobody has taken yet."""

    seq: int
    mode: Mode
    parts: tuple[ContentPart, ...]
    key: str | None = None
    output: OutputShape | None = None


Came = tuple[str, JsonValue, CallPlace, Outcome | None]
"""A call and what came of it: its name, its arguments, how it ended, with what."""


@word(slots=False)
class Habits(Moving):
    """What the model does again and again in a turn.

    `same`: answers in a row that make the calls `made`. `stalled`: rounds in a row that got nowhere. `empty` and `cut`: answers in a row
    that say nothing, or were cut by length. `told`: the round in which the model was last told of what.
    """

    made: tuple[tuple[str, JsonValue], ...] = ()
    same: int = 0
    stalled: int = 0
    recent: tuple[tuple[Came, ...], ...] = ()
    empty: int = 0
    cut: int = 0
    told: Mapping[str, int] = field(default_factory=dict)


@word(slots=False)
class Turn(Moving):
    """The turn that is open. Rounds count answers asked for; `answered` says that the current round has its answer.

    `before` is what the session had spent when the turn began; a turn that continues another one begins where that one began.
    `about` names the inputs it is about, also when it continues another turn. `overfull`: a provider refused the context as too long.
    `output` is the shape its answer must have, `misshapen` how often it had another.
    `tried`: the attempts of the current round that failed.
    """

    number: int
    seq: int
    started_at: int
    config: Config
    inputs: tuple[int, ...] = ()
    continues: int | None = None
    round: int = 0
    attempt: int = 0
    answered: bool = True
    rounds_before: int = 0
    ms_before: int = 0
    before: Spent = Spent()
    objections: int = 0
    about: tuple[int, ...] = ()
    overfull: bool = False
    habits: Habits = Habits()
    output: OutputShape | None = None
    misshapen: int = 0
    tried: tuple[Tried, ...] = ()


@word()
class LastTurn(Word):
    """The turn that ended last. `forked`: it was open where this branch left its parent."""

    number: int
    status: Literal["completed", "cancelled", "limit", "failed", "forked"]
    seq: int
    rounds: int
    spent: Spent
    reason: str | None = None
    began: int = 0
    ms: int = 0
    about: tuple[int, ...] = ()
    output: OutputShape | None = None


@word()
class Cancel(Word):
    """Somebody asked for the end of the turn."""

    reason: str
    by: str | None


@word()
class Taint(Word):
    """Words that anybody may have written were shown to the model: which first, since when, and how often."""

    what: str
    seq: int
    times: int = 1


@word(slots=False)
class SessionState(Moving):
    """Everything that is active in a session: enough to decide the next step and to render what the model sees."""

    session: str
    seq: int = 0
    epoch: int = 0
    at: int = 0
    owner: str | None = None
    nonce: str = ""
    config: Config = Config()
    title: str | None = None
    parent: Parent | None = None
    closed: bool = False
    hollow: bool = False
    erased: bool = False
    turns: int = 0
    turn: Turn | None = None
    last: LastTurn | None = None
    parked: bool = False
    inputs: tuple[Input, ...] = ()
    notes: tuple[Told, ...] = ()
    request: Request | None = None
    setback: Setback | None = None
    answer_seq: int = 0
    replies: int = 0
    calls: Mapping[str, CallState] = field(default_factory=dict)
    cancel: Cancel | None = None
    transcript: Transcript = field(default_factory=Transcript)
    compacted_to: int = 0
    compactions: int = 0
    cuts: int = 0
    found: tuple[str, ...] = ()
    measured: Measured = Measured()
    spent: Spent = Spent()
    answered_by: str | None = None
    taint: Taint | None = None

    @property
    def place(self) -> Place:
        """Where the session stands in the table of moves."""
        if self.closed or self.hollow or self.erased:
            return "erased" if self.erased else "hollow" if self.hollow else "closed"
        if self.request is not None:
            return "asking" if self.request.purpose == "turn" else "summarising"
        if self.turn is not None:
            return "calling" if self.calls else "ready"
        return "idle" if self.seq else "unborn"

    @property
    def turn_spent(self) -> Spent:
        """What the open turn has spent so far, with the turns it continues."""
        return Spent() if self.turn is None else self.spent.since(self.turn.before)

    @property
    def unresolved(self) -> tuple[CallState, ...]:
        """The calls without an outcome, in the order the model made them."""
        return tuple(call for call in self.calls.values() if not call.resolved)
