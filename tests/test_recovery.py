"""Killed, and opened again elsewhere: what runs once more, what does not, who is asked, and that nothing is told that is not so.

The agents of this file are killed with SIGKILL in processes of their own; a journal outside the store says what really happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_SECONDS, PROMPT_SECONDS

from power_agent import Abort, Approve, Call, DidNotHappen, Happened, Result, Retry, ScriptedModel, StatefulAgentLoop, ToolContext, Unknown, failpoints, tool
from power_agent import policy as p
from power_agent.context import render
from power_agent.errors import AlreadySettled, ToolError
from power_agent.testing.plugin import Crash

CLASSES = ("rerun", "keyed", "probe", "ask")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("power_agent.drive.ledger.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("power_agent.drive.calls.CANCEL_GRACE_SECONDS", 0.05)


class Journal:
    """What happened in the world: a line for each effect, kept outside the store."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal"

    def write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @property
    def lines(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return self.path.read_text(encoding="utf-8").splitlines()
        return []


def pay_tool(journal: Journal, recovery: str = "ask", *, dies: bool = False, answer: Any = None, **promises: Any):
    """A payment with a promise. Where it dies, it does so right after its effect."""

    def pay(to: str, ctx: ToolContext) -> str:
        journal.write(f"pay {to} {ctx.idempotency_key}")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"paid {to}"

    async def probe(arguments, ctx):
        journal.write(f"probe {arguments['to']} {ctx.attempt}")
        if isinstance(answer, BaseException):
            raise answer
        if answer == "hang":
            await asyncio.sleep(3_600)
        return answer

    options = {"probe": probe} if recovery == "probe" else {"recovery": recovery}
    return tool(**options, **promises)(pay)


def note_tool(journal: Journal):
    @tool
    def note() -> str:
        """Note."""
        journal.write("note")
        return "noted"

    return note


def make(folder: Path, script, **options) -> StatefulAgentLoop:
    model = script if isinstance(script, ScriptedModel) else ScriptedModel(script)
    return StatefulAgentLoop(model, store=folder / "agent.db", **options)


def forked(life: Callable[[], Any]) -> int:
    """Run a coroutine function in a process of its own, forked off; return how it ended: minus the signal, or the status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(life())
            status = 0
        except BaseException:  # noqa: BLE001  told below, by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_in_pay(folder: Path, recovery: str, calls: list[Call] | None = None, **options: Any) -> Journal:
    """Live until the payment kills the process, right after its effect."""
    journal = Journal(folder)

    async def life():
        async with make(folder, [calls or [Call("pay", {"to": "Ada"})]], tools=[pay_tool(journal, recovery, dies=True), note_tool(journal)], **options) as loop:
            await loop.send("x", "s")

    assert forked(life) == -signal.SIGKILL
    return journal


async def kinds(loop, session="s") -> list[str]:
    return [kept.kind for kept in await loop.history(session)]


def told(model: ScriptedModel) -> list[str]:
    return [part.content[0].text for part in model.requests[-1].messages[-1].parts]


MAY_HAVE = "It may have taken effect; check before repeating."

# -- the second of two calls -------------------------------------------------------------------------------------------

TWO = [Call("note"), Call("pay", {"to": "Ada"})]


@pytest.mark.parametrize(
    ("decision", "payments", "says"),
    [(Retry(), 2, "paid Ada"), (Result("Ada has it"), 1, "Ada has it"), (Abort("unclear"), 1, f"Aborted by ada: unclear. {MAY_HAVE}")],
    ids=["Retry", "Result", "Abort"],
)
def test_killed_in_the_second_of_two_calls(tmp_path, decision, payments, says):
    """The first call is finished and not repeated, the second is doubted; each decision leads to a valid context, a finished turn and an open session."""
    from power_agent.limits import Limits

    journal = killed_in_pay(tmp_path, "ask", TWO, limits=Limits(max_parallel_calls=1))

    async def second_life():
        model = ScriptedModel([TWO, "done", "next"])
        async with make(tmp_path, model, tools=[pay_tool(journal), note_tool(journal)]) as loop:
            found = await loop.pending("s")
            assert [(call.id, call.state, call.attempt, dict(call.arguments)) for call in found] == [("t1r1c2", "started", 1, {"to": "Ada"})]
            result = await loop.resume("s")
            assert [(call.id, call.state, call.why) for call in result.pending] == [("t1r1c2", "doubted", "It was found started, and its outcome was not recorded.")]
            assert model.requests == []
            await loop.settle("s", "t1r1c2", decision, by="ada")
            result = await loop.resume("s")
            assert (result.status, result.text) == ("completed", "done")
            assert told(model) == ["noted", says]
            assert (await loop.send("and now?", "s")).text == "next"
            assert render(await loop.state("s")).why_not == "there is nothing to answer"
            assert [wrong async for wrong in loop.verify()] == []

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines) == {"note": 1, "pay": payments}


def test_a_kill_costs_no_waiting(tmp_path):
    """The owner was killed: the next one is not kept waiting until the lease has run out."""
    journal = killed_in_pay(tmp_path, "rerun")

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, "rerun"), note_tool(journal)]) as loop:
            began = time.monotonic()
            assert (await loop.resume("s")).status == "completed"
            assert time.monotonic() - began < PROMPT_SECONDS
            (changed,) = await loop.history("s", kinds=["owner.changed"])
            assert changed.event.why == "dead"

    asyncio.run(second_life())


# -- the four classes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recovery", "status", "payments", "events"),
    [
        ("rerun", "completed", 2, ["call.doubted", "call.retried", "call.started", "call.succeeded"]),
        ("keyed", "completed", 2, ["call.doubted", "call.retried", "call.started", "call.succeeded"]),
        ("probe", "waiting", 1, ["call.doubted"]),
        ("ask", "waiting", 1, ["call.doubted"]),
    ],
)
def test_killed_after_the_effect(tmp_path, recovery, status, payments, events):
    """Killed right after the effect: what is harmless runs again, what is keyed runs again with the same key, what nobody vouches for waits; a second resume adds nothing."""
    journal = killed_in_pay(tmp_path, recovery)

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, recovery, answer=Unknown()), note_tool(journal)]) as loop:
            before = len(await kinds(loop))
            append, commits = loop._store.append, []

            async def listening(request):
                commits.append([fact.kind for fact in request.facts])
                return await append(request)

            loop._store.append = listening
            assert (await loop.resume("s")).status == status
            assert [kind for kind in (await kinds(loop))[before:] if kind.startswith("call.")] == events
            before = await kinds(loop)
            assert (await loop.resume("s")).status == status
            assert [kind for kind in (await kinds(loop))[len(before) :] if kind != "owner.changed"] == []
            starts = [kept.event for kept in await loop.history("s", kinds=["call.started"])]
            assert [start.attempt for start in starts] == list(range(1, payments + 1))
            assert len({start.idempotency_key for start in starts}) == 1
            assert not events[1:] or ["call.doubted", "call.retried", "call.started"] in commits

    asyncio.run(second_life())
    paid = [line for line in journal.lines if line.startswith("pay")]
    assert len(paid) == payments
    assert len(set(paid)) == 1, "the same key"


@pytest.mark.parametrize(
    ("answer", "status", "says", "payments", "warns"),
    [
        (Happened("paid before"), "completed", "paid before", 1, None),
        (Happened(), "completed", "(no output)", 1, None),
        (DidNotHappen(), "completed", "paid Ada", 2, None),
        (Unknown(), "waiting", None, 1, None),
        (RuntimeError("the bank does not answer"), "waiting", None, 1, "RuntimeError: the bank does not answer"),
        (True, "waiting", None, 1, "answered a bool, not Happened(value)"),
        (Happened, "waiting", None, 1, "answered the class Happened, not Happened(value)"),
        ("hang", "waiting", None, 1, "TimeoutError"),
    ],
    ids=["yes", "yes, without a value", "no", "unknown", "raises", "says nothing", "forgets its brackets", "hangs"],
)
def test_probes(tmp_path, monkeypatch, caplog, answer, status, says, payments, warns):
    """A probe that says yes hands in the result, one that says no lets it run again; unknown, an error, nonsense or no answer in time leave it to a person. Why a
    probe has none to give is told to whoever keeps the program's log.
    """
    monkeypatch.setattr("power_agent.executor.PROBE_SECONDS", 0.05)
    journal = killed_in_pay(tmp_path, "probe")

    async def second_life():
        model = ScriptedModel([TWO, "done"])
        async with make(tmp_path, model, tools=[pay_tool(journal, "probe", answer=answer)]) as loop:
            result = await loop.resume("s")
            assert result.status == status
            if says is not None:
                assert told(model) == [says]
            else:
                assert [(call.state, call.attempt) for call in result.pending] == [("doubted", 1)]
            if isinstance(answer, Happened):
                assert (await loop.history("s", kinds=["call.succeeded"]))[0].event.by == "probe"
            if isinstance(answer, DidNotHappen):
                assert (await loop.history("s", kinds=["call.retried"]))[0].event.by == "probe"

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines)["pay"] == payments
    assert "probe Ada 1" in journal.lines
    said = [caplog.handler.format(record) for record in caplog.records if "probe" in record.getMessage()]
    assert [warns in text and "all t1r1c1 of session 's' stays in doubt" in text for text in said] == [True] * (warns is not None)


@pytest.mark.parametrize("recovery", ["keyed", "probe", "ask"])
def test_a_cancelled_turn_recovers_nothing(tmp_path, recovery):
    """Killed after the effect, then cancelled: whatever was promised, nothing runs or is asked again; the doubt is a person's."""
    journal = killed_in_pay(tmp_path, recovery)

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, recovery, answer=DidNotHappen())]) as loop:
            assert await loop.cancel("s", by="ada")
            assert [call.state for call in await loop.pending("s")] == ["doubted"]
            assert (await loop.resume("s")).status == "waiting"
            assert not {"call.retried", "model.asked"} & set((await kinds(loop))[-4:])
            await loop.settle("s", "t1r1c1", Result("it did"), by="ada")
            assert (await loop.resume("s")).status == "cancelled"
            assert [wrong async for wrong in loop.verify()] == []

    asyncio.run(second_life())
    assert [line.split()[0] for line in journal.lines] == ["pay"]


