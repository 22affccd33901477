"""Break the promises on purpose, one at a time, and see that the tests notice.

    python tests/mutants.py                  all of them, a line each; takes a while
    python tests/mutants.py fence probe      those whose name holds one of these words
    python tests/mutants.py --list           their names

Each mutant is one change of the real code, made in a private copy. `tests/test_mutants.py` holds the list itself fast: a mutant whose
code is gone fails there, so that none is left behind when the code moves on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600
"""A mutant that hangs is noticed too, but nobody waits for ever."""


class Mutant(NamedTuple):
    """A promise to break: where, what stands there, what takes its place, and which tests should see it."""

    name: str
    room: str
    was: str
    becomes: str
    tests: str


MUTANTS = (
    # -- what is acknowledged is kept ----------------------------------------------------------------------------------
    Mutant("ack before commit", "store/commit.py", '        db.execute("COMMIT")\n', "", "store"),
    Mutant("NORMAL for FULL", "store/file.py", 'SYNCHRONOUS = {"full": 2, "normal": 1}', 'SYNCHRONOUS = {"full": 1, "normal": 1}', "store disk"),
    Mutant(
        "told before kept",
        "sink.py",
        "        await waiter  # not",
        "        self._tell(envelope for _, envelope in draft.ready)\n        await waiter  # not",
        "sink",
    ),
    Mutant("blob not written", "store/commit.py", "        if request.blobs:\n", "        if False:\n", "loop tools"),
    Mutant("writes after a failed disk", "store/writer.py", "        if self.failed is not None:\n            raise", "        if False:\n            raise", "disk store"),
    Mutant("what waited behind a failed commit", "store/writer.py", "        if self.failed is not None:\n            waiting", "        if False:\n            waiting", "disk"),
    Mutant("kept in a file that is not there any more", "store/commit.py", "    check_place(db)\n", "", "store"),
    Mutant("unknown fields dropped in silence", "tongue.py", '"extra_fields_behavior": "forbid"', '"extra_fields_behavior": "ignore"', "tongue events"),
    # -- one writer ----------------------------------------------------------------------------------------------------
    Mutant("fence outside the transaction", "store/commit.py", "    if request.epoch is not None and request.epoch != row.epoch + takes:\n", "    if False:\n", "store ownership"),
    Mutant("head not checked", "store/commit.py", "    if row.head != request.head:\n", "    if False:\n", "store sink"),
    Mutant("taking a living owner's session", "sink.py", " and row.owner is not None and self._dead(row.owner)", " and row.owner is not None", "sink ownership"),
    Mutant(
        "a fact from outside that begins anew each time",
        "sink.py",
        "                    state = await self.look(session)\n",
        "                    state = await self.load(session)\n",
        "races",
    ),
    Mutant("the living proven dead", "process.py", "    return start_time(int(pid)) == started\n", "    return False\n", "ownership loop"),
    Mutant("a lost lease not noticed", "store/lease.py", "        return (session, epoch) in self._lost\n", "        return False\n", "ownership"),
    Mutant(
        "never given up", "loop/work.py", "            if row is not None and row.owner == self._sink.owner and row.deadline:\n", "            if False:\n", "interrupt concurrency"
    ),
    # -- intent, effect, outcome ---------------------------------------------------------------------------------------
    Mutant(
        "effect before intent",
        "drive/calls.py",
        "            if await self._ledger.keep():\n                await self._begin(starting)\n",
        "            await self._begin(starting)\n            await self._ledger.keep()\n",
        "recovery crash",
    ),
    Mutant("ask call run again", "executor.py", '        return "ask" if stricter == "probe" and today != "probe" else stricter\n', '        return "rerun"\n', "recovery"),
    Mutant("the laxer promise counts", "executor.py", "        stricter = max(call.recovery", "        stricter = min(call.recovery", "recovery"),
    Mutant("probe too early", "executor.py", 'if stricter == "probe" and call.process is not None and', "if False and", "recovery"),
    Mutant(
        "may have happened said as failed",
        "outcomes.py",
        "    return e.CallDoubted(call=call.call.id, attempt=call.attempt, reason=reason)\n",
        '    return e.CallFailed(call=call.call.id, attempt=call.attempt, failure=e.Failure(code="tool_failed", message=reason))\n',
        "recovery",
    ),
    Mutant("an unknown outcome said as failed", "executor.py", "        if unknown is not None:\n", "        if False:\n", "shelves tools"),
    Mutant("a changed tool is called", "executor.py", "if digest(tool, made, context.binds) != call.digest and not", "if False and not", "shelves"),
    Mutant(
        "what a start depends on is not kept",
        "binding.py",
        '    return digest_of(tool, made, bound) if getattr(tool, "binds", None) is not None or getattr(tool, "foreign", False) else None\n',
        "    return None\n",
        "approval",
    ),
    Mutant("an input that waits is at rest", "store/reading.py", "AND value = said.seq))) ", "AND value = said.seq)) AND 0) ", "unfinished"),
    Mutant("an open turn is at rest", "store/reading.py", "kind IN (11, 12) ORDER BY seq DESC LIMIT 1) = 11", "kind IN (11, 12) ORDER BY seq DESC LIMIT 1) = 99", "unfinished"),
    Mutant("a lease from a time to come", "loop/intake.py", "                row = await self._store.find(listed.session)  #", "                row = listed  #", "unfinished"),
    Mutant(
        "one damaged session hides all",
        "loop/intake.py",
        "        except PowerAgentError as error:\n            _log",
        "        except ZeroDivisionError as error:\n            _log",
        "unfinished",
    ),
    Mutant("what ended is begun anew", "loop/agent.py", "go_on = anew and state.turn is None and", "go_on = state.turn is None and", "unfinished"),
    Mutant("who was decided about waits", "loop/sweep.py", "vain is None or vain.head != row.head or", "vain is None or", "unfinished"),
    Mutant("what waited behind is cut", "loop/agent.py", "            await work.ended()  #", "            pass  #", "unfinished"),
    Mutant("a strategy that hangs", "drive/summaries.py", "not self._asked_for.done() and self._is_over():", "False:", "compaction"),
    Mutant("in vain at every look", "loop/sweep.py", "vain.passed >= min(2**vain.times - 1, MAX_PASSED_OVER)", "True", "unfinished"),
    Mutant(
        "what became another tool is not judged",
        "executor.py",
        "        digest = beside if call.digest is None else digest_of  #",
        "        digest = (lambda *_: None) if call.digest is None else digest_of  #",
        "approval",
    ),
    Mutant("what somebody works on is left", "loop/intake.py", "and not self._held(row) and self._desk.working(row.session) is None and await", "and await", "unfinished"),
    Mutant("erased once more", "loop/upkeep.py", "            if state.erased:  # by who took it over when we were late\n", "            if False:\n", "upkeep"),
    Mutant("nobody else answers", "drive/attempts.py", '        model=None if reply.model in {asked.name, asked.name.partition(":")[2]} else reply.model,\n', "", "loop"),
    Mutant("a shelf takes a name that is there", "tools/toolbox.py", "            found.setdefault(one.spec.name, one)\n", "            found[one.spec.name] = one\n", "shelves"),
    Mutant("a late tool runs unasked", "policy/manners.py", " or late(wanted.tool) or allow_all)", " or allow_all)", "shelves"),
    Mutant(
        "a server that died said it failed",
        "tools/mcp/connection.py",
        '            return OutcomeUnknown(f"The server',
        '            return ToolError(f"The server',
        "mcp mcp_http",
    ),
    Mutant("a gateway's error is a failure", "tools/mcp/bounded.py", "        if response.status_code >= FIRST_GATEWAY_STATUS and", "        if False and", "mcp_http"),
    Mutant("a changed tool is trusted", "tools/mcp/servers.py", "        reads = self.difference is None and any(", "        reads = any(", "mcp"),
    Mutant(
        "hints are believed",
        "tools/mcp/servers.py",
        "        reads = self.difference is None and any(",
        "        reads = '\"readOnlyHint\":true' in definition.text or any(",
        "mcp",
    ),
    Mutant(
        "our keys in a server's hands",
        "tools/mcp/stdio.py",
        "{**{name: os.environ[name] for name in KEPT if name in os.environ}, **self._server.env}",
        "{**os.environ, **self._server.env}",
        "mcp",
    ),
    Mutant(
        "a server that outlives its owner",
        "tools/reaper.py",
        '            self._why = "owner"\n            self._kill_at = time.monotonic()\n',
        '            self._why = "owner"\n',
        "mcp",
    ),
    Mutant("a project's server starts unapproved", "cli/outsiders.py", "    return not one.foreign or ", "    return True or ", "mcp_cli"),
    Mutant("a project says what only reads", "tools/mcp/described.py", "sorted(self.headers.items()), self.reads]", "sorted(self.headers.items())]", "mcp_cli mcp_words"),
    Mutant("a server that writes unasked", "cli/serving.py", "(*READING, *(WRITING if allow_write else ()))", "(*READING, *WRITING)", "mcp_serve"),
    Mutant("a tool's word counts for earlier attempts", "context.py", "return said if call.attempt == 1 else", "return said if True else", "context recovery"),
    Mutant("a second attempt beside the first", "executor.py", "task = UNDER_WAY[context.idempotency_key, call.attempt] =", "task =", "recovery"),
    Mutant("yesterday's policy counts", "executor.py", 'if stricter in {"rerun", "keyed"} and self.objection', "if False and self.objection", "recovery"),
    Mutant("a probe passes by the policy", "drive/calls.py", "if not done.facts or (again and self._executor", "if not done.facts or (False and self._executor", "recovery"),
    Mutant("two outcomes", "state/moves.py", '    "succeeded": {},\n', '    "succeeded": {"call.failed": "failed", "call.succeeded": "succeeded"},\n', "state"),
    Mutant("a forgotten call", "machine.py", "return RunCalls(tuple(run), tuple(doubt)", "return RunCalls(tuple(run[1:]), tuple(doubt)", "machine loop"),
    Mutant(
        "a late result is lost",
        "drive/calls.py",
        'self._ledger.state.calls[name].place == "doubted":\n                self.stage_outcome(done)',
        "False:\n                self.stage_outcome(done)",
        "recovery",
    ),
    Mutant("a key for each attempt", "chain.py", 'sha256(f"call:{nonce}:{call}".encode())', 'sha256(f"call:{nonce}:{call}:{id(object())}".encode())', "recovery tools"),
    Mutant(
        "a failure is no outcome",
        "executor.py",
        "            return self._raised(call, context, error)\n        passing",
        "            raise\n        passing",
        "loop tools",
    ),
    # -- people decide -------------------------------------------------------------------------------------------------
    Mutant("reused approval", "state/folding.py", "    if event.digest != call.digest:\n", "    if False:\n", "state approval"),
    Mutant(
        "a policy that fails allows",
        "executor.py",
        '            return Deny(f"the policy failed: {type(error).__name__}: {error}", "policy failed")\n',
        "            return Allow()\n",
        "approval tools loop",
    ),
    Mutant("silence is consent", "machine.py", "            if call.deadline is not None and call.deadline <= now:\n", "            if False:\n", "machine approval"),
    Mutant(
        "a denied call runs",
        "executor.py",
        "        if isinstance(verdict, Deny):\n            return e.CallDenied(",
        "        if False:\n            return e.CallDenied(",
        "approval loop",
    ),
    Mutant("a refusing guard is not heard", "executor.py", "            case Refuse(reason=reason):\n", "            case Refuse(reason=reason) if False:\n", "approval guards"),
    Mutant("objections without end", "state/folding.py", "state.turn.moved(objections=state.turn.objections + 1)", "state.turn", "guards"),
    Mutant(
        "an answer of any shape is taken",
        "drive/counsel.py",
        "        except OutputInvalid as error:\n",
        "        except OutputInvalid as error:\n            return False\n",
        "output",
    ),
    Mutant("a turn answers in another turn's shape", "state/folding.py", "if item.seq in event.inputs and item.output is not None", "if item.output is not None", "output"),
    # -- stopping ------------------------------------------------------------------------------------------------------
    Mutant(
        "abort ignored in recovery",
        "drive/calls.py",
        '            elif self._ledger.state.cancel is None and promise in {"rerun", "keyed"}:\n',
        '            elif promise in {"rerun", "keyed"}:\n',
        "recovery cancel",
    ),
    Mutant(
        "cancel not seen while the model thinks",
        "drive/attempts.py",
        "            if not task.done() and (ledger.state.cancel is not None or _place(ledger) != here):\n",
        "            if False:\n",
        "loop cancel guards",
    ),
    Mutant("time over not seen while a guard thinks", "drive/attempts.py", "                return OVER\n", "                pass\n", "guards surroundings"),
    Mutant("cancelled from within is an interrupt", "drive/tasks.py", "        if task is None or task.cancelling():\n", "        if True:\n", "retries guards surroundings"),
    Mutant("a cancelled turn goes on", "machine.py", "    if state.cancel is not None:\n        return EndTurn(", "    if False:\n        return EndTurn(", "machine loop"),
    Mutant("burying is a word", "tools/shell/leftovers.py", "    loop = asyncio.get_running_loop()\n", "    return True\n    loop = asyncio.get_running_loop()\n", "hands_storm"),
    Mutant("a script in a pipe is no script", "tools/shell/standing.py", "for words in [*spoken, _split(command)] for name", "for words in spoken[:1] for name", "shell_scripts"),
    Mutant(
        "an abort buries nothing",
        "loop/upkeep.py",
        "await asyncio.gather(*(self._executor.remains(state, state.calls[call.id]) for call in calls))",
        '[""] * len(calls)',
        "shell_orphans",
    ),
    # -- inputs --------------------------------------------------------------------------------------------------------
    Mutant(
        "keys are not unique",
        "loop/intake.py",
        "        seq = await self._store.find_key(name, key)\n        if seq is None:\n",
        "        seq = None\n        if seq is None:\n",
        "loop concurrency",
    ),
    Mutant(
        "a steer taken twice", "state/folding.py", "    left = tuple(item for item in state.inputs if item.seq not in seqs)\n", "    left = state.inputs\n", "state concurrency"
    ),
    Mutant(
        "what waits is lost after a failure",
        "state/folding.py",
        'parked=event.status in {"cancelled", "limit"})',
        'parked=event.status in {"cancelled", "limit", "failed"})',
        "concurrency state",
    ),
    Mutant(
        "nobody takes over from the dead", "loop/intake.py", "            elif take_over and self._may_go_on(row, state, number):\n", "            elif False:\n", "concurrency"
    ),
    Mutant("leaving interrupts others", "loop/work.py", "and self._alone(waiter):", "and True:", "concurrency"),
    # -- secrets, and words of strangers -------------------------------------------------------------------------------
    Mutant("a form forgotten", "secrets/forms.py", "    yield raw.hex().upper()\n", "", "secrets"),
    Mutant("nothing held back", "secrets/flow.py", "        end = self._settled(whole, begin)\n", "        end = len(whole)\n", "secrets"),
    Mutant("marks covered again", "secrets/cover.py", "self._mark.finditer(text)]", "()]", "secrets"),
    Mutant("broken lines not joined", "secrets/cover.py", "            yield from self._wrapped(text)\n", "            pass\n", "secrets"),
    Mutant("secrets in blobs", "sink.py", "        if blobs and self._cover is not None:\n", "        if False:\n", "secrets_everywhere"),
    Mutant("secrets in glimpses", "hooks.py", "        self._screen = Screen(secrets) if secrets else None\n", "        self._screen = None\n", "secrets_everywhere"),
    Mutant("secrets in logging", "secrets/journal.py", "            text, trace = cover(text), cover(trace)\n", "            pass\n", "secrets_everywhere"),
    Mutant(
        "surroundings sent as they were said",
        "drive/questions.py",
        "        said_here, _ = self._ledger.sink.covered(tuple(parts))\n",
        "        said_here = tuple(parts)\n",
        "secrets_everywhere",
    ),
    Mutant("a reference that nobody checks", "executor.py", "            self._secrets.check(made.arguments, _may_have(tool))\n", "            pass\n", "secrets_everywhere"),
    Mutant("taint forgotten", "state/folding.py", " for other in returned.calls if other.fence is not None])", " for other in ()])", "taint injections"),
    Mutant("a page that taints nothing", "tools/web/__init__.py", "    reads_untrusted = True\n", "    reads_untrusted = False\n", "injections"),
    Mutant("a server's answer without a fence", "tools/mcp/servers.py", "    reads_untrusted = True\n", "    reads_untrusted = False\n", "injections"),
    Mutant("a server's description taken for ours", "tools/mcp/servers.py", "    foreign = True\n", "    foreign = False\n", "injections"),
    Mutant("strangers who come later", "drive/questions.py", " or self._strangers_came(),", ",", "injections"),
    Mutant("an always stronger than taint", "policy/rules.py", ' or self._first(wanted, "ask", tainted=True) or', " or", "taint"),
    Mutant("a fence that can be foreseen", "chain.py", 'f"fence:{nonce}:{call}"', 'f"fence:{call}"', "taint"),
    Mutant("a seal that content can print", "cli/saying.py", "\\u25c6", "", "cli_hostile"),
    Mutant("what agents print is obeyed", "cli/saying.py", '        sys.stderr.write(safe(text, keep="\\n\\t"))\n', "        sys.stderr.write(text)\n", "cli_hostile"),
    # -- memory and disk are the same ----------------------------------------------------------------------------------
    Mutant(
        "fold reads the clock", "state/folding.py", "    turn = Turn(event.turn, kept.seq, kept.at,", '    turn = Turn(event.turn, kept.seq, __import__("time").time_ns(),', "state"
    ),
    Mutant(
        "fold follows the order of a set",
        "state/shape.py",
        "        return tuple(call for call in self.calls.values() if not call.resolved)\n",
        "        return tuple(self.calls[name] for name in set(self.calls) if not self.calls[name].resolved)\n",
        "sameness state",
    ),
    Mutant(
        "outcomes in the order they came",
        "state/folding.py",
        "    calls = {**state.calls, event.call: moved}\n",
        "    calls = {**{name: call for name, call in state.calls.items() if name != event.call}, event.call: moved}\n",
        "state loop",
    ),
    Mutant("a cached state of another history", "state/snapshot.py", "    return state if found == tip.hex() else None\n", "    return state\n", "state sink"),
    Mutant("the chain does not cover the body", "chain.py", "    return sha256(salt + body.encode()).digest()\n", "    return sha256(salt).digest()\n", "damage store events"),
    Mutant("surrogates as they come", "messages.py", '        return "".join(_escaped(character) for character in text)\n', "        return text\n", "tools bad_input"),
    # -- context -------------------------------------------------------------------------------------------------------
    Mutant("split pair", "context.py", "not (answered_later or same_moment or unresolved", "not (same_moment or unresolved", "context"),
    Mutant(
        "a compaction forgets the rest", "state/folding.py", "    kept.insert(place, summed)\n    return Transcript(kept)\n", "    return Transcript([summed])\n", "state context"
    ),
    Mutant("denied said as aborted", "context.py", '    if call.place == "denied":\n', "    if False:\n", "context"),
    Mutant("a deadline is a failure", "machine.py", "if setback.retryable and deadline is not None and setback.at >= deadline:", "if False:", "machine"),
    Mutant(
        "an error as a success is none of its own",
        "models/failures.py",
        "    final = _final(word, kind) if status is None else ",
        "    final = False if status is None else ",
        "failures",
    ),
    Mutant("the general word comes first", "models/failures.py", "_final(word, kind)", "_final(kind, word)", "failures"),
    Mutant("what was counted does not scale", "gauge.py", "if estimate >= CALIBRATING_TOKENS else 1.0", "if False else 1.0", "gauge"),
    Mutant("Chinese is read like English", "tokens.py", '"han": 0.72', '"han": 0.25', "tokens"),
    Mutant("entries are weighed each time", "gauge.py", 'transcript.memo.setdefault("weights", {})', "{}", "gauge"),
    Mutant("a guard in a mapping guards nothing", "givens.py", "if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):", "if False:", "guards"),
    Mutant("calls begin when the time is up", "machine.py", '(place == "requested" or facts.blocked)', "facts.blocked", "machine budgets"),
    Mutant("threads hold a turn for ever", "machine.py", '(place == "requested" or facts.blocked)', '(place == "requested")', "machine budgets"),
    Mutant("limits are one higher", "machine.py", "used(state, turn, now) >= bound", "used(state, turn, now) > bound", "machine budgets"),
    # -- in and out ----------------------------------------------------------------------------------------------------
    Mutant("a page that trusts what was said", "editions/page.py", "return escape(visible(text), quote=True)", "return visible(text)", "editions"),
    Mutant(
        "a page that shows any picture",
        "editions/page.py",
        'kind = next((name for name in seen_as(content) if name in PICTURES), "") if content else ""',
        "kind = part.media_type",
        "editions",
    ),
    Mutant(
        "an edition that remembers all of it",
        "editions/retelling.py",
        "list(self.state.transcript), self.state.moved(transcript=Transcript())",
        "list(self.state.transcript)[-1:], self.state",
        "editions",
    ),
    Mutant(
        "an import that leaves calls open",
        "hearsay/facts.py",
        "        cut_off = bool(self.state.unresolved)\n        self._end_calls()\n",
        "        cut_off = bool(self.state.unresolved)\n",
        "hearsay",
    ),
    Mutant(
        "a rewound record told all the same",
        "hearsay/claude_code.py",
        "        place = _before(mine, place, places)\n",
        "        place = place - 1 if place else None\n",
        "hearsay",
    ),
    Mutant("a replay that only counts", "testing/replaying.py", "        if one != other:\n", "        if False:\n", "replaying"),
    Mutant("kept although no model takes it", "loop/intake.py", "            if why is not None:\n", "            if why == 0:\n", "uploads"),
    # -- branches and readers ------------------------------------------------------------------------------------------
    Mutant(
        "a fork pays with its parent's keys",
        "sink.py",
        "        opened = e.SessionOpened(nonce=self._chance.nonce(), owner=self._owner, config=config, metadata",
        '        opened = e.SessionOpened(nonce="00" * 16, owner=self._owner, config=config, metadata',
        "upkeep",
    ),
    Mutant(
        "a fork reads on in its parent",
        "store/reading.py",
        '        row = db.execute("SELECT id, name, base, ?, parent FROM session WHERE id = ?", (base, parent)).fetchone()\n',
        '        row = db.execute("SELECT id, name, base, head, parent FROM session WHERE id = ?", (parent,)).fetchone()\n',
        "store upkeep",
    ),
    Mutant("tail off by one", "store/reading.py", "WHERE pos > ? ORDER BY pos LIMIT ?", "WHERE pos > ? + 1 ORDER BY pos LIMIT ?", "stream store"),
    Mutant("a watcher hears only its own process", "store/tail.py", "                    self._poll()\n", "", "stream"),
    Mutant("erased, and still in the file", "store/file.py", '"secure_delete = ON", ', '"secure_delete = OFF", ', "upkeep store disk"),
    Mutant("erased under its forks", "loop/upkeep.py", '        if branches and forks != "erase":\n', "        if False:\n", "upkeep"),
    # -- several models ------------------------------------------------------------------------------------------------
    Mutant("signatures to everybody", "models/crossing.py", "        if message.format == ours:\n", "        if message.format is not None:\n", "presets failover"),
    Mutant("ids of others kept", "models/crossing.py", "return replace(part, provider_id=None, raw=None) if", "return replace(part, raw=None) if", "presets failover"),
    Mutant("a resume forgets who was tried", "state/folding.py", "moved(tried=(*turn.tried, Tried(", "moved(tried=(Tried(", "failover"),
    Mutant("never faithful", "models/failover.py", "if link.name == so_far.last)", "if False)", "failover"),
    Mutant("no for good asked again", "models/failover.py", "if not final.get(link.name)]", "]", "failover"),
    Mutant("everybody tries", "models/circuit.py", "            if self._wait(now, who) > 0:\n", "            if False:\n", "failover"),
    Mutant("a storm counts each drop", "models/circuit.py", "        if self._until is not None and now < self._until:", "        if False:", "failover"),
    Mutant("one more a minute", "models/pace.py", "len(self._bookings) >= self._requests:", "len(self._bookings) > self._requests:", "failover"),
    Mutant("judged for every place", "drive/calls.py", "            if full and name in self.placeless:\n", "            if False:\n", "loop"),
    Mutant("not judged without a place", "drive/calls.py", "            if full and name in self.placeless:\n", "            if full:\n", "loop"),
    Mutant("approved after its deadline", "settling.py", "call.deadline <= now:", "False:", "approval"),
    Mutant("a message that is sent again and never taken", "loop/intake.py", "        if idle and not number and state.turn is None:\n", "        if False:\n", "concurrency"),
    Mutant("a cancelled resume that takes more", "drive/steps.py", ' and self.state.last.status == "limit"', "", "concurrency"),
    Mutant("another log than was remembered", "sink.py", "            if not records or records[0].hash != tip:\n", "            if not records:\n", "sink"),
    Mutant("a fork that answers only for itself", "store/sqlite.py", "None if session is not None else Past()  #", "Past()  #", "damage"),
    Mutant("what was thought in secret is free", "models/anthropic.py", "        return bool(self._blocks)\n", "        return False\n", "faults"),
    Mutant(
        "a provider that answers a cancelled turn",
        "drive/questions.py",
        "                    if self._ledger.kept is not known:\n",
        "                    if False:\n",
        "surroundings",
    ),
    Mutant("a place not given back", "models/pace.py", "                self._bookings.remove(booking)\n", "                pass\n", "failover"),
    Mutant(
        "an unknown price is nothing", "drive/attempts.py", "    return None if price is None else price(usage)\n", "    return 0 if price is None else price(usage)\n", "prices"
    ),
    Mutant("unknown and still asked", "drive/attempts.py", "        if unknown:\n", "        if False:\n", "prices"),
    Mutant("cached at full price", "models/prices.py", "(cached, self.input if self.cached is None else self.cached)", "(cached, self.input)", "prices"),
    Mutant("thought twice", "models/prices.py", "(usage.output - thought, self.output)", "(usage.output, self.output)", "prices"),
    Mutant(
        "a fraction for free",
        "models/prices.py",
        "return -(-sum(tokens * price for tokens, price in parts) // _MILLION)",
        "return sum(tokens * price for tokens, price in parts) // _MILLION",
        "prices",
    ),
    Mutant("a broken answer is free", "state/folding.py", "state.spent.lost(request) if event.lost else state.spent", "state.spent", "state budgets faults"),
    Mutant("half an answer is a refusal", "models/http.py", "error.unspent = error.unspent and not reading.begun", "pass", "faults"),
    Mutant("whatever failed was refused", "drive/attempts.py", "lost=not error.unspent", "lost=False", "budgets faults"),
    Mutant("a summary beyond the limit", "drive/summaries.py", "            self._check_limits()\n", "            pass\n", "budgets"),
    Mutant("uncounted and free", "drive/attempts.py", "if request is not None and self._counts_money else None", "if False else None", "prices"),
    # -- the web -------------------------------------------------------------------------------------------------------
    Mutant("addresses not judged", "tools/web/outside.py", "        if what is not None:\n", "        if False:\n", "web_attack"),
    Mutant("only the first address judged", "tools/web/outside.py", "            for one in addresses:\n", "            for one in addresses[:1]:\n", "web_attack"),
    Mutant("embedded addresses not unwrapped", "tools/web/addresses.py", "    if carried is not None and", "    if False and", "web_attack"),
    Mutant("the name connected to", "wire.py", "if address is None else _at(url, address)", "if True else _at(url, str(address))", "web_attack"),
    Mutant("redirects not judged", "tools/web/visiting.py", "        self._outside.judge(there)\n", "", "web_attack"),
    Mutant(
        "redirects to other hosts followed",
        "tools/web/visiting.py",
        '        if there.host.removeprefix("www.") == place.host.removeprefix("www."):\n',
        "        if True:\n",
        "web",
    ),
    Mutant(
        "addresses after a redirect not judged",
        "tools/web/visiting.py",
        "            found = await self._ask(place, await self._outside.ways(place))\n",
        "            ways = await self._outside.ways(place) if not _ else await self._outside._resolver(place.host, place.port)\n            found = await self._ask(place, ways)\n",
        "web_attack",
    ),
    Mutant("proxies of the environment", "wire.py", "trust_env=False", "trust_env=True", "web_attack"),
    Mutant("connections shared between hosts", "wire.py", "max_keepalive_connections=0", "max_keepalive_connections=9", "web"),
    Mutant("cookies kept", "wire.py", "verify=httpx.create_ssl_context(), cookies=forgets", "verify=httpx.create_ssl_context()", "web"),
    Mutant("look-alike letters folded", "tools/web/places.py", 'if unicodedata.normalize("NFKC", host) != unicodedata.normalize("NFC", host):', "if False:", "web_attack"),
    Mutant("hidden elements read", "tools/web/pages.py", 'or "hidden" in attributes or', "or", "pages"),
    # -- many tools ----------------------------------------------------------------------------------------------------
    Mutant("what was found is not folded", "state/folding.py", "        if found != state.found:\n", "        if False:\n", "finding"),
    Mutant("what was found stands first", "state/found.py", "        return known + new\n", "        return new + known\n", "finding"),
    Mutant("found without a bound", "state/found.py", "    if len(known) + len(new) <= MAX_FOUND_TOOLS:\n", "    if True:\n", "finding"),
    Mutant("every tool is shown", "finding.py", "        if search is None or taken or (", "        if True or (", "finding"),
    Mutant("words count alike", "ranking.py", "worth * self._rarity[meant] * weight", "worth * weight", "ranking finding"),
    # -- a conversation at a terminal ----------------------------------------------------------------------------------
    Mutant(
        "chat: keys typed while a tool ran answer the question",
        "cli/chat/keys.py",
        "        termios.tcflush(self._fd, termios.TCIFLUSH)\n",
        "        pass\n",
        "chat",
    ),
    Mutant("chat: what the editor read too early is said afterwards", "cli/chat/keys.py", "        self.forget()\n", "", "chat"),
    Mutant("chat: a yes with more words is a yes", "cli/chat/asking.py", "return None if rest else Approve()", "return Approve()", "chat"),
    Mutant("chat: only cleaned before it is laid out", "cli/chat/screen.py", "Segment(safe(segment.text), segment.style)", "Segment(segment.text, segment.style)", "chat_rooms"),
    Mutant("chat: Ctrl-C ends the chat instead of the turn", "cli/chat/stage.py", "                    return None\n", "                    raise\n", "chat"),
    Mutant("chat: /undo forgets what a turn continued", "cli/chat/commands.py", "        seq, before = begun[before]\n", "        break\n", "chat_rooms"),
    # -- what users test with ------------------------------------------------------------------------------------------
    Mutant("a script that was not said", "testing/plugin.py", "        if said < lines:\n", "        if False:\n", "testing_kit"),
    Mutant("a live model in a test", "testing/plugin.py", "    if asked:\n", "    if False:\n", "testing_kit"),
    Mutant(
        "a turn that begins with yesterday's configuration", "drive/steps.py", "return () if now == e.SessionConfigured(config=self.state.config)", "return () if True", "open_turn"
    ),
    Mutant("an open turn that is given new tools", "offer.py", "{*tools.standing}.difference", "set().difference", "open_turn"),
    Mutant("who waits looks at nothing else", "drive/tasks.py", "loop.call_later(seconds, wake)", "loop.call_later(3_600, wake)", "waiting"),
    Mutant("a wait that no end ends", "drive/tasks.py", "        one.add_done_callback(wake)\n", "        pass\n", "waiting"),
    Mutant("what steers comes too late", "drive/questions.py", "        if not asked.inputs and not state.notes:\n", "        if True:\n", "output"),
    Mutant("a context that always fits", "drive/steps.py", ") <= bounds.soft:", ") >= 0:", "compaction"),
    Mutant("the end of a stream is lost", "hooks.py", "return bool(self._open)", "return False", "secrets_everywhere"),
    Mutant("secrets in pieces of data of one's own", "cleaning.py", "    if is_dataclass(value) and not", "    if False and not", "secrets_everywhere"),
    Mutant("a word that becomes its parent", "word.py", '"if type(self) is not _word_kind:"', '"if False:"', "words"),
    Mutant("another commit is taken for ours", "sink.py", "is keeping:  # and not", "is not None:  # and not", "sink"),
    Mutant("an error without a name", "store/writer.py", "[_typed(error, self.path)] * requests", "[error] * requests", "store"),
    Mutant("a nature that comes later is not seen", "policy/manners.py", "filter(None, [get(name)])", "()", "manners"),
    Mutant("what is long is compared each time", "offer.py", "    if known[0] is one and known[1] is other:\n", "    if False:\n", "counted"),
    Mutant("a call of a tool that the turn did not begin with", "executor.py", "and name in too_late(self._tools, state)", "and False", "open_turn"),
    Mutant("an open turn that changes its model", "offer.py", "recorded(model, state) or model", "model", "open_turn"),
    Mutant("a commit of its own for who came first", "store/writer.py", "        if self._crowded:\n", "        if False:\n", "store"),
    Mutant("an open turn that begins to look for its tools", "finding.py", "self.without(too_late(self, state))", "self.shelf", "open_turn"),
    Mutant("a summary by the next turn's model", "compaction.py", "self._summariser or answering(self._model, state)", "self._summariser or self._model", "open_turn"),
    Mutant("a taint by what is not shown", "drive/questions.py", "strange.difference(too_late(self._tools, state))", "strange", "open_turn"),
    Mutant("an error without its cure", "cli/teaching.py", '        "commands": commands,', '        "commands": [],', "teaching"),
)


def mutated(mutant: Mutant, package: Path) -> None:
    """Make the change in a copy."""
    room = package / mutant.room
    text = room.read_text(encoding="utf-8")
    if text.count(mutant.was) != 1:
        raise LookupError(f"{mutant.name}: what it changes stands {text.count(mutant.was)} times in {mutant.room}")
    room.write_text(text.replace(mutant.was, mutant.becomes), encoding="utf-8")


def noticed(mutant: Mutant) -> tuple[bool, str]:
    """Say whether the tests notice, and which did."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in ("power_agent", "migrations", "tests", "examples", "README.md", "llms.txt", "pyproject.toml", "CHANGELOG.md", "LICENSE"):
            source, target = ROOT / name, Path(folder) / name
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(source, target)
        mutated(mutant, Path(folder) / "power_agent")
        tests = [f"tests/test_{name}.py" for name in mutant.tests.split()]
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder}
        output = Path(folder) / "said.txt"  # a file: what a broken test leaves behind must not keep a pipe open
        with output.open("wb") as said, subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True) as process:
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                return True, "it hung"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return process.returncode == 1, (failures or lines)[-1 if not failures else 0][:140]


def main(words: list[str]) -> int:
    """Break them one by one; the exit code says whether at least 95 in 100 were noticed."""
    wanted = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if words == ["--list"]:
        print("\n".join(mutant.name for mutant in MUTANTS))
        return 0
    alive = 0
    for mutant in wanted:
        begun = time.monotonic()
        seen, how = noticed(mutant)
        alive += not seen
        print(f"{'noticed' if seen else 'ALIVE  '}  {mutant.name:45} {time.monotonic() - begun:5.0f} s  {how}", flush=True)
    print(f"{len(wanted) - alive} of {len(wanted)} were noticed")
    return int(alive * 20 > len(wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
