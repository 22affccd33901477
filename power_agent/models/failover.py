"""A chain of models: the next one answers when the one before it cannot.

Each attempt is one model's, and an event: the drive asks `choose` who makes it, keeps `model.asked` with that one's name, and keeps
`model.failed` when it comes to nothing. What was tried in a round stands in the log, and who answered last, so a resume knows both:

    whoever answered last in the session, while it is well: the provider's cache knows the conversation
    else the first one, in the order of the chain, that is well and was not tried for this answer
    else one that was tried and may do better now; else whoever is well soonest, and it is waited for
    and last those who said lately that their key, their quota or their model is no good

Who is well, circuits say (`circuit.py`): for each address, and for each model and key. Nothing is waited for while somebody else can answer.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any

from power_agent.clock import SystemClock
from power_agent.errors import ContextTooLong, InvalidInput, ModelError
from power_agent.givens import fitting, listed
from power_agent.limits import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, MAX_MODEL_ATTEMPTS, MAX_QUEUE_SECONDS
from power_agent.messages import Attachment, Usage
from power_agent.models.circuit import MOST_SECONDS, circuit_of, line_to
from power_agent.models.failures import KEY_WORDS, SPENT_WORDS
from power_agent.ports import Clock, Glimpse, Model, ModelReply, ModelRequest, SoFar, Tried

PATIENCE_SECONDS = 1.0
"""How long one is waited for rather than asking another: that would cost the provider's cache."""
ASIDE_SECONDS = 600.0
"""How long others go first where a key was refused, a quota is used up or a model does not exist: a person has to mend it."""
_NUMBER = re.compile(r"#\d+$")
_LOOK_SECONDS = 0.25
"""How often somebody who waits for a trial of somebody else looks how it came out."""
_TOO_MANY = {429, 529}
_SHUT = {401, 402, 403, 404}
"""The key, the bill, the right to it, the model itself: what waiting does not mend, and the next in the chain may not suffer from."""


