"""May this call run? Policies, questions that wait for days, decisions from anywhere, and what each decision is allowed on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import textwrap
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from processes import PROMPT_SECONDS

from power_agent import Abort, Approve, Call, Deny, Limits, ModelError, PowerAgentError, Result, Retry, ScriptedModel, SessionPending, StatefulAgentLoop, Text, tool
from power_agent import events as e
from power_agent import policy as p
from power_agent.binding import bound_by, digest_of
from power_agent.clock import HeldClock
from power_agent.errors import AlreadySettled, CallNotFound, InvalidInput, SettleNotAllowed
from power_agent.messages import restored
from power_agent.policy.rules import Rules, rule_for


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("power_agent.drive.ledger.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("power_agent.drive.calls.CANCEL_GRACE_SECONDS", 0.05)


@pytest.fixture
def make(tmp_path):
    """Return a function that builds an agent on this test's file."""

    def agent(script=(), **options):
        model = script if isinstance(script, ScriptedModel) else ScriptedModel(script)
        return StatefulAgentLoop(model, store=options.pop("store", tmp_path / "agent.db"), **options)

    return agent


class Ledger:
    """A tool that writes down how often it ran, and with what."""

    def __init__(self, **promises: Any) -> None:
        self.paid: list[tuple[str, int]] = []

        @tool(**promises)
        def pay(to: str, euros: int = 1) -> str:
            """Pay."""
            self.paid.append((to, euros))
            return f"paid {to}"

        self.tool = pay


def asking(**options):
    return lambda _: p.Ask(**options)


async def kinds(loop, session="s") -> list[str]:
    return [kept.kind for kept in await loop.history(session)]


async def until(truth) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(PROMPT_SECONDS):
        while not await truth():
            await asyncio.sleep(0.01)


async def kept(loop, kind: str) -> bool:
    return bool(await loop.sessions()) and kind in await kinds(loop)


def told(model: ScriptedModel) -> list[str]:
    """What the last request says about the calls before it."""
    return [part.content[0].text for part in model.requests[-1].messages[-1].parts]


PAY = [Call("pay", {"to": "Ada", "euros": 10})]


# -- policy ------------------------------------------------------------------------------------------------------------


async def test_allow(make):
    """What a policy allows runs at once; it was shown session, call, tool and arguments."""
    ledger, seen = Ledger(), []

    def policy(wanted):
        seen.append(wanted)
        return p.Allow("small sums")

    async with make([PAY, "done"], tools=[ledger.tool], policy=policy) as loop:
        assert (await loop.send("x", "s")).status == "completed"
    assert ledger.paid == [("Ada", 10)]
    assert seen == [p.Wanted(session="s", call="t1r1c1", tool="pay", arguments={"to": "Ada", "euros": 10})]


async def test_deny(make):
    """What a policy denies does not run; the model reads the constant sentence with the rule and the reason."""
    ledger, model = Ledger(), ScriptedModel([PAY, "done"])
    async with make(model, tools=[ledger.tool], policy=lambda _: p.Deny("too much.", rule="sums")) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].state) == ("completed", "denied")
        assert "call.started" not in await kinds(loop)
    assert told(model) == ["Denied by policy (sums): too much. It was not run."]
    assert ledger.paid == []


async def test_ask(make):
    """What a policy asks about waits in the log with question, rule and digest; nothing runs, and another owner sees the same."""
    ledger = Ledger()
    async with make([PAY, "done"], tools=[ledger.tool], policy=asking(question="Pay Ada?", rule="money")) as loop:
        result = await loop.send("x", "s")
        (call,) = result.pending
        assert (result.status, call.state, call.question, call.rule, call.attempt) == ("waiting", "waiting", "Pay Ada?", "money", 0)
        assert len(call.digest) == 64
    async with make(tools=[ledger.tool]) as loop:
        assert await loop.pending("s") == [call]
    assert ledger.paid == []


async def test_the_policy_is_not_asked_about_wrong_calls(make):
    """A call of an unknown tool or with bad arguments is answered without asking anybody."""

    def policy(_):
        raise AssertionError("asked")

    async with make([[Call("pay", {"from": 1}), Call("nothing")], "done"], tools=[Ledger().tool], policy=policy) as loop:
        assert [call.state for call in (await loop.send("x", "s")).calls] == ["failed", "failed"]


@pytest.mark.parametrize("wrong", [RuntimeError("the rules are gone"), None, "allow", Deny("no")], ids=["raises", "None", "text", "settling.Deny"])
async def test_a_policy_that_does_not_answer(make, wrong):
    """A policy that raises, or answers with something else than a verdict, lets nothing run; the turn does not hang half-open on it: the call is refused and the model told."""
    ledger = Ledger()

    def policy(_):
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    async with make([PAY, "done"], tools=[ledger.tool], policy=policy) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].state) == ("completed", "denied")
    assert ledger.paid == []


@pytest.mark.parametrize("seconds", [float("inf"), float("-inf"), float("nan"), 1e300, 10**5_000], ids=["inf", "-inf", "nan", "1e300", "a long number"])
async def test_a_deadline_that_nobody_can_keep(make, seconds):
    """A policy that sets a deadline which is no moment has failed: the call is denied, the turn ends, and the log says why."""
    ledger = Ledger()
    async with make([PAY, "done"], tools=[ledger.tool], policy=asking(seconds=seconds)) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].state) == ("completed", "denied")
        denied = (await loop.history("s", kinds=["call.denied"]))[0].event
        assert denied.by == "policy (policy failed)"
        assert denied.reason.startswith("the policy failed: InvalidInput: Ask(seconds=")
    assert ledger.paid == []


