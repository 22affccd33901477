"""What the model is shown beside the log: said anew for each request, kept with it for audit, never history."""

from __future__ import annotations

import asyncio

import pytest
from test_compaction import Windowed, chat, dump, talk, work

from power_agent import Attachment, Call, Limits, ScriptedModel, StatefulAgentLoop, Text
from power_agent import events as e
from power_agent.clock import HeldClock
from power_agent.limits import MAX_SURROUNDINGS_CHARACTERS
from power_agent.messages import restore_text


async def test_shown_last_kept_for_audit_and_not_as_history():
    """Each request has what was said for it, and nothing of what was said for those before."""
    model = ScriptedModel(work(2, 20))
    said = iter(["one", "two", "three"])

    async def when(asked):
        await asyncio.sleep(0)
        return f"{next(said)} for {asked.session}/{asked.turn}/{asked.round}: {asked.text}"

    async with StatefulAgentLoop(model, store=":memory:", tools=[dump], context=[when]) as loop:
        await loop.send("go", "s")
        last = [request.messages[-1] for request in model.requests]
        assert [message.role for message in last] == ["user"] * 3
        assert [message.parts[-1].text for message in last] == ["one for s/1/1: go", "two for s/1/2: go", "three for s/1/3: go"]
        assert last[0].parts[0] == Text("go")
        assert "one for" not in repr(model.requests[1].messages)
        assert " for s/" not in repr(await loop.messages("s"))
        asked = [one.event for one in await loop.history("s") if isinstance(one.event, e.ModelAsked)]
        assert [event.context for event in asked] == [(message.parts[-1],) for message in last]
        assert [sentence async for sentence in loop.verify()] == []


async def test_parts_and_nothing():
    """Text, parts, or nothing at all."""
    image = Attachment("image/png", url="https://example.org/a.png")
    model = ScriptedModel(["done"])
    async with StatefulAgentLoop(model, store=":memory:", context=[lambda _: None, lambda _: "", lambda _: [Text("a"), image], lambda _: Text("b")]) as loop:
        await loop.send("go")
    assert model.requests[0].messages[-1].parts == (Text("go"), Text("a"), image, Text("b"))


def cancelled_from_within(_asked):
    raise asyncio.CancelledError


async def cancelled_later(asked):
    cancelled_from_within(asked)


@pytest.mark.parametrize("bad", [lambda _: 1 / 0, lambda _: [1], lambda _: 7, lambda _: Text(7), cancelled_from_within, cancelled_later])
async def test_a_provider_that_fails_is_passed_over(bad, caplog):
    """The turn goes on without its words, and the log of the program says so."""
    model = ScriptedModel(["done"])
    async with StatefulAgentLoop(model, store=":memory:", context=[bad, lambda _: "it is noon"]) as loop:
        assert (await loop.send("go")).status == "completed"
    assert model.requests[0].messages[-1].parts == (Text("go"), Text("it is noon"))
    assert "is not shown" in caplog.text


@pytest.mark.parametrize("odd", ["a\ud800", "its own escape: \U0010fffd"], ids=["a lone surrogate", "what stands for one"])
async def test_what_is_not_unicode_is_shown_as_it_is_kept(odd):
    """Broken file names end no turn: what is sent is, to the letter, what the log says was sent, and means what was said."""
    model = ScriptedModel(["one", "two"])
    async with StatefulAgentLoop(model, store=":memory:", context=[lambda _: [Text(odd), Attachment("image/png", url=f"https://example.org/{odd}")]]) as loop:
        for _ in range(2):
            assert (await loop.send("go", "s")).status == "completed"
        for kept, request in zip(await loop.history("s", kinds=["model.asked"]), model.requests, strict=True):
            text, image = kept.event.context
            assert request.messages[-1].parts[-2:] == (text, image)
            assert (restore_text(text.text), restore_text(image.url)) == (odd, f"https://example.org/{odd}")


@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_a_provider_that_hangs_is_stopped_with_the_turn(by):
    """A cancel ends the wait, and so does the turn's deadline; the model is not asked."""
    there, model = asyncio.Event(), ScriptedModel(["done"])

    async def hangs(_asked):
        there.set()
        await asyncio.sleep(3_600)

    limits = Limits(max_turn_seconds=0.3 if by == "deadline" else None)
    async with StatefulAgentLoop(model, store=":memory:", context=[hangs], limits=limits) as loop, asyncio.timeout(20):
        sending = asyncio.ensure_future(loop.send("go", "s"))
        await there.wait()
        assert by == "deadline" or await loop.cancel("s")
        result = await sending
        assert (result.status, result.reason) == (("limit", "max_turn_seconds") if by == "deadline" else ("cancelled", "cancelled"))
        assert not model.requests


