"""A context that grows too large is made smaller, as a fact: in which order, what stays, and that it is never half."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import replace

import pytest
from processes import PROMPT_SECONDS

from power_agent import Answer, Call, Limits, ModelError, ScriptedModel, StatefulAgentLoop, Text, Usage, tool
from power_agent import events as e
from power_agent.context import render
from power_agent.errors import ContextTooLong, InvalidInput, SessionPending
from power_agent.gauge import crude, of_message, of_prefix
from power_agent.messages import Output
from power_agent.policy import Ask
from power_agent.ports import Crowded, ModelRequest, Smaller
from power_agent.state import Summed
from power_agent.strategies import SLID, SlidingWindow


def size(request: ModelRequest) -> int:
    """Count a request as its own provider would."""
    return of_prefix(request.system, request.tools, crude) + sum(of_message(message, crude) for message in request.messages)


class Windowed(ScriptedModel):
    """A model with a window: it counts, says what it counted, and refuses what does not fit. `tells` says whether it tells how large it is."""

    def __init__(self, script, window: int = 1_000, *, tells: bool = True) -> None:
        super().__init__(script)
        self.window = window
        if tells:
            self.context_window = window
        self.sizes: list[int] = []

    async def ask(self, request, glimpse):
        tokens = size(request)
        if tokens > self.window:
            self.requests.append(request)
            raise ContextTooLong(f"{tokens} tokens are more than {self.window}.")
        self.sizes.append(tokens)
        reply = await super().ask(request, glimpse)
        return type(reply)(parts=reply.parts, finish=reply.finish, usage=Usage(tokens, 10), model=self.name)


def talk(request: ModelRequest):
    """Answer at some length; a summary is short."""
    if request.purpose == "summary":
        return "They talked."
    return f"answer to: {request.messages[-1].text[:20]} " + "word " * 40


def compactions(history) -> list[e.ContextCompacted]:
    return [one.event for one in history if isinstance(one.event, e.ContextCompacted)]


async def chat(loop, turns: int, session: str = "s", length: int = 40) -> list:
    return [await loop.send(f"question {number} " + "talk " * length, session) for number in range(turns)]


async def test_a_long_session_stays_inside_the_window():
    """Every request fits; what was said first and last is there word for word, the middle as a summary."""
    model = Windowed(talk)
    async with StatefulAgentLoop(model, store=":memory:", system="Be kind.") as loop:
        results = await chat(loop, 30)
        assert {result.status for result in results} == {"completed"}
        kept = compactions(await loop.history("s"))
        assert len(kept) >= 2
        assert all(one.strategy == "summary" and one.tokens_after < one.tokens_before for one in kept)
        ranges = [(one.from_seq, one.to_seq) for one in kept]
        assert all(first <= last for first, last in ranges)
        assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(ranges))
        messages = await loop.messages("s")
        assert messages[0].text.startswith("question 0 ")
        assert messages[1].text == "[Summary of the conversation so far]\nThey talked."
        assert messages[-1].text == results[-1].text
    assert max(model.sizes) <= 1_000
    assert {request.purpose for request in model.requests} == {"turn", "summary"}


async def test_the_same_bytes_live_and_reopened(tmp_path):
    """What the model would see next is the same in another process, with or without a cached state."""
    async with StatefulAgentLoop(Windowed(talk), store=tmp_path / "log.db") as loop:
        await chat(loop, 12)
        here, state = repr(await loop.messages("s")), await loop.state("s")
    async with StatefulAgentLoop(Windowed(talk), store=tmp_path / "log.db") as loop:
        assert repr(await loop.messages("s")) == here
        fork = await loop.fork("s")
        assert repr(await loop.messages(fork)) == here
        assert await loop.state("s") == state
        assert [sentence async for sentence in loop.verify()] == []


async def test_a_summary_has_its_own_model_and_its_usage_counts():
    """`models={"summary": …}` is asked, and what it used is the session's."""
    small = ScriptedModel(lambda _: Answer("They talked.", usage=Usage(100, 7)), name="scripted:small")
    async with StatefulAgentLoop(Windowed(talk), store=":memory:", models={"summary": small}) as loop:
        results = await chat(loop, 8)
        history = await loop.history("s")
        asked = [one.event for one in history if isinstance(one.event, e.ModelAsked) and one.event.purpose == "summary"]
        assert asked
        assert {one.model for one in asked} == {"scripted:small"}
        assert all(one.reserved_tokens > 0 for one in asked)
        answered = [one.event for one in history if isinstance(one.event, e.ModelAnswered)]
        assert (await loop.state("s")).spent.usage == sum((one.usage for one in answered), Usage())
        assert sum(result.usage.total for result in results) == (await loop.state("s")).spent.usage.total
        assert all("They talked" not in result.text for result in results)


