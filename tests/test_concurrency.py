"""Many hands on one session: inputs that queue behind a turn or steer it, whoever drives it, also when its owner dies."""

import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from processes import PROMPT_SECONDS

from power_agent import Call, Limits, ScriptedModel, SessionBusy, SessionPending, StatefulAgentLoop, ToolContext, tool
from power_agent.clock import SystemClock
from power_agent.errors import InvalidInput, KeyConflict, SessionClosed

SAID = {"one": "first answer", "two": "second answer", "three": "third answer"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("power_agent.drive.ledger.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("power_agent.loop.intake.LOOK_SECONDS", 0.02)


class Gate:
    """A tool that runs until it is let go, here or from another process."""

    def __init__(self, folder: Path) -> None:
        self.begun, self.go, self.let_go = folder / "begun", folder / "go", folder / "let-go"

    @property
    def tools(self):
        @tool(recovery="rerun")
        async def hold() -> str:
            while not self.let_go.exists():
                await asyncio.sleep(0.01)
            return "held"

        @tool(recovery="rerun")
        async def work(ctx: ToolContext) -> str:
            self.begun.touch()
            while not self.go.exists():
                await asyncio.sleep(0.01)
            return "worked"

        return [work, hold]

    async def reached(self) -> None:
        async with asyncio.timeout(PROMPT_SECONDS):
            while not self.begun.exists():
                await asyncio.sleep(0.01)


def said(request) -> object:
    """Work first when told to; answer what was said last."""
    last = request.messages[-1]
    if last.role == "user" and last.text in {"work", "hold"}:
        return [Call(last.text)]
    return "heard: " + " | ".join(message.text for message in request.messages if message.role == "user")


def make(folder: Path, gate: Gate, script=said, **options) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), tools=gate.tools, store=folder / "agent.db", **options)


@pytest.fixture
def gate(tmp_path) -> Gate:
    return Gate(tmp_path)


@contextlib.asynccontextmanager
async def at_work(folder: Path, gate: Gate, **options) -> AsyncIterator[tuple[StatefulAgentLoop, asyncio.Task]]:
    """A loop in the middle of a turn."""
    async with make(folder, gate, **options) as loop:
        sending = asyncio.ensure_future(loop.send("work", "s"))
        await gate.reached()
        yield loop, sending
        gate.go.touch()
        await asyncio.wait([sending])


async def kinds(loop, session="s") -> list[str]:
    return [kept.kind for kept in await loop.history(session)]


async def verified(loop) -> None:
    assert [wrong async for wrong in loop.verify()] == []


# -- in one process ----------------------------------------------------------------------------------------------------


async def test_a_queued_input_gets_the_next_turn(tmp_path, gate):
    """It waits its turn; who sent first gets the first turn, who queued the second, and each their own result."""
    async with at_work(tmp_path, gate) as (loop, first):
        second = asyncio.ensure_future(loop.send("later", "s", when_busy="queue"))
        third = asyncio.ensure_future(loop.send("last", "s", when_busy="queue"))
        while (await kinds(loop)).count("input.received") < 3:
            await asyncio.sleep(0.01)
        gate.go.touch()
        results = await asyncio.gather(first, second, third)
        assert [result.turn for result in results] == [1, 2, 3]
        assert [result.status for result in results] == ["completed"] * 3
        assert [result.text for result in results] == ["heard: work", "heard: work | later", "heard: work | later | last"]
        assert [result.input_seq for result in results] == sorted({result.input_seq for result in results})
        assert (await loop.send("again", "s")).turn == 4
        await verified(loop)


