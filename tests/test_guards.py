"""Guards look before something happens; they change or refuse it, what they decide is kept, and nothing is lost or doubled by them."""

import asyncio

import pytest
from processes import PROMPT_SECONDS

from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop, Text, tool
from power_agent.errors import InputRefused, InvalidInput, StoreClosed
from power_agent.guards import guard
from power_agent.policy import Change, Refuse


@tool(recovery="rerun")
def look(place: str) -> str:
    return f"{place} is fine"


def make(model, *guards, **options) -> StatefulAgentLoop:
    return StatefulAgentLoop(model, tools=[look], store=options.pop("store", ":memory:"), guards=guards, **options)


async def decided(loop, session="s") -> list[tuple]:
    return [(kept.event.guard, kept.event.at, kept.event.verdict, kept.event.reason) for kept in await loop.history(session, kinds=["guard.decided"])]


async def kinds(loop, session="s") -> list[str]:
    return [kept.kind for kept in await loop.history(session)]


def thinking(function, place):
    """The same guard, once at once and once after a while."""

    async def later(subject):
        await asyncio.sleep(0.001)
        return function(subject)

    later.__name__ = function.__name__
    return guard(place)(later)


BOTH = pytest.mark.parametrize("wrap", [lambda function, place: guard(place)(function), thinking], ids=["at once", "thinking"])

# -- input -------------------------------------------------------------------------------------------------------------


@BOTH
async def test_an_input_can_be_changed(wrap):
    """The model and the log see what the guard made of it; the same key still is the same input."""

    def mask(incoming):
        return Change(to=[Text(part.text.replace("4711", "****")) for part in incoming.parts], reason="no numbers")

    model = ScriptedModel(["ok"])
    async with make(model, wrap(mask, "input")) as loop:
        first = await loop.send("my pin is 4711", "s", key="k")
        assert model.requests[0].messages[-1].text == "my pin is ****"
        assert "4711" not in str(await loop.history("s"))
        assert await decided(loop) == [("mask", "input", "changed", "no numbers")]
        assert (await loop.history("s"))[first.input_seq - 1].kind == "input.received"
        assert await loop.send("my pin is 4711", "s", key="k") == first


@BOTH
async def test_an_input_can_be_refused(wrap):
    """It raises, nothing of it is kept but the refusal, and the session goes on."""

    def no(incoming):
        return Refuse("not in here") if "secret" in incoming.parts[0].text else None

    async with make(ScriptedModel(["ok", "still here"]), wrap(no, "input")) as loop:
        with pytest.raises(InputRefused, match="not in here"):
            await loop.send("secret", "s")
        assert await loop.sessions() == []
        await loop.send("x", "s")
        with pytest.raises(InputRefused):
            await loop.send("secret", "s")
        assert await decided(loop) == [("no", "input", "refused", "not in here")]
        assert "secret" not in str(await loop.history("s"))
        assert (await loop.send("y", "s")).text == "still here"
        stream = loop.stream("secret", "s")
        with pytest.raises(InputRefused):
            await anext(stream)
        assert [wrong async for wrong in loop.verify()] == []


@pytest.mark.parametrize("verdict", [ValueError("broken"), "yes", Change(to=[]), Change(to=7)])
async def test_a_broken_guard_of_inputs_refuses(verdict):
    """What could not be looked at is not taken; nonsense is no verdict."""

    @guard("input")
    def broken(_):
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async with make(ScriptedModel(["ok"]), broken) as loop:
        with pytest.raises(InputRefused):
            await loop.send("x", "s")


async def test_a_guard_of_inputs_that_hangs_is_stopped():
    """The time of a turn is its time, too; who cancels the send is obeyed; when the loop is closed, who waits for it is told so."""
    stopped = 0

    @guard("input")
    async def hangs(_incoming):
        nonlocal stopped
        try:
            await asyncio.sleep(1000)
        finally:
            stopped += 1

    @guard("input")
    async def late(_incoming):
        raise TimeoutError("its own")

    async with make(ScriptedModel(["ok"]), hangs, limits=Limits(max_turn_seconds=0.05)) as loop:
        with pytest.raises(InputRefused, match=r"had not decided after 0\.05 s"):
            await loop.send("x", "s")
    async with make(ScriptedModel(["ok"]), late, limits=Limits(max_turn_seconds=10)) as loop:
        with pytest.raises(InputRefused, match="its own"):
            await loop.send("x", "s")
    async with make(ScriptedModel(["ok"]), hangs) as loop:
        cancelled, closed = (asyncio.create_task(loop.send("x", session)) for session in "ab")
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
    async with asyncio.timeout(PROMPT_SECONDS):
        with pytest.raises(StoreClosed):
            await closed
    assert stopped == 3


