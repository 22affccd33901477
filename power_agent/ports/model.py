"""What answers: what it is asked, what it says, what it shows on the way; and several as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Literal, Protocol

from pydantic import JsonValue

from power_agent.events import Finish, Purpose
from power_agent.messages import AnswerPart, Message, OutputShape, Usage
from power_agent.word import Word, word


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
        """Answer, telling pieces on the way; raise `ModelError`, which says whether another attempt may help, and whether nothing was used."""
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