class Failover:
    """Several models as one. `context_window` is what every one of them can read: the smallest that is known, unless it is said."""

    def __init__(self, models: Iterable[Model | str], *, context_window: int | None = None, clock: Clock | None = None, owned: bool = False) -> None:
        self._owned: list[Any] = []
        made = [self._made(one) for one in listed(models, "The models of a chain", "models")]
        self._owned += made if owned else []
        members: list[Model] = [inner for one in made for inner in (one.members if isinstance(one, Failover) else [one])]
        if not members:
            raise InvalidInput("A chain without models cannot answer.", hint="Name at least one.")
        self._clock = clock or SystemClock()
        self.members: list[Model] = members
        self._links = [_Link(name, one) for name, one in zip(_names(members), members, strict=True)]
        self._parts: dict[str, Failover] = {}
        self._window = context_window
        self.name = ",".join(link.name for link in self._links)

    def __repr__(self) -> str:
        return f"Failover({self.name!r})"

    def _made(self, one: Model | str) -> Model:
        if not isinstance(one, str):
            fitting(one, "model", ("name", "ask"), 'Name "provider:model", or pass an object with a name and an async ask(request, glimpse).')
            return one
        from power_agent.models.named import model  # noqa: PLC0415  it makes chains, too

        found = model(one)
        self._owned.append(found)
        return found

    async def aclose(self) -> None:
        """Close the models that were made here from their names."""
        for one in self._owned:
            if hasattr(one, "aclose"):
                await one.aclose()

    # -- what is known of it ---------------------------------------------------------------------------------------------

    @property
    def context_window(self) -> int | None:
        """How many tokens a request and its answer may have, whoever answers."""
        known = [window for one in self.members if isinstance(window := getattr(one, "context_window", None), int)]
        return self._window or min(known, default=None)

    def refuses(self, part: Attachment) -> str | None:
        """Say why nobody of the chain can take an attachment; None where somebody may."""
        reasons = [getattr(one, "refuses", lambda _part: None)(part) for one in self.members]
        return None if None in reasons else str(reasons[0])

    def cost(self, usage: Usage) -> int | None:
        """Return the most that a request of that usage costs; None where anybody's price is unknown."""
        costs = [link.cost(usage) for link in self._links]
        return None if any(cost is None for cost in costs) else max(cost for cost in costs if cost is not None)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The names of the models whose price nobody knows."""
        return tuple(link.name for link in self._links if link.cost(Usage(1, 1)) is None)

    def another(self, name: str) -> Model | None:
        """Return the model, or the chain, of that name: made of members, and of what members can stand for."""
        wanted = plain(name)
        if wanted == plain(self.name):
            return self
        found = [self._one(one) for one in wanted]
        if None in found:
            return None
        return found[0] if len(found) == 1 else self._chain(one for one in found if one is not None)

    def _one(self, name: str) -> Model | None:
        same = [one for one in self.members if one.name == name]
        if same:
            return same[0] if len(same) == 1 else self._chain(same)  # with several keys
        return next((found for one in self.members if (found := getattr(one, "another", lambda _name: None)(name))), None)

    def _chain(self, models: Iterable[Model]) -> Failover:
        """Return a chain of some of them; the same one each time, for it knows who is well."""
        made = Failover(models, context_window=self._window, clock=self._clock)
        return self._parts.setdefault(made.name, made)

    @property
    def attempts(self) -> int:
        """How many attempts an answer may take: each one's turn comes twice."""
        return max(MAX_MODEL_ATTEMPTS, 2 * len(self._links))

    # -- answering -------------------------------------------------------------------------------------------------------

    def choose(self, so_far: SoFar) -> Model:
        """Return who makes the next attempt. May be asked again: all it holds back is a trial, for this session and a while."""
        link = self._best(so_far)
        link.claim(self.now(), so_far.session)
        return _Attempt(self, link, so_far)

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        """Answer without a log: attempts follow one another here."""
        tried: list[Tried] = []
        for number in range(1, self.attempts + 1):
            chosen = self.choose(SoFar(session=request.session, attempt=number, tried=tuple(tried)))
            try:
                return await chosen.ask(request, glimpse)
            except ModelError as error:
                if error.again_in is None or number == self.attempts:
                    raise
                tried.append(Tried(model=chosen.name, final=not error.retryable))
                await self._clock.sleep(error.again_in)
        raise AssertionError  # pragma: no cover  the last attempt raises

    def now(self) -> float:
        """Return the time that circuits go by."""
        return self._clock.elapsed()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._clock.sleep(seconds)

    def _best(self, so_far: SoFar) -> _Link:
        now, who = self.now(), so_far.session
        tried = {one.model: number for number, one in enumerate(so_far.tried)}
        able = self._able({one.model: one.final for one in so_far.tried}, now) or self._links
        well = [link for link in able if link.wait(now, who) <= PATIENCE_SECONDS]
        fresh = [link for link in well if link.name not in tried]
        if fresh:
            return next((link for link in fresh if link.name == so_far.last), fresh[0])
        if well:
            return min(well, key=lambda link: tried[link.name])
        return min(able, key=lambda link: link.wait(now, who))

    def _able(self, final: Mapping[str, bool], now: float) -> list[_Link]:
        """Return who may answer: not those who said no for good, and those who are aside only where there is nobody else."""
        left = [link for link in self._links if not final.get(link.name)]
        return [link for link in left if not link.aside(now)] or left

    def again_in(self, link: _Link, so_far: SoFar, error: ModelError) -> float | None:
        """Return in how many seconds the next attempt can be made, by whomever; None: nobody is left who could."""
        now, who = self.now(), so_far.session
        tried = {**{one.model: one.final for one in so_far.tried}, link.name: not error.retryable}
        able = self._able(tried, now)
        if any(one.name not in tried and one.wait(now, who) <= PATIENCE_SECONDS for one in able):
            return 0.0
        pause = min(FIRST_BACKOFF_SECONDS * 2 ** (so_far.attempt - 1), MOST_SECONDS) + random.uniform(0, FIRST_BACKOFF_SECONDS)  # noqa: S311  so that not all come at once
        return min((max(one.wait(now, who), pause if one.name in tried else 0.0) for one in able), default=None)