async def test_a_steering_input_joins_the_turn(tmp_path, gate):
    """The model sees it with its next request, in the same turn; both who wait get that turn."""
    async with at_work(tmp_path, gate) as (loop, first):
        second = asyncio.ensure_future(loop.send("rather this", "s", when_busy="steer"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        gate.go.touch()
        one, two = await asyncio.gather(first, second)
        assert (one.turn, two.turn, one.text) == (1, 1, "heard: work | rather this")
        assert two.text == one.text
        asked = [kept.event for kept in await loop.history("s", kinds=["model.asked"])]
        assert [event.inputs for event in asked] == [(), (two.input_seq,)]
        await verified(loop)


async def test_an_unseen_steer_becomes_a_turn_of_its_own(tmp_path, gate):
    """A steer that comes when the last request is on its way is no lost input: it gets the next turn."""
    release, asked = asyncio.Event(), asyncio.Event()

    async def slow(request):
        asked.set()
        await release.wait()
        return "answer to " + request.messages[-1].text

    async with make(tmp_path, gate, slow) as loop:
        first = asyncio.ensure_future(loop.send("one", "s"))
        await asked.wait()
        second = asyncio.ensure_future(loop.send("two", "s", when_busy="steer"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        release.set()
        one, two = await asyncio.gather(first, second)
        assert [(one.turn, one.text), (two.turn, two.text)] in ([(1, "answer to one"), (2, "answer to two")], [(1, "answer to two"), (1, "answer to two")])
        await verified(loop)


async def test_the_default_raises(tmp_path, gate):
    """Without a word about it a second input is refused, and nothing is kept of it."""
    async with at_work(tmp_path, gate) as (loop, _):
        before = await kinds(loop)
        with pytest.raises(SessionBusy, match="queue"):
            await loop.send("x", "s")
        assert await kinds(loop) == before
        with pytest.raises(InvalidInput, match="when_busy"):
            await loop.send("x", "s", when_busy="later")


@pytest.mark.parametrize("mode", ["queue", "steer"])
async def test_without_waiting(tmp_path, gate, mode):
    """`wait=False` returns once the input is kept; its turn comes all the same."""
    async with at_work(tmp_path, gate) as (loop, first):
        left = await loop.send("later", "s", when_busy=mode, wait=False)
        assert (left.status, left.turn) == ("waiting", 0)
        assert (await loop.history("s", after=left.input_seq - 1))[0].kind == "input.received"
        gate.go.touch()
        await first
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).inputs or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        assert "later" in str(await loop.messages("s"))


async def test_without_waiting_when_idle(tmp_path, gate):
    """On an idle session the turn begins at once and runs on without anybody who waits; the same key joins it later."""
    async with make(tmp_path, gate) as loop:
        left = await loop.send("work", "s", key="k", wait=False)
        assert left.status == "waiting"
        await gate.reached()
        assert (await loop.send("work", "s", key="k", wait=False)).status == "waiting"
        gate.go.touch()
        joined = await loop.send("work", "s", key="k")
        assert (joined.status, joined.turn, joined.input_seq) == ("completed", 1, left.input_seq)
        assert (await kinds(loop)).count("input.received") == 1


@pytest.mark.parametrize("mode", ["queue", "steer"])
async def test_behind_a_turn_that_is_older_than_its_lease(gate, mode):
    """In memory nobody renews a lease, and elsewhere a clock may be set forward: who works here holds the session all the same."""

    class Forward(SystemClock):
        by = 0

        def now(self) -> int:
            return super().now() + self.by

    clock = Forward()
    async with StatefulAgentLoop(ScriptedModel(said), tools=gate.tools, store=":memory:", clock=clock) as loop:
        sending = asyncio.ensure_future(loop.send("work", "s"))
        await gate.reached()
        clock.by = 3_600_000
        left = await asyncio.wait_for(loop.send("two", "s", when_busy=mode, wait=False), PROMPT_SECONDS)
        assert left.status == "waiting"
        assert (await kinds(loop)).count("input.received") == 2
        gate.go.touch()
        assert (await sending).status == "completed"


async def test_cancelling_who_queued_leaves_the_turn_alone(tmp_path, gate):
    """Only who waits for the turn in progress interrupts it by leaving; the queued input stays and gets its turn."""
    async with at_work(tmp_path, gate) as (loop, first):
        second = asyncio.ensure_future(loop.send("later", "s", when_busy="queue"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait([second])
        assert not first.done()
        gate.go.touch()
        assert (await first).status == "completed"
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).turns < 2 or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        assert (await loop.resume("s")).text == "heard: work | later"


async def test_cancelling_one_of_two_who_wait_for_a_turn(tmp_path, gate):
    """A steered turn has two who wait: when one leaves it goes on, when both left it is interrupted and stays resumable."""
    async with at_work(tmp_path, gate) as (loop, first):
        second = asyncio.ensure_future(loop.send("hold", "s", when_busy="steer"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        gate.go.touch()
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await kinds(loop)).count("call.started") < 2:
                await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        assert not second.done()
        second.cancel()
        await asyncio.wait([second])
        assert (await loop.state("s")).turn is not None
        row = (await loop.sessions())[0]
        assert row.deadline == 0, "the session was given up"
        gate.let_go.touch()
        assert (await loop.resume("s")).status == "completed"


async def test_a_turn_that_fails_lets_the_next_begin(tmp_path, gate):
    """After `failed` the queued input has its turn at once; after `cancelled` and `limit` it stays until somebody sends or resumes."""

    def script(request):
        last = request.messages[-1]
        if last.role == "tool":
            raise ValueError("no more")
        return said(request)

    async with at_work(tmp_path, gate, script=script) as (loop, first):
        second = asyncio.ensure_future(loop.send("later", "s", when_busy="queue"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        gate.go.touch()
        assert [(result.turn, result.status) for result in await asyncio.gather(first, second)] == [(1, "failed"), (2, "completed")]


@pytest.mark.parametrize("how", ["cancelled", "limit"])
async def test_a_turn_that_is_cancelled_or_limited_parks_what_waits(tmp_path, gate, how):
    """What waits stays, visible, and is taken by the next resume."""
    options = {"limits": Limits(max_rounds_per_turn=1)} if how == "limit" else {}
    async with at_work(tmp_path, gate, **options) as (loop, first):
        second = asyncio.ensure_future(loop.send("later", "s", when_busy="queue"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        if how == "cancelled":
            await loop.cancel("s")
        gate.go.touch()
        one, two = await asyncio.gather(first, second)
        assert (one.status, two.status, two.turn) == (how, "waiting", 0)
        assert [item.seq for item in (await loop.state("s")).inputs] == [two.input_seq]
    async with make(tmp_path, gate) as loop:
        await loop.resume("s")
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).inputs or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        assert "later" in str(await loop.messages("s"))
        await verified(loop)


async def test_a_resume_that_is_cancelled_takes_no_more(tmp_path, gate):
    """A cancel ends what a resume took up; what waits behind it stays until somebody wants it."""
    heard = list[str]()

    async def slowly(request):
        heard.append(request.messages[-1].text)
        await asyncio.sleep(3_600)

    async with make(tmp_path, gate, slowly) as loop:
        going = asyncio.ensure_future(loop.send("first", "s"))
        for text, number in (("one", 1), ("two", 2)):
            while len(heard) < number:
                await asyncio.sleep(0.01)
            await loop.send(text, "s", when_busy="queue", wait=False)
            if number == 1:
                await loop.send("three", "s", when_busy="queue", wait=False)
            assert await loop.cancel("s")
            assert (await going).status == "cancelled"
            going = asyncio.ensure_future(loop.resume("s"))
        await asyncio.sleep(0.1)
        assert await loop.cancel("s")
        assert (await going).status == "cancelled"
        await asyncio.sleep(0.1)
        assert heard == ["first", "one", "three"]
        assert len((await loop.state("s")).inputs) == 1


@pytest.mark.parametrize("raised", [False, True])
async def test_a_resume_takes_what_waits_behind_a_limit(tmp_path, gate, raised):
    """Under the same limit the old turn cannot go on, so what waits behind it is next; with a higher one the old turn comes first."""
    async with at_work(tmp_path, gate, limits=Limits(max_rounds_per_turn=1)) as (loop, first):
        await loop.send("later", "s", when_busy="queue", wait=False)
        gate.go.touch()
        assert (await first).status == "limit"
    async with make(tmp_path, gate, limits=Limits(max_rounds_per_turn=2 if raised else 1)) as loop:
        result = await loop.resume("s")
        assert (result.turn, result.status) == (2, "completed" if raised else "limit")
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).inputs or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        assert [kept.event.continues for kept in await loop.history("s", kinds=["turn.started"])] == [None, 1, None]
        assert "later" in (await loop.messages("s"))[-1].text
        await verified(loop)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("how", ["cancelled", "limit"])
async def test_what_waits_is_taken_when_it_is_sent_again(tmp_path, gate, how, wait):
    """A message that was kept behind a turn that was cancelled, or came to its limit, has its turn when it is delivered once more: once."""
    options = {"limits": Limits(max_rounds_per_turn=1)} if how == "limit" else {}
    async with at_work(tmp_path, gate, **options) as (loop, first):
        waiting = [await loop.send(text, "s", key=text, when_busy="queue", wait=False) for text in ("one", "two")]
        assert [one.status for one in waiting] == ["waiting", "waiting"]
        if how == "cancelled":
            await loop.cancel("s")
        gate.go.touch()
        assert (await first).status == how
        result = await loop.send("one", "s", key="one", wait=wait)
        assert result.status == ("completed" if wait else "waiting")
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).inputs or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        again = [await loop.send(text, "s", key=text) for text in ("one", "two")]
        assert [(one.turn, one.text) for one in again] == [(2, "heard: work | one"), (3, "heard: work | one | two")]
        assert (await kinds(loop)).count("input.received") == 3
        await verified(loop)


async def test_what_was_never_taken_is_not_promised_any_more(tmp_path, gate):
    """A message that a session was closed over says so when it is delivered once more; behind an open turn that nobody drives it waits."""
    async with at_work(tmp_path, gate) as (loop, first):
        await loop.send("one", "s", key="k", when_busy="queue", wait=False)
        first.cancel()
        await asyncio.wait([first])
        before = await kinds(loop)
        assert (await loop.send("one", "s", key="k")).status == "waiting"
        assert await kinds(loop) == before
        await loop.close_session("s", abort=True)
        with pytest.raises(SessionClosed, match="before this input"):
            await loop.send("one", "s", key="k")


async def test_keys_of_what_waits(tmp_path, gate):
    """A queued input with a key is one input, however often it is sent."""
    async with at_work(tmp_path, gate) as (loop, first):
        sendings = [asyncio.ensure_future(loop.send("later", "s", key="k", when_busy="queue")) for _ in range(5)]
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(KeyConflict):
            await loop.send("else", "s", key="k", when_busy="queue")
        gate.go.touch()
        await first
        results = await asyncio.gather(*sendings)
        assert {(result.turn, result.text) for result in results} == {(2, "heard: work | later")}
        assert (await kinds(loop)).count("input.received") == 2


@pytest.mark.parametrize("mode", ["queue", "steer"])
@pytest.mark.parametrize("where", ["here", "elsewhere", "both"])
async def test_one_key_twice_at_once(tmp_path, gate, where, mode):
    """Both are sent behind a turn, neither has seen the other: one is kept, the other one joins it."""
    async with at_work(tmp_path, gate) as (loop, sending), make(tmp_path, gate) as other:
        senders = {"here": (loop, loop), "elsewhere": (other, other), "both": (loop, other)}[where]
        waiting = [asyncio.ensure_future(one.send("two", "s", key="k", when_busy=mode)) for one in senders]
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(KeyConflict):
            await other.send("three", "s", key="k", when_busy=mode)
        gate.go.touch()
        first, second = await asyncio.wait_for(asyncio.gather(*waiting), PROMPT_SECONDS)
        assert (first.status, first.turn, first.input_seq) == (second.status, second.turn, second.input_seq)
        assert first.status == "completed"
        assert (await sending).status == "completed"
        assert (await kinds(loop)).count("input.received") == 2


async def test_one_key_for_a_turn_and_behind_it(tmp_path, gate):
    """Who took the session to begin a turn finds that the same input was left meanwhile: it drives that one."""
    async with make(tmp_path, gate) as loop, make(tmp_path, gate) as other:
        await loop.send("one", "s")
        await loop.send("two", "s")
        claim, left = loop._sink.claim, list[asyncio.Task]()

        async def slow(name, *known):
            state = await claim(name, *known)
            if not left:
                left.append(asyncio.ensure_future(other.send("three", "s", key="k", when_busy="queue")))
                while (await kinds(other)).count("input.received") < 3:
                    await asyncio.sleep(0.01)
            return state

        loop._sink.claim = slow
        loop._desk.live.clear()
        first = await asyncio.wait_for(loop.send("three", "s", key="k"), PROMPT_SECONDS)
        second = await asyncio.wait_for(left[0], PROMPT_SECONDS)
        assert (first.status, first.turn, first.seq) == ("completed", 3, second.seq)
        assert (await loop.state("s")).turns == 3


@pytest.mark.parametrize("mode", ["queue", "steer"])
async def test_a_key_holds_nothing_back(tmp_path, gate, mode, monkeypatch):
    """Only who would be told that the session is busy waits whether its key is about to appear."""
    monkeypatch.setattr("power_agent.loop.intake.LOOK_SECONDS", 3_600)
    async with at_work(tmp_path, gate) as (loop, sending):
        left = await asyncio.wait_for(loop.send("two", "s", key="k", when_busy=mode, wait=False), PROMPT_SECONDS)
        assert left.status == "waiting"
        gate.go.touch()
        await sending


async def test_a_closed_session_takes_nothing(tmp_path, gate):
    """Neither queued nor steered."""
    async with make(tmp_path, gate) as loop:
        await loop.send("x", "s")
        await loop.close_session("s")
        for mode in ("raise", "queue", "steer"):
            with pytest.raises(SessionClosed):
                await loop.send("y", "s", when_busy=mode)


async def test_closing_the_loop_leaves_what_waits(tmp_path, gate):
    """An interrupt stops the turn and everybody who waits; the inputs are kept, and a resume takes all of them."""
    async with make(tmp_path, gate) as loop:
        first = asyncio.ensure_future(loop.send("work", "s"))
        await gate.reached()
        second = asyncio.ensure_future(loop.send("later", "s", when_busy="queue"))
        while (await kinds(loop)).count("input.received") < 2:
            await asyncio.sleep(0.01)
    done, _ = await asyncio.wait([first, second], timeout=PROMPT_SECONDS)
    assert len(done) == 2
    gate.go.touch()
    async with make(tmp_path, gate) as loop:
        assert (await loop.resume("s")).status == "completed"
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).turns < 2 or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        await verified(loop)


# -- between processes -------------------------------------------------------------------------------------------------


def process_at_work(folder: Path) -> int:
    """Fork a process that works on a turn until it is let go, or killed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:

            async def life() -> None:
                async with make(folder, Gate(folder)) as loop:
                    await loop.send("work", "s")
                    async with asyncio.timeout(PROMPT_SECONDS):
                        while (await loop.state("s")).inputs or (await loop.state("s")).turn:
                            await asyncio.sleep(0.01)

            asyncio.run(life())
            status = 0
        except BaseException:  # noqa: BLE001  told below, by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


@pytest.mark.parametrize("mode", ["queue", "steer"])
def test_behind_another_process(tmp_path, gate, mode):
    """An input for a session that another process drives is kept, taken there, and its result read here."""
    pid = process_at_work(tmp_path)

    async def life() -> None:
        async with make(tmp_path, gate) as loop:
            await gate.reached()
            with pytest.raises(SessionBusy):
                await loop.send("now", "s")
            sending = asyncio.ensure_future(loop.send("later", "s", when_busy=mode, key="k"))
            while (await kinds(loop)).count("input.received") < 2:
                await asyncio.sleep(0.01)
            gate.go.touch()
            result = await asyncio.wait_for(sending, PROMPT_SECONDS)
            assert (result.status, result.turn, result.text) == ("completed", 2 if mode == "queue" else 1, "heard: work | later")
            assert "owner.changed" not in await kinds(loop)

    asyncio.run(life())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_taking_over_a_dead_owner_while_waiting(tmp_path, gate):
    """When the owner is killed, who waits for a queued input goes on with its turn, and then has its own."""
    pid = process_at_work(tmp_path)

    async def life() -> None:
        async with make(tmp_path, gate) as loop:
            await gate.reached()
            sending = asyncio.ensure_future(loop.send("later", "s", when_busy="queue"))
            while (await kinds(loop)).count("input.received") < 2:
                await asyncio.sleep(0.01)
            gate.go.touch()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            result = await asyncio.wait_for(sending, PROMPT_SECONDS)
            assert (result.status, result.turn, result.text) == ("completed", 2, "heard: work | later")
            await verified(loop)

    asyncio.run(life())


async def test_an_owner_that_leaves_in_the_middle_of_anothers_turn(tmp_path, gate):
    """Its own turn is over and its loop is closed while it drives what somebody else queued: who waits for that takes it up."""
    async with make(tmp_path, gate) as other:
        async with make(tmp_path, gate) as owner:
            first = asyncio.ensure_future(owner.send("work", "s"))
            await gate.reached()
            waiting = asyncio.ensure_future(other.send("hold", "s", when_busy="queue"))
            while (await kinds(other)).count("input.received") < 2:
                await asyncio.sleep(0.01)
            gate.go.touch()
            assert (await first).turn == 1
            while (await kinds(other)).count("call.started") < 2:
                await asyncio.sleep(0.01)
        gate.let_go.touch()
        result = await asyncio.wait_for(waiting, PROMPT_SECONDS)
        assert (result.status, result.turn) == ("completed", 2)
        await verified(other)


async def test_a_turn_that_begins_while_it_is_looked_for(tmp_path, gate, monkeypatch):
    """The state was read before the turn began, its number after: that is no turn that has ended."""
    async with make(tmp_path, gate) as owner, make(tmp_path, gate) as other:
        first = asyncio.ensure_future(owner.send("work", "s"))
        await gate.reached()
        look = other._sink.look

        async def late(name):
            state = await look(name)
            while gate.go.exists() and (await kinds(owner)).count("call.started") < 2:
                await asyncio.sleep(0.01)
            return state

        waiting = asyncio.ensure_future(other.send("hold", "s", when_busy="queue"))
        while (await kinds(owner)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(other._sink, "look", late)
        gate.go.touch()
        await first
        while (await kinds(owner)).count("call.started") < 2:
            await asyncio.sleep(0.01)
        gate.let_go.touch()
        assert (await asyncio.wait_for(waiting, PROMPT_SECONDS)).status == "completed"


async def test_who_waits_reads_what_came_and_no_more(tmp_path, gate, monkeypatch):
    """However long the past is, and however often the log is looked at."""
    async with at_work(tmp_path, gate) as (_, sending), make(tmp_path, gate) as other:
        looks, told, find, read = 0, list[int](), other.store.find, other.store.read

        async def counted(name):
            nonlocal looks
            looks += 1
            return await find(name)

        async def heard(*args, **more):
            records = await read(*args, **more)
            told.extend(record.seq for record in records)
            return records

        waiting = asyncio.ensure_future(other.send("two", "s", when_busy="queue"))
        while (await kinds(other)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        head = (await find("s")).head
        monkeypatch.setattr(other.store, "find", counted)
        monkeypatch.setattr(other.store, "read", heard)
        async with asyncio.timeout(PROMPT_SECONDS):
            while looks < 20:
                await asyncio.sleep(0.01)
        assert told == []
        gate.go.touch()
        await sending
        assert (await waiting).text.endswith("two")
        assert told.count(head + 1) == 1


@pytest.mark.parametrize("mode", ["queue", "steer"])
def test_an_open_turn_that_nobody_drives(tmp_path, gate, mode):
    """Killed before: an input is kept and said to wait; nothing is resumed in silence."""
    pid = process_at_work(tmp_path)

    async def life() -> None:
        async with make(tmp_path, gate) as loop:
            await gate.reached()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            before = await kinds(loop)
            with pytest.raises(SessionPending):
                await loop.send("later", "s")
            result = await loop.send("later", "s", when_busy=mode)
            assert (result.status, [call.state for call in result.pending]) == ("waiting", ["started"])
            assert await kinds(loop) == [*before, "input.received"]
            gate.go.touch()
            await loop.resume("s")
            async with asyncio.timeout(PROMPT_SECONDS):
                while (await loop.state("s")).inputs or (await loop.state("s")).turn:
                    await asyncio.sleep(0.01)
            assert "later" in str(await loop.messages("s"))

    asyncio.run(life())


@pytest.mark.parametrize("tools", [True, False])
def test_cancelling_a_turn_that_nobody_drives(tmp_path, gate, tools):
    """Its owner was killed: a cancel ends it here and now, and the next send works; a doubted call that nobody can judge stays."""
    pid = process_at_work(tmp_path)

    async def life() -> None:
        await gate.reached()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        async with StatefulAgentLoop(ScriptedModel(lambda _: "ok"), tools=gate.tools if tools else [], store=tmp_path / "agent.db") as loop:
            assert await loop.cancel("s", by="ada")
            before = await kinds(loop)
            if tools:
                assert await loop.cancel("s") is False
                assert (await loop.resume("s")).status == "cancelled"
                assert (await loop.send("next", "s")).text == "ok"
            else:
                assert await loop.cancel("s") is True
                assert await kinds(loop) == before, "the second time changes nothing"
                assert [call.state for call in await loop.pending("s")] == ["doubted"]
            await verified(loop)

    asyncio.run(life())


def test_sigterm_leaves_a_resumable_session(tmp_path, gate):
    """SIGTERM puts everything down: the turn is open, the session is free at once, and a resume completes it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:

        async def life() -> None:
            async with make(tmp_path, Gate(tmp_path)) as loop:
                loop.stop_on(signal.SIGTERM)
                await loop.send("work", "s")

        with contextlib.suppress(BaseException):
            asyncio.run(life())
        os._exit(7)

    async def after() -> None:
        await gate.reached()
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        async with make(tmp_path, gate) as loop:
            assert (await loop.sessions())[0].deadline == 0
            gate.go.touch()
            assert (await loop.resume("s")).status == "completed"

    asyncio.run(after())


@contextlib.asynccontextmanager
async def compacting(folder: Path) -> AsyncIterator[tuple[StatefulAgentLoop, asyncio.Task, asyncio.Event]]:
    """A loop that is in the middle of making the context of a session smaller, what does that, and what lets it go on."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def answer(request):
        if request.purpose == "summary":
            asked.set()
            await go.wait()
            return "What was said."
        return "word " * 300

    async with StatefulAgentLoop(ScriptedModel(answer), store=folder / "agent.db") as loop:
        for _ in range(5):
            await loop.send("word " * 200, "s")
        making = asyncio.ensure_future(loop.compact("s"))
        await asyncio.wait_for(asked.wait(), PROMPT_SECONDS)
        yield loop, making, go


async def test_of_many_who_wait_one_takes_up(tmp_path):
    """Whoever held the session gives it up; one of those who wait drives, and none of them is told that it is busy."""
    async with compacting(tmp_path) as (loop, making, go):
        waiting = [asyncio.ensure_future(loop.send(f"order {number}", "s", when_busy="queue")) for number in range(6)]
        while (await kinds(loop)).count("input.received") < 11:
            await asyncio.sleep(0.01)
        go.set()
        results = await asyncio.wait_for(asyncio.gather(*waiting), PROMPT_SECONDS)
        assert [result.status for result in results] == ["completed"] * 6
        assert sorted(result.turn for result in results) == [6, 7, 8, 9, 10, 11]
        assert await making
        await verified(loop)


@pytest.mark.parametrize("end", ["made", "cancelled", "failed"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_what_is_left_behind_a_compaction_has_its_turn(tmp_path, where, end, monkeypatch):
    """Nobody waits for it, and whoever held the session held it for something else: it is begun all the same."""
    async with compacting(tmp_path) as (loop, making, go), StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "agent.db") as other:
        left = await (loop if where == "here" else other).send("order", "s", when_busy="queue", wait=False)
        assert (left.status, left.turn) == ("waiting", 0)
        if end == "cancelled":
            making.cancel()
        if end == "failed":
            monkeypatch.setattr("power_agent.drive.summaries._summary_of", lambda _: 1 / 0)
        go.set()
        await asyncio.wait([making])
        assert making.cancelled() == (end == "cancelled")
        async with asyncio.timeout(PROMPT_SECONDS):
            while (state := await loop.state("s")).turn or state.inputs:
                await asyncio.sleep(0.01)
        assert state.turns == 6
        await verified(loop)


async def test_two_loops_on_one_file_in_one_process(tmp_path, gate):
    """They share the writer and fight for the session as two processes would; what one queues the other drives."""
    async with at_work(tmp_path, gate) as (one, first), make(tmp_path, gate) as two:
        with pytest.raises(SessionBusy):
            await two.send("now", "s")
        second = asyncio.ensure_future(two.send("later", "s", when_busy="queue"))
        while (await kinds(one)).count("input.received") < 2:
            await asyncio.sleep(0.01)
        gate.go.touch()
        assert [(result.turn, result.status) for result in await asyncio.gather(first, second)] == [(1, "completed"), (2, "completed")]
        await verified(two)
