"""What a person hands in is looked at where something is made of it: what cannot work is refused there, in words, and not at the first call."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from typing import Any

import pytest

from power_agent import Call, Failover, Limits, ScriptedModel, SQLiteStore, StatefulAgentLoop, tool
from power_agent.errors import InvalidInput
from power_agent.givens import awaited, is_number, name_of, yields
from power_agent.models.named import model
from power_agent.policy import Allow, Ask, Deny
from power_agent.strategies import SlidingWindow
from power_agent.word import replace


def agent(script: Any = ("done",), **options: Any) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), store=":memory:", **options)


def named(one: object) -> str:
    return re.sub(r" at 0x\w+", "", repr(one))


def refused(make: Callable[[], object]) -> str:
    """Return what is said, and what is to be done, when something is refused."""
    with pytest.raises(InvalidInput) as said:
        make()
    assert said.value.code == "invalid_input"
    return str(said.value)


class Falsy:
    """A policy that is called, and is false."""

    def __bool__(self) -> bool:
        return False

    def __call__(self, _: Any) -> Deny:
        return Deny("never")


class Waits:
    """Can be called, and nothing comes of it until it is awaited."""

    async def __call__(self, *_: Any) -> Allow:
        return Allow()


async def waits(*_: Any) -> Allow:
    return Allow()


def pieces(*_: Any) -> Any:
    yield Allow()


async def waited_pieces(*_: Any) -> Any:
    yield Allow()


# -- a policy ------------------------------------------------------------------------------------------------------------


async def test_a_policy_that_is_false_is_a_policy():
    """Only None means that there is none: what is false, and can be called, is asked, and what it denies does not run."""
    ran: list[int] = []

    @tool
    def act() -> None:
        """Do something."""
        ran.append(1)

    async with agent([[Call("act")], "done"], tools=[act], policy=Falsy()) as loop:
        assert [call.state for call in (await loop.send("x", "s")).calls] == ["denied"]
    assert ran == []


@pytest.mark.parametrize("policy", [[], {}, "", 0, 5, "allow", (), waits, Waits(), waited_pieces], ids=named)
def test_what_cannot_judge_is_no_policy(policy):
    """What is no function, or would have to be awaited, is refused at once, with what a policy is."""
    said = refused(lambda: agent(policy=policy))
    assert "is no policy" in said
    assert "a guard may be async" in said


def test_a_class_is_no_wait():
    """Calling a class makes one, whatever calling that one does; an object that is waited for when it is called is told from a function that yields."""
    assert not awaited(Waits)
    assert awaited(Waits())
    assert [yields(one) for one in (pieces, waited_pieces, waits, Waits)] == [True, True, False, False]
    assert [name_of(one) for one in (waits, Waits())] == ["waits", "Waits"]


def test_numbers():
    """Whole and broken ones, as large as they may be; no truth, no text, nothing endless."""
    assert all(map(is_number, (0, -1, 1.5, 10**300)))
    assert not any(map(is_number, (True, "1", None, float("nan"), float("inf"), 10**400, 1j)))


# -- limits --------------------------------------------------------------------------------------------------------------

NEVER = ["x", "5", True, float("nan"), float("inf"), 10**400, -1, [], {}, Decimal("NaN"), Decimal(-1)]
ZEROS = {"max_rounds_per_turn", "max_tokens_per_turn", "max_tokens_per_session", "max_cost_usd_per_turn", "max_cost_usd_per_session", "max_turn_seconds"}
SECONDS = {"max_tool_seconds", "max_turn_seconds"}
BOUNDED = {"last_answer", "max_tool_seconds", "max_parallel_calls", "max_output_bytes_in_context", "max_event_bytes"}
NAMES = [one.name for one in fields(Limits)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "last_answer"])
def test_limits_that_cannot_be(name):
    """A text, a truth, NaN, what has no end and what is below nothing are refused with the limit's name; 0 where it would let nothing work."""
    for value in [*NEVER, *([] if name in ZEROS else [0]), *([None] if name in BOUNDED else [])]:
        said = refused(lambda value=value: agent(limits=Limits(**{name: value})))
        assert said.startswith(f"{name}={value!r:.100} is not possible. It is a ")
        assert said.endswith(", or None: unbounded.") is (name not in BOUNDED)
    if name not in SECONDS and "usd" not in name:
        assert "whole" in refused(lambda: agent(limits=Limits(**{name: 1.5})))