async def test_two_words_that_are_called_deny(make):
    """A policy's verdict and a person's decision are two things: each in the other's place is refused, with where the right one is."""
    ledger = Ledger()
    async with make([PAY, "done"], tools=[ledger.tool], policy=asking()) as loop:
        await loop.send("x", "s")
        with pytest.raises(InvalidInput, match=r"power_agent\.policy\.verdicts\.Deny is no decision about a call") as refused:
            await loop.settle("s", "t1r1c1", p.Deny("no"))
        assert "from power_agent import Approve, Deny" in refused.value.hint
        assert [call.state for call in await loop.pending("s")] == ["waiting"]
    model = ScriptedModel([PAY, "done"])
    async with make(model, tools=[ledger.tool], policy=lambda _: Deny("no")) as loop:
        await loop.send("x", "other")
    assert "which is no verdict; power_agent.policy.Deny is one" in told(model)[0]
    assert ledger.paid == []


async def test_a_policy_that_raises_runs_nothing(make):
    """Whatever becomes of the turn, with a policy that raises no effect starts, the session stays readable, and it goes on once the policy is repaired or the calls aborted."""
    ledger = Ledger()

    def policy(_):
        raise RuntimeError("the rules are gone")

    async with make([PAY, "done"], tools=[ledger.tool], policy=policy) as loop:
        try:
            await loop.send("x", "s")
        except RuntimeError:
            assert [call.state for call in await loop.pending("s")] == ["requested"]
            with pytest.raises(SessionPending):
                await loop.send("y", "s")
        assert ledger.paid == []
        assert "call.started" not in await kinds(loop)
    async with make([PAY, "done", "again"], tools=[ledger.tool]) as loop:
        await loop.resume("s")
        assert (await loop.state("s")).turn is None


async def test_a_policy_that_is_cancelled_from_within_denies(make):
    """`CancelledError` in a policy, though nobody cancelled anything, is no interrupt: the call is denied and the turn goes on."""
    ledger = Ledger()

    def policy(_):
        raise asyncio.CancelledError

    model = ScriptedModel([PAY, "done"])
    async with make(model, tools=[ledger.tool], policy=policy) as loop:
        assert (await loop.send("x", "s")).status == "completed"
    assert "the policy failed: CancelledError" in told(model)[0]
    assert ledger.paid == []


@pytest.mark.parametrize("thinks", [False, True], ids=["at once", "after thinking"])
async def test_a_guard_that_refuses_everything(make, thinks):
    """When a guard refuses every call of a message the turn goes on at once: there is nothing left to wait for."""

    def refuse(_):
        return p.Refuse("not today")

    async def consider(_):
        await asyncio.sleep(0)
        return p.Refuse("not today")

    ledger, model = Ledger(), ScriptedModel([[*PAY, *PAY], "done"])
    async with make(model, tools=[ledger.tool], guards=[consider if thinks else refuse]) as loop:
        result = await asyncio.wait_for(loop.send("x", "s"), PROMPT_SECONDS)
        assert [call.state for call in result.calls] == ["denied", "denied"]
    assert told(model) == [f"Denied by guard ({'consider' if thinks else 'refuse'}): not today. It was not run."] * 2
    assert ledger.paid == []


# -- a person ----------------------------------------------------------------------------------------------------------


async def in_another_process(path, code: str) -> Any:
    program = f"import asyncio, json\nfrom power_agent import *\nasync def main(path):\n{textwrap.indent(textwrap.dedent(code), '    ')}\nasyncio.run(main({str(path)!r}))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert child.returncode == 0
    return json.loads(out)


async def test_approved_from_another_process(make, tmp_path):
    """Approved by another process that does not even have the tool; resume by a new owner runs the call once, with the arguments that were shown."""
    ledger = Ledger()
    async with make([PAY], tools=[ledger.tool], policy=asking()) as loop:
        await loop.send("x", "s")
    code = """
    async with StatefulAgentLoop(ScriptedModel([]), store=path) as loop:
        (call,) = await loop.pending("s")
        left = await loop.settle("s", call.id, Approve("go ahead"), by="ada")
        print(json.dumps([[one.state for one in left], dict(call.arguments)]))
    """
    assert await in_another_process(tmp_path / "agent.db", code) == [["approved"], {"to": "Ada", "euros": 10}]
    async with make([PAY, "done"], tools=[ledger.tool], policy=asking()) as loop:
        result = await loop.resume("s")
        assert (result.status, result.text, result.calls[0].output) == ("completed", "done", "paid Ada")
        approved = (await loop.history("s", kinds=["call.approved"]))[0].event
        started = (await loop.history("s", kinds=["call.started"]))[0].event
        assert (approved.by, approved.reason, approved.digest) == ("ada", "go ahead", started.digest)
        assert await loop.resume("s") == result
    assert ledger.paid == [("Ada", 10)]


async def test_an_approval_counts_once(make):
    """An approval lets one call run, once: the same call made again is asked about again."""
    ledger = Ledger()
    async with make([PAY, PAY, "done"], tools=[ledger.tool], policy=asking()) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", Approve())
        result = await loop.resume("s")
        assert [(call.id, call.state) for call in result.pending] == [("t1r2c1", "waiting")]
    assert len(ledger.paid) == 1