@pytest.mark.parametrize("line", ["", "   ", ModelError("broken"), RuntimeError("a bug"), Answer("half a", finish="length"), Answer("no", finish="refused")])
async def test_a_summary_that_fails_ends_no_turn_and_is_not_kept(line):
    """While the context fits the window the turn goes on; there is no compaction."""
    model = Windowed(lambda request: line if request.purpose == "summary" else talk(request), 10_000)
    async with StatefulAgentLoop(model, store=":memory:", limits=Limits(max_context_tokens=500)) as loop:
        results = await chat(loop, 8)
        assert {result.status for result in results} == {"completed"}
        assert compactions(await loop.history("s")) == []
    assert any(request.purpose == "summary" for request in model.requests)


async def test_when_nothing_fits_the_turn_ends_and_stays_resumable():
    """An input that is larger than the window: `limit`, `context`; with a larger window it goes on."""
    async with StatefulAgentLoop(model := Windowed(talk), store=":memory:") as loop:
        result = await loop.send("talk " * 2_000, "s")
        assert (result.status, result.reason) == ("limit", "context")
        assert model.requests == []
        again = await loop.resume("s")
        assert (again.status, again.reason) == ("limit", "context")
        model.context_window = model.window = 10_000
        assert (await loop.resume("s")).status == "completed"


async def test_a_providers_refusal_compacts_once_and_asks_again():
    """Nobody knew the window; the provider says that it is too long."""
    model = Windowed(talk, tells=False)
    async with StatefulAgentLoop(model, store=":memory:") as loop:
        results = await chat(loop, 12)
        assert {result.status for result in results} == {"completed"}
        history = await loop.history("s", limit=10_000)
        failed = [one for one in history if isinstance(one.event, e.ModelFailed)]
        assert failed
        assert {one.event.failure.code for one in failed} == {"context_too_long"}
        kept = [one for one in history if isinstance(one.event, e.ContextCompacted)]
        turns = [one for one in failed if any(one.seq < other.seq < one.seq + 8 for other in kept)]
        assert turns
    assert max(model.sizes) <= 1_000


async def test_a_refusal_that_nothing_helps_against_is_a_limit():
    """It does not go round and round."""
    model = Windowed(talk, tells=False)
    async with StatefulAgentLoop(model, store=":memory:") as loop:
        result = await loop.send("talk " * 2_000, "s")
        assert (result.status, result.reason) == ("limit", "context")
        assert len(model.requests) == 1
        model.window = 10_000
        assert (await loop.resume("s")).status == "completed"


@tool(recovery="rerun")
async def dump(size: int, number: int = 0) -> str:
    """Return a lot."""
    return f"{number:10}" * (size // 10)


def work(rounds: int, each: int, idle: int = 0):
    """Ask for so many outputs of that size in one turn, then say so."""

    def script(request: ModelRequest):
        if request.purpose == "summary":
            return "Much was dumped."
        made = request.replies - idle
        if made < 0:
            return "hi"
        return [Call("dump", {"size": each, "number": made})] if made < rounds else "done"

    return script


async def test_old_outputs_become_references_first():
    """Trimming asks no model; the last outputs stay."""
    model = Windowed(work(9, 1_800), 4_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump]) as loop:
        assert (await loop.send("go", "s")).status == "completed"
        kept = compactions(await loop.history("s"))
        assert {one.strategy for one in kept} == {"trim"}
        outputs = [message for message in await loop.messages("s") if message.role == "tool"]
        shown = ["left out to save room" not in repr(message) for message in outputs]
        assert shown == sorted(shown)
        assert not shown[0]
        assert shown[-1]
    assert {request.purpose for request in model.requests} == {"turn"}


