"""One story for the loop, told in processes that are killed: tools of all promises, a person who only tells the truth, and a judge.

The world is a folder outside the store. A tool that takes effect appends one synced line to it, so that what really happened can
be compared with what the log says. Whoever tells the story sends its messages under fixed keys, approves what waits, and settles
what is in doubt by looking into the world: whoever starts over, however often, must come to the same end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

import scenes
from processes import PROMPT_SECONDS
from scenes import Raw, Stage

from power_agent import (
    Approve,
    Call,
    DidNotHappen,
    Envelope,
    Happened,
    ModelError,
    Result,
    Retry,
    ScriptedModel,
    SQLiteStore,
    StatefulAgentLoop,
    ToolContext,
    TurnResult,
    context,
    failpoints,
    tool,
)
from power_agent.drive import attempts
from power_agent.errors import HeadMoved, SessionExists
from power_agent.events import TERMINAL, ContextCompacted
from power_agent.models.scripted import Line, Script
from power_agent.policy import Allow, Ask, Deny, Verdict, Wanted
from power_agent.ports import ModelRequest, ProbeAnswer

SESSION = "story"
MESSAGES = ("Set everything up.", "And once more.")
ELSEWHERE = "And in another world."
FORK = ".fork"
FORKED_BEHIND = 5
"""The answer in whose batch the branch begins: the first one of the second turn."""
SUMMARY = "Bob was wired a hundred, and it was well."
PERSON = "ada"

# -- the world ---------------------------------------------------------------------------------------------------------


class World:
    """What happened outside, one file of synced lines per session; and what the loop told its listeners."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.pause = 0.0
        self.folder.mkdir(exist_ok=True)

    def effect(self, ctx: ToolContext, name: str, value: object) -> None:
        """Take effect: from here on it has happened."""
        line = {"what": "effect", "tool": name, "call": ctx.call, "attempt": ctx.attempt, "key": ctx.idempotency_key, "value": value}
        self._write(ctx.session, line, sync=True)
        failpoints.passing("in", ("effect", name))

    def told(self, kept: Envelope) -> None:
        """Hear of an event: whoever was told that it is kept may rely on it."""
        self._write(kept.session, {"what": "told", "seq": kept.seq, "hash": kept.hash.hex()})

    def answered(self, result: TurnResult) -> None:
        """Hear a turn's result."""
        self._write(result.session_id, {"what": "answer", "turn": result.turn, "seq": result.seq, "text": result.text})

    def _write(self, session: str, line: dict[str, Any], *, sync: bool = False) -> None:
        descriptor = os.open(self.folder / session, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, scenes.line_of(line))
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lines(self, session: str, what: str = "effect") -> list[dict[str, Any]]:
        """Return what happened in the name of a session."""
        return [line for line in scenes.lines(self.folder / session) if line["what"] == what]

    def of_call(self, session: str, call: str) -> list[dict[str, Any]]:
        """Return every time that a call took effect."""
        return [line for line in self.lines(session) if line["call"] == call]

    def copy(self, folder: Path, keep: Iterable[str] | None = None) -> World:
        """Return a world in which only these calls took effect, and nobody was told of anything."""
        other = World(folder)
        for session in (self.folder.iterdir()) if keep is not None else ():
            wanted = set(keep or ())
            kept = [line for line in self.lines(session.name) if line["call"] in wanted]
            (folder / session.name).write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        return other


# -- the tools ---------------------------------------------------------------------------------------------------------


def _at_once(ctx: ToolContext, name: str, value: Any) -> Any:
    world: World = ctx.deps
    time.sleep(world.pause)
    world.effect(ctx, name, value)
    time.sleep(world.pause)
    return value


async def _in_time(ctx: ToolContext, name: str, value: Any) -> Any:
    world: World = ctx.deps
    await asyncio.sleep(world.pause)
    world.effect(ctx, name, value)
    await asyncio.sleep(world.pause)
    return value


def did_it(_: object, ctx: ToolContext) -> ProbeAnswer:
    """Look into the world: did this call take effect?"""
    found = ctx.deps.of_call(ctx.session, ctx.call)
    return Happened(found[-1]["value"]) if found else DidNotHappen()


async def did_it_too(arguments: object, ctx: ToolContext) -> ProbeAnswer:
    """Look into the world, without a thread."""
    await asyncio.sleep(0)
    return did_it(arguments, ctx)


@tool(recovery="rerun")
def look(place: str, ctx: ToolContext) -> str:
    """Look somewhere: harmless, in a thread."""
    return _at_once(ctx, "look", f"{place} is fine")


