"""A chain of models under real faults on loopback: who answers, who is left alone for how long, and that the log tells all of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable

import pytest
from servers import ChatServer, OllamaServer
from vendors import AnthropicServer, GeminiServer, ResponsesServer
from wires import asked

from power_agent import Call, ModelError, ScriptedModel, StatefulAgentLoop, failpoints, tool
from power_agent.clock import HeldClock
from power_agent.errors import ContextTooLong, InvalidInput
from power_agent.models import Failover, Pace, model
from power_agent.models.anthropic import Anthropic
from power_agent.models.circuit import Circuit, line_to
from power_agent.models.gemini import Gemini
from power_agent.models.http import HTTPModel
from power_agent.models.ollama import Ollama
from power_agent.models.openai_chat import OpenAIChat
from power_agent.models.openai_responses import OpenAIResponses
from power_agent.ports import SoFar, Tried
from power_agent.testing.speaking import Loopback, Said, body, head, in_turn, saying, stopping
from power_agent.wire import Bounds

SERVER = ChatServer()


def saying_so(text: str):
    return saying(head(media_type=SERVER.media_type), *SERVER.stream(Said(text=text)))


def refusing(status: int, **headers: str):
    return body(status, SERVER.error("No."), **headers)


def http(server: Loopback, name: str, **options) -> HTTPModel:
    return HTTPModel(OpenAIChat(), "m", base_url=server.url, name=name, **options)


async def attempts(loop: StatefulAgentLoop, session: str = "s") -> list[tuple[str, str]]:
    """Who was asked, and what came of it, in order."""
    kept = [one.event for one in await loop.history(session, kinds=["model.asked", "model.answered", "model.failed"])]
    told = {"model.answered": lambda _: "answered", "model.failed": lambda event: "failed" if event.not_before is None else "failed, goes on"}
    return [(first.model, told[then.kind](then)) for first, then in itertools.pairwise(kept) if first.kind == "model.asked" and then.kind in told]


class Chain:
    """Two servers, a chain over them, a loop over the chain, and a clock in the hand."""

    def __init__(self, first, second, path, **options) -> None:
        self.clock = HeldClock()
        self.first, self.second = Loopback(first), Loopback(second)
        self._path, self._options = path, options
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        await self._stack.enter_async_context(self.first)
        await self._stack.enter_async_context(self.second)
        self.models = [http(self.first, "a:m"), http(self.second, "b:m")]
        for one in self.models:
            self._stack.push_async_callback(one.aclose)
        self.chain = Failover(self.models, clock=self.clock)
        self.loop = await self._stack.enter_async_context(StatefulAgentLoop(self.chain, store=self._path / "log.db", clock=self.clock, **self._options))
        return self

    async def __aexit__(self, *error) -> None:
        await self._stack.aclose()


async def test_a_killed_server_is_passed_over_and_the_next_one_kept(tmp_path):
    """The switch is in the log: an attempt of the one that died, the next of the other; and the session stays with who answered last."""
    async with Chain(saying_so("first"), saying_so("second"), tmp_path) as scene:
        assert (await scene.loop.send("1", "s")).text == "first"
        await scene.first.__aexit__(None, None, None)
        assert (await scene.loop.send("2", "s")).text == "second"
        assert (await scene.loop.send("3", "s")).text == "second"
        assert await attempts(scene.loop) == [("a:m", "answered"), ("a:m", "failed, goes on"), ("b:m", "answered"), ("b:m", "answered")]
        failed = (await scene.loop.history("s", kinds=["model.failed"]))[0]
        assert (failed.event.not_before, failed.event.retryable) == (failed.at, True), "nobody waits while another one can answer"
        assert [fault async for fault in scene.loop.verify()] == []


async def test_a_storm_of_refusals_cools_down_for_all_sessions(tmp_path):
    """A server that wants to be left alone for half a minute is, by every session; then one asks again, and then all do."""
    async with Chain(refusing(429, retry_after="30"), saying_so("second"), tmp_path) as scene:

        async def wave(name: str) -> set[str]:
            return {result.text for result in await asyncio.gather(*(scene.loop.send("Hello.", f"{name} {number}") for number in range(20)))}

        assert await wave("first") == {"second"}
        under_way = len(scene.first.asked)
        assert 1 <= under_way <= 20
        assert await wave("second") == {"second"}
        scene.clock.move(27)
        assert await wave("third") == {"second"}
        assert len(scene.first.asked) == under_way
        scene.clock.move(3)
        assert await wave("fourth") == {"second"}
        assert len(scene.first.asked) == under_way + 1
        scene.clock.move(30)
        scene.first.reply = saying_so("first")
        assert (await scene.loop.send("Hello.", "later")).text == "first"
        assert await wave("fifth") == {"first"}
        assert (await scene.loop.send("Hello.", "first 0")).text == "second", "a session stays where its provider knows it"


async def test_where_all_want_to_be_left_alone_the_shortest_wait_is_kept(tmp_path):
    """Nobody can answer: the wait stands in the log, it is as long as the shortest that was asked for, and that one is asked next."""
    async with Chain(refusing(429, retry_after="300"), in_turn(refusing(429, retry_after="40"), saying_so("second")), tmp_path) as scene:
        assert (await scene.loop.send("Hello.", "s")).text == "second"
        assert await attempts(scene.loop) == [("a:m", "failed, goes on"), ("b:m", "failed, goes on"), ("b:m", "answered")]
        first, second = await scene.loop.history("s", kinds=["model.failed"])
        last = (await scene.loop.history("s", kinds=["model.asked"]))[-1]
        assert first.event.not_before == first.at
        assert 39_500 <= second.event.not_before - second.at <= 40_000
        assert last.at >= second.event.not_before
        assert len(scene.first.asked) == 1


async def test_a_circuit_opens_and_lets_one_try(tmp_path):
    """After three faults in a row nobody asks; after a while one does, and when that fails it is left alone for twice as long."""
    async with Chain(refusing(503), saying_so("second"), tmp_path) as scene:

        async def ask(*names: str) -> int:
            before = len(scene.first.asked)
            await asyncio.gather(*(scene.loop.send("Hello.", name) for name in names))
            return len(scene.first.asked) - before

        assert [await ask(f"s{number}") for number in range(6)] == [1, 1, 1, 0, 0, 0]
        scene.clock.move(5)
        assert await ask(*(f"at once {number}" for number in range(10))) == 1
        scene.clock.move(5)
        assert await ask("too soon") == 0
        scene.clock.move(5)
        scene.first.reply = saying_so("first")
        assert await ask("now") == 1
        assert await ask("again", "and again") == 2
        assert [one.event.model for one in await scene.loop.history("now", kinds=["model.asked"])] == ["a:m"]


async def test_a_slow_start_lets_the_next_one_answer(tmp_path):
    """A server that takes the request and says nothing is a fault like any other."""
    async with Loopback(stopping()) as slow, Loopback(saying_so("second")) as fine:
        models = [model("vllm:slow", base_url=slow.url, bounds=Bounds(first_byte_seconds=0.1)), http(fine, "fine:m")]
        async with StatefulAgentLoop(Failover(models), store=tmp_path / "log.db") as loop:
            assert (await loop.send("Hello.", "s")).text == "second"
            assert await attempts(loop) == [("vllm:slow", "failed, goes on"), ("fine:m", "answered")]
        for one in models:
            await one.aclose()


async def test_half_an_answer_is_taken_back(tmp_path):
    """What was glimpsed of a stream that broke is void, and the next one says all of it."""
    begun = saying(head(media_type=SERVER.media_type), *SERVER.stream(Said(text="first half"))[:2])
    async with Chain(begun, saying_so("whole"), tmp_path) as scene:
        seen = [(one.kind, one.text) async for one in scene.loop.stream("Hello.", "s") if hasattr(one, "text")]
        kinds = [kind for kind, _ in seen]
        assert "void" in kinds
        assert "".join(text for kind, text in seen[kinds.index("void") + 1 :] if kind == "text") == "whole"


KEYS = ("sk-first-secret-key", "sk-second-secret-key")


async def test_a_refused_key_lets_the_next_key_ask(tmp_path):
    """One key is shut out for a while, the other asks at once; the log tells them apart by number, and holds neither."""

    async def doorman(asking, writer):
        await (saying_so("come in") if asking.headers["authorization"].endswith(KEYS[1]) else refusing(401))(asking, writer)

    async with Loopback(doorman) as server:
        models = [http(server, "a:m", key=key) for key in KEYS]
        async with StatefulAgentLoop(Failover(models), store=tmp_path / "log.db") as loop:
            for name in ("s", "t"):
                assert (await loop.send("Hello.", name)).text == "come in"
            assert await attempts(loop, "s") == [("a:m", "failed, goes on"), ("a:m#2", "answered")]
            assert await attempts(loop, "t") == [("a:m#2", "answered")], "the key is known to be refused"
        for one in models:
            await one.aclose()
    assert not any(key.encode() in path.read_bytes() for key in KEYS for path in tmp_path.iterdir())


async def test_who_is_aside_is_asked_when_there_is_nobody_else(tmp_path):
    """All keys were refused and somebody mended it: the next turn does not wait for a time that nobody asked for."""
    async with Chain(in_turn(refusing(401), saying_so("mended")), refusing(403), tmp_path) as scene:
        assert (await scene.loop.send("Hello.", "s")).status == "failed"
        before = scene.clock.elapsed()
        assert (await scene.loop.send("Again.", "s")).text == "mended"
        assert scene.clock.elapsed() - before < 1
        assert (len(scene.first.asked), len(scene.second.asked)) == (2, 1)
        assert (await scene.loop.send("Hello.", "t")).text == "mended"
        assert len(scene.second.asked) == 1


async def test_who_says_no_for_good_is_not_asked_again(tmp_path):
    """One finds the request itself wrong, the other is in trouble: only that one is asked until the attempts are used up."""
    async with Chain(refusing(400), refusing(503), tmp_path) as scene:
        assert (await scene.loop.send("Hello.", "s")).status == "failed"
        told = await attempts(scene.loop)
        assert (len(told), len(scene.first.asked)) == (6, 1)
        assert told[0] == ("a:m", "failed, goes on")
        assert {name for name, _ in told[1:]} == {"b:m"}
        assert told[-1] == ("b:m", "failed")


async def test_when_all_say_no_for_good_the_turn_fails_at_once(tmp_path):
    async with Chain(refusing(400), refusing(404), tmp_path) as scene:
        result = await scene.loop.send("Hello.", "s")
        assert (result.status, await attempts(scene.loop)) == ("failed", [("a:m", "failed, goes on"), ("b:m", "failed")])


def test_a_resume_knows_who_was_tried(tmp_path):
    """Killed behind the first one's failure, with the second one asked in the same commit: the next process asks the second one again,
    whose fault it was not, and stays with it.
    """

    def scripted(name: str, *lines) -> ScriptedModel:
        return ScriptedModel(lambda request: lines[min(request.attempt, len(lines)) - 1], name=name)

    def chain() -> Failover:
        return Failover([scripted("a:m", ModelError("Busy.", retryable=True)), scripted("b:m", "from b")])

    async def live() -> None:
        async with StatefulAgentLoop(chain(), store=tmp_path / "log.db") as loop:
            await loop.send("Hello.", "s")

    pid = os.fork()
    if pid == 0:
        failpoints._ARMED = "after:model.failed"
        with contextlib.suppress(BaseException):
            asyncio.run(live())
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    async def after() -> None:
        async with StatefulAgentLoop(chain(), store=tmp_path / "log.db") as loop:
            state = await loop.state("s")
            assert state.turn.tried == (Tried(model="a:m"),)
            assert (await loop.resume("s")).text == "from b"
            assert (await loop.send("Again.", "s")).text == "from b"
            assert [(one.event.model, one.event.attempt) for one in await loop.history("s", kinds=["model.asked"])] == [("a:m", 1), ("b:m", 2), ("b:m", 3), ("b:m", 1)]

    asyncio.run(after())


async def test_a_cancel_waits_for_nobody(tmp_path):
    """All are left alone for an hour; a cancel ends the turn now."""
    async with Loopback(refusing(429, retry_after="3600")) as server:
        chain = Failover([http(server, "a:m"), http(server, "b:m")])
        async with StatefulAgentLoop(chain, store=tmp_path / "log.db") as loop, asyncio.timeout(30):
            sending = asyncio.ensure_future(loop.send("Hello.", "s"))
            while len(server.asked) < 2:
                await asyncio.sleep(0.01)
            assert await loop.cancel("s", reason="enough")
            assert (await sending).status == "cancelled"
        for one in chain.members:
            await one.aclose()


async def test_a_summary_moves_on_too(tmp_path):
    """The model for summaries may be a chain: its attempts are in the log by their own names."""
    cheap = Failover([ScriptedModel([ModelError("Busy.", retryable=True)], name="a:small"), ScriptedModel(lambda _: "All was said.", name="b:small")])
    async with StatefulAgentLoop(ScriptedModel(lambda _: "word " * 300), models={"summary": cheap}, store=tmp_path / "log.db") as loop:
        for number in range(8):
            await loop.send(f"{number} " * 50, "s")
        await loop.compact("s")
        asked_for = [one.event.model for one in await loop.history("s", kinds=["model.asked"]) if one.event.purpose == "summary"]
        assert asked_for == ["a:small", "b:small"]
        assert len(await loop.history("s", kinds=["context.compacted"])) == 1


async def test_without_a_loop_a_chain_answers_too():
    """`ask` goes through the chain by itself; what it raises in the end is the last one's error."""
    chain = Failover([ScriptedModel([ModelError("No.")], name="a:m"), ScriptedModel(["Yes."], name="b:m")])
    assert (await chain.ask(asked(), lambda kind, text: None)).parts[0].text == "Yes."
    with pytest.raises(ModelError, match="Neither"):
        await Failover([ScriptedModel([ModelError("No.")]), ScriptedModel([ModelError("Neither.")])]).ask(asked(), lambda kind, text: None)