async def test_a_provider_that_hangs_leaves_the_last_answer():
    """Where a turn at its limit still has one answer, that is asked for without the words of a provider that does not come."""
    clock, model = HeldClock(), ScriptedModel([[Call("dump", {"size": 1})], "what is done"])

    async def hangs(asked):
        if asked.round == 2:
            clock.move(100)
            await asyncio.sleep(3_600)
        return "it is noon"

    limits = Limits(max_turn_seconds=50, last_answer=True)
    async with StatefulAgentLoop(model, store=":memory:", tools=[dump], context=[hangs], limits=limits, clock=clock) as loop, asyncio.timeout(20):
        result = await loop.send("go", "s")
        assert (result.status, result.reason) == ("limit", "max_turn_seconds")
        assert len(model.requests) == 2


async def test_bounded():
    """All providers together; in a small window less."""
    model = ScriptedModel(["done"])
    async with StatefulAgentLoop(model, store=":memory:", context=[lambda _: "x" * 20_000, lambda _: "y" * 20_000, lambda _: "z"]) as loop:
        await loop.send("go")
    assert sum(len(part.text) for part in model.requests[0].messages[-1].parts) < MAX_SURROUNDINGS_CHARACTERS + 200
    small = Windowed(talk, 1_500)
    async with StatefulAgentLoop(small, store=":memory:", context=[lambda _: "x" * 20_000]) as loop:
        assert {result.status for result in await chat(loop, 20)} == {"completed"}
    assert max(small.sizes) <= 1_500


async def test_a_change_of_prompt_is_recorded_from_the_next_turn_on(tmp_path):
    """And from then on the model is shown the new one."""
    for system in ("Be kind.", "Be brief.", "Be brief."):
        model = ScriptedModel(lambda _: "done")
        async with StatefulAgentLoop(model, store=tmp_path / "log.db", system=system) as loop:
            await loop.send("go", "s")
            assert model.requests[0].system == system
            kinds = [one.event.config.system for one in await loop.history("s") if isinstance(one.event, e.SessionConfigured)]
    assert kinds == ["Be brief."]


async def test_an_open_turn_keeps_what_was_recorded(tmp_path):
    """Its prompt and its limits, whoever goes on with it."""
    there = asyncio.Event()

    async def hang(_):
        there.set()
        await asyncio.sleep(60)

    async with StatefulAgentLoop(ScriptedModel(hang), store=tmp_path / "log.db", system="Be kind.", limits=Limits(max_rounds_per_turn=7)) as loop:
        sending = asyncio.create_task(loop.send("go", "s"))
        await there.wait()
        sending.cancel()
        await asyncio.wait([sending])
    model = ScriptedModel(lambda _: "done")
    async with StatefulAgentLoop(model, store=tmp_path / "log.db", system="Be brief.") as loop:
        assert (await loop.resume("s")).status == "completed"
        await loop.send("again", "s")
    assert [request.system for request in model.requests] == ["Be kind.", "Be brief."]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 20, 50, 80])
async def test_a_cancel_in_the_moment_of_an_answer(steps):
    """Whatever comes first, the turn is cancelled and the model is not asked."""
    hit, begun = asyncio.Event(), asyncio.Event()

    async def memory(_asked):
        begun.set()
        await hit.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        return "remembered"

    def heard(kept):
        if kept.kind == "cancel.asked":
            hit.set()

    async with StatefulAgentLoop(ScriptedModel(["hi"]), store=":memory:", context=[memory], listeners=[heard]) as loop, asyncio.timeout(20):
        sending = asyncio.ensure_future(loop.send("x", "s"))
        await begun.wait()
        await loop.cancel("s")
        assert (await sending).status == "cancelled"


async def test_what_two_sessions_wait_for_is_not_cancelled_with_one():
    """A provider may hand out what it loads for everybody."""
    shared: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    begun = list[str]()

    def memory(asked):
        begun.append(asked.session)
        return shared

    async with StatefulAgentLoop(ScriptedModel(lambda _: "ok"), store=":memory:", context=[memory]) as loop, asyncio.timeout(20):
        sendings = [asyncio.ensure_future(loop.send("x", name)) for name in ("one", "two")]
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        await loop.cancel("one")
        assert (await sendings[0]).status == "cancelled"
        shared.set_result("remembered")
        assert (await sendings[1]).status == "completed"
        assert "remembered" in str((await loop.history("two", kinds=["model.asked"]))[0].event.context)
