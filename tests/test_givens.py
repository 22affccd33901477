"""What a person hands in is looked at where something is made of it: what cannot work is refused there, in words, and not at the first call."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop, tool
from power_agent.errors import InvalidInput
from power_agent.givens import awaited, is_number, name_of, yields
from power_agent.policy import Allow, Deny
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
    """Calling a class makes one, whatever calling that one does; a part of an async function is one as well."""
    assert not awaited(Waits)
    assert awaited(Waits())
    assert [yields(one) for one in (pieces, waited_pieces, waits, Waits)] == [True, True, False, False]
    assert [name_of(one) for one in (waits, Waits())] == ["waits", "Waits"]


def test_numbers():
    """Whole and broken ones, as large as they may be; no truth, no text, nothing endless."""
    assert all(map(is_number, (0, -1, 1.5, 10**300)))
    assert not any(map(is_number, (True, "1", None, float("nan"), float("inf"), 10**400, 1j)))


# -- limits --------------------------------------------------------------------------------------------------------------

NEVER = ["x", "5", True, float("nan"), float("inf"), 10**400, -1, [], {}]
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
    for value in [False] if name == "last_answer" else [1, 1.0, 10**30, *([0] if name in ZEROS else []), *([None] if name not in BOUNDED else [])]:
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