@pytest.mark.parametrize(("error", "said"), [(ZeroDivisionError("oops"), "ZeroDivisionError: oops"), (asyncio.CancelledError("oops"), "CancelledError: oops")])
async def test_a_broken_adapter_is_passed_over(error, said, tmp_path):
    """What it raises is no word of a server's, and no interrupt: the next one answers, and the error is in the log."""
    chain = Failover([ScriptedModel([error], name="a:m"), ScriptedModel(lambda _: "Yes.", name="b:m")])
    async with StatefulAgentLoop(chain, store=tmp_path / "log.db") as loop:
        assert (await loop.send("Hello.", "s")).text == "Yes."
        assert await attempts(loop) == [("a:m", "failed, goes on"), ("b:m", "answered")]
        assert (await loop.history("s", kinds=["model.failed"]))[0].event.failure.message == said


async def test_a_context_that_is_too_long_stays_where_it_is(tmp_path):
    """Another model may read more, but what mends it is a compaction: the error is not moved on."""
    chain = Failover([ScriptedModel([ContextTooLong("Too long.")], name="a:m"), ScriptedModel(["Yes."], name="b:m")])
    with pytest.raises(ContextTooLong) as caught:
        await chain.choose(SoFar()).ask(asked(), lambda kind, text: None)
    assert caught.value.again_in is None