@pytest.mark.parametrize("verdict", [p.Deny("not since the incident", "incident"), p.Ask(rule="incident")], ids=["deny", "ask"])
@pytest.mark.parametrize(("recovery", "answer"), [("rerun", None), ("keyed", None), ("probe", DidNotHappen())], ids=["rerun", "keyed", "probe"])
def test_the_policy_of_today_judges_another_attempt(tmp_path, recovery, answer, verdict):
    """Allowed then, and not today: no promise of the tool runs it again, the call waits and says why; what a person says then counts."""
    journal = killed_in_pay(tmp_path, recovery)

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, recovery, answer=answer)], policy=lambda _: verdict) as loop:
            for _ in range(2):
                (call,) = (await loop.resume("s")).pending
                assert (call.state, call.attempt) == ("doubted", 1)
                assert call.why == "It was found started, and its outcome was not recorded. The policy of today (incident) does not let it run again by itself."
            assert Counter(line.split()[0] for line in journal.lines)["pay"] == 1
            await loop.settle("s", "t1r1c1", Retry(), by="ada")
            assert (await loop.resume("s")).status == "completed"

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines)["pay"] == 2


def test_a_probe_that_says_yes_needs_no_policy(tmp_path):
    """To ask whether it happened has no effect, so it is asked whatever the policy of today says."""
    journal = killed_in_pay(tmp_path, "probe")

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, "probe", answer=Happened("it did"))], policy=lambda _: p.Deny("no")) as loop:
            assert (await loop.resume("s")).status == "completed"

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines) == {"pay": 1, "probe": 1}