@pytest.mark.parametrize("name", NAMES)
def test_limits_that_can_be(name):
    """None where that is unbounded, 0 where it means that nothing is left, and whole numbers however they are written."""
    for value in [False] if name == "last_answer" else [1, 1.0, Decimal(2), 10**30, *([0] if name in ZEROS else []), *([None] if name not in BOUNDED else [])]:
        assert agent(limits=Limits(**{name: value}))


@pytest.mark.parametrize("limits", [5, None, {}, Limits, {"max_rounds_per_turn": 5}], ids=named)
def test_no_limits(limits):
    """What are no limits is refused as well."""
    assert "are no limits" in refused(lambda: agent(limits=limits))
    assert refused(lambda: agent(limits=Limits(last_answer="yes"))) == "last_answer='yes' is not possible. It is True or False."


async def test_a_log_with_limits_that_are_refused_today_is_read(tmp_path):
    """What an older version kept is read, gone on with and looked at: only who hands limits in is asked."""
    path, old = tmp_path / "old.db", StatefulAgentLoop(ScriptedModel(["one", "two"]), store=tmp_path / "old.db")
    old._fixed = replace(old._fixed, limits=Limits(max_same_calls=0, max_cost_usd_per_turn=-1.0))  # as it would have been kept
    async with old:
        assert (await old.send("x", "s")).status == "limit"
    async with StatefulAgentLoop(ScriptedModel(["one", "two"]), store=path) as loop:
        assert (await loop.state("s")).config.limits.max_cost_usd_per_turn == -1.0
        assert (await loop.resume("s")).status == "completed"
        assert [wrong async for wrong in loop.verify()] == []


# -- tools ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "promise",
    [
        {"seconds": "x"},
        {"seconds": 0},
        {"seconds": -1},
        {"seconds": True},
        {"seconds": float("nan")},
        {"nature": "reads"},
        {"probe": 5},
        {"probe": pieces},
        {"description": 5},
        {"secrets": 5},
    ],
    ids=named,
)
def test_promises_that_could_not_be_kept(promise):
    """Refused where the tool is made: at the call it would be too late, for by then it has started."""

    def act() -> None: ...

    assert refused(lambda: tool(**promise)(act)).startswith(("The names of secrets", f"{next(iter(promise))}="))


@pytest.mark.parametrize("function", [pieces, waited_pieces], ids=["generator", "async generator"])
def test_a_tool_returns_its_answer(function):
    """A function that yields would run while its answer is written down, or never."""
    assert "ctx.progress" in refused(lambda: tool(function))


@pytest.mark.parametrize("tools", [waits, Waits(), "ab", {"a": print}, 5, None], ids=named)
def test_tools_come_in_a_list(tools):
    """One alone is told how it is handed in."""
    said = refused(lambda: agent(tools=tools))
    assert said == f"Tools come in a list, not as {type(tools).__name__}. Write tools=[…]."