# -- what moves from one format to another ---------------------------------------------------------------------------------

FORMS = {
    "anthropic": (Anthropic, AnthropicServer, "EqQB+/=="),
    "openai-responses": (OpenAIResponses, ResponsesServer, "gAAA+/=="),
    "openai-chat": (OpenAIChat, ChatServer, "reasoning_content"),
    "gemini": (Gemini, GeminiServer, "Eq+/"),
    "ollama": (Ollama, OllamaServer, None),
}


@tool(recovery="rerun")
def look(place: str) -> str:
    """Look at a place."""
    return f"{place} is nice"


@pytest.mark.parametrize(("here", "there"), list(itertools.permutations(FORMS, 2)))
async def test_a_turn_moves_between_any_two_formats(here, there, tmp_path):
    """One thinks, signs, calls a tool and dies; the other goes on with the result in the middle of the turn, and is sent nothing that the
    first one signed or named. When that one dies, too, the first gets back what is its own.
    """
    (form, serve, signature), (other, serve_other, _) = FORMS[here], FORMS[there]
    first, second = serve(), serve_other()
    calling = Said(reasoning="Let me think.", calls=(Call("look", {"place": "Rome"}, provider_id="provider_id_1"),))
    begun = saying(head(media_type=first.media_type), *first.stream(calling))
    ended = saying(head(media_type=second.media_type), *second.stream(Said(text="It is nice.")))
    again = saying(head(media_type=first.media_type), *first.stream(Said(text="Welcome back.")))
    dead, clock = body(503, {"error": {"message": "down"}}), HeldClock()
    async with Loopback(in_turn(begun, dead, again)) as a, Loopback(in_turn(ended, dead)) as b:
        models = [HTTPModel(form(), "m", base_url=a.url, name="a:m"), HTTPModel(other(), "m", base_url=b.url, name="b:m")]
        async with StatefulAgentLoop(Failover(models, clock=clock), tools=[look], store=tmp_path / "log.db", clock=clock) as loop:
            assert (await loop.send("Go.", "s")).text == "It is nice."
            assert (await loop.send("Go on.", "s")).text == "Welcome back."
            assert [one.event.model for one in await loop.history("s", kinds=["model.asked"])] == ["a:m", "a:m", "b:m", "b:m", "a:m"]
        for one in models:
            await one.aclose()
    moved, back = b.asked[0], a.asked[-1]
    second.check(moved.json)
    first.check(back.json)
    assert any("Rome is nice" in result for result in second.results(moved.json))
    assert "provider_id_1" not in moved.body.decode()
    assert signature is None or signature not in moved.body.decode()
    assert signature is None or signature in back.body.decode()


