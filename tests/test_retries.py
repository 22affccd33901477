"""Trouble at the provider, from its answer to the log: how long it wants to be left alone is honoured, by the next process, too;
one deadline covers everything, and a cancel waits for nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

import pytest
from servers import ChatServer

from power_agent import Limits, ModelError, ScriptedModel, StatefulAgentLoop, Text
from power_agent.clock import HeldClock
from power_agent.drive.attempts import backoff
from power_agent.limits import FIRST_BACKOFF_SECONDS, MAX_MODEL_ATTEMPTS
from power_agent.models.http import HTTPModel
from power_agent.models.openai_chat import OpenAIChat
from power_agent.testing.speaking import Loopback, Said, body, head, in_turn, saying, stopping

SERVER = ChatServer()
FINE = saying(head(media_type=SERVER.media_type), *SERVER.stream(Said(text="At last.")))


def busy(seconds):
    return body(429, SERVER.error("Busy."), retry_after=str(seconds))


def agent(url, path, **options):
    return StatefulAgentLoop(HTTPModel(OpenAIChat(), "m", base_url=url), store=path, **options)


async def kept(loop, kind):
    """Wait for an event to be in the log."""
    async with asyncio.timeout(30):
        while True:
            rows = await loop.sessions()
            found = await loop.history("s", kinds=[kind]) if rows else []
            if found:
                return found[-1]
            await asyncio.sleep(0.01)


async def test_what_a_server_asked_for_is_honoured_after_a_crash(tmp_path):
    """A process is killed while it waits; the one that resumes waits for the rest, and asks once."""
    async with Loopback(in_turn(busy(2), FINE)) as loopback:
        child = await asyncio.create_subprocess_exec(sys.executable, __file__, loopback.url, tmp_path / "log.db", cwd=Path(__file__).parent)
        async with agent(loopback.url, tmp_path / "log.db") as here:
            failed = await kept(here, "model.failed")
            child.kill()
            await child.wait()
            assert 0 < failed.event.not_before - failed.at <= 2_000  # the wait begins with the failure, which is kept a moment later
            assert (await here.resume("s")).text == "At last."
            asked = await here.history("s", kinds=["model.asked"])
        assert [one.event.attempt for one in asked] == [1, 2]
        assert asked[1].at >= failed.event.not_before
        assert len(loopback.asked) == 2


async def test_cancelled_while_it_waits(tmp_path):
    """An hour was asked for; a cancel ends the turn now, and nothing more is sent."""
    async with Loopback(busy(3_600)) as loopback, agent(loopback.url, tmp_path / "log.db") as here:
        sending = asyncio.ensure_future(here.send("Hello.", "s"))
        await kept(here, "model.failed")
        assert await here.cancel("s", reason="enough")
        async with asyncio.timeout(30):
            assert (await sending).status == "cancelled"
        assert len(loopback.asked) == 1


@pytest.mark.parametrize("reply", [busy(3_600), stopping(), stopping(head(media_type="text/event-stream"), b": still here\n\n")], ids=["asked to wait", "silent", "in the middle"])
async def test_one_deadline_over_everything(reply, tmp_path):
    """A server that wants an hour, or says nothing: the turn ends at its limit, and a higher one goes on with it."""
    async with Loopback(in_turn(reply, FINE)) as loopback:
        async with agent(loopback.url, tmp_path / "log.db", limits=Limits(max_turn_seconds=0.4)) as here, asyncio.timeout(30):
            result = await here.send("Hello.", "s")
            assert (result.status, result.reason) == ("limit", "max_turn_seconds")
            assert [fault async for fault in here.verify()] == []
        assert len(loopback.asked) == 1
        async with agent(loopback.url, tmp_path / "log.db") as here:
            assert (await here.resume("s")).text == "At last."


def test_waits_grow_and_differ():
    """Twice as long each time, up to a minute, and never quite the same, so that many sessions do not come back at once."""
    waits = {attempt: [backoff(attempt) for _ in range(200)] for attempt in (1, 2, 3, 4, 5, 20)}
    for attempt, found in waits.items():
        least = min(FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1), 60.0)
        assert all(least <= wait <= least + FIRST_BACKOFF_SECONDS for wait in found)
        assert max(found) - min(found) > FIRST_BACKOFF_SECONDS / 2


@pytest.mark.parametrize("ends", ["silent", "failing"])
async def test_the_deadline_ends_the_last_attempt(ends, tmp_path):
    """Five attempts failed; in the sixth the time of the turn is over: a limit, not a failure, and a higher one goes on."""
    clock = HeldClock()
    failures = itertools.count(1)

    async def busy_then_slow(request):
        if next(failures) < MAX_MODEL_ATTEMPTS:
            raise ModelError("Busy.", retryable=True)
        clock.move(1_000)
        if ends == "silent":
            await asyncio.sleep(3_600)
        raise ModelError("Still busy.", retryable=True)

    async with StatefulAgentLoop(Slow(busy_then_slow), store=tmp_path / "log.db", limits=Limits(max_turn_seconds=500), clock=clock) as here, asyncio.timeout(30):
        result = await here.send("Hello.", "s")
        assert (result.status, result.reason) == ("limit", "max_turn_seconds")
        assert [kept.event.attempt for kept in await here.history("s", kinds=["model.failed"])] == [1, 2, 3, 4, 5, 6]
        assert [fault async for fault in here.verify()] == []
    async with StatefulAgentLoop(ScriptedModel(lambda _request: "At last."), store=tmp_path / "log.db", clock=clock) as here:
        assert (await here.resume("s")).text == "At last."


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: None, "must return a ModelReply"),
        (lambda: "hello", "must return a ModelReply"),
        (lambda: [Text("hello")], "must return a ModelReply"),
        (lambda: raises(asyncio.CancelledError()), "cancelled from within"),
        (lambda: raises(KeyError("bug")), "KeyError"),
    ],
    ids=["nothing", "a text", "parts", "cancelled from within", "a bug"],
)
async def test_an_adapters_bug_ends_the_turn(answer, said, tmp_path):
    """Whatever it returns or raises, it is asked once, the turn says what is wrong, and a resume with a model that answers goes on."""

    async def odd(_request):
        return answer()

    async with StatefulAgentLoop(Slow(odd), store=tmp_path / "log.db") as here, asyncio.timeout(30):
        result = await here.send("Hello.", "s")
        assert (result.status, result.reason) == ("failed", "model")
        assert said in result.failure.message
        assert len(await here.history("s", kinds=["model.asked"])) == 1
    async with StatefulAgentLoop(ScriptedModel(lambda _request: "At last."), store=tmp_path / "log.db") as here:
        assert (await here.resume("s")).text == "At last."


async def test_a_model_that_does_not_even_await(tmp_path):
    """A function where a coroutine function should be is a bug like any other, also when it raises what an interrupt raises."""
    for answer in (lambda: None, lambda: raises(asyncio.CancelledError())):
        model = Slow(None)
        model.ask = lambda _request, _glimpse, answer=answer: answer()
        async with StatefulAgentLoop(model, store=":memory:") as here, asyncio.timeout(30):
            assert (await here.send("Hello.", "s")).status == "failed"


class Slow:
    """A model that is what a function makes of a request."""

    name = "slow"

    def __init__(self, answer):
        self.answer = answer

    async def ask(self, request, _glimpse):
        return await self.answer(request)


if __name__ == "__main__":

    async def live(url, path):
        async with agent(url, path) as here:
            await here.send("Hello.", "s")

    asyncio.run(live(*sys.argv[1:]))