@pytest.mark.parametrize(("today", "status", "payments"), [(p.Ask(), "completed", 2), (p.Deny("no"), "waiting", 1)], ids=["ask", "deny"])
def test_an_approval_stands_for_another_attempt(tmp_path, today, status, payments):
    """A person had approved exactly this: a policy that asks has its answer, one that denies has not."""
    journal = Journal(tmp_path)

    async def life():
        async with make(tmp_path, [[Call("pay", {"to": "Ada"})]], tools=[pay_tool(journal, "keyed", dies=True)], policy=lambda _: p.Ask()) as loop:
            await loop.send("x", "s")
            await loop.settle("s", "t1r1c1", Approve())
            await loop.resume("s")

    assert forked(life) == -signal.SIGKILL

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, "keyed")], policy=lambda _: today) as loop:
            assert (await loop.resume("s")).status == status

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines)["pay"] == payments


@pytest.mark.parametrize(
    ("today", "says"),
    [
        (p.Deny("not since the incident", "incident"), f"Aborted by policy (incident): not since the incident. {MAY_HAVE}"),
        (p.Ask(rule="incident"), f"Aborted by policy (incident): a person would have to be asked. {MAY_HAVE}"),
    ],
    ids=["deny", "ask"],
)
def test_a_promise_that_was_not_used_in_time(tmp_path, today, says):
    """A promise had allowed another attempt, and the process died before it began: the policy of today is asked once more."""
    journal = killed_in_pay(tmp_path, "keyed")

    async def second_life():
        model = ScriptedModel([TWO, "done"])
        async with make(tmp_path, model, tools=[pay_tool(journal, "keyed")], policy=lambda _: today) as loop:
            await loop.resume("s")
            await loop.settle("s", "t1r1c1", Retry(), by="recovery (keyed)")  # the very fact that such a process leaves
            assert (await loop.resume("s")).status == "completed"
            assert told(model) == [says]

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines) == {"pay": 1}