# -- how well something is -------------------------------------------------------------------------------------------------


def test_a_circuit_by_itself():
    """Closed, open, one trial, twice as long, closed again; those who were under way when it opened say nothing new."""
    circuit = Circuit()
    for _ in range(3):
        assert circuit.claim(0.0, "a")
        circuit.fault(0.0)
    assert (circuit.wait(0.0), circuit.claim(4.9, "a")) == (5.0, False)
    for _ in range(50):
        circuit.fault(1.0)
    assert circuit.wait(1.0) == 4.0
    assert [circuit.claim(5.0, who) for who in "abab"] == [True, False, True, False]
    assert (circuit.wait(5.0, "a"), circuit.wait(5.0, "b"), circuit.claim(34.9, "b"), circuit.claim(35.0, "b")) == (0.0, 30.0, False, True)
    circuit.leave("a")
    assert not circuit.claim(35.0, "a")
    circuit.leave("b")
    assert circuit.claim(35.0, "a"), "a trial that was cancelled leaves room for the next"
    circuit.fault(35.0)
    assert circuit.wait(35.0) == 10.0
    circuit.trip(35.0, 100.0)
    assert circuit.wait(35.0) == 100.0
    circuit.well()
    assert [circuit.claim(35.0, who) for who in "ab"] == [True, True]


