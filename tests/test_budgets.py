"""Limits of a turn and a session, to the number: one below, at it, one above; over a crash; and what a lost request reserves."""

import asyncio
import contextlib
import os
import signal
import threading

import pytest
from processes import PROMPT_SECONDS

from power_agent import Answer, Approve, Call, Limits, ModelError, ScriptedModel, StatefulAgentLoop, Usage, failpoints, tool
from power_agent.clock import HeldClock
from power_agent.policy import Allow, Ask
from power_agent.ports import ModelReply

ROUNDS, TOKENS, NANO = 6, 100, 1_000_000
"""Every request uses a hundred tokens, costs a tenth of a cent and takes ten seconds."""


class Metered(ScriptedModel):
    """A model whose every answer has the same size, price and duration; it asks for a tool until the last round."""

    def __init__(self, clock: HeldClock | None = None, rounds: int = ROUNDS) -> None:
        super().__init__(lambda request: self._next(request.replies % rounds == rounds - 1, request.replies))
        self.clock = clock

    @staticmethod
    def _next(last: bool, number: int) -> Answer:
        return Answer("done", usage=Usage(90, 10)) if last else Answer(calls=[Call("step", {"number": number})], usage=Usage(90, 10))

    async def ask(self, request, glimpse) -> ModelReply:
        if self.clock is not None:
            self.clock.move(10)
        reply = await super().ask(request, glimpse)
        return ModelReply(parts=reply.parts, finish=reply.finish, usage=reply.usage, model=reply.model, cost_nano_usd=NANO, price_source="test")

    def cost(self, usage: Usage) -> int:
        return NANO * usage.total // TOKENS


@tool(recovery="rerun")
async def step(number: int) -> int:
    return number


def make(limits: Limits, store=":memory:", **options) -> StatefulAgentLoop:
    clock = HeldClock()
    return StatefulAgentLoop(Metered(clock, **options), tools=[step], store=store, limits=limits, clock=clock)


CASES = [
    ("max_rounds_per_turn", 1),
    ("max_tokens_per_turn", TOKENS),
    ("max_tokens_per_session", TOKENS),
    ("max_cost_usd_per_turn", NANO / 1e9),
    ("max_cost_usd_per_session", NANO / 1e9),
    ("max_turn_seconds", 10),
]


@pytest.mark.parametrize(("name", "unit"), CASES)
@pytest.mark.parametrize("off", [-1, 0, 1])
async def test_at_the_limit(name, unit, off):
    """With room for one request less than the turn needs it stops there and says why; with just enough, and with more, it ends well."""
    async with make(Limits(**{name: (ROUNDS + off) * unit})) as loop:
        result = await loop.send("go", "s")
        asked = len(loop._model.requests)
        if off < 0:
            assert (result.status, result.reason, asked) == ("limit", name, ROUNDS - 1)
        else:
            assert (result.status, result.text, asked) == ("completed", "done", ROUNDS)


@pytest.mark.parametrize(("name", "unit"), CASES)
async def test_a_higher_limit_goes_on(tmp_path, name, unit):
    """Resumed with the same limit nothing is asked; with a higher one it goes on where it stopped, and what was spent counts."""
    path = tmp_path / "agent.db"
    async with make(Limits(**{name: 3 * unit}), path) as loop:
        assert (await loop.send("go", "s")).status == "limit"
    async with make(Limits(**{name: 3 * unit}), path) as loop:
        result = await loop.resume("s")
        assert (result.status, len(loop._model.requests)) == ("limit", 0)
    async with make(Limits(**{name: ROUNDS * unit}), path) as loop:
        result = await loop.resume("s")
        assert (result.status, len(loop._model.requests)) == ("completed", ROUNDS - 3)
        state = await loop.state("s")
        assert (state.spent.tokens, state.spent.cost_nano_usd) == (ROUNDS * TOKENS, ROUNDS * NANO)


async def test_no_call_begins_when_the_time_is_up():
    """Calls that wait for a place when the turn's time is up are not begun; the one that runs ends, and the turn at its limit."""
    ran, gate, clock = [], asyncio.Event(), HeldClock()

    @tool(recovery="rerun")
    async def work(number: int) -> int:
        ran.append(number)
        clock.move(6)
        if number:
            await gate.wait()
        return number

    limits = Limits(max_turn_seconds=10, max_parallel_calls=1)
    async with StatefulAgentLoop(ScriptedModel([[Call("work", {"number": n}) for n in range(4)]]), tools=[work], store=":memory:", limits=limits, clock=clock) as loop:
        sending = asyncio.create_task(loop.send("go", "s"))
        while len(ran) < 2:
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.1, gate.set)
        result = await sending
        assert (result.status, result.reason) == ("limit", "max_turn_seconds")
        assert [call.state for call in result.calls] == ["succeeded", "succeeded", "aborted", "aborted"]
        assert {kept.event.reason for kept in await loop.history("s", kinds=["call.aborted"])} == {"the turn is at its limit"}
    assert ran == [0, 1]