def test_a_probe_may_know_later(tmp_path):
    """A probe that did not know is asked again with the next resume, and may know then."""
    journal = killed_in_pay(tmp_path, "probe")

    async def life(answer, status):
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, "probe", answer=answer)]) as loop:
            assert (await loop.resume("s")).status == status

    asyncio.run(life(Unknown(), "waiting"))
    asyncio.run(life(Happened("it did"), "completed"))
    assert Counter(line.split()[0] for line in journal.lines) == {"pay": 1, "probe": 2}


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_probe_with_a_value_that_is_not_json(tmp_path, value):
    """A probe that says yes with a value that is not JSON does not undo that it happened: the call is not reported as not run, and the payment is not repeated."""
    journal = killed_in_pay(tmp_path, "probe")

    async def second_life():
        async with make(tmp_path, [TWO, "done"], tools=[pay_tool(journal, "probe", answer=Happened(value))]) as loop:
            result = await loop.resume("s")
            assert result.calls[0].state in {"failed", "doubted"}

    asyncio.run(second_life())
    assert Counter(line.split()[0] for line in journal.lines)["pay"] == 1


@pytest.mark.parametrize("recorded", CLASSES)
@pytest.mark.parametrize("today", [*CLASSES, "gone"])
def test_the_stricter_promise_counts(tmp_path, recorded, today):
    """What was recorded with the start and what the tool promises today: the stricter one counts; a tool or a probe that is gone promises nothing."""
    journal = killed_in_pay(tmp_path, recorded)

    async def second_life():
        tools = [note_tool(journal)] if today == "gone" else [note_tool(journal), pay_tool(journal, today, answer=Happened("probed"))]
        async with make(tmp_path, [TWO, "done"], tools=tools) as loop:
            return (await loop.resume("s")).status

    status = asyncio.run(second_life())
    again = {recorded, today} <= {"rerun", "keyed"}
    probed = today == "probe" and recorded != "ask"
    assert status == ("completed" if again or probed else "waiting")
    assert Counter(line.split()[0] for line in journal.lines) == Counter({"pay": 1 + again, "probe": int(probed)}) + Counter()


def test_a_second_attempt_speaks_for_itself(tmp_path):
    """A second attempt that touched nothing says nothing about the first, which took effect: the model is told both."""
    journal = killed_in_pay(tmp_path, "keyed")

    @tool(recovery="keyed")
    def pay(to: str) -> str:
        raise ToolError(f"{to}'s bank was not called.", untouched=True)

    async def second_life():
        model = ScriptedModel([TWO, "done"])
        async with make(tmp_path, model, tools=[pay]) as loop:
            assert (await loop.resume("s")).status == "completed"
            assert told(model) == ["Ada's bank was not called. That is so of the last attempt; an earlier one may have taken effect."]

    asyncio.run(second_life())
    assert [line.split()[0] for line in journal.lines] == ["pay"]