async def test_loops_of_one_process_share_what_they_find_out(tmp_path):
    """A key that has to wait has to wait in every chain that uses it; another key at the same address does not."""
    clock = HeldClock()
    async with Loopback(in_turn(refusing(429, retry_after="60"), saying_so("yes"))) as server, contextlib.AsyncExitStack() as stack:
        spare = ScriptedModel(lambda _: "spare", name="spare:m")
        texts = []
        for number, key in enumerate((KEYS[0], KEYS[0], KEYS[1])):
            one = http(server, "a:m", key=key)
            stack.push_async_callback(one.aclose)
            loop = await stack.enter_async_context(StatefulAgentLoop(Failover([one, spare], clock=clock), store=tmp_path / f"{number}.db", clock=clock))
            texts.append((await loop.send("Hello.", "s")).text)
        assert (texts, len(server.asked)) == (["spare", "spare", "yes"], 2)


def test_an_address_has_one_circuit_for_the_whole_process():
    one, other = line_to("http://127.0.0.1:1/v1"), line_to("http://127.0.0.1:1/other")
    assert one is other
    assert line_to("http://127.0.0.1:2/v1") is not one
    assert line_to(None) is not line_to(None)


def test_a_chain_knows_what_its_models_know():
    """The smallest window and the highest price; none where anybody's is unknown. Names are told apart; chains in a chain are one."""

    class Known(ScriptedModel):
        def __init__(self, name, window, price):
            super().__init__([], name=name)
            self.context_window, self.cost = window, lambda usage: price

    inner = Failover([Known("a:m", 1_000, 5), Known("a:m", 500, 7)])
    chain = Failover([inner, Known("b:m", None, 6)])
    assert (chain.name, chain.context_window, chain.cost(None), chain.unpriced, chain.attempts) == ("a:m,a:m#2,b:m", 500, 7, (), 6)
    assert Failover([chain, ScriptedModel([], name="c:m")]).unpriced == ("c:m",)
    assert Failover([chain, ScriptedModel([], name="c:m")]).cost(None) is None
    assert Failover([Known("a:m", 1_000, 5)], context_window=9).context_window == 9
    assert Failover([Known("a:m", 1, 1)] * 5).attempts == 10
    with pytest.raises(InvalidInput, match="without models"):
        Failover([])


# -- at most so many in a minute -------------------------------------------------------------------------------------------


def test_places_are_booked_one_behind_the_other():
    """Three requests a minute: the fourth waits for the first one's minute to be over, the seventh for the fourth's."""
    clock = HeldClock()
    pace = Pace(requests_per_minute=3, clock=clock)
    assert [pace.book(1).at for _ in range(7)] == [0.0, 0.0, 0.0, 60.0, 60.0, 60.0, 120.0]
    clock.move(130)
    assert pace.wait() == 0.0


