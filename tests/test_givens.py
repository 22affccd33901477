"""What a person hands in is looked at where something is made of it: what cannot work is refused there, in words, and not at the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from power_agent import Call, ScriptedModel, StatefulAgentLoop, tool
from power_agent.errors import InvalidInput
from power_agent.givens import awaited, is_number, name_of, yields
from power_agent.policy import Allow, Deny


def agent(script: Any = ("done",), **options: Any) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), store=":memory:", **options)


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


@pytest.mark.parametrize("policy", [[], {}, "", 0, 5, "allow", (), waits, Waits(), waited_pieces], ids=lambda one: repr(one).split(" at 0x")[0])
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
    assert all(map(is_number, (0, -1, 1.5, 10**400)))
    assert not any(map(is_number, (True, "1", None, float("nan"), float("inf"), 1j)))