@tool(recovery="rerun")
async def dump(size: int, ctx: ToolContext) -> str:
    """Return a lot: it goes into a blob."""
    await _in_time(ctx, "dump", size)
    return "abcdefghij" * (size // 10)


@tool(recovery="keyed")
async def deposit(cents: int, ctx: ToolContext) -> dict[str, int]:
    """Deposit: the bank takes each key once."""
    return await _in_time(ctx, "deposit", {"deposited": cents})


@tool(probe=did_it)
def ship(parcel: str, ctx: ToolContext) -> dict[str, str]:
    """Ship: the tracking service knows whether it left; in a thread."""
    return _at_once(ctx, "ship", {"shipped": parcel})


@tool(probe=did_it_too)
async def mail(to: str, ctx: ToolContext) -> list[str]:
    """Mail: the outbox knows."""
    return await _in_time(ctx, "mail", ["mailed", to])


@tool
def pay(to: str, cents: int, ctx: ToolContext) -> str:
    """Pay: nobody promised anything; in a thread."""
    return _at_once(ctx, "pay", f"{to} has {cents} more")


@tool
async def wire(to: str, cents: int, ctx: ToolContext) -> dict[str, Any]:
    """Wire: nobody promised anything, and a person has to approve it."""
    return await _in_time(ctx, "wire", {"to": to, "cents": cents})


@tool(recovery="rerun")
def flaky(ctx: ToolContext) -> str:
    """Fail, always."""
    _at_once(ctx, "flaky", None)
    raise ValueError("it does not work")


@tool
async def purge(ctx: ToolContext) -> None:
    """Destroy everything: the policy never lets it run."""
    await _in_time(ctx, "purge", None)


TOOLS = (look, dump, deposit, ship, mail, pay, wire, flaky, purge)


def policy(wanted: Wanted) -> Verdict:
    """Ask before large amounts of money leave, never purge."""
    if wanted.tool == "wire" or wanted.arguments.get("cents", 0) == 1000:
        return Ask(f"{wanted.tool} {dict(wanted.arguments)}?", rule="money")
    return Deny("nobody purges", rule="no purge") if wanted.tool == "purge" else Allow("all else")


# -- the script --------------------------------------------------------------------------------------------------------

LINES: Sequence[Line] = (
    [Call("look", {"place": "home"}), Call("deposit", {"cents": 5}), Call("ship", {"parcel": "one"}), Call("pay", {"to": "ada", "cents": 5})],
    ModelError("busy", retryable=True),
    [Call("wire", {"to": "bob", "cents": 100}), Call("mail", {"to": "eve"}), Call("flaky"), Call("look", {"where": 1})],
    [Call("teleport", {"to": "mars"}), Call("purge"), Call("dump", {"size": 40_000})],
    "The first turn is over.",
    [Call("pay", {"to": "eve", "cents": 6}), Call("pay", {"to": "bob", "cents": 1000}), Call("deposit", {"cents": 7}), Call("ship", {"parcel": "two"})],
    [Call("wire", {"to": "ada", "cents": 1}), Call("look", {"place": "work"})],
    "All is done.",
)
TOOLS_THAT_RUN = ("look", "dump", "deposit", "ship", "mail", "pay", "wire", "flaky")


def script(request: ModelRequest) -> Line:
    """Say the next line; a last line says what the model had seen until then, to the byte."""
    line = LINES[request.replies]
    if isinstance(line, ModelError):
        return ModelError(line.message, retryable=line.retryable)
    return f"{line} {sha256(repr(request.messages).encode()).hexdigest()[:12]}" if isinstance(line, str) else line


def hurry() -> None:
    """Let a failed request to the model be repeated at once."""
    attempts.backoff = lambda _attempt: 0.001


def agent(store: str | Path | SQLiteStore, world: World, *, said: Script = script) -> StatefulAgentLoop:
    """Build the agent; whoever tells the story builds the same one."""
    return StatefulAgentLoop(ScriptedModel(said), tools=TOOLS, store=store, policy=policy, deps=world, listeners=[world.told])


# -- telling it --------------------------------------------------------------------------------------------------------


async def settle_truthfully(loop: StatefulAgentLoop, session: str, world: World) -> TurnResult:
    """Resume until the turn is over: approve what waits, and settle doubted calls by what the world says."""
    for _ in range(20):
        result = await loop.resume(session)
        if result.status != "waiting":
            return result
        for call in result.pending:
            happened = world.of_call(session, call.id)
            if call.state == "waiting":
                await loop.settle(session, call.id, Approve(), by=PERSON)
            elif call.state == "doubted":
                await loop.settle(session, call.id, Result(happened[-1]["value"]) if happened else Retry(), by=PERSON)
    raise AssertionError(f"{session} does not come to rest: {result}")


async def tell(loop: StatefulAgentLoop, world: World, session: str = SESSION, messages: Sequence[str] = MESSAGES) -> list[TurnResult]:
    """Tell the story, or what is left of it, to its end."""
    results = []
    for number, message in enumerate(messages):
        result = await loop.send(message, session, key=f"message-{number}", by=PERSON)
        if result.status == "waiting":
            await settle_truthfully(loop, session, world)
            result = await loop.send(message, session, key=f"message-{number}", by=PERSON)
        assert result.status == "completed", result
        world.answered(result)
        results.append(result)
        if number == 0 and len(messages) > 1:
            await fold_away(loop, session)
    if messages is MESSAGES:
        results += await tell(loop, world, await branch(loop, session), (ELSEWHERE,))
    return results


async def fold_away(loop: StatefulAgentLoop, session: str) -> None:
    """Let a summary stand for the first turn up to its second answer, once."""
    if await loop.history(session, kinds=["context.compacted"]):
        return
    while True:
        async with loop._desk.reserved(session):  # an interrupt in here gives the session back, as everywhere
            state = await loop._sink.claim(session)
            place = context.cut_places(state)[2]
            folded = ContextCompacted(from_seq=1, to_seq=place, summary=SUMMARY, strategy="by hand")
            with contextlib.suppress(HeadMoved):
                await loop._sink.record(state, [folded], release=True)
                await loop._sink.release(state)
                return


async def branch(loop: StatefulAgentLoop, session: str) -> str:
    """Branch off in the middle of the first batch of the second turn, once."""
    fork = session + FORK
    with contextlib.suppress(SessionExists):
        answers = [kept.seq for kept in await loop.history(session, kinds=["model.answered"])]
        await loop.fork(session, at=answers[FORKED_BEHIND - 1] + 1, session_id_new=fork)
    return fork


def outcomes(results: Iterable[TurnResult]) -> list[tuple[Any, ...]]:
    """Return what a story came to: what was said in the end, and what became of each call."""
    return [(one.turn, one.status, one.text, [(call.id, call.tool, call.state, call.output) for call in one.calls]) for one in results]


# -- the judge ---------------------------------------------------------------------------------------------------------


class Fact(NamedTuple):
    """A kept event, read without the project's code."""

    seq: int
    kind: str
    body: dict[str, Any]


def facts_of(rows: Iterable[Raw], session: str) -> list[Fact]:
    """Return the events of one session."""
    return [Fact(row.seq, row.kind, json.loads(row.body or "{}")) for row in rows if row.session == session]


def judge(path: Path | str, world: World, sessions: Iterable[str] | None = None, *, messages: int | None = len(MESSAGES)) -> list[Raw]:
    """Check the raw file against the world; `messages` says how many turns each session must have completed, None: not at rest."""
    rows = scenes.judge(path)  # I0, I1 (at most one outcome), I5
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        blobs = set(db.execute("SELECT session.name, lower(hex(hash)) FROM blob JOIN session ON session.id = blob.session"))
    hashes = {(row.session, row.seq): row.hash.hex() for row in rows}
    for session in sessions or sorted({row.session for row in rows}):
        facts = facts_of(rows, session)
        for line in world.lines(session, "told"):
            assert hashes.get((session, line["seq"])) == line["hash"], f"I6: {session}/{line['seq']} was told and is not kept"
        for line in world.lines(session, "answer"):
            assert (session, line["seq"]) in hashes, f"I6: the answer of turn {line['turn']} of {session} is not kept"
        named = {(session, fact.body["cut"]["blob"]) for fact in facts if fact.body.get("cut")}
        assert named <= blobs, "an event names a missing blob"
        keys = [fact.body["key"] for fact in facts if fact.kind == "input.received"]
        assert len(keys) == len(set(keys)), "I8: one input per key"
        _judge_calls(session, facts, world.lines(session))
        if messages is not None:
            _judge_rest(session, facts, 1 if session.endswith(FORK) else messages)
    return rows


def _judge_calls(session: str, facts: list[Fact], effects: list[dict[str, Any]]) -> None:
    """I2, I7 and I9, and that nothing that has ended runs again."""
    of_call: dict[str, list[Fact]] = {part["id"]: [] for fact in facts if fact.kind == "model.answered" for part in fact.body["parts"] if part.get("id")}
    for fact in facts:
        if "call" in fact.body:
            of_call[fact.body["call"]].append(fact)
    runs = Counter((line["call"], line["attempt"]) for line in effects)
    assert set(runs.values()) <= {1}, f"{session}: an attempt took effect twice: {runs}"
    assert {line["call"] for line in effects} <= of_call.keys(), f"I7: {session}: an effect of a call that was never made"
    keys = {call: {line["key"] for line in effects if line["call"] == call} for call in of_call}
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())), f"{session}: two calls share a key"
    for call, mine in of_call.items():
        where = f"{session}/{call}"
        started = {fact.body.get("attempt", 1): fact for fact in mine if fact.kind == "call.started"}
        happened = [line for line in effects if line["call"] == call]
        assert all(line["attempt"] in started for line in happened), f"I7: {where} took effect, and its start is not kept"
        assert all(line["key"] == started[line["attempt"]].body["idempotency_key"] for line in happened), where
        assert len(keys[call]) <= 1, f"{where}: the key changed from one attempt to the next"
        asked = [fact for fact in mine if fact.kind == "call.approval_asked"]
        for fact in started.values() if asked else ():
            approved = [one.body["digest"] for one in mine if one.kind == "call.approved" and one.seq < fact.seq]
            assert fact.body["digest"] in approved, f"I7: {where} was started without an approval of what ran"
        retried = sum(fact.kind == "call.retried" and fact.body["by"] == PERSON for fact in mine)
        if any(fact.body.get("recovery", "ask") == "ask" for fact in started.values()):
            assert len(happened) <= 1 + retried, f"I2: {where} took effect {len(happened)} times, retried by a person {retried} times"
            assert len(started) <= 1 + retried, f"I2: {where} was started {len(started)} times, retried by a person {retried} times"
        for fact in mine:
            if fact.kind == "call.succeeded":
                own = {fact.body.get("attempt", 1)} if not fact.body.get("by") else set(started)
                assert own & {line["attempt"] for line in happened}, f"I9: {where} succeeded, and nothing happened"
            if fact.kind == "call.denied" or (fact.kind in TERMINAL and not started):
                assert not happened, f"I9: {where} was {fact.kind}, and it happened"
        ends = [fact.seq for fact in mine if fact.kind in TERMINAL]
        assert not ends or ends == [mine[-1].seq], f"I1: {where} went on after its end"


