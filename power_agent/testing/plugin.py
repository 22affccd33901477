"""A pytest plugin for agents of your own; `README.md` beside this file shows each fixture at work.

    def test_the_charge_is_not_repeated(crash_at, tmp_path):
        crash_at("charge").run(my_agent, tmp_path)         # a child process, SIGKILLed right after the tool's effect
        ...                                                # open the file here, resume, look

`crash_at`       dies where you say: an event (`call.started`, `model.answered`, …), a tool's name, or `effect` for any tool. `when` is
                 `before`, `in` or `after`: for an event, its commit; for a tool, its effect
`scripted_model` makes models that say what they were told to; a script that was not said to its end fails the test
`replay`         makes a model of an exported session: it answers what was recorded, and the test fails at the first request that differs
                 (`replaying.py`)
`frozen_clock`   time that stands still until the test moves it
`frozen_ids`     ids and nonces that count up, the same in every run
`no_live_models` refuses every request to a real model; a test marked `live_models` is let through

It is loaded with every run of pytest, so what the fixtures need is imported when one of them is asked for.
"""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

if TYPE_CHECKING:
    from power_agent.chance import CountedChance
    from power_agent.clock import HeldClock
    from power_agent.models import ScriptedModel
    from power_agent.models.scripted import Script
    from power_agent.testing.replaying import ReplayModel

When = Literal["before", "in", "after"]
VARIABLE = "POWER_AGENT_FAILPOINT"
LIVE = "live_models"


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", f"{LIVE}: may ask real models, although `no_live_models` is used")


# -- dying -------------------------------------------------------------------------------------------------------------


class Crash:
    """A place to die at."""

    def __init__(self, place: str) -> None:
        self.place = place

    def run(self, function: Callable[..., Any], *args: Any, seconds: float = 60.0) -> None:
        """Run a function (async ones too) in a process of its own and see it killed; fails when it never came to the place.

        The function is found by its name in its module, so it cannot be a lambda or stand inside another function.
        """
        if {"<lambda>", "<locals>"} & set(getattr(function, "__qualname__", "").split(".")):
            raise _invalid(f"{function.__qualname__} cannot be found by a process of its own.", "Let it stand by itself in its module, and pass what it needs as arguments.")
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = self.place
        try:
            child = multiprocessing.get_context("spawn").Process(target=_live, args=(function, args))
            child.start()
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
            pytest.fail(f"{self.place}: the process was still running after {seconds:g} s.")
        if child.exitcode != -signal.SIGKILL:
            pytest.fail(f"{self.place} was never passed: the process ended with status {child.exitcode}.")


def _invalid(message: str, hint: str) -> Exception:
    from power_agent.errors import InvalidInput  # noqa: PLC0415  see the law of this room

    return InvalidInput(message, hint=hint)


def _live(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    answer = function(*args)
    if inspect.iscoroutine(answer):
        asyncio.run(answer)


@pytest.fixture
def crash_at() -> Callable[..., Crash]:
    """Return `crash_at(name, when="after", nth=1)`, which kills a child process at the nth passage of a place."""

    def at(name: str, when: When = "after", nth: int = 1) -> Crash:
        if when not in get_args(When) or nth < 1:
            raise _invalid(f"crash_at({name!r}, {when!r}, {nth!r}) is not possible.", f"`when` is one of {', '.join(get_args(When))}; `nth` counts from 1.")
        return Crash(f"{when}:{name}:{nth}")

    return at


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted_model() -> Iterator[Callable[..., ScriptedModel]]:
    """Return `scripted_model(script)`. A list that was not said to its end when the test is over fails it; `to_the_end=False` lets it pass."""
    from power_agent.models import ScriptedModel  # noqa: PLC0415  see the law of this room

    made: list[tuple[ScriptedModel, int]] = []

    def make(script: Script, *, name: str = "scripted:model", to_the_end: bool = True) -> ScriptedModel:
        model = ScriptedModel(script, name=name)
        if to_the_end and not callable(script):
            made.append((model, len(script)))
        return model

    yield make
    for model, lines in made:
        said = max((request.replies + 1 for request in model.requests), default=0)
        if said < lines:
            pytest.fail(f"{model.name}: line {said + 1} of {lines} of the script was never asked for.")


@pytest.fixture
def no_live_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every request to a model over the network, and fail the test that made one. The mark `live_models` lets a test through."""
    from power_agent.errors import ModelError  # noqa: PLC0415  see the law of this room
    from power_agent.models.http import HTTPModel  # noqa: PLC0415  the same

    asked: list[str] = []

    async def refuse(model: HTTPModel, *_: Any) -> None:
        asked.append(model.name)
        raise ModelError(f"This test asked {model.name}, and no_live_models is used.", hint="Give the agent a scripted model, or mark the test live_models.")

    if request.node.get_closest_marker(LIVE) is None:
        monkeypatch.setattr(HTTPModel, "ask", refuse)
    yield
    if asked:
        pytest.fail(f"A live model was asked: {', '.join(dict.fromkeys(asked))}. Use scripted_model, or mark the test live_models.")


@pytest.fixture
def replay() -> Iterator[Callable[[str | os.PathLike[str]], ReplayModel]]:
    """Return `replay(path)`: a model that answers from an exported session. The test fails when a request differs, or was never made."""
    from power_agent.testing.replaying import ReplayModel  # noqa: PLC0415  see the law of this room

    made: list[ReplayModel] = []

    def of(path: str | os.PathLike[str]) -> ReplayModel:
        made.append(ReplayModel.from_file(path))
        return made[-1]

    yield of
    for model in made:
        model.check()


# -- time and names ----------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen_clock() -> HeldClock:
    """Return a clock for `StatefulAgentLoop(clock=…)`: it stands still until `frozen_clock.move(seconds)`, and nobody who sleeps on it waits."""
    from power_agent.clock import HeldClock  # noqa: PLC0415  see the law of this room

    return HeldClock()


@pytest.fixture
def frozen_ids() -> CountedChance:
    """Return names for `StatefulAgentLoop(chance=…)`: session-1, session-2, …, and nonces that count up."""
    from power_agent.chance import CountedChance  # noqa: PLC0415  see the law of this room

    return CountedChance()