async def test_denied_by_a_person(make):
    """Denied: the model reads who, why, and that it was not run; the call never starts."""
    ledger, model = Ledger(), ScriptedModel([PAY, "done"])
    async with make(model, tools=[ledger.tool], policy=asking()) as loop:
        await loop.send("x", "s")
        assert await loop.settle("s", "t1r1c1", Deny("Ada is paid already."), by="bob") == []
        assert (await loop.resume("s")).calls[0].state == "denied"
    assert told(model) == ["Denied by bob: Ada is paid already. It was not run."]
    assert ledger.paid == []


async def test_the_model_waits_for_all(make):
    """With two questions open, one answer is not enough: the model is asked only once all calls have an outcome, and reads them in their order."""
    model = ScriptedModel([[Call("pay", {"to": "Ada"}), Call("pay", {"to": "Bob"})], "done"])
    async with make(model, tools=[Ledger().tool], policy=asking()) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c2", Approve())
        result = await loop.resume("s")
        assert (result.status, [call.id for call in result.pending], len(model.requests)) == ("waiting", ["t1r1c1"], 1)
        await loop.settle("s", "t1r1c1", Deny("no"), by="ada")
        assert (await loop.resume("s")).status == "completed"
    assert told(model) == ["Denied by ada: no. It was not run.", "paid Bob"]


async def test_the_deadline(make):
    """A question that nobody answers in time is denied by whoever drives next; before, the deadline is shown and resume changes nothing."""
    ledger, clock, model = Ledger(), HeldClock(), ScriptedModel([PAY, "done"])
    async with make(model, tools=[ledger.tool], policy=asking(seconds=60), clock=clock) as loop:
        result = await loop.send("x", "s")
        asked = (await loop.history("s", kinds=["call.approval_asked"]))[0]
        assert result.pending[0].deadline == asked.at + 60_000
        clock.move(59)
        before = await kinds(loop)
        assert (await loop.resume("s")).status == "waiting"
        assert await kinds(loop) == before
        clock.move(2)
        assert (await asyncio.wait_for(loop.resume("s"), PROMPT_SECONDS)).calls[0].state == "denied"
    assert told(model) == ["Denied by deadline: nobody answered in time. It was not run."]
    assert ledger.paid == []


async def test_a_decimal_is_a_time(make):
    """What is left of somebody's time may be one."""
    async with make([PAY, "done"], tools=[Ledger().tool], policy=asking(seconds=Decimal(60)), clock=HeldClock()) as loop:
        (call,) = (await loop.send("x", "s")).pending
        assert call.deadline == (await loop.history("s", kinds=["call.approval_asked"]))[0].at + 60_000


async def test_nobody_approves_after_the_deadline(make):
    """Who comes too late is told so, and nothing runs; to deny it is as good as the deadline."""
    ledger, clock = Ledger(), HeldClock()
    async with make([PAY, "done", PAY, "done"], tools=[ledger.tool], policy=asking(seconds=60), clock=clock) as loop:
        await loop.send("x", "s")
        clock.move(60)
        before = await kinds(loop)
        with pytest.raises(SettleNotAllowed, match="Nobody answered in time") as caught:
            await loop.settle("s", "t1r1c1", Approve())
        assert "Resume" in str(caught.value.hint)
        assert await kinds(loop) == before
        assert (await loop.resume("s")).calls[0].state == "denied"
        await loop.send("y", "s")
        clock.move(3_600)
        await loop.settle("s", "t2r1c1", Deny("no"), by="ada")
        assert (await loop.resume("s")).calls[0].state == "denied"
    assert ledger.paid == []


async def test_the_deadline_while_a_sibling_runs(make):
    """While a sibling runs, a deadline that passes is noticed at once, not when the sibling ends."""

    @tool
    async def slow() -> None:
        await gate.wait()

    gate = asyncio.Event()

    def policy(wanted):
        return p.Ask(seconds=0.05) if wanted.tool == "pay" else p.Allow()

    async with make([[Call("slow"), *PAY], "done"], tools=[slow, Ledger().tool], policy=policy) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await until(lambda: kept(loop, "call.denied"))
        gate.set()
        assert (await task).status == "completed"