def test_a_second_attempt_with_arguments_that_no_longer_fit(tmp_path):
    """A person lets it run again, and the tool's parameters have another name: this attempt is not run, said once, and the first one may have been."""
    journal = killed_in_pay(tmp_path, "ask")

    @tool
    def pay(whom: str) -> str:
        raise AssertionError(whom)

    async def second_life():
        model = ScriptedModel([TWO, "done"])
        async with make(tmp_path, model, tools=[pay]) as loop:
            await loop.resume("s")
            await loop.settle("s", "t1r1c1", Retry(), by="ada")
            assert (await loop.resume("s")).status == "completed"
            (said,) = told(model)
            assert said.startswith("Wrong arguments for pay: ")
            assert said.endswith("Expected: whom: string. It was not run. That is so of the last attempt; an earlier one may have taken effect.")
            assert said.count("not run") == 1

    asyncio.run(second_life())
    assert [line.split()[0] for line in journal.lines] == ["pay"]


def test_retry_with_a_tool_that_is_gone(tmp_path):
    """A person allows another attempt, but the tool is gone: it ends as aborted, and the model is told that it may have happened."""
    journal = killed_in_pay(tmp_path, "ask")

    async def second_life():
        model = ScriptedModel([TWO, "done"])
        async with make(tmp_path, model) as loop:
            await loop.resume("s")
            await loop.settle("s", "t1r1c1", Retry())
            assert (await loop.resume("s")).status == "completed"
            assert told(model) == [f"Aborted by power_agent: there is no tool pay any more. {MAY_HAVE}"]

    asyncio.run(second_life())
    assert len(journal.lines) == 1


# -- failures, time-outs, late results ---------------------------------------------------------------------------------


@pytest.mark.parametrize("recovery", ["rerun", "keyed", "ask"])
async def test_a_tools_own_failure_is_never_doubted(tmp_path, recovery):
    """A tool that raises has spoken: failed, whatever its class; nobody is asked and nothing is retried."""

    @tool(recovery=recovery)
    async def fail() -> None:
        raise ConnectionError("reset")

    async with make(tmp_path, [[Call("fail")], "done"], tools=[fail]) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].state, result.calls[0].output) == ("completed", "failed", "ConnectionError: reset")
        assert {"call.doubted", "call.retried"}.isdisjoint(await kinds(loop))


@pytest.mark.parametrize(("recovery", "state"), [("ask", "doubted"), ("keyed", "doubted"), ("rerun", "aborted")])
async def test_time_outs(tmp_path, recovery, state):
    """A time-out of the executor's is doubt, unless a repeat is harmless; then it is aborted."""

    @tool(recovery=recovery, seconds=0.03)
    async def slow() -> None:
        await asyncio.sleep(3_600)

    async with make(tmp_path, [[Call("slow")], "done"], tools=[slow]) as loop:
        result = await loop.send("x", "s")
        assert result.calls[0].state == state
        assert [call.recovery for call in result.pending] == ([recovery] if state == "doubted" else [])


@pytest.mark.parametrize("decision", [Abort("too slow"), Result("by hand")])
async def test_a_late_result_of_a_settled_call(tmp_path, decision):
    """The thread of a call that timed out ends after somebody settled it: what was settled stands, the late result changes nothing."""
    release, ended = threading.Event(), threading.Event()

    @tool(seconds=0.03)
    def slow() -> str:
        release.wait(PATIENCE_SECONDS)
        ended.set()
        return "late"

    model = ScriptedModel([[Call("slow")], "done", "next"])
    async with make(tmp_path, model, tools=[slow]) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", decision, by="ada")
        before = await kinds(loop)
        release.set()
        await asyncio.to_thread(ended.wait)
        await asyncio.sleep(0.05)
        assert await kinds(loop) == before
        assert (await loop.resume("s")).status == "completed"
        assert told(model) == ["by hand" if isinstance(decision, Result) else f"Aborted by ada: too slow. {MAY_HAVE}"]
        assert [wrong async for wrong in loop.verify()] == []


@pytest.mark.parametrize(("fails", "kind"), [(False, "call.succeeded"), (True, "call.failed")])
async def test_a_late_result_while_the_call_is_doubted(tmp_path, fails, kind):
    """The thread of a call that timed out ends while its sibling still runs: its result is the truth, and says where it came from."""
    release = threading.Event()

    @tool(seconds=0.03)
    def slow() -> str:
        release.wait(PATIENCE_SECONDS)
        if fails:
            raise ValueError("the bank said no")
        return "late, and true"

    @tool
    async def sibling(ctx: ToolContext) -> str:
        while "call.doubted" not in await kinds(loop):
            await asyncio.sleep(0.01)
        release.set()
        while kind not in await kinds(loop):
            await asyncio.sleep(0.01)
        return "ran"

    model = ScriptedModel([[Call("slow"), Call("sibling")], "done"])
    async with make(tmp_path, model, tools=[slow, sibling]) as loop:
        result = await asyncio.wait_for(loop.send("x", "s"), PROMPT_SECONDS)
        assert result.status == "completed"
        late = (await loop.history("s", kinds=[kind]))[0].event
        assert (late.call, late.by) == ("t1r1c1", "its own thread, after the time limit")
        assert told(model)[0] == ("ValueError: the bank said no It may have taken effect." if fails else "late, and true")
        assert [wrong async for wrong in loop.verify()] == []