def _judge_rest(session: str, facts: list[Fact], messages: int) -> None:
    """I1, I10: every call has its one outcome, every input its one turn, every turn its one end."""
    kinds = Counter(fact.kind for fact in facts)
    assert kinds["input.received"] == kinds["turn.started"] == kinds["turn.ended"] == messages, f"I10: {session}: {kinds}"
    assert all(fact.body.get("status", "completed") == "completed" for fact in facts if fact.kind == "turn.ended"), session
    taken = [seq for fact in facts if fact.kind == "turn.started" for seq in fact.body["inputs"]]
    assert taken == [fact.seq for fact in facts if fact.kind == "input.received"], f"I10: {session}: an input was not taken once"
    made = sorted(part["id"] for fact in facts if fact.kind == "model.answered" for part in fact.body["parts"] if part.get("id"))
    assert made == sorted(fact.body["call"] for fact in facts if fact.kind in TERMINAL), f"I1: {session}: a call without its outcome"


# -- what processes play -----------------------------------------------------------------------------------------------


async def live(path: str, folder: str, session: str = SESSION, pause: float = 0.0) -> None:
    """Tell the story, or what is left of it; the same for those who begin and those who find a file after a death."""
    world = World(folder)
    world.pause = pause
    async with agent(path, world) as loop:
        begun = time.monotonic()
        await tell(loop, world, session)
        assert time.monotonic() - begun < PROMPT_SECONDS, "it waited for a lease"
        wrong = [sentence async for sentence in loop.verify()]
        assert not wrong, wrong