async def test_a_deadline_while_all_places_are_taken(make):
    """A deadline passes, another call is approved and a third one has no place yet: the loop waits for a place, and does not spin."""
    gate = asyncio.Event()

    @tool
    async def slow() -> None:
        await gate.wait()

    def policy(wanted):
        return {"pay": p.Ask(seconds=0.05), "look": p.Ask()}.get(wanted.tool, p.Allow())

    @tool
    async def look() -> None:
        """Look."""

    def stuck(*_):
        raise TimeoutError("the event loop is blocked")

    signal.signal(signal.SIGALRM, stuck)
    try:
        async with make([[Call("slow"), *PAY, Call("look"), Call("slow")], "done"], tools=[slow, look, Ledger().tool], policy=policy, limits=Limits(max_parallel_calls=1)) as loop:
            task = asyncio.create_task(loop.send("x", "s"))
            await until(lambda: kept(loop, "call.started"))
            await asyncio.sleep(0.1)
            signal.setitimer(signal.ITIMER_REAL, PROMPT_SECONDS)
            await loop.settle("s", "t1r1c3", Approve())
            await asyncio.sleep(0.1)
            gate.set()
            result = await task
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert [call.state for call in result.calls] == ["succeeded", "denied", "succeeded", "succeeded"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


async def test_a_changed_tool_voids_an_approval(make):
    """Approved as one thing, found as another (the schema or the description changed): it is asked about again, with the new digest, and runs only when that is approved."""
    ledger = Ledger()
    async with make([PAY], tools=[ledger.tool], policy=asking(question="Pay?", rule="money")) as loop:
        first = (await loop.send("x", "s")).pending[0]
        await loop.settle("s", "t1r1c1", Approve())
    changed = tool(name="pay", description="Pay, and tell everybody.")(ledger.tool.function)
    for policy in (asking(question="Pay?", rule="money"), None, lambda _: p.Deny("no")):
        async with make([PAY, "done"], tools=[changed], policy=policy) as loop:
            (second,) = (await loop.resume("s")).pending
            assert (second.state, second.question, second.rule) == ("waiting", "Pay?", "money")
            assert second.digest != first.digest
    assert ledger.paid == []
    async with make([PAY, "done"], tools=[changed], policy=asking()) as loop:
        await loop.settle("s", "t1r1c1", Approve())
        assert (await loop.resume("s")).status == "completed"
        assert Counter(await kinds(loop))["call.approval_asked"] == 2
    assert ledger.paid == [("Ada", 10)]


async def test_a_question_asked_anew_has_a_deadline_again(make):
    """What is asked about again because it changed waits as long as the policy of today says, from then on."""
    ledger, clock = Ledger(), HeldClock()
    async with make([PAY], tools=[ledger.tool], policy=asking(seconds=60), clock=clock) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", Approve())
    changed = tool(name="pay", description="Pay, and tell everybody.")(ledger.tool.function)
    clock.move(600)
    async with make([PAY, "done"], tools=[changed], policy=asking(seconds=90), clock=clock) as loop:
        (call,) = (await loop.resume("s")).pending
        asked = (await loop.history("s", kinds=["call.approval_asked"]))[-1]
        assert (call.state, call.deadline) == ("waiting", asked.at + 90_000)
        clock.move(91)
        assert (await loop.resume("s")).calls[0].state == "denied"
    assert ledger.paid == []


async def test_an_approved_tool_that_is_gone(make):
    """Approved, and the tool is gone: it was not run, and the model is told so."""
    async with make([PAY], tools=[Ledger().tool], policy=asking()) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", Approve())
    model = ScriptedModel([PAY, "done"])
    async with make(model) as loop:
        assert (await loop.resume("s")).calls[0].state == "aborted"
    assert told(model) == ["Aborted by power_agent: there is no tool pay any more. It was not run."]


# -- siblings ----------------------------------------------------------------------------------------------------------


def only(name: str):
    return lambda wanted: p.Ask() if wanted.tool == name else p.Allow()


@tool
def note() -> str:
    """Note."""
    return "noted"


async def test_siblings_run_whatever_one_waits_for(make):
    """The calls that nobody has to be asked about run at once, and do not run again when the waiting one is approved."""
    ledger = Ledger()
    async with make([[Call("note"), *PAY, Call("note")], "done"], tools=[note, ledger.tool], policy=only("pay")) as loop:
        result = await loop.send("x", "s")
        assert [(call.id, call.state) for call in result.calls] == [("t1r1c1", "succeeded"), ("t1r1c2", "waiting"), ("t1r1c3", "succeeded")]
        await loop.settle("s", "t1r1c2", Approve())
        result = await loop.resume("s")
        assert [call.attempts for call in result.calls] == [1, 1, 1]


async def test_the_living_owner_goes_on_by_itself(make):
    """Settled while a sibling still runs, by another owner: the living owner goes on by itself, without resume."""
    gate = asyncio.Event()

    @tool
    async def slow() -> str:
        await gate.wait()
        return "slow"

    ledger = Ledger()
    async with make([[Call("slow"), *PAY], "done"], tools=[slow, ledger.tool], policy=only("pay")) as loop, make() as other:
        task = asyncio.create_task(loop.send("x", "s"))
        await until(lambda: kept(other, "call.approval_asked"))
        await other.settle("s", "t1r1c2", Approve(), by="ada")
        await until(lambda: kept(other, "call.succeeded"))
        assert ledger.paid == [("Ada", 10)]
        assert not task.done()
        gate.set()
        result = await task
        assert (result.status, [call.output for call in result.calls]) == ("completed", ["slow", "paid Ada"])
        assert Counter(await kinds(loop))["call.doubted"] == 0


async def test_an_approval_and_a_doubted_call_in_one_batch(make):
    """One call waits, its sibling is doubted: both are shown, each is settled on its own, and the model sees one answer for each."""

    @tool(seconds=0.03)
    async def slow() -> None:
        await asyncio.sleep(3_600)

    ledger, model = Ledger(), ScriptedModel([[*PAY, Call("slow")], "done"])
    async with make(model, tools=[slow, ledger.tool], policy=only("pay")) as loop:
        result = await loop.send("x", "s")
        assert [(call.id, call.state) for call in result.pending] == [("t1r1c1", "waiting"), ("t1r1c2", "doubted")]
        await loop.settle("s", "t1r1c1", Approve())
        result = await loop.resume("s")
        assert [(call.id, call.state) for call in result.pending] == [("t1r1c2", "doubted")]
        await loop.settle("s", "t1r1c2", Abort("nobody knows"), by="ada")
        assert (await loop.resume("s")).status == "completed"
    assert told(model) == ["paid Ada", "Aborted by ada: nobody knows. It may have taken effect; check before repeating."]


# -- external tools ----------------------------------------------------------------------------------------------------


@tool(external=True)
def survey(question: str) -> str:
    """Ask the customer."""


async def test_an_external_result(make):
    """The result of an external call is handed in by whoever has it; the call is never started here, and the log says by whom."""
    model = ScriptedModel([[Call("survey", {"question": "?"}), Call("note")], "done"])
    async with make(model, tools=[survey, note]) as loop:
        result = await loop.send("x", "s")
        assert [(call.id, call.external) for call in result.pending] == [("t1r1c1", True)]
        assert await loop.settle("s", "t1r1c1", Result({"answer": 42}), by="portal") == []
        result = await loop.resume("s")
        assert result.calls[0].output == {"answer": 42}
        assert (await loop.history("s", kinds=["call.succeeded"]))[-1].event.by == "portal"
        assert [kept.event.call for kept in await loop.history("s", kinds=["call.started"])] == ["t1r1c2"]
    assert told(model) == ['{"answer":42}', "noted"]


SURVEY = [Call("survey", {"question": "?"})]


@pytest.mark.parametrize("policy", [None, lambda _: p.Allow(), asking(question="Sure?")], ids=["none", "allow", "ask"])
async def test_an_external_call_waits_whatever_the_policy_says_but_no(make, policy):
    """Allowed or asked about, it waits for its result and nobody approves it."""
    async with make([SURVEY, "done"], tools=[survey], policy=policy) as loop:
        (call,) = (await loop.send("x", "s")).pending
        assert (call.state, call.rule, call.external, call.deadline) == ("waiting", "external", True, None)
        with pytest.raises(SettleNotAllowed):
            await loop.settle("s", "t1r1c1", Approve())
        await loop.settle("s", "t1r1c1", Result("fine"))
        assert (await loop.resume("s")).status == "completed"


async def test_an_external_call_is_denied(make):
    """A policy judges each call, also those that others carry out."""
    model = ScriptedModel([SURVEY, "done"])
    async with make(model, tools=[survey], policy=lambda _: p.Deny("never on Sundays", "sunday")) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].state) == ("completed", "denied")
    assert told(model) == ["Denied by policy (sunday): never on Sundays. It was not run."]