async def test_an_approved_call_runs_however_late():
    """The time that a person takes is the turn's, too: what was approved runs all the same, one after the other."""
    ran, clock = [], HeldClock()

    @tool
    async def work(number: int) -> None:
        ran.append(number)
        clock.move(60)

    limits = Limits(max_turn_seconds=10, max_parallel_calls=1)
    calls = [Call("work", {"number": n}) for n in range(3)]
    async with StatefulAgentLoop(ScriptedModel([calls]), tools=[work], store=":memory:", limits=limits, clock=clock, policy=lambda _: Ask()) as loop:
        for pending in (await loop.send("go", "s")).pending:
            await loop.settle("s", pending.id, Approve())
        clock.move(86_400)
        result = await loop.resume("s")
        assert (result.status, [call.state for call in result.calls]) == ("limit", ["succeeded"] * 3)
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("approved", [False, True])
async def test_threads_that_hold_every_place_do_not_hold_the_turn(caplog, monkeypatch, approved):
    """Threads that hang for ever keep their places, the log of the process names their tools once, and the turn ends when its time is up."""
    monkeypatch.setattr("power_agent.drive.ledger.LOOK_SECONDS", 0.02)
    gate = threading.Event()

    @tool(recovery="rerun", seconds=0.05)
    def hang() -> None:
        gate.wait()

    limits = Limits(max_turn_seconds=0.7, max_parallel_calls=2)
    model = ScriptedModel([[Call("hang"), Call("hang"), Call("step", {"number": 1}), Call("step", {"number": 2})]])
    policy = (lambda wanted: Ask() if wanted.tool == "step" else Allow()) if approved else None
    async with StatefulAgentLoop(model, tools=[hang, step], store=":memory:", limits=limits, policy=policy) as loop:
        try:
            sending = asyncio.create_task(loop.send("go", "s"))
            while approved and (not await loop.sessions() or len(await loop.history("s", kinds=["call.approval_asked"])) < 2):
                await asyncio.sleep(0.01)
            for name in ("t1r1c3", "t1r1c4") if approved else ():
                await loop.settle("s", name, Approve())
            result = await asyncio.wait_for(sending, PROMPT_SECONDS)
        finally:
            gate.set()
        assert (result.status, result.reason) == ("limit", "max_turn_seconds")
        assert [call.state for call in result.calls] == ["aborted"] * 4
        assert [kept.event.call for kept in await loop.history("s", kinds=["call.started"])] == ["t1r1c1", "t1r1c2"]
    assert [record.getMessage() for record in caplog.records if record.name == "power_agent"] == [
        "Session s, turn 1: calls wait for places that threads of hang hold, which took too long and still run."
    ]


@pytest.mark.parametrize(("name", "unit"), [case for case in CASES if "session" in case[0]])
async def test_limits_of_a_session_span_its_turns(name, unit):
    """What earlier turns used counts for the session, and not for the turn."""
    async with make(Limits(**{name: 5 * unit}), rounds=2) as loop:
        statuses = [(await loop.send(f"turn {number}", "s")).status for number in range(4)]
    assert statuses == ["completed", "completed", "limit", "limit"]


@pytest.mark.parametrize("name", ["max_tokens_per_turn", "max_cost_usd_per_turn"])
def test_a_request_whose_end_nobody_saw_counts(tmp_path, name):
    """Killed while the model was asked: nobody knows what that cost, so what was reserved for it counts as spent, once per crash."""
    path = tmp_path / "agent.db"
    pid = os.fork()
    if pid == 0:
        failpoints._ARMED = "before:model.answered:3"
        with contextlib.suppress(BaseException):
            asyncio.run(_sent(path))
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    async def after() -> None:
        async with make(Limits(), path) as loop:
            before = await loop.state("s")
            assert before.request is not None
            reserved = before.request
            assert reserved.reserved_tokens > 0
            assert reserved.reserved_cost_nano_usd > 0
            assert (await loop.resume("s")).status == "completed"
            spent = (await loop.state("s")).spent
            assert (spent.lost_tokens, spent.lost_cost_nano_usd) == (reserved.reserved_tokens, reserved.reserved_cost_nano_usd)
            assert (spent.usage.total, spent.cost_nano_usd) == (ROUNDS * TOKENS, ROUNDS * NANO)

    asyncio.run(after())