def test_a_probe_does_not_look_before_a_living_thread_has_ended(tmp_path):
    """A thread that an interrupted process left behind still works: from another process nobody asks the probe before that one is gone."""
    journal = Journal(tmp_path)
    go = tmp_path / "go"

    def pay(to: str, ctx: ToolContext) -> str:
        (tmp_path / "begun").touch()
        until = time.monotonic() + 10  # a second payment, which must not be, would wait here too
        while not go.exists() and time.monotonic() < until:
            time.sleep(0.01)
        journal.write("pay")
        return "paid"

    def probe(arguments, ctx):
        journal.write("probe")
        return Happened("it did") if "pay" in journal.lines else DidNotHappen()

    async def first_life():
        async with make(tmp_path, [[Call("pay", {"to": "Ada"})]], tools=[tool(probe=probe)(pay)]) as loop:
            sending = asyncio.ensure_future(loop.send("x", "s"))
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            sending.cancel()
            await asyncio.wait([sending])
        (tmp_path / "interrupted").touch()
        while "pay" not in journal.lines:
            await asyncio.sleep(0.01)

    pid = os.fork()
    if pid == 0:
        asyncio.run(first_life())
        os._exit(0)
    while not (tmp_path / "interrupted").exists():
        time.sleep(0.01)

    async def second_life():
        async with make(tmp_path, [[Call("pay", {"to": "Ada"})], "done"], tools=[tool(probe=probe)(pay)]) as loop:
            result = await loop.resume("s")
            assert [(call.state, call.id) for call in result.pending] == [("doubted", "t1r1c1")]
            assert journal.lines == []
            go.touch()
            os.waitpid(pid, 0)
            assert (await loop.resume("s")).status == "completed"

    try:
        asyncio.run(second_life())
    finally:
        go.touch()  # whatever went wrong, nobody waits for ever
    assert journal.lines == ["pay", "probe"]


@pytest.mark.parametrize("recovery", ["rerun", "keyed", "probe"])
async def test_no_second_attempt_beside_a_task_that_does_not_stop(monkeypatch, recovery):
    """Interrupted, and the tool does not stop: whatever was promised, nothing is asked or begun until it has ended."""
    monkeypatch.setattr("power_agent.drive.tasks.STOP_SECONDS", 0.05)
    gate, log = asyncio.Event(), []

    def probe(arguments, ctx):
        log.append("probe")
        return Happened("it did") if "paid" in log else DidNotHappen()

    async def pay() -> str:
        log.append("begun")
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        log.append("paid")
        return "paid"

    made = tool(probe=probe)(pay) if recovery == "probe" else tool(recovery=recovery)(pay)
    async with StatefulAgentLoop(ScriptedModel([[Call("pay")], "done"]), tools=[made], store=":memory:") as loop:
        sending = asyncio.ensure_future(loop.send("x", "s"))
        while not log:
            await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.wait([sending])
        for _ in range(2):
            resuming = asyncio.ensure_future(loop.resume("s"))
            await asyncio.wait([resuming], timeout=PROMPT_SECONDS)
            if not resuming.done():
                gate.set()
            (call,) = (await resuming).pending
            assert (call.state, call.why) == ("doubted", "It was found started, and its outcome was not recorded. An attempt of it was still running in this process.")
        assert log == ["begun"]
        gate.set()
        while "paid" not in log:
            await asyncio.sleep(0.01)
        assert (await loop.resume("s")).status == "completed"
    assert log == ["begun", "paid", *(["probe"] if recovery == "probe" else ["begun", "paid"])]