async def test_an_external_call_has_no_deadline(make):
    """What happens outside is not undone by a deadline: its result is taken however late it comes. The policy's question is shown."""
    clock = HeldClock()
    async with make([SURVEY, "done"], tools=[survey], policy=asking(question="Sure?", seconds=60), clock=clock) as loop:
        (call,) = (await loop.send("x", "s")).pending
        assert (call.deadline, call.question) == (None, "Sure?")
        clock.move(3_600)
        assert (await loop.resume("s")).status == "waiting"
        await loop.settle("s", "t1r1c1", Result("fine"))
        assert (await loop.resume("s")).calls[0].output == "fine"


async def test_external_calls_are_validated(make):
    """An external call with wrong arguments is answered at once, like any other."""
    async with make([[Call("survey", {})], "done"], tools=[survey]) as loop:
        assert (await loop.send("x", "s")).calls[0].state == "failed"


@pytest.mark.parametrize("value", [float("nan"), object(), {1: float("inf")}])
async def test_results_that_are_not_json(make, value):
    """A handed-in result that is not JSON is refused, with a hint; nothing is written."""
    async with make([[Call("survey", {"question": "?"})]], tools=[survey]) as loop:
        await loop.send("x", "s")
        before = await kinds(loop)
        with pytest.raises(PowerAgentError, match="not JSON"):
            await loop.settle("s", "t1r1c1", Result(value))
        assert await kinds(loop) == before


# -- the table ---------------------------------------------------------------------------------------------------------


@tool(seconds=0.02)
async def vanish() -> None:
    """Go, and do not come back in time."""
    await asyncio.sleep(3_600)


DECISIONS = {"Approve": Approve(), "Deny": Deny("no"), "Retry": Retry(), "Result": Result("handed in"), "Abort": Abort("enough")}
TABLE = {
    "waiting": {"Approve": "call.approved", "Deny": "call.denied", "Abort": "call.aborted"},
    "external": {"Result": "call.succeeded", "Abort": "call.aborted"},
    "approved": {"Approve": None, "Abort": "call.aborted", "Deny": AlreadySettled, "Result": AlreadySettled, "Retry": AlreadySettled},
    "doubted": {"Retry": "call.retried", "Result": "call.succeeded", "Abort": "call.aborted"},
    "retried": {"Retry": None, "Result": "call.succeeded", "Abort": "call.aborted"},
    "succeeded": dict.fromkeys(DECISIONS, AlreadySettled),
    "failed": dict.fromkeys(DECISIONS, AlreadySettled),
    "denied by rule": dict.fromkeys(DECISIONS, AlreadySettled),
}