async def test_a_guard_of_inputs_that_is_cancelled_from_within_refuses():
    """Nobody cancelled who sends. What a guard waits for together with others is not cancelled with one of them."""
    shared = asyncio.get_running_loop().create_future()

    @guard("input")
    def at_once(_incoming):
        raise asyncio.CancelledError

    @guard("input")
    async def later(_incoming):
        raise asyncio.CancelledError

    @guard("input")
    def together(_incoming):
        return shared

    for one in (at_once, later):
        async with make(ScriptedModel(["ok"]), one) as loop:
            with pytest.raises(InputRefused, match="cancelled from within"):
                await loop.send("x", "s")
    async with make(ScriptedModel(["ok"]), together) as loop:
        first, second = (asyncio.create_task(loop.send("x", session)) for session in "ab")
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        shared.set_result(None)
        assert (await second).text == "ok"


# -- model -------------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_request_can_be_changed(wrap):
    """Settings and system prompt, for this request; the log says so, and what follows is asked about anew."""

    def colder(asking):
        return Change(to={"settings": {"temperature": 0}, "system": "Be brief."}, reason="cold") if asking.round == 1 else None

    model = ScriptedModel([[Call("look", {"place": "home"})], "done"])
    async with make(model, wrap(colder, "model"), settings={"top_p": 1}, system="Be kind.") as loop:
        await loop.send("x", "s")
        assert [(request.system, request.settings) for request in model.requests] == [("Be brief.", {"top_p": 1, "temperature": 0}), ("Be kind.", {"top_p": 1})]
        assert await decided(loop) == [("colder", "model", "changed", "cold")]


@BOTH
async def test_a_request_can_be_refused(wrap):
    """No byte leaves; the turn fails and says why, and the next one works."""

    def no(asking):
        return Refuse("too late at night") if asking.turn == 1 else None

    model = ScriptedModel(lambda _: "ok")
    async with make(model, wrap(no, "model")) as loop:
        result = await loop.send("x", "s")
        assert (result.status, len(model.requests)) == ("failed", 0)
        assert "too late at night" in result.failure.message
        assert await decided(loop) == [("no", "model", "refused", "too late at night")]
        assert (await loop.send("y", "s")).text == "ok"
        assert [wrong async for wrong in loop.verify()] == []


@pytest.mark.parametrize("verdict", [ValueError("broken"), "yes", Change(to={"messages": []}), Change(to=7)])
async def test_a_broken_guard_of_requests_refuses(verdict):
    """Also one that wants to change what is the log's."""

    @guard("model")
    def broken(_):
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    model = ScriptedModel(["ok"])
    async with make(model, broken) as loop:
        assert (await loop.send("x", "s")).status == "failed"
        assert model.requests == []


# -- call --------------------------------------------------------------------------------------------------------------


@BOTH
async def test_arguments_can_be_changed(wrap):
    """What runs is what the guard made of it, and the log says so."""

    def elsewhere(wanted):
        return Change({"place": "work"}, "not at home")

    async with make(ScriptedModel([[Call("look", {"place": "home"})], "done"]), wrap(elsewhere, "call")) as loop:
        result = await loop.send("x", "s")
        assert result.calls[0].output == "work is fine"
        assert await decided(loop) == [("elsewhere", "call", "changed", "not at home")]


# -- end ---------------------------------------------------------------------------------------------------------------


@BOTH
async def test_an_end_can_be_held_up(wrap):
    """The reason goes back to the model as a note, until the guard is satisfied."""

    def complete(ending):
        return None if "tests pass" in ending.text else Refuse("run the tests first")

    model = ScriptedModel(["done", "done: tests pass"])
    async with make(model, wrap(complete, "end")) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.text) == ("completed", "done: tests pass")
        assert model.requests[1].messages[-1].text == "[Note from the harness] Not finished yet: run the tests first"
        assert await decided(loop) == [("complete", "end", "refused", "run the tests first")]


async def test_an_end_is_held_up_a_bounded_number_of_times():
    """A check that can never be satisfied does not keep the model busy for ever; the next turn counts anew."""

    @guard("end")
    def never(ending):
        return Refuse(f"objection {ending.objections + 1}")

    model = ScriptedModel(lambda _: "done")
    async with make(model, never) as loop:
        assert (await loop.send("x", "s")).status == "completed"
        assert len(model.requests) == 4
        assert [reason for *_, reason in await decided(loop)] == ["objection 1", "objection 2", "objection 3"]
        await loop.send("y", "s")
        assert len(model.requests) == 8


async def test_a_broken_guard_of_ends_is_passed_over(caplog):
    """It holds nothing up, and is logged."""

    @guard("end")
    def broken(_):
        raise ValueError("broken")

    async with make(ScriptedModel(["done"]), broken) as loop:
        assert (await loop.send("x", "s")).status == "completed"
    assert "broken" in caplog.text