class _Link:
    """A model in the chain, and how it is."""

    def __init__(self, name: str, model: Model) -> None:
        self.name = name
        self.model = model
        self._line = line_to(getattr(model, "base_url", None))
        self._own = circuit_of(getattr(model, "endpoint", None))

    def wait(self, now: float, who: str) -> float:
        """Return the seconds until a session may ask it, as far as anybody knows."""
        pace = getattr(self.model, "pace", None)
        return max(self.closed_for(now, who), 0.0 if pace is None else pace.wait())

    def aside(self, now: float) -> bool:
        """Say whether others go first, because it said lately that it is of no use as it is."""
        return now < self._own.aside_until

    def closed_for(self, now: float, who: str) -> float:
        """Return the seconds until its circuits let a session ask."""
        return max(self._line.wait(now, who), self._own.wait(now, who))

    def cost(self, usage: Usage) -> int | None:
        price = getattr(self.model, "cost", None)
        return None if price is None else price(usage)

    def claim(self, now: float, who: str) -> bool:
        """Say whether a session may ask now; where that is a trial, it is the session's."""
        if self.closed_for(now, who) > 0:
            return False
        return self._line.claim(now, who) and self._own.claim(now, who)

    def leave(self, who: str) -> None:
        """Nothing was learnt: the attempt was cancelled, or could not be made."""
        self._line.leave(who)
        self._own.leave(who)

    def well(self) -> None:
        """It answers."""
        self._own.aside_until = 0.0
        self._line.well()
        self._own.well()

    def failed(self, error: ModelError, now: float, who: str) -> None:
        """Learn from a failure: is it the address, this model and key, or only this request?"""
        status, word = getattr(error, "status", None), getattr(error, "word", "")
        if getattr(error, "own", False):
            self.leave(who)
        elif status in _SHUT or word in SPENT_WORDS or word in KEY_WORDS:
            self.well()
            self._own.aside_until = now + ASIDE_SECONDS
        elif status in _TOO_MANY or (error.retryable and error.retry_after is not None):
            self._line.well()
            self._own.trip(now, error.retry_after)
        elif error.retryable:
            self._own.leave(who)
            self._line.fault(now)
        elif status is not None:
            self.well()  # it answers, if not this
        else:
            self.leave(who)


class _Attempt:
    """One attempt of one model in a chain. What it raises says in how many seconds the chain can go on (`again_in`)."""

    def __init__(self, chain: Failover, link: _Link, so_far: SoFar) -> None:
        self._chain = chain
        self._link = link
        self._so_far = so_far
        self.name = link.name
        self.context_window = getattr(link.model, "context_window", None)
        self.max_output_tokens = getattr(link.model, "max_output_tokens", None)

    def cost(self, usage: Usage) -> int | None:
        """Return what a request of that usage costs here."""
        return self._link.cost(usage)

    async def ask(self, request: ModelRequest, glimpse: Glimpse) -> ModelReply:
        """Ask once, when the circuits allow it."""
        chain, link = self._chain, self._link
        await self._entered()
        try:
            reply = await link.model.ask(request, glimpse)
        except ModelError as error:
            link.failed(error, chain.now(), self._so_far.session)
            raise self._onward(error) from error.__cause__
        except (Exception, asyncio.CancelledError) as error:
            link.leave(self._so_far.session)  # an adapter's bug says nothing of the server, and the next one's code may be sound
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            raise self._onward(ModelError(f"{type(error).__name__}: {error}"[:500])) from error
        except BaseException:
            link.leave(self._so_far.session)
            raise
        link.well()
        return reply

    async def _entered(self) -> None:
        """Wait until an attempt may be made: as long as was to be foreseen, and for the end of a trial that is under way."""
        chain, link, who, begun = self._chain, self._link, self._so_far.session, self._chain.now()
        while not link.claim(chain.now(), who):
            wait = link.closed_for(chain.now(), who)
            if chain.now() + wait - begun > MAX_QUEUE_SECONDS:
                error = ModelError(f"{link.name} is left alone for another {wait:.0f} s.", retryable=True, retry_after=wait, unspent=True, own=True)
                raise self._onward(error)
            await chain.sleep(min(max(wait, _LOOK_SECONDS / 10), _LOOK_SECONDS))

    def _onward(self, error: ModelError) -> ModelError:
        if not isinstance(error, ContextTooLong):
            again = self._chain.again_in(self._link, self._so_far, error)
            error.again_in = None if again is None else min(again, MAX_BACKOFF_SECONDS)
        return error


def plain(name: str) -> tuple[str, ...]:
    """Return the names in a chain's name, each once: several keys of one model are one model."""
    return tuple(dict.fromkeys(_NUMBER.sub("", one.strip()) for one in name.split(",")))


def _names(members: list[Any]) -> list[str]:
    """Name the members; those that are called the same are numbered."""
    names: list[str] = []
    for member in members:
        same = sum(name == member.name or name.startswith(f"{member.name}#") for name in names)
        names.append(member.name if not same else f"{member.name}#{same + 1}")
    return names