@pytest.fixture
async def call_that_is(make):
    """Return a function that brings a call to a state, on a loop that is closed afterwards."""
    loops = []

    @tool
    def fail() -> None:
        raise ValueError

    async def call(state: str):
        name, policy = {
            "waiting": ("note", asking()),
            "external": ("survey", None),
            "approved": ("note", asking()),
            "doubted": ("vanish", None),
            "retried": ("vanish", None),
            "succeeded": ("note", None),
            "failed": ("fail", None),
            "denied by rule": ("note", lambda _: p.Deny("not allowed here")),
        }[state]
        arguments = {"question": "?"} if name == "survey" else {}
        # a second call keeps the turn open whatever becomes of the first
        script = [[Call(name, arguments), Call("survey", {"question": "!"})], "done"]
        loop = await make(script, tools=[note, survey, vanish, fail], policy=policy).__aenter__()
        loops.append(loop)
        await loop.send("x", "s")
        if state in {"approved", "retried"}:
            await loop.settle("s", "t1r1c1", Approve() if state == "approved" else Retry())
        return loop

    yield call
    for loop in loops:
        await loop.aclose()


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("state", TABLE)
async def test_what_may_be_decided_where(call_that_is, state, decision):
    """The whole table: each decision in each state is one fact with its `by`, or nothing new, or refused with a hint, or too late."""
    loop = await call_that_is(state)
    expected = TABLE[state].get(decision, SettleNotAllowed)
    before = await kinds(loop)
    if isinstance(expected, str):
        left = await loop.settle("s", "t1r1c1", DECISIONS[decision], by="ada")
        last = (await loop.history("s"))[-1]
        assert (last.kind, last.event.call, last.event.by) == (expected, "t1r1c1", "ada")
        assert (await kinds(loop))[:-1] == before
        assert [call.id for call in left] == (["t1r1c1"] if decision in {"Approve", "Retry"} else []) + ["t1r1c2"]
        return
    if expected is None:
        await loop.settle("s", "t1r1c1", DECISIONS[decision], by="bob")
    else:
        with pytest.raises(expected) as caught:
            await loop.settle("s", "t1r1c1", DECISIONS[decision], by="ada")
        assert caught.value.call == "t1r1c1"
        if expected is SettleNotAllowed:
            allowed = [name for name, kind in TABLE[state.replace("retried", "doubted")].items() if isinstance(kind, str)]
            assert caught.value.hint == f"Possible now: {', '.join(allowed)}."
    assert await kinds(loop) == before


@pytest.mark.parametrize(("state", "decision"), [(state, name) for state, row in TABLE.items() for name, kind in row.items() if isinstance(kind, str) and state != "retried"])
async def test_the_same_decision_again(call_that_is, state, decision):
    """The same decision again is a no-op, also by somebody else, also after the call has ended and the turn with it; another one comes too late."""
    loop = await call_that_is(state)
    await loop.settle("s", "t1r1c1", DECISIONS[decision], by="ada")
    before = await kinds(loop)
    await loop.settle("s", "t1r1c1", DECISIONS[decision], by="bob")
    assert await kinds(loop) == before
    if decision != "Retry":
        await loop.settle("s", "t1r1c2", Result("ok"))
        assert (await loop.resume("s")).status == "completed"
        before = await kinds(loop)
        await loop.settle("s", "t1r1c1", DECISIONS[decision], by="bob")
        other = Abort("another reason") if decision == "Abort" else Abort("x")
        with pytest.raises(AlreadySettled):
            await loop.settle("s", "t1r1c1", other)
        assert await kinds(loop) == before


ODD = "\ud800 and \U0010fffd"


@pytest.mark.parametrize(("decision", "other"), [(Deny(ODD), Abort(ODD)), (Abort(ODD), Abort("\ud801"))], ids=["Deny", "Abort"])
async def test_the_same_odd_words_again(make, decision, other):
    """A reason that is not Unicode, or holds what stands for that in the log, is the same reason when it is said again."""
    async with make([PAY, "done"], tools=[Ledger().tool], policy=asking()) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", decision)
        before = await kinds(loop)
        await loop.settle("s", "t1r1c1", decision)
        assert await kinds(loop) == before
        with pytest.raises(AlreadySettled):
            await loop.settle("s", "t1r1c1", other)


@pytest.mark.parametrize("value", [ODD, {ODD: 1}, [{"a": {ODD: ODD}}], (ODD,)], ids=["text", "key", "key within", "tuple"])
async def test_an_odd_result(make, value):
    """What is not Unicode is kept as a result wherever it stands, and is the same result when it is handed in again."""
    async with make([[Call("survey", {"question": "?"})], "done"], tools=[survey]) as loop:
        await loop.send("x", "s")
        for _ in range(2):
            await loop.settle("s", "t1r1c1", Result(value))
        (kept,) = await loop.history("s", kinds=["call.succeeded"])
        assert restored(kept.event.output) == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    "value", [(1, 2), Text("said"), [Text("a"), Text("b")], "x" * 100_000, {"rows": list(range(20_000))}], ids=["tuple", "Text", "Texts", "large text", "large value"]
)
async def test_the_same_result_again(make, value):
    """The same result again is a no-op whatever it is kept as: a list, parts, or head and tail of a blob; another one is refused."""
    async with make([[Call("survey", {"question": "?"})], "done"], tools=[survey]) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", Result(value))
        await loop.settle("s", "t1r1c1", Result(value))
        with pytest.raises(AlreadySettled):
            await loop.settle("s", "t1r1c1", Result("something else"))
        assert Counter(await kinds(loop))["call.succeeded"] == 1


async def test_unknown_calls(make):
    """An unknown call is refused, with those that are unresolved."""
    async with make([PAY], tools=[Ledger().tool], policy=asking()) as loop:
        await loop.send("x", "s")
        for name in ("t9r9c9", "", "pay"):
            with pytest.raises(CallNotFound) as caught:
                await loop.settle("s", name, Approve())
            assert caught.value.hint == "Unresolved: t1r1c1."


async def test_no_retry_in_a_cancelled_turn(make):
    """In a cancelled turn nothing starts any more: Retry is refused with what is possible; the handed-in result ends the turn as cancelled."""
    async with make([[Call("vanish")], "done"], tools=[vanish]) as loop:
        await loop.send("x", "s")
        assert await loop.cancel("s", reason="enough")
        with pytest.raises(SettleNotAllowed) as caught:
            await loop.settle("s", "t1r1c1", Retry())
        assert caught.value.hint == "Possible now: Result, Abort."
        await loop.settle("s", "t1r1c1", Result("it did"))
        assert (await loop.resume("s")).status == "cancelled"


