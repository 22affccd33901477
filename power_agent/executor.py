"""Runs tool calls: may it run, intent, effect, outcome.

    judge     policy, arguments and digest say what a call that has not started needs: a person, a refusal, or a start
    begin     its intent is durable; now the effect, under a time limit
    outcome   what came of it, as facts: succeeded, failed because the tool said so, doubted when nobody can know
    recover   what was found started without an outcome is doubted first; then the stricter of the promise recorded with the
              start and the promise the tool makes today decides

Nothing here writes: facts are returned to the drive, which keeps them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

from pydantic import JsonValue

from power_agent import events as e
from power_agent.binding import beside, bound_by, digest_of
from power_agent.chain import idempotency_key
from power_agent.errors import BadArguments, ToolError
from power_agent.failpoints import passing
from power_agent.givens import name_of
from power_agent.guards import AnyGuard, settled
from power_agent.limits import PROBE_SECONDS
from power_agent.messages import Call
from power_agent.offer import offered, too_late
from power_agent.outcomes import NOT_RUN, Done, failed, lost, succeeded, unknown_in, untouched
from power_agent.policy import Allow, Ask, Change, Deny, GuardVerdict, Policy, Refuse, Verdict, Wanted
from power_agent.ports import DidNotHappen, Glimpsed, Happened, Tool, ToolContext, Tools, Unknown
from power_agent.secrets import Secrets, UnknownSecret
from power_agent.state import CallState, SessionState

_log = logging.getLogger("power_agent")

STRICTNESS: tuple[e.Recovery, ...] = ("rerun", "keyed", "probe", "ask")
FOUND = "It was found started, and its outcome was not recorded."
BURIED = "Nothing that it started is running here any more, as far as this user can see."
NOT_BURIED = "Something that it started may still be running."
NOT_LOOKED_FOR = "What it may have left running was not looked for: there is no tool {name} here."
STOPPED = "It was stopped because the turn was cancelled."
FROM_WITHIN = "It was cancelled from within, without an outcome."
UNBOUND = Deny("The tool cannot tell what it would depend on.", "unbound")
TOO_LONG = "It took longer than {seconds:g} s."
CHANGED = f"{{tool}} changed after it was decided that it may run. {NOT_RUN}"
PROBED = "The probe of {tool} answered {said}, not Happened(value), DidNotHappen() or Unknown(). Call {call} of session {session!r} stays in doubt."
LATE = "its own thread, after the time limit"
OBJECTION = "The policy of today ({rule}) does not let it run again by itself."
NO_PERSON = {"recovery (rerun)", "recovery (keyed)", "probe"}
"""Who allows another attempt of a call without being a person."""
STILL_RUNS = "An attempt of it was still running in this process."
UNDER_WAY: WeakValueDictionary[tuple[str, int], asyncio.Task[Any]] = WeakValueDictionary()
"""The attempts that run in this process, by idempotency key and number: one that does not stop when it is cancelled outlives its drive."""


class Executor:
    """Judges, runs and recovers the calls of sessions; keeps no state of its own."""

    def __init__(
        self,
        tools: Tools,
        policy: Policy,
        deps: Any = None,
        *,
        glimpse: Callable[[], Callable[[Glimpsed], None]] | None = None,
        guards: Sequence[AnyGuard] = (),
        me: str = "",
        elsewhere: Callable[[str], bool] | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self._secrets = secrets or Secrets(patterns=False)
        self._me = me
        self._elsewhere = elsewhere or (lambda _process: False)
        self._tools = tools
        self._policy = policy
        self._deps = deps
        self._glimpse = glimpse
        self._guards = tuple(guards)

    # -- guards --------------------------------------------------------------------------------------------------------

    def guards(self, state: SessionState, call: CallState) -> Sequence[AnyGuard]:
        """Return who wants to look at a call: at one that can be run and about which nobody was asked yet."""
        if not self._guards or call.place != "requested":
            return ()
        return self._guards if self._wrong(state, call.call, self._tool(state, call)) is None else ()

    @staticmethod
    def guarded(call: CallState, guard: AnyGuard, verdict: GuardVerdict | Exception) -> tuple[e.Event, ...]:
        """Turn a guard's verdict into facts."""
        name, made = name_of(guard), call.call.id
        match settled(verdict, "call"):
            case Change(to=arguments, reason=reason):
                return (e.GuardDecided(guard=name, at="call", verdict="changed", reason=reason, subject=made, change=dict(arguments)),)
            case Refuse(reason=reason):
                refused = e.GuardDecided(guard=name, at="call", verdict="refused", reason=reason, subject=made)
                return (refused, e.CallDenied(call=made, by=f"guard ({name})", reason=reason))
            case _:
                return ()

    # -- before it starts ----------------------------------------------------------------------------------------------

    def judge(self, state: SessionState, call: CallState, now: int) -> e.Event:
        """Return the next fact about a call that has not started, or may start again."""
        made = call.call
        tool = self._tool(state, call)
        if call.place == "requested":
            wrong = self._wrong(state, made, tool)
            if wrong is not None:
                return e.CallFailed(call=made.id, attempt=1, failure=wrong)
        if tool is None:  # approved or doubted, and gone since
            return e.CallAborted(call=made.id, by="power_agent", reason=f"there is no tool {made.name} any more")
        bound = bound_by(tool, made, state)
        if call.place == "doubted":
            return self._again(state, call, tool, bound)
        if call.place == "approved" and call.digest == digest_of(tool, made, bound):
            return self._start(state, call, tool, call.digest)
        verdict = UNBOUND if bound is None else self._verdict(wanted(state, call, bound))
        if call.place == "approved":
            return self._ask_anew(state, call, tool, digest_of(tool, made, bound), verdict, now)
        if isinstance(verdict, Deny):
            return e.CallDenied(call=made.id, by=f"policy ({verdict.rule})", reason=verdict.reason)
        if tool.external:  # it waits for what happens outside, which no deadline undoes
            question, untrusted = verdict.question if isinstance(verdict, Ask) else None, _reads_untrusted(state, call, tool)
            return e.CallApprovalAsked(call=made.id, rule="external", digest=digest_of(tool, made, bound), question=question, external=True, untrusted=untrusted)
        if isinstance(verdict, Ask):
            return e.CallApprovalAsked(call=made.id, rule=verdict.rule, digest=digest_of(tool, made, bound), question=verdict.question, deadline=_deadline(verdict, now))
        return self._start(state, call, tool, beside(tool, made, bound))

    def _tool(self, state: SessionState, call: CallState) -> Tool | None:
        """Return the tool that a call is for. What the turn did not begin with, no call can ask for."""
        name = call.call.name
        return None if call.place == "requested" and name in too_late(self._tools, state) else self._tools.get(name)

    def _ask_anew(self, state: SessionState, call: CallState, tool: Tool, digest: str, verdict: Verdict, now: int) -> e.Event:
        """What was approved is not what would run now: ask about that, unless it cannot or may not run at all."""
        made = call.call
        wrong = self._wrong(state, made, tool)
        if wrong is not None:
            return e.CallAborted(call=made.id, by="power_agent", reason=wrong.message.removesuffix(f" {NOT_RUN}"))
        if isinstance(verdict, Deny):
            return e.CallAborted(call=made.id, by=f"policy ({verdict.rule})", reason=verdict.reason)
        question = getattr(tool, "difference", None) or call.question
        return e.CallApprovalAsked(call=made.id, rule=call.rule or verdict.rule, digest=digest, question=question, deadline=_deadline(verdict, now))

    def _verdict(self, call: Wanted) -> Verdict:
        """Ask the policy. What it cannot judge does not run."""
        try:
            verdict: object = self._policy(call)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  whatever it raises: it awaits nothing, so nobody cancels it here
            return Deny(f"the policy failed: {type(error).__name__}: {error}", "policy failed")
        if isinstance(verdict, Allow | Ask | Deny):
            return verdict
        meant = f"; power_agent.policy.{type(verdict).__name__} is one" if type(verdict).__name__ in {"Allow", "Ask", "Deny"} else ""
        return Deny(f"the policy answered {verdict!r}, which is no verdict{meant}", "policy failed")

    def _again(self, state: SessionState, call: CallState, tool: Tool, bound: Mapping[str, JsonValue] | None) -> e.Event:
        """Start a doubted call once more. What was approved must still be what would run; what no person allowed, the policy of today must let."""
        if call.permitted_by in NO_PERSON and (verdict := self.objection(state, call)) is not None:
            reason = verdict.reason if isinstance(verdict, Deny) else "a person would have to be asked"
            return e.CallAborted(call=call.call.id, by=f"policy ({verdict.rule})", reason=reason)
        if call.rule is None:
            return self._start(state, call, tool, beside(tool, call.call, bound))
        if call.digest != digest_of(tool, call.call, bound):
            return e.CallAborted(call=call.call.id, by="power_agent", reason=f"{call.call.name} is not what was approved any more")
        return self._start(state, call, tool, call.digest)

    def _wrong(self, state: SessionState, made: Call, tool: Tool | None) -> e.Failure | None:
        """Say what is wrong with a call as the model made it."""
        if tool is None:
            names = [spec.name for spec in offered(self._tools, state)] if too_late(self._tools, state) else self._tools.names
            known = ", ".join(names) or "none"
            return e.Failure(code="unknown_tool", message=f"There is no tool {made.name!r}. The tools are: {known}. Nothing was run.")
        if made.malformed is not None:
            return e.Failure(code="malformed_arguments", message=f"The arguments of {made.name} are not a JSON object: {_not_an_object(made.malformed)}. It was not run.")
        try:
            tool.check(made.arguments)
        except BadArguments as error:
            return e.Failure(code=error.code, message=error.message)
        try:
            self._secrets.check(made.arguments, _may_have(tool))
        except UnknownSecret as error:
            return e.Failure(code="unknown_secret", message=f"{error} {NOT_RUN}")
        return None

    def _start(self, state: SessionState, call: CallState, tool: Tool, digest: str | None) -> e.CallStarted:
        key = idempotency_key(state.nonce, call.call.id)
        process = self._me if tool.threaded and self._me else None
        untrusted = _reads_untrusted(state, call, tool)
        return e.CallStarted(call=call.call.id, attempt=call.attempt + 1, recovery=tool.recovery, idempotency_key=key, digest=digest, process=process, untrusted=untrusted)

    def context(self, state: SessionState, call: CallState) -> ToolContext:
        """Return what the tool is told about the attempt that runs, or was found."""
        made = call.call.id
        progress = None if self._glimpse is None else self._progress(self._glimpse(), state, made)
        tool = self._tools.get(call.call.name)
        bound = None if tool is None else bound_by(tool, call.call, state)  # nothing came in since it was judged: the same as then
        key = idempotency_key(state.nonce, made)
        late = too_late(self._tools, state)
        return ToolContext(session=state.session, call=made, attempt=call.attempt, idempotency_key=key, deps=self._deps, progress=progress, binds=bound, late=late)

    @staticmethod
    def _progress(glimpse: Callable[[Glimpsed], None], state: SessionState, call: str) -> Callable[[str], None]:
        turn = state.turn.number if state.turn is not None else 0

        def progress(text: str) -> None:
            glimpse(Glimpsed(session=state.session, kind="progress", text=str(text), turn=turn, call=call))

        return progress

    # -- the effect ----------------------------------------------------------------------------------------------------

    async def run(self, state: SessionState, call: CallState, context: ToolContext, seconds: float, output_bytes: int) -> Done:
        """Let the effect happen and say what came of it. Cancelled by the drive, it raises: then nobody knows."""
        made = call.call
        tool = self._tools.get(made.name)
        if tool is None:
            return Done((lost(call, FOUND),))
        digest = beside if call.digest is None else digest_of  # nobody was asked: what is there now may depend on more than what was judged
        if digest(tool, made, context.binds) != call.digest and not self._still_may(state, call, tool, context):
            return failed(call, ToolError(CHANGED.format(tool=made.name), untouched=True))
        limit = tool.seconds or seconds
        timer = asyncio.timeout(limit)
        try:
            arguments = tool.check(self._secrets.expanded(made.arguments, _may_have(tool)))
        except (UnknownSecret, BadArguments) as error:  # what was approved is not there any more
            return untouched(call, error)
        task = UNDER_WAY[context.idempotency_key, call.attempt] = cast("asyncio.Task[Any]", asyncio.current_task())
        passing("before", ("effect", made.name))
        try:
            async with timer:
                value = await tool.run(arguments, context)
        except TimeoutError as error:
            if timer.expired():
                return Done((lost(call, TOO_LONG.format(seconds=limit)),))
            return self._raised(call, context, error)
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            return Done((lost(call, FROM_WITHIN),))  # nobody stopped it: the tool raised this itself
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a tool raises is its answer
            return self._raised(call, context, error)
        passing("after", ("effect", made.name))
        return succeeded(call, value, output_bytes)

    @staticmethod
    def _raised(call: CallState, context: ToolContext, error: BaseException, by: str | None = None) -> Done:
        """Say what came of a call whose tool raised. Where it did so is for the program's log: at INFO, because raising is how a tool answers."""
        if not isinstance(error, ToolError):
            _log.info("The tool %s failed in call %s of session %r.", call.call.name, call.call.id, context.session, exc_info=error)
        unknown = unknown_in(error)
        if unknown is not None:
            return Done(()) if by is not None else Done((lost(call, unknown.message),))  # what comes late is in doubt already
        if by is None:
            passing("after", ("effect", call.call.name))
        return failed(call, error, by)

    def _still_may(self, state: SessionState, call: CallState, tool: Tool, context: ToolContext) -> bool:
        """Say whether a call may run that changed between its start and its effect: what others made may not, nor what a person was
        asked about; what a policy allowed may when it allows this as well (a sibling wrote to a file that a command reads).
        """
        if getattr(tool, "foreign", False) or call.rule is not None or context.binds is None:
            return False
        return isinstance(self._verdict(wanted(state, call, context.binds)), Allow)

    async def late(self, call: CallState, context: ToolContext, output_bytes: int) -> Done:
        """Wait for what a thread that was left behind comes to: while its call is doubted, its result is the truth."""
        if context.left is None:
            return Done(())
        value, error = await context.left
        return self._raised(call, context, error, by=LATE) if error is not None else succeeded(call, value, output_bytes, by=LATE)

    # -- found started without an outcome ------------------------------------------------------------------------------

    def promise(self, state: SessionState, call: CallState) -> e.Recovery:
        """Return the stricter of what was recorded and what the tool promises now; a tool that is gone promises nothing, nor does
        one of which an earlier attempt may still run (in this process, or as a thread of another one that lives), nor one to whose next
        attempt the policy of today objects; a probe may be asked all the same.
        """
        tool = self._tools.get(call.call.name)
        if self._still_runs(state, call):
            return "ask"
        today = "ask" if tool is None else tool.recovery
        stricter = max(call.recovery, today, key=STRICTNESS.index)
        if stricter == "probe" and call.process is not None and self._elsewhere(call.process):
            return "ask"  # a probe that looks before that thread has ended would answer too early
        if stricter in {"rerun", "keyed"} and self.objection(state, call) is not None:
            return "ask"
        return "ask" if stricter == "probe" and today != "probe" else stricter

    def objection(self, state: SessionState, call: CallState) -> Verdict | None:
        """Return what the policy of today says against another attempt that no person allows: it denies it, or would ask about what
        nobody approved before.
        """
        tool = self._tools.get(call.call.name)
        if tool is None:
            return None
        bound = bound_by(tool, call.call, state)
        verdict = UNBOUND if bound is None else self._verdict(wanted(state, call, bound))
        asked = isinstance(verdict, Ask) and call.rule is None
        return verdict if asked or isinstance(verdict, Deny) else None

    def _still_runs(self, state: SessionState, call: CallState) -> bool:
        """Say whether an attempt of a call runs in this process: a task that nobody waits for any more, or what its tool knows of."""
        key, tool = idempotency_key(state.nonce, call.call.id), self._tools.get(call.call.name)
        tasks = [task for attempt in range(1, call.attempt + 1) if (task := UNDER_WAY.get((key, attempt))) is not None]
        return any(not task.done() and not task.get_loop().is_closed() for task in tasks) or (tool is not None and tool.runs(key))

    async def bury(self, state: SessionState, call: CallState) -> str:
        """End what an attempt that was found started left running, and say what is known: no doubt is recorded while it goes on."""
        buried = await self._buried(state, call)
        found = f"{FOUND} {STILL_RUNS}" if self._still_runs(state, call) else FOUND
        objection = None if call.recovery == "ask" else self.objection(state, call)
        if objection is not None:
            found = f"{found} {OBJECTION.format(rule=objection.rule)}"
        return found if buried is None else f"{found} {BURIED if buried else NOT_BURIED}"

    async def remains(self, state: SessionState, call: CallState) -> str:
        """End what a call that a person gives up left running, and say what is known to remain, or could not be looked for."""
        if call.place not in {"started", "doubted"}:
            return ""
        if self._tools.get(call.call.name) is None:
            return NOT_LOOKED_FOR.format(name=call.call.name) if call.place == "started" else ""
        return NOT_BURIED if await self._buried(state, call) is False else ""

    async def _buried(self, state: SessionState, call: CallState) -> bool | None:
        """Let a tool end what it left; None: it leaves nothing."""
        offered = getattr(self._tools.get(call.call.name), "bury", None)
        if offered is None:
            return None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return bool(await offered(idempotency_key(state.nonce, call.call.id)))
        except Exception:  # noqa: BLE001  then nobody knows
            return False

    async def probe(self, call: CallState, context: ToolContext, output_bytes: int) -> Done:
        """Ask the tool's probe whether it happened. No answer, or none in time, leaves the doubt, and the program's log says why."""
        tool = self._tools.get(call.call.name)
        if tool is None:
            return Done(())
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer: object = await tool.ask_probe(tool.check(self._secrets.expanded(call.call.arguments, _may_have(tool))), context)
        except Exception as error:  # noqa: BLE001  a probe that fails knows nothing
            _log.warning("The probe of %s failed, and call %s of session %r stays in doubt.", tool.spec.name, call.call.id, context.session, exc_info=error)
            return Done(())
        if isinstance(answer, Happened):
            return succeeded(call, answer.value, output_bytes, by="probe")
        if isinstance(answer, DidNotHappen):
            return Done((e.CallRetried(call=call.call.id, by="probe", reason="It did not happen."),))
        if not isinstance(answer, Unknown):
            said = f"the class {answer.__name__}" if isinstance(answer, type) else f"a {type(answer).__name__}"
            _log.warning(PROBED.format(tool=tool.spec.name, said=said, call=call.call.id, session=context.session))
        return Done(())