async def test_an_abandoned_thread_keeps_its_place(tmp_path):
    """A thread that was left to itself still works: its place stays taken, so that no more run at once than the limit says."""
    from power_agent.limits import Limits

    now, most, lock = 0, 0, threading.Lock()

    @tool(recovery="rerun", seconds=0.03)
    def slow() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.2)
        with lock:
            now -= 1

    async with make(tmp_path, [[Call("slow")] * 3, "done"], tools=[slow], limits=Limits(max_parallel_calls=1)) as loop:
        result = await loop.send("x", "s")
        assert [call.state for call in result.calls] == ["aborted"] * 3
    assert most == 1


async def test_a_result_for_an_aborted_call(tmp_path):
    """A result that is handed in for a call that was aborted before comes too late, and says so; the abort stands."""

    @tool(external=True)
    def survey() -> str:
        """Ask."""

    async with make(tmp_path, [[Call("survey")], "done"], tools=[survey]) as loop:
        await loop.send("x", "s")
        await loop.abort_pending("s", reason="enough")
        before = await kinds(loop)
        with pytest.raises(AlreadySettled, match="aborted"):
            await loop.settle("s", "t1r1c1", Result("late"))
        assert await kinds(loop) == before


async def test_a_result_that_meets_a_cancel(tmp_path):
    """Calls that end while somebody cancels keep their outcome, or are stopped: one end each, whatever the order of the two."""
    for pause in (0, 0.001, 0.003, 0.006, 0.01):
        name = f"s{pause}"

        running = asyncio.Event()

        @tool
        async def brief(ctx: ToolContext) -> str:
            ctx.deps.set()
            await asyncio.sleep(0.005)
            return "ok"

        async with make(tmp_path, [[Call("brief"), Call("brief")], "done"], tools=[brief], deps=running) as loop:
            task = asyncio.create_task(loop.send("x", name))
            await running.wait()
            await asyncio.sleep(pause)
            await loop.cancel(name)
            result = await task
            ends = [kept.event.call for kept in await loop.history(name) if kept.kind in {"call.succeeded", "call.aborted", "call.doubted"}]
            assert sorted(ends) == ["t1r1c1", "t1r1c2"]
            assert result.status in {"cancelled", "waiting", "completed"}
            assert [wrong async for wrong in loop.verify(name)] == []


# -- listeners, guards, scripts ----------------------------------------------------------------------------------------


async def story(folder: Path, **options) -> tuple[list[str], str]:
    """One turn with everything in it: a failed request, parallel calls, a failure, a question; returns what was kept and said."""
    from power_agent import ModelError

    journal = Journal(folder)

    @tool
    def fail() -> None:
        raise ValueError("no")

    def policy(wanted):
        return p.Ask() if wanted.tool == "pay" else p.Allow()

    script = [ModelError("busy", retryable=True), [*TWO, Call("fail")], "done"]
    async with make(folder, script, tools=[pay_tool(journal), note_tool(journal), fail], policy=policy, **options) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c2", Approve())
        result = await loop.resume("s")
        assert sorted(line.split()[0] for line in journal.lines) == ["note", "pay"]
        return sorted(await kinds(loop)), result.text


async def test_a_listener_that_raises(tmp_path, monkeypatch, caplog):
    """A listener that raises at every event changes nothing: the same events, the same end; each time it is logged, and the next listener hears everything."""
    monkeypatch.setattr("power_agent.drive.attempts.FIRST_BACKOFF_SECONDS", 0.01)
    heard = []

    def listener(kept):
        raise RuntimeError(f"I do not like {kept.kind}")

    for name in ("plain", "broken"):
        (tmp_path / name).mkdir()
    plain = await story(tmp_path / "plain")
    with caplog.at_level(logging.ERROR, "power_agent"):
        assert await story(tmp_path / "broken", listeners=[listener, heard.append]) == plain
    assert sorted(kept.kind for kept in heard) == plain[0]
    assert len(caplog.records) == len(heard)


def test_a_script_goes_on_where_the_kept_answers_end(tmp_path):
    """In a log that is resumed in another process a list of answers goes on behind those that were kept; the kept ones are not asked for again."""
    journal = Journal(tmp_path)
    script = [[Call("note")], [Call("pay", {"to": "Ada"})], [Call("note")], "done"]

    async def first_life():
        async with make(tmp_path, script, tools=[pay_tool(journal, "keyed", dies=True), note_tool(journal)]) as loop:
            await loop.send("x", "s")

    assert forked(first_life) == -signal.SIGKILL

    async def second_life():
        model = ScriptedModel(script)
        async with make(tmp_path, model, tools=[pay_tool(journal, "keyed"), note_tool(journal)]) as loop:
            assert (await loop.resume("s")).text == "done"
            assert [request.replies for request in model.requests] == [2, 3]

    asyncio.run(second_life())