async def test_a_retry_runs_once_more(make):
    """Retry allows one more attempt, under the next number and the same key; doubted again, it needs another decision."""
    seen = []

    @tool(seconds=0.03)
    async def slow() -> None:
        seen.append(1)
        await asyncio.sleep(3_600)

    async with make([[Call("slow")], "done"], tools=[slow]) as loop:
        await loop.send("x", "s")
        for attempt in (2, 3):
            await loop.settle("s", "t1r1c1", Retry("try again"), by="ada")
            (call,) = (await loop.resume("s")).pending
            assert (call.state, call.attempt) == ("doubted", attempt)
        starts = [kept.event for kept in await loop.history("s", kinds=["call.started"])]
        assert len({start.idempotency_key for start in starts}) == 1
        assert (await loop.resume("s")).status == "waiting"
    assert len(seen) == 3


async def test_decisions_of_two_people_at_once(make):
    """Of two different decisions at the same moment one is kept and the other is refused; the call has one outcome."""
    async with make([PAY, "done"], tools=[Ledger().tool], policy=asking()) as loop, make() as other:
        await loop.send("x", "s")
        outcomes = await asyncio.gather(
            loop.settle("s", "t1r1c1", Deny("no"), by="ada"),
            other.settle("s", "t1r1c1", Abort("stop"), by="bob"),
            loop.settle("s", "t1r1c1", Approve(), by="eve"),
            return_exceptions=True,
        )
        # an Abort may still follow an Approve
        assert all(isinstance(one, list | AlreadySettled) for one in outcomes), outcomes
        assert Counter(await kinds(loop)) & Counter({"call.denied": 5, "call.aborted": 5}) in (Counter({"call.denied": 1}), Counter({"call.aborted": 1}))
        assert [wrong async for wrong in loop.verify("s")] == []


def test_decisions_are_events_of_the_outside():
    """Every fact a decision can become may be kept by a process that does not own the session."""
    assert {kind for row in TABLE.values() for kind in row.values() if isinstance(kind, str)} <= set(e.FROM_OUTSIDE)


async def test_approved_arguments_that_no_longer_fit(make):
    """The tool's parameters changed after the approval, and the approved arguments do not fit any more: it is not run, and the model is told so."""
    ledger = Ledger()
    async with make([PAY, "done"], tools=[ledger.tool], policy=asking()) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", Approve())

    @tool
    def pay(iban: str) -> str:
        raise AssertionError(iban)

    model = ScriptedModel([PAY, "done"])
    async with make(model, tools=[pay], policy=asking()) as loop:
        result = await loop.resume("s")
        assert (result.status, result.calls[0].state) == ("completed", "aborted")
    assert told(model)[0].endswith("Expected: iban: string. It was not run.")
    assert told(model)[0].count("not run") == 1


async def test_a_failed_turn_says_why(make):
    """The result of a failed turn carries the failure, with its message."""
    async with make([ModelError("no such model")]) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.failure and result.failure.message) == ("failed", "no such model")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_tool_that_wants_to_exit(make, kind):
    """sys.exit() in a tool is its failure, not the end of the agent."""

    @tool
    def quits() -> None:
        sys.exit(3)

    @tool(name="quits")
    async def quits_too() -> None:
        sys.exit(3)

    async with make([[Call("quits")], "done"], tools=[quits if kind == "sync" else quits_too]) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].state) == ("completed", "failed")


class Script:
    """A tool that runs a file: bound to the folder it runs in, and to what the file holds."""

    def __init__(self, folder: Any) -> None:
        self.folder, self.ran = folder, []

        @tool(recovery="ask")
        def run(path: str) -> str:
            self.ran.append((self.folder / path).read_text())
            return "ran"

        run.binds = self.binds
        self.tool = run

    def binds(self, arguments):
        return {"folder": self.folder.name, "script": (self.folder / arguments["path"]).read_text()}


async def test_an_approval_is_void_when_the_script_changed(make, tmp_path):
    """Approved was this file in this folder. With another content, or elsewhere, it is asked about again; only what was approved last runs."""
    script = Script(tmp_path)
    (tmp_path / "x.sh").write_text("harmless")
    async with make([[Call("run", {"path": "x.sh"})], "done"], tools=[script.tool], policy=asking()) as loop:
        assert (await loop.send("x", "s")).status == "waiting"
        await loop.settle("s", "t1r1c1", Approve())
        (tmp_path / "x.sh").write_text("harmful")
        assert ((await loop.resume("s")).status, script.ran) == ("waiting", [])
        await loop.settle("s", "t1r1c1", Approve())
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.sh").write_text("harmful")
        script.folder = tmp_path / "sub"
        assert ((await loop.resume("s")).status, script.ran) == ("waiting", [])
        await loop.settle("s", "t1r1c1", Approve())
        assert ((await loop.resume("s")).status, script.ran) == ("completed", ["harmful"])
        asked = [kept.event.digest for kept in await loop.history("s") if kept.kind == "call.approval_asked"]
    assert len(set(asked)) == len(asked) == 3