class Dear(ScriptedModel):
    """A model whose every request costs ten dollars."""

    def cost(self, _usage: Usage) -> int:
        return 10_000_000_000


async def _hanging(_request):
    await asyncio.sleep(3_600)


async def _broken(_request):
    raise ModelError("The stream broke off.")


async def _refusing(_request):
    raise ModelError("Busy.", unspent=True)


async def _buggy(_request):
    raise KeyError("bug")


@pytest.mark.parametrize(
    ("answer", "seconds", "asked"),
    [(_hanging, 0.2, 1), (_broken, None, 1), (_buggy, None, 1), (_refusing, None, 3)],
    ids=["cut off at the deadline", "broke off", "an adapter's bug", "refused"],
)
async def test_a_request_that_may_have_been_paid_for_counts(answer, seconds, asked):
    """Whose usage nobody knows counts what was reserved, so the next one is not sent; what was refused counts nothing."""
    model = Dear(answer)
    async with StatefulAgentLoop(model, store=":memory:", limits=Limits(max_cost_usd_per_session=5, max_turn_seconds=seconds)) as loop, asyncio.timeout(20):
        results = [await loop.send("go", "s") for _ in range(3)]
        spent = (await loop.state("s")).spent
    assert len(model.requests) == asked
    assert spent.lost_cost_nano_usd == (10_000_000_000 if asked == 1 else 0)
    assert (results[-1].status, results[-1].reason) == (("limit", "max_cost_usd_per_session") if asked == 1 else ("failed", "model"))


class Free(ScriptedModel):
    """A model that costs nothing."""

    def cost(self, _usage: Usage) -> int:
        return 0


def summarised(path, summary, dollars: float, **limits) -> StatefulAgentLoop:
    """A chat whose summaries cost ten dollars each."""
    models = {"main": Free(lambda _: "word " * 200, name="a:main"), "summary": Dear(summary, name="a:summary")}
    return StatefulAgentLoop(models=models, store=path, limits=Limits(max_cost_usd_per_session=dollars, **limits))


async def test_a_summary_that_is_asked_for_stays_within_the_limit(tmp_path, caplog):
    """`compact` asks for one, reaches the limit with it, and asks for no other until the limit is higher."""
    asked = list[None]()

    def summary(_request):
        asked.append(None)
        return "a summary"

    async with summarised(tmp_path / "log.db", summary, 5) as loop:
        for _ in range(3):
            await loop.send("say " + "word " * 100, "s")
        assert await loop.compact("s")
        assert (await loop.send("say " + "word " * 100, "s")).reason == "max_cost_usd_per_session"
        assert not await loop.compact("s")
        assert (await loop.state("s")).spent.cost_nano_usd == 10_000_000_000
        assert len(asked) == 1
        assert "at its limit (max_cost_usd_per_session)" in caplog.text
    async with summarised(tmp_path / "log.db", summary, 50) as loop:
        await loop.send("say " + "word " * 100, "s")
        assert await loop.compact("s")
        assert len(asked) == 2


async def test_a_higher_limit_holds_for_a_summary_before_the_next_turn(tmp_path):
    """A session at its limit is opened with a higher one: a summary that is asked for then is within it."""
    async with summarised(tmp_path / "log.db", lambda _: ModelError("It broke off."), 5) as loop:
        for _ in range(3):
            await loop.send("say " + "word " * 100, "s")
        assert not await loop.compact("s")
        assert (await loop.send("go", "s")).status == "limit"
    async with summarised(tmp_path / "log.db", lambda _: "a summary", 50) as loop:
        assert await loop.compact("s")


async def test_summaries_of_a_turn_stay_within_the_limit(monkeypatch):
    """Each attempt at a summary is a request: with the first one that breaks off the limit is reached, and no other is made."""
    monkeypatch.setattr("power_agent.drive.attempts.backoff", lambda _attempt: 0.0)
    async with summarised(":memory:", lambda _: ModelError("It broke off.", retryable=True), 5, max_context_tokens=1_500) as loop, asyncio.timeout(30):
        results = [await loop.send("say " + "word " * 100, "s") for _ in range(8)]
        asked = await loop.history("s", kinds=["model.asked"])
    assert [one.event.purpose for one in asked].count("summary") == 1
    assert (results[-1].status, results[-1].reason) == ("limit", "max_cost_usd_per_session")


async def _sent(path) -> None:
    async with make(Limits(), path) as loop:
        await loop.send("go", "s")