async def test_objections_are_counted_over_a_restart(tmp_path):
    """They are facts: a process that is killed between two of them does not begin anew."""

    @guard("end")
    def never(_):
        return Refuse("no")

    gone = ScriptedModel(["one", "two"])  # its script ends: the turn fails after two objections
    async with make(gone, never, store=tmp_path / "agent.db") as loop:
        assert (await loop.send("x", "s")).status == "failed"
        assert len(await decided(loop)) == 2
        state = await loop.state("s", at=next(kept.seq for kept in reversed(await loop.history("s", kinds=["guard.decided"]))))
        assert state.turn.objections == 2


def test_there_are_four_places():
    """A guard of anything else is a mistake, said at once."""
    with pytest.raises(InvalidInput, match="input, model, call, end"):
        guard("output")


async def test_a_guard_that_thinks_while_the_turn_is_cancelled():
    """A guard's long thought does not hold up a cancel for ever, and nothing runs after it."""
    thinks = asyncio.Event()

    @guard("model")
    async def slow(asking):
        if asking.round == 2:
            thinks.set()
            await asyncio.sleep(0.2)

    model = ScriptedModel([[Call("look", {"place": "home"})], "done"])
    async with make(model, slow) as loop:
        sending = asyncio.ensure_future(loop.send("x", "s"))
        await thinks.wait()
        assert await loop.cancel("s")
        assert (await sending).status == "cancelled"
        assert len(model.requests) == 1
        assert [wrong async for wrong in loop.verify()] == []


def asking_for(place) -> ScriptedModel:
    """A model that makes a call where calls are guarded."""
    return ScriptedModel([[Call("look", {"place": "home"})], "done"] if place == "call" else ["done"])


def hanging(place, thinks):
    """A guard that comes to nothing."""

    @guard(place)
    async def hangs(_subject):
        thinks.set()
        await asyncio.sleep(3_600)

    return hangs


@pytest.mark.parametrize("place", ["model", "call", "end"])
async def test_a_guard_that_hangs_is_stopped_by_a_cancel(place):
    """The turn ends at once, and what was guarded did not happen."""
    thinks, model = asyncio.Event(), asking_for(place)
    async with make(model, hanging(place, thinks)) as loop, asyncio.timeout(20):
        sending = asyncio.ensure_future(loop.send("x", "s"))
        await thinks.wait()
        assert await loop.cancel("s")
        assert (await sending).status == "cancelled"
        await nothing_went_through(loop, model, place)


@pytest.mark.parametrize("place", ["model", "call", "end"])
async def test_a_guard_that_hangs_is_stopped_by_the_turns_deadline(place):
    """The turn ends at its limit, what was guarded did not happen, and a request that was not sent costs nothing."""
    thinks, model = asyncio.Event(), asking_for(place)
    async with make(model, hanging(place, thinks), limits=Limits(max_turn_seconds=0.3)) as loop, asyncio.timeout(20):
        result = await loop.send("x", "s")
        assert (result.status, result.reason) == ("limit", "max_turn_seconds")
        await nothing_went_through(loop, model, place)


async def nothing_went_through(loop, model, place) -> None:
    assert len(model.requests) == (0 if place == "model" else 1)
    assert "call.started" not in await kinds(loop)
    assert [kept.event.status for kept in await loop.history("s", kinds=["turn.ended"])] != ["completed"]
    assert (await loop.state("s")).spent.lost_tokens == 0
    assert [wrong async for wrong in loop.verify()] == []


@pytest.mark.parametrize("place", ["model", "call", "end"])
@pytest.mark.parametrize("later", [False, True], ids=["at once", "thinking"])
async def test_a_guard_that_is_cancelled_from_within_failed(place, later):
    """`CancelledError` in a guard, though nobody cancelled anything, is its failure: it refuses, at the end it is passed over."""

    def broken(_subject):
        raise asyncio.CancelledError

    async def thinks(subject):
        broken(subject)

    model = asking_for(place)
    async with make(model, guard(place)(thinks if later else broken)) as loop, asyncio.timeout(20):
        result = await loop.send("x", "s")
        assert (result.status, len(model.requests)) == {"model": ("failed", 0), "call": ("completed", 2), "end": ("completed", 1)}[place]
        assert "call.started" not in await kinds(loop)


@pytest.mark.parametrize("guards", [{"input": lambda _subject: None}, lambda _subject: None, ["input"], [None], 7])
def test_what_is_no_list_of_functions_is_refused(guards):
    """A mapping would be silently no guard at all."""
    with pytest.raises(InvalidInput, match=r"[Gg]uards"):
        StatefulAgentLoop(ScriptedModel([]), store=":memory:", guards=guards)