def test_tokens_are_counted_as_they_were_used():
    """A place is booked for an estimate; what was used counts from then on. One request that is larger than the limit goes alone."""
    clock = HeldClock()
    pace = Pace(tokens_per_minute=100, clock=clock)
    first = pace.book(80)
    assert pace.wait(30) == 60.0
    first.tokens = 10
    assert pace.wait(30) == 0.0
    assert pace.book(1_000).at == 60.0
    assert pace.book(1).at == 120.0
    with pytest.raises(InvalidInput, match="requests_per_minute"):
        Pace(requests_per_minute=0)


def test_a_queue_has_an_end_and_a_place_can_be_given_back():
    clock = HeldClock()
    pace = Pace(requests_per_minute=1, clock=clock)
    places = [pace.book(1) for _ in range(6)]
    with pytest.raises(ModelError) as caught:
        pace.book(1)
    assert (caught.value.retryable, caught.value.retry_after) == (True, 360.0)
    pace.drop(places[-1])
    assert pace.book(1).at == 300.0


class Noting(Pace):
    """Notes which places were booked and who left when."""

    places: list[float] = []  # noqa: RUF012  one test's
    late: list[bool] = []  # noqa: RUF012

    def book(self, tokens):
        booking = super().book(tokens)
        self.places.append(booking.at)
        return booking

    async def reached(self, booking):
        await super().reached(booking)
        self.late.append(self._clock.elapsed() >= booking.at)


async def test_many_sessions_share_one_pace(tmp_path):
    """Thirty sessions in two loops over two models, ten requests a minute: no minute has more places, nobody leaves before its own, and all
    are answered.
    """
    clock = HeldClock()
    pace = Noting(requests_per_minute=10, clock=clock)
    async with Loopback(saying_so("yes")) as server, contextlib.AsyncExitStack() as stack:
        loops = []
        for name in ("a", "b"):
            one = http(server, f"{name}:m", pace=pace)
            stack.push_async_callback(one.aclose)
            loops.append(await stack.enter_async_context(StatefulAgentLoop(one, store=tmp_path / f"{name}.db", clock=clock)))
        results = await asyncio.gather(*(loop.send("Hello.", f"s{number}") for loop in loops for number in range(15)))
    assert {result.text for result in results} == {"yes"}
    assert (len(pace.places), len(server.asked), pace.late) == (30, 30, [True] * 30)
    assert all(later - earlier >= 60.0 for earlier, later in zip(pace.places, pace.places[10:], strict=False))


async def test_a_request_in_the_queue_is_cancelled_at_once(tmp_path):
    """Its place is given back."""
    pace = Pace(requests_per_minute=1)
    async with Loopback(saying_so("yes")) as server:
        one = http(server, "a:m", pace=pace)
        async with StatefulAgentLoop(one, store=tmp_path / "log.db") as loop, asyncio.timeout(30):
            await loop.send("Hello.", "first")
            sending = asyncio.ensure_future(loop.send("Hello.", "s"))
            while not await loop.sessions() or pace.wait() < 61:
                await asyncio.sleep(0.01)
            assert await loop.cancel("s", reason="enough")
            assert (await sending).status == "cancelled"
            assert pace.wait() <= 60
            assert len(server.asked) == 1
        await one.aclose()


async def test_a_chain_goes_round_a_queue(tmp_path):
    """Where one would have to stand in a queue, the next one is asked."""
    clock = HeldClock()
    pace = Pace(requests_per_minute=1, clock=clock)
    async with Loopback(saying_so("yes")) as server:
        models = [http(server, "a:m", pace=pace), http(server, "b:m")]
        async with StatefulAgentLoop(Failover(models, clock=clock), store=tmp_path / "log.db", clock=clock) as loop:
            for name in ("s", "t"):
                await loop.send("Hello.", name)
            assert [one.event.model for name in ("s", "t") for one in await loop.history(name, kinds=["model.asked"])] == ["a:m", "b:m"]
        for one in models:
            await one.aclose()


class Turnstile:
    """A lock that lets somebody else in as soon as it is left for the first time."""

    def __init__(self, other: Callable[[], object]) -> None:
        self._other: Callable[[], object] | None = other

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        other, self._other = self._other, None
        if other is not None:
            other()


def test_a_trial_is_one_threads_alone():
    """Two threads that look at the same moment: one of them has the trial, whoever was quicker."""
    circuit, got = Circuit(), list[bool]()
    circuit.trip(0.0, 1.0)
    circuit._lock = Turnstile(lambda: got.append(circuit.claim(2.0, "two")))
    got.append(circuit.claim(2.0, "one"))
    assert sorted(got) == [False, True]