def wanted(state: SessionState, call: CallState, bound: Mapping[str, JsonValue] | None = None) -> Wanted:
    """Return a call as policies and guards see it; guards look before it is known what it is bound to."""
    made = call.call
    tainted = None if state.taint is None else state.taint.what
    return Wanted(session=state.session, call=made.id, tool=made.name, arguments=made.arguments, binds=bound or {}, tainted=tainted)


def _deadline(verdict: Verdict, now: int) -> int | None:
    """Return until when an answer is waited for."""
    return None if not isinstance(verdict, Ask) or verdict.seconds is None else now + round(verdict.seconds * 1000)


def _not_an_object(text: str) -> str:
    """Say exactly what is wrong with arguments. Nobody repairs them: what was meant is not ours to guess."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        around = text[max(error.pos - 40, 0) : error.pos + 40]
        return f"{error.msg} at character {error.pos + 1} of {len(text)}, near {around!r}"
    except (ValueError, RecursionError):
        return f"nested too deep or with a number too long, {text[:80]!r}"
    return f"they are a JSON {_JSON_NAMES.get(type(found), 'value')}, {text[:80]!r}"


_JSON_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null", dict: "object that does not count (keys twice, or not in full)"}


def _reads_untrusted(state: SessionState, call: CallState, tool: Tool) -> bool:
    """Say whether what a call returns may have been written by anybody: the tool says so, of all its calls or of this one, or it repeats
    what the session holds and something of that was.
    """
    said: Any = getattr(tool, "reads_untrusted", False)
    try:
        said = said(call.call.arguments) if callable(said) else said
    except Exception:  # noqa: BLE001  whatever it raises, nobody knows
        said = True
    return bool(said) or (state.taint is not None and getattr(tool, "repeats", False))


def _may_have(tool: Tool) -> Sequence[str]:
    """Return the names of the secrets that a tool declares; of any other one a reference is plain text."""
    return tuple(getattr(tool, "secrets", ()))