async def test_a_rule_for_always_holds_for_this_script_only(make, tmp_path):
    """ "Always" was said about this content: another one is asked about. The policy sees what the call is bound to."""
    script, seen = Script(tmp_path), []
    (tmp_path / "x.sh").write_text("one")
    first = p.Wanted(session="s", call="t1r1c1", tool="run", arguments={"path": "x.sh"}, binds={"folder": tmp_path.name, "script": "one"})
    rules = Rules([rule_for(first)])

    def policy(wanted: p.Wanted) -> p.Verdict:
        seen.append(wanted.binds)
        return rules(wanted)

    async with make([[Call("run", {"path": "x.sh"})], "done", [Call("run", {"path": "x.sh"})], "done"], tools=[script.tool], policy=policy) as loop:
        assert (await loop.send("x", "s")).status == "completed"
        (tmp_path / "x.sh").write_text("two")
        assert (await loop.send("x", "s")).status == "waiting"
    assert script.ran == ["one"]
    assert [one["script"] for one in seen] == ["one", "two"]


@pytest.mark.parametrize("offered", [{"path": "gone"}, {"path": "x", "folder": {1, 2}}, {"x": float("nan")}])
async def test_what_cannot_be_bound_is_denied(make, offered):
    """A tool that cannot tell what its call depends on, or tells what is no JSON, does not run, not even where all is allowed."""
    ledger = Ledger()

    def binds(_):
        if offered == {"path": "gone"}:
            raise FileNotFoundError("gone")
        return offered

    ledger.tool.binds = binds
    model = ScriptedModel([PAY, "done"])
    async with make(model, tools=[ledger.tool], policy=p.allow_all) as loop:
        result = await loop.send("x", "s")
    assert (result.calls[0].state, ledger.paid) == ("denied", [])
    assert "cannot tell what it would depend on" in told(model)[0]


async def test_a_description_that_changes_in_place_is_asked_about_anew(make):
    """What was approved is what was shown: a tool that says something else by then is another one, also where it is the same object."""
    ledger = Ledger()
    async with make([PAY, "done"], tools=[ledger.tool], policy=asking()) as loop:
        (call,) = (await loop.send("x", "s")).pending
        ledger.tool.spec.parameters["properties"]["to"]["description"] = "Everybody."
        await loop.settle("s", call.id, Approve())
        result = await loop.resume("s")
    assert (result.status, ledger.paid) == ("waiting", [])


def test_the_digest_of_unbound_tools_stands():
    """Approvals that wait in older logs, for tools that are bound to nothing, keep their digest."""
    made, plain = Call("pay", {"to": "ada"}, id="t1r1c1"), Ledger().tool
    spec = plain.spec
    before = json.dumps([spec.name, spec.description, spec.parameters, made.arguments], sort_keys=True, separators=(",", ":"))
    assert digest_of(plain, made, bound_by(plain, made)) == hashlib.sha256(before.encode()).hexdigest()


@pytest.mark.parametrize(
    ("bound", "policy", "digests"),
    [("to nothing", None, 0), ("to nothing", asking(), 2), ("to a folder", None, 1), ("to a folder", asking(), 2), ("by others", None, 1)],
)
async def test_what_starts_is_kept_where_the_log_would_not_know_it(make, bound, policy, digests):
    """The digest of exactly what will run stands in the log where a person was asked about it, where its tool depends on more than its
    arguments, and where others made the tool; elsewhere configuration and arguments say all of it.
    """
    ledger = Ledger()
    if bound == "to a folder":
        ledger.tool.binds = lambda arguments: {"folder": "/here"}
    if bound == "by others":
        ledger.tool.foreign = True
    async with make([PAY, "done"], tools=[ledger.tool], policy=policy or (lambda _: p.Allow())) as loop:
        result = await loop.send("x", "s")
        if result.pending:
            await loop.settle("s", result.pending[0].id, Approve())
            result = await loop.resume("s")
        assert (result.status, len(ledger.paid)) == ("completed", 1)
        kept = [found for one in await loop.history("s") if one.kind in {"call.approved", "call.started"} and (found := one.event.digest)]
    assert (len(kept), len(set(kept))) == (digests, min(digests, 1))


async def test_a_folder_that_changes_before_the_start(make):
    """What a tool depends on is compared at the last moment, also where nobody was asked: it runs when the policy lets this as well."""
    for allowed, paid in ((("/here", "/there"), 1), (("/here",), 0)):
        ledger, folders = Ledger(), iter(["/here", "/there", "/there"])
        ledger.tool.binds = lambda arguments, folders=folders: {"folder": next(folders)}
        async with make([PAY, "done"], tools=[ledger.tool], policy=lambda wanted, allowed=allowed: p.Allow() if wanted.binds["folder"] in allowed else p.Deny("not there")) as loop:
            result = await loop.send("x", f"s{paid}")
            assert (len(ledger.paid), result.calls[0].state) == (paid, "succeeded" if paid else "failed")


@pytest.mark.parametrize("becomes", ["made by others", "bound to what the policy denies", "bound to what the policy allows"])
async def test_a_tool_that_becomes_another_one_before_its_effect(make, becomes):
    """Nothing was kept of what would run, for a plain tool was judged: what is there instead when the effect begins is judged as what it is."""
    ledger = Ledger()

    def exchanged(_kept):
        if becomes == "made by others":
            ledger.tool.foreign = True
        else:
            ledger.tool.binds = lambda arguments: {"folder": "/there" if "denies" in becomes else "/here"}

    async with make([PAY, "done"], tools=[ledger.tool], policy=lambda wanted: p.Deny("not there") if wanted.binds.get("folder") == "/there" else p.Allow()) as loop:
        loop.listen(exchanged, e.CallStarted)
        result = await loop.send("x", "s")
        runs = becomes == "bound to what the policy allows"
        assert (len(ledger.paid), result.calls[0].state) == ((1, "succeeded") if runs else (0, "failed"))