async def toil(path: str, folder: str, lanes: int, seed: int) -> None:
    """Tell stories side by side, for ever: finish what is there, then begin the next."""
    world, dice = World(folder), random.Random(seed)
    async with agent(path, world) as loop:
        await asyncio.gather(*(_lane(loop, world, f"lane{lane}-", dice) for lane in range(lanes)))


async def _lane(loop: StatefulAgentLoop, world: World, lane: str, dice: random.Random) -> None:
    mine = [row.session for row in await loop.sessions(after=lane) if row.session.startswith(lane) and not row.session.endswith(FORK)]
    for number in itertools.count(len(mine) - 1 if mine else 0):  # the last one may not be over
        world.pause = dice.choice((0.0, 0.0, 0.002, 0.01))
        await tell(loop, world, f"{lane}{number:06}")


SCENES = (live, toil)


class Theatre(Stage):
    """A stage for this story."""

    def __enter__(self) -> Self:
        house = Path(__file__).resolve().parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(house), str(house.parent)]), "PYTHONWARNINGS": "error"}
        self._process = subprocess.Popen([sys.executable, "-c", "import story; story.direct()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=self._folder)
        return self


def direct() -> None:
    """Be the stage, with everything imported and built that a story needs: one is told here, and hundreds by those who are forked."""
    scenes.SCENES.update({scene.__name__: scene for scene in SCENES})
    hurry()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(f"{folder}/log.db", f"{folder}/world"))
    scenes.direct()