async def test_one_very_long_turn_is_cut_between_its_exchanges():
    """What it is about stays word for word, although everything else of it was folded away."""
    model = Windowed(work(45, 600, idle=1), 2_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump]) as loop:
        await loop.send("hello " * 100, "s")  # large first instructions are not kept for ever
        result = await loop.send("please dump very often", "s")
        assert result.status == "completed"
        assert any("please dump very often" in entry.text for entry in (await loop.state("s")).transcript if isinstance(entry, Summed))
    assert max(model.sizes) <= 2_000


async def test_a_single_output_that_does_not_fit_is_trimmed_when_nothing_else_helps():
    """Better a reference than no answer."""
    model = Windowed(work(1, 9_000), 2_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump]) as loop:
        assert (await loop.send("go", "s")).status == "completed"
        assert [one.strategy for one in compactions(await loop.history("s"))] == ["trim"]


async def test_a_window_slides_without_a_model():
    """A constant sentence stands for what was let go."""
    model = Windowed(talk)
    async with StatefulAgentLoop(model, store=":memory:", compaction=SlidingWindow()) as loop:
        await chat(loop, 20)
        kept = compactions(await loop.history("s"))
        assert kept
        assert {one.summary for one in kept} == {SLID}
    assert {request.purpose for request in model.requests} == {"turn"}
    assert max(model.sizes) <= 1_000


class Own:
    """A user's own."""

    name = "own"

    def __init__(self, proposal) -> None:
        self.proposal = proposal
        self.seen: list[Crowded] = []

    async def __call__(self, crowded: Crowded) -> Smaller | None:
        self.seen.append(crowded)
        return self.proposal(crowded)


async def test_a_users_own_strategy():
    """It sees what may go and what stays, and what it proposes is kept under its name."""
    own = Own(lambda crowded: Smaller(upto=crowded.exchanges[0].last, summary="one less") if crowded.exchanges else None)
    async with StatefulAgentLoop(Windowed(talk), store=":memory:", compaction=[own, SlidingWindow()]) as loop:
        await chat(loop, 12)
        assert {one.strategy for one in compactions(await loop.history("s"))} <= {"own", "window"}
    assert own.seen
    assert all(one.recent and one.room < one.tokens for one in own.seen)


def broken(_: Crowded) -> Smaller:
    raise ValueError("a bug")


PROPOSALS = {
    "a bug": broken,
    "nothing": lambda _: None,
    "nothing to see": lambda crowded: Smaller(upto=crowded.exchanges[-1].last, summary="  "),
    "an end in the middle": lambda crowded: Smaller(upto=crowded.exchanges[-1].last - 1, summary="x"),
    "what has to stay": lambda crowded: Smaller(upto=crowded.recent[-1].last, summary="x"),
    "more than it replaces": lambda crowded: Smaller(upto=crowded.exchanges[0].last, summary="talk " * 2_000),
    "calls nobody made": lambda _: Smaller(trimmed=(e.Trim(call="t9r9c9", note="x"),)),
}


@pytest.mark.parametrize("name", PROPOSALS)
async def test_what_does_not_help_is_not_taken(name, caplog):
    """The next strategy is asked."""
    own = Own(lambda crowded: PROPOSALS[name](crowded) if crowded.exchanges else None)
    async with StatefulAgentLoop(Windowed(talk), store=":memory:", compaction=[own, SlidingWindow()]) as loop:
        assert {result.status for result in await chat(loop, 12)} == {"completed"}
        assert {one.strategy for one in compactions(await loop.history("s"))} == {"window"}
    assert ("a bug" in caplog.text) == (name == "a bug")


def warned(caplog) -> list[str]:
    return [said for record in caplog.records if record.levelname == "WARNING" and (said := record.getMessage()).startswith("Nothing makes the context")]


def refusing(_):
    raise ModelError("the quota is used up")