# -- every place of one turn -------------------------------------------------------------------------------------------

PLACES = [
    f"{when}:{name}"
    for name in ("input.received", "model.asked", "model.answered", "call.started", "call.succeeded", "turn.ended", "effect", "pay")
    for when in (("before", "after") if name in {"effect", "pay"} else ("before", "in", "after"))
]


@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere(tmp_path, place):
    """Killed at any place of a turn with an `ask` call: it never began, or ends well after a resume; doubt is settled with the journal's truth, and there is one payment."""
    journal = Journal(tmp_path)
    tools = [pay_tool(journal)]
    script = [[Call("pay", {"to": "Ada"})], "done"]

    async def first_life():
        failpoints._ARMED = place
        async with make(tmp_path, script, tools=tools) as loop:
            await loop.send("x", "s", key="k")

    assert forked(first_life) == -signal.SIGKILL

    async def second_life():
        async with make(tmp_path, script, tools=tools) as loop:
            known = await loop.sessions()
            if known and (await loop.state("s")).turns:
                result = await loop.resume("s")
                for call in result.pending:
                    assert call.state == "doubted"
                    assert len(journal.lines) <= 1
                    await loop.settle("s", call.id, Result("paid Ada") if journal.lines else Retry())
                    result = await loop.resume("s")
                assert result.status == "completed"
            result = await loop.send("x", "s", key="k")
            assert (result.status, result.text, result.turn) == ("completed", "done", 1)
            assert [wrong async for wrong in loop.verify()] == []

    asyncio.run(second_life())
    assert len(journal.lines) == 1


# -- crash_at ----------------------------------------------------------------------------------------------------------


@tool
def pay(to: str, ctx: ToolContext) -> str:
    """Pay, at the top of the module, where a child process finds it."""
    Journal(Path(ctx.deps)).write(f"pay {to}")
    return f"paid {to}"


async def life(folder: str) -> None:
    async with StatefulAgentLoop(ScriptedModel([[Call("pay", {"to": "Ada"})], "done"]), tools=[pay], deps=folder, store=f"{folder}/agent.db") as loop:
        await loop.send("x", "s")


def broken_life(folder: str) -> None:
    raise SystemExit(7)


async def endless_life(folder: str) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize(("name", "when", "lines", "state"), [("pay", "after", 1, "started"), ("call.started", "before", 0, None)])
def test_crash_at(crash_at, tmp_path, name, when, lines, state):
    """`crash_at(place).run(agent, …)` kills a child process exactly there: the effect is in the world or not, the log says what was begun."""
    crash_at(name, when=when).run(life, str(tmp_path))
    assert len(Journal(tmp_path).lines) == lines

    async def look():
        async with make(tmp_path, []) as loop:
            return [call.state for call in await loop.pending("s")]

    assert asyncio.run(look()) == ([state] if state else [])


def test_crash_at_counts(crash_at):
    """The place is named as the variable wants it, with the first passage as the default."""
    assert (crash_at("pay").place, crash_at("model.asked", "before", 2).place) == ("after:pay:1", "before:model.asked:2")
    assert isinstance(crash_at("pay"), Crash)


@pytest.mark.parametrize(
    ("name", "function", "says"),
    [("refund", life, "after:refund:1 was never passed: the process ended with status 0"), ("pay", broken_life, "ended with status 7")],
)
def test_crash_at_the_wrong_place(crash_at, tmp_path, name, function, says):
    """A place that is never passed fails the test, with the place and how the process ended; the environment is as before."""
    before = dict(os.environ)
    with pytest.raises(pytest.fail.Exception, match=says):
        crash_at(name).run(function, str(tmp_path))
    assert dict(os.environ) == before


def test_crash_at_gives_up(crash_at, tmp_path):
    """A process that neither passes the place nor ends is killed in the end, and the test fails."""
    with pytest.raises(pytest.fail.Exception, match=r"still running after 1 s"):
        crash_at("pay").run(endless_life, str(tmp_path), seconds=1.0)