# -- what else an agent is made of ---------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a model that is none": (lambda: StatefulAgentLoop(5, store=":memory:"), "5 is no model: it has no name and no ask."),
    "a class for a model": (lambda: StatefulAgentLoop(ScriptedModel, store=":memory:"), "Make one: ScriptedModel(…)."),
    "a summary by nobody": (lambda: agent(models={"summary": 5}), "5 is no model"),
    "models": (lambda: agent(models=5), "Models by what they do are a mapping, not int."),
    "prices": (lambda: agent(prices=5), "Prices are a mapping or the path of a file, not int."),
    "prices of a named model": (lambda: model("openai-chat:m", api_key="k", prices=5), "Prices are a mapping"),
    "prices that are not there": (lambda: agent(prices="nowhere.toml"), "cannot be read"),
    "a chain of nothing": (lambda: Failover(5), "The models of a chain come in a list, not as int."),
    "a chain of one name": (lambda: Failover("openai:gpt-5"), "not as str. Write models=[…]."),
    "a chain of what is no model": (lambda: Failover([5]), "5 is no model"),
    "the name of a model": (lambda: model(5), "5 names no model."),
    "an address": (lambda: model("openai-chat:m", api_key="k", base_url=5), "5 is no base URL."),
    "an empty address": (lambda: model("openai-chat:m", api_key="k", base_url=""), "'' is no base URL."),
    "a store": (lambda: StatefulAgentLoop(ScriptedModel([]), store=5), "5 is no store: it has no append and no read."),
    "the path of a store": (lambda: SQLiteStore(5), "5 is not the path of a file."),
    "one listener": (lambda: agent(listeners=print), "Listeners come in a list"),
    "a listener that is none": (lambda: agent(listeners=[5]), "5 is no listener"),
    "a listener that waits": (lambda: agent(listeners=[waits]), "waits is no listener: it is async"),
    "a listener that comes later": (lambda: agent().listen(waits), "waits is no listener"),
    "an onlooker that waits": (lambda: agent().look_on(Waits()), "Waits is no listener"),
    "a search for tools": (lambda: agent(tool_search=5), "tool_search=5 is not possible."),
    "a strategy": (lambda: agent(compaction=5), "5 is no strategy: it has no name and no __call__."),
    "a strategy without a name": (lambda: agent(compaction=[waits]), "is no strategy: it has no name."),
    "a class for a strategy": (lambda: agent(compaction=SlidingWindow), "Make one: SlidingWindow(…)."),
    "one provider of context": (lambda: agent(context=print), "come in a list"),
    "a provider of context that is none": (lambda: agent(context=[5]), "5 says nothing: it is no function."),
    "a system prompt": (lambda: agent(system=5), "system=5 is no text."),
    "settings": (lambda: agent(settings=5), "settings=5 are no settings."),
    "a question with a time": (lambda: Ask("Sure?", seconds="x"), "Ask(seconds=…) is a number of seconds, a hundred years at most."),
    "a question with a truth": (lambda: Ask("Sure?", seconds=True), "Ask(seconds=…) is a number of seconds, a hundred years at most."),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_agent_cannot_be_made_of(name):
    """Refused when it is made, in words, with what to do; nothing fails later with somebody else's error."""
    make, said = WRONG[name]
    assert said in refused(make)


def test_what_an_agent_can_be_made_of():
    """What is left out, a path, a mapping, one strategy or several, functions that wait where somebody waits for them."""
    assert agent(models={}, prices={}, tool_search=None, compaction=SlidingWindow(), context=[waits], listeners=iter([print]), settings={}, system="")
    assert agent(compaction=[], prices=None, models={"summary": ScriptedModel([])}, listeners=(print,))
    assert Ask("Sure?", seconds=1.5).seconds == 1.5
    assert Failover([ScriptedModel([])]).members


@pytest.mark.parametrize("source", [5, None, b"x", bytearray(b"x")], ids=named)
async def test_what_cannot_be_let_in(source):
    """An export is a file or comes in pieces; its bytes as one are told how they are handed in."""
    async with agent() as loop:
        with pytest.raises(InvalidInput, match=f"is not {type(source).__name__}") as said:
            await loop.import_(source)
    assert said.value.hint.endswith("[content].")


async def test_money_may_be_a_decimal():
    """What is left of a budget is one, as costs are; a limit that is one is kept as a number, and is the same when it is handed in again."""

    class Priced(ScriptedModel):
        def cost(self, _: Any) -> int:
            return 1_000

    async with StatefulAgentLoop(Priced(["one", "two"]), store=":memory:", limits=Limits(max_cost_usd_per_turn=Decimal("0.5"))) as loop:
        assert [(await loop.send("x", "s")).status for _ in range(2)] == ["completed"] * 2
        assert (await loop.state("s")).config.limits.max_cost_usd_per_turn == 0.5
        assert await loop.history("s", kinds=["session.configured"]) == []