@pytest.mark.parametrize(
    ("summary", "why"),
    [(refusing, "summary: it got no answer: the quota is used up"), (lambda _: "talk " * 20_000, "summary: what it proposes is not smaller")],
    ids=["fails", "too long"],
)
async def test_a_context_that_nothing_makes_smaller_is_told(summary, why, caplog):
    """Each turn goes on and pays for another try, so each says once in the program's log how large the context is, why it stays so, and what helps."""
    summariser = ScriptedModel(summary, name="scripted:summary")
    async with StatefulAgentLoop(ScriptedModel(talk), store=":memory:", models={"summary": summariser}, limits=Limits(max_context_tokens=500)) as loop:
        for _ in range(12):
            caplog.clear()
            before = len(summariser.requests)
            assert (await chat(loop, 1))[0].status == "completed"
            assert len(warned(caplog)) == (len(summariser.requests) > before)
    (said,) = warned(caplog)
    assert re.search(r"smaller: \d{3,} tokens, and 500 are meant", said)
    assert why in said
    assert "models={'summary': …}" in said


async def test_by_hand_it_is_no_warning(caplog):
    """Who asked for it hears that nothing came of it; why is told to who listens at INFO."""
    caplog.set_level("INFO", "power_agent")
    async with StatefulAgentLoop(ScriptedModel(talk), store=":memory:", models={"summary": ScriptedModel(refusing, name="scripted:summary")}) as loop:
        await chat(loop, 6)
        assert not await loop.compact("s")
    assert warned(caplog) == []
    assert "and fewer are meant (summary: it got no answer: the quota is used up)" in caplog.text


def last_outputs(crowded: Crowded) -> Smaller:
    calls = [part.call for one in (*crowded.exchanges, *crowded.recent) for message in one.messages for part in message.parts if isinstance(part, Output)]
    return Smaller(summary=" ", trimmed=tuple(e.Trim(call=call, note="x") for call in calls))


@pytest.mark.parametrize("first", [None, 0])
async def test_the_last_outputs_are_not_trimmed_either(first):
    """A user's own strategy may trim old ones; what stays, stays. An empty summary beside trims is none."""
    own = Own(lambda crowded: replace(found := last_outputs(crowded), trimmed=found.trimmed[:1] if first == 0 else found.trimmed))
    model = Windowed(work(9, 1_800), 4_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump], compaction=[own, SlidingWindow()]) as loop:
        assert (await loop.send("go", "s")).status == "completed"
        kept = compactions(await loop.history("s"))
        assert "own" not in {one.strategy for one in kept} if first is None else all(one.summary is None for one in kept if one.strategy == "own")


# -- by hand -----------------------------------------------------------------------------------------------------------


async def test_by_hand():
    """An idle session, now; nothing else happens. Twice in a row there is nothing left to do."""
    async with StatefulAgentLoop(ScriptedModel(talk), store=":memory:") as loop:
        await chat(loop, 6)
        before = len(await loop.history("s"))
        assert await loop.compact("s", by="ann")
        fresh = (await loop.history("s"))[before:]
        assert [one.kind for one in fresh] == ["model.asked", "model.answered", "context.compacted"]
        assert fresh[-1].event.by == "ann"
        while await loop.compact("s"):
            pass
        assert not await loop.compact("s")
        assert (await loop.send("and now?", "s")).status == "completed"


async def test_by_hand_with_an_open_turn():
    """A turn that waits is not touched."""
    async with StatefulAgentLoop(ScriptedModel([[Call("dump", {"size": 1})]]), store=":memory:", tools=[dump], policy=lambda _: Ask("?")) as loop:
        assert (await loop.send("go", "s")).status == "waiting"
        with pytest.raises(SessionPending):
            await loop.compact("s")


async def test_rendering_is_what_was_kept():
    """A state at any seq renders as it did then."""
    async with StatefulAgentLoop(Windowed(talk), store=":memory:") as loop:
        await chat(loop, 10)
        for one in await loop.history("s", limit=10_000):
            state = await loop.state("s", at=one.seq)
            context = render(state)
            assert context.why_not is not None or context.messages
            assert all(isinstance(part, Text) for message in context.messages for part in message.parts)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("end", ["cancel", "time"])
async def test_a_strategy_that_hangs_is_stopped_with_its_turn(tmp_path, caplog, asks, end):
    """It may be anybody's: whoever cancels is obeyed, and the time of a turn is its time too, also when it hangs behind a summary that it asked for."""
    hangs, stopped = asyncio.Event(), asyncio.Event()

    class Hangs:
        name = "hangs"

        async def __call__(self, crowded: Crowded) -> Smaller | None:
            if asks:
                await crowded.ask("Sum it up.", "They talked.")
            hangs.set()
            try:
                await asyncio.sleep(1000)
            finally:
                stopped.set()

    limits = Limits(max_turn_seconds=0.5) if end == "time" else Limits()
    async with (
        StatefulAgentLoop(Windowed(talk), store=tmp_path / "a.db", compaction=Hangs(), limits=limits) as loop,
        StatefulAgentLoop(Windowed(talk), store=tmp_path / "a.db") as other,
    ):

        async def until_it_hangs():
            while True:
                result = await loop.send("question " + "talk " * 40, "s")
                if hangs.is_set():
                    return result

        talking = asyncio.create_task(until_it_hangs())
        async with asyncio.timeout(PROMPT_SECONDS):
            await hangs.wait()
            if end == "cancel":
                assert await other.cancel("s")
            result = await talking
        assert (result.status, stopped.is_set()) == ({"cancel": "cancelled", "time": "limit"}[end], True)
        kinds = [(kept.kind, getattr(kept.event, "purpose", None)) for kept in await loop.history("s")]
        assert (("model.asked", "summary") in kinds) == asks
        assert [wrong async for wrong in loop.verify()] == []
    assert "was stopped: its turn goes on no longer" in caplog.text
    async with StatefulAgentLoop(Windowed(talk), store=tmp_path / "a.db", compaction=SlidingWindow()) as loop:
        assert {result.status for result in await chat(loop, 3)} == {"completed"}


async def test_a_strategy_may_ask_for_two_summaries_at_once():
    """They are asked for one after the other, each is paid for, and the log is looked at all the while."""

    class Both:
        name = "both"

        async def __call__(self, crowded: Crowded) -> Smaller | None:
            if not crowded.exchanges:
                return None
            said = await asyncio.gather(crowded.ask("Sum it up.", "one"), crowded.ask("Sum it up.", "two"))
            return Smaller(upto=crowded.exchanges[-1].last, summary=" ".join(said))

    async with StatefulAgentLoop(Windowed(talk), store=":memory:", compaction=[Both(), SlidingWindow()]) as loop:
        assert {result.status for result in await chat(loop, 12)} == {"completed"}
        made = [one for one in compactions(await loop.history("s")) if one.strategy == "both"]
        asked = [one for one in await loop.history("s", kinds=["model.asked"]) if one.event.purpose == "summary"]
        assert made
        assert len(asked) >= 2 * len(made)
        assert {one.summary for one in made} == {"They talked. They talked."}
        assert [wrong async for wrong in loop.verify()] == []


async def test_a_strategy_that_is_cancelled_from_within_has_nothing_to_propose():
    """The next one is asked, and nobody else is cancelled."""

    class Strange:
        name = "strange"

        async def __call__(self, crowded: Crowded) -> Smaller | None:
            raise asyncio.CancelledError

    async with StatefulAgentLoop(Windowed(talk), store=":memory:", compaction=[Strange(), SlidingWindow()]) as loop:
        assert {result.status for result in await chat(loop, 12)} == {"completed"}
        assert {one.strategy for one in compactions(await loop.history("s"))} == {"window"}


async def test_a_strategy_that_asks_too_late_is_told():
    """A summary that is asked for by what a strategy left behind, or from another event loop, is refused: the log goes on without it."""
    told = []

    class Late:
        name = "late"

        async def __call__(self, crowded: Crowded) -> Smaller | None:
            async def later():
                with pytest.raises(InvalidInput) as refused:
                    await crowded.ask("Sum it up.", "too late")
                told.append(str(refused.value))

            async def elsewhere():
                return await crowded.ask("Sum it up.", "elsewhere")

            with pytest.raises(InvalidInput):
                await asyncio.to_thread(asyncio.run, elsewhere())
            late.append(asyncio.create_task(later()))
            return None

    late = []
    async with StatefulAgentLoop(Windowed(talk), store=":memory:", compaction=[Late(), SlidingWindow()]) as loop:
        assert {result.status for result in await chat(loop, 12)} == {"completed"}
        await asyncio.wait(late)
        assert not [one for one in await loop.history("s", kinds=["model.asked"]) if one.event.purpose == "summary"]
    assert set(told) <= {said for said in told if "when it was over" in said}
    assert len(told) == len(late) > 0
