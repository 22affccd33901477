"""A session that moves is the same session, byte for byte, or it does not arrive at all."""
# ruff: noqa: ASYNC240  nobody else waits for the event loop of a test

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from grammar import histories
from hypothesis import given
from hypothesis import strategies as st
from shelf import alone, as_rendered, everything, placeless, shelve, sink_of, wrongs

from power_agent import Approve, Call, PowerAgentError, ScriptedModel, SQLiteStore, StatefulAgentLoop, Text, ToolContext, moving, parcel, tool
from power_agent import events as e
from power_agent.clock import HeldClock, SystemClock
from power_agent.errors import (
    ExportRedacted,
    HeadMoved,
    ImportRefused,
    SessionBusy,
    SessionErased,
    SessionExists,
    SessionNotFound,
    StoreDamaged,
    StoreError,
    StoreNewer,
    StoreNotFound,
)
from power_agent.messages import Attachment
from power_agent.moving import Imported, export, import_
from power_agent.policy import Ask
from power_agent.ports import Tip
from power_agent.redaction import WORDS
from power_agent.sink import opened
from power_agent.state import fold
from power_agent.store.verify import check_tip

CONTENT = bytes(range(256)) * 3_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TURN = [e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="m"), e.ModelAnswered(round=1, parts=(Text("Fine."),)), e.TurnEnded(turn=1)]


def here(path: Path | str = ":memory:") -> SQLiteStore:
    return SQLiteStore(path, clock=HeldClock())


async def lines_of(store: SQLiteStore, session: str, *, redacted: bool = False) -> list[bytes]:
    return [line async for line in await export(store, session, redacted=redacted)]


async def let_in(store: SQLiteStore, lines: object) -> Imported:
    return await import_(store, HeldClock(), lines)  # type: ignore[arg-type]


async def tell(store: SQLiteStore) -> None:
    """A parent with a blob and a turn, a fork of it, a fork of the fork, a stranger."""
    sink = sink_of(store)
    state = await sink.open(e.Config(system="Be brief."), "parent")
    said = (Text("Look."), Attachment("image/png", blob=DIGEST, size=len(CONTENT)))
    state = await sink.record(state, [e.InputReceived(parts=said, key="k"), *TURN], blobs={DIGEST: CONTENT}, release=True)
    branch = await sink.open(session="branch", parent=e.Parent(relation="fork", session="parent", seq=6))
    branch = await sink.record(branch, [e.InputReceived(parts=(Text("Another way."), said[1]), key="k")], blobs={DIGEST: CONTENT}, release=True)
    twig = await sink.open(session="twig", parent=e.Parent(relation="fork", session="branch", seq=branch.seq))
    await sink.record(twig, [e.NoteAdded(text="here", why="test")], release=True)
    await sink.record(state, [e.NoteAdded(text="the parent goes on", why="test")], release=True)
    other = await sink.open(session="stranger")
    await sink.record(other, [e.InputReceived(parts=(Text("Who?"),))], release=True)


# -- there and back ----------------------------------------------------------------------------------------------------


@given(histories(60), st.booleans())
def test_what_arrives_is_what_left(history: list[e.Envelope], from_file: bool):
    """Any legal history, forks included: same bytes, same hashes, same fold, same context; and it goes on."""

    async def play() -> None:
        async with here() as one, here() as two:
            session = await shelve(one, history)
            before, row = placeless(await one.read(session)), await one.find(session)
            assert row is not None
            lines = await lines_of(one, session)
            if row.erased:
                with pytest.raises(SessionErased):
                    await let_in(two, lines)
                assert await everything(two) == ([], [])
                return
            source = io.BytesIO(b"".join(lines)) if from_file else lines
            assert await let_in(two, source) == (session, row.head + 1, "new")
            after, there = placeless(await two.read(session)), await two.find(session)
            assert after[:-1] == before
            assert there is not None
            assert (there.deadline, there.epoch, there.owner) == (0, row.epoch, row.owner)  # given up, so that the next owner need not wait
            assert await as_rendered(one, session, row.head) == await as_rendered(two, session, row.head)
            said = e.decode(after[-1].kind, after[-1].body or "")
            assert said == e.SessionImported(tip=row.tip.hex())
            assert await wrongs(two) == []
            assert await let_in(two, lines) == (session, row.head + 1, "same")
            assert await lines_of(one, session) == lines
            state = await sink_of(two, "heir").claim(session)
            if not state.closed:
                state = await sink_of(two, "heir").record(state, [e.NoteAdded(text="on", why="test")])
                assert fold([opened(record) for record in await two.read(session)]) == state
            assert await wrongs(two) == []

    alone(play)


async def test_a_file_is_whole_or_not_there(tmp_path: Path):
    """An export to a file appears under its name when all of it is on disk, never replaces one, and leaves nothing behind when it fails."""
    async with here() as store, here() as other:
        await tell(store)
        goal = tmp_path / "twig.jsonl"
        whole = await export(store, "twig")
        await whole.to(goal)
        assert goal.read_bytes() == b"".join(await lines_of(store, "twig"))
        assert goal.stat().st_mode & 0o777 == 0o600
        assert await let_in(other, goal) == ("twig", 11, "new")
        with pytest.raises(StoreError):
            await whole.to(goal)
        with pytest.raises(StoreNotFound):
            await whole.to(tmp_path / "nowhere" / "x")
        broken = await export(store, "twig")
        broken._header = broken._header._replace(tip=b"0" * 32)
        with pytest.raises(StoreDamaged):
            await broken.to(tmp_path / "broken.jsonl")
        assert [path.name for path in tmp_path.iterdir()] == ["twig.jsonl"]


async def test_a_pipe_can_be_imported(tmp_path: Path):
    """What can be read only once is put aside first."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with here() as store, here() as other:
        await tell(store)
        data = b"".join(await lines_of(store, "parent"))
        writing = asyncio.create_task(asyncio.to_thread(pipe.write_bytes, data))
        assert (await let_in(other, pipe)).status == "new"
        await writing


async def test_chunks_need_not_be_lines():
    """An asynchronous source may cut its bytes anywhere."""
    async with here() as store, here() as other:
        await tell(store)
        data = b"".join(await lines_of(store, "twig"))

        async def drip():
            for start in range(0, len(data), 999):
                yield data[start : start + 999]

        assert (await let_in(other, drip())).status == "new"
        with pytest.raises(PowerAgentError):
            await let_in(other, ["text"])


# -- families ----------------------------------------------------------------------------------------------------------


async def test_a_fork_brings_its_ancestors():
    """Absent ancestors come along up to their place; their blobs can be read; the family is one chain."""
    async with here() as store, here() as other:
        await tell(store)
        assert await let_in(other, await lines_of(store, "twig")) == ("twig", 11, "new")
        assert [(row.session, row.head, row.parent, row.base) for row in await other.sessions()] == [
            ("branch", 8, "parent", 6),
            ("parent", 6, None, 0),
            ("twig", 11, "branch", 8),
        ]
        assert placeless(await other.read("twig"))[:-1] == placeless(await store.read("twig"))
        assert await other.blob("twig", DIGEST) == CONTENT
        assert await wrongs(other) == []


async def test_ancestors_that_are_here_are_used_and_extended():
    """Whatever order a family moves in: what is here is not kept twice, and a beginning is extended."""
    async with here() as store, here() as other:
        await tell(store)
        family = {name: await lines_of(store, name) for name in ("twig", "branch", "parent")}
        assert (await let_in(other, family["branch"])).status == "new"
        assert (await let_in(other, family["parent"])) == ("parent", 8, "extended")
        with pytest.raises(SessionExists):  # the branch was imported as a session of its own: its seq 9 says so
            await let_in(other, await _longer(store, "branch"))
        assert (await let_in(other, family["twig"])).status == "new"
        assert await wrongs(other) == []
        assert [record.seq for record in await other.read("twig")] == list(range(1, 12))


async def _longer(store: SQLiteStore, session: str, text: str = "later") -> list[bytes]:
    sink = sink_of(store, "later")
    await sink.record(await sink.claim(session), [e.NoteAdded(text=text, why="test")], release=True)
    return await lines_of(store, session)


async def test_an_ancestor_with_an_approval_is_told_that_it_moved():
    """An approval in an ancestor's part is void there too: the copy it was given to may use it."""
    async with here() as store, here() as other:
        sink = sink_of(store)
        state = await sink.open(session="parent")
        call = Call("pay", id="t1r1c1")
        facts = [e.InputReceived(parts=(Text("Pay."),)), *TURN[:2], e.ModelAnswered(round=1, parts=(call,), finish="calls")]
        state = await sink.record(state, [*facts, e.CallApprovalAsked(call=call.id, rule="r", digest="d"), e.CallApproved(call=call.id, digest="d", by="ann")], release=True)
        await sink.open(session="branch", parent=e.Parent(relation="fork", session="parent", seq=state.seq))
        await let_in(other, await lines_of(store, "branch"))
        after = await sink_of(other).load("parent")
        assert after.calls[call.id].place == "requested"
        assert (await other.read("parent"))[-1].kind == "session.imported"


async def test_a_fork_of_something_else_with_the_same_name():
    """An ancestor's name that stands for another history here is no ancestor."""
    async with here() as store, here() as other:
        await tell(store)
        await sink_of(other).open(session="parent")
        before = await everything(other)
        with pytest.raises(SessionExists):
            await let_in(other, await lines_of(store, "twig"))
        assert await everything(other) == before


# -- what is here already ----------------------------------------------------------------------------------------------


async def test_an_older_copy_is_extended(tmp_path: Path):
    """A restored backup is a beginning of the session that went on elsewhere; with other ways taken since, it is another one."""
    async with here(tmp_path / "one.db") as store:
        await tell(store)
        await store.backup(str(tmp_path / "two.db"))
        await store.backup(str(tmp_path / "three.db"))
        lines = await _longer(store, "parent")
        longer = placeless(await store.read("parent"))
    async with here(tmp_path / "two.db") as other:
        assert await let_in(other, lines) == ("parent", 10, "extended")
        assert placeless(await other.read("parent"))[:-1] == longer
        assert await wrongs(other) == []
        before = await everything(other)
        assert (await let_in(other, lines)).status == "same"
        assert await everything(other) == before
        await _longer(other, "parent")
        with pytest.raises(SessionExists):  # it is ahead of the export now
            await let_in(other, lines)
    async with here(tmp_path / "three.db") as other:
        await _longer(other, "stranger")
        assert (await let_in(other, await lines_of(other, "parent"))).status == "same"
        await _longer(other, "parent", "another way")
        before = await everything(other)
        with pytest.raises(SessionExists):
            await let_in(other, [*lines])
        assert await everything(other) == before


async def test_a_living_owner_is_not_overrun(tmp_path: Path):
    """A session that somebody works on is not extended under their hands; one whose owner is dead is."""
    async with here(tmp_path / "one.db") as store:
        await tell(store)
        await store.backup(str(tmp_path / "two.db"))
        lines = await _longer(store, "parent")
    async with here(tmp_path / "two.db") as other:
        sink = sink_of(other, "worker")
        state = await sink.load("parent")
        assert await other.renew("parent", state.epoch, HeldClock().now() + 30_000)
        before = await everything(other)
        with pytest.raises(SessionBusy):
            await let_in(other, lines)
        assert await everything(other) == before
        assert (await import_(other, HeldClock(), lines, is_free=lambda owner: owner == "me")).status == "extended"


async def test_the_head_moves_while_it_is_compared(tmp_path: Path):
    """What was compared must still stand when it is written."""
    async with here(tmp_path / "one.db") as store:
        await tell(store)
        await store.backup(str(tmp_path / "two.db"))
        lines = await _longer(store, "parent")
    async with here(tmp_path / "two.db") as other:
        adopt = other.adopt

        async def late(*args):
            await _longer(other, "parent")
            await adopt(*args)

        other.adopt = late  # type: ignore[method-assign]
        with pytest.raises(HeadMoved):
            await let_in(other, lines)
        assert await wrongs(other) == []


async def test_an_erased_session_does_not_come_back():
    """Erased here: its export is refused. Erased there: the export shows hashes only, and is refused."""
    async with here() as store:
        await tell(store)
        lines = await lines_of(store, "stranger")
        sink = sink_of(store)
        await sink.erase(await sink.claim("stranger"), "the law")
        with pytest.raises(SessionErased):
            await let_in(store, lines)
        tombstone = await lines_of(store, "stranger")
        assert b"Who?" not in b"".join(tombstone)
        assert json.loads(tombstone[1]).keys() == {"session", "seq", "epoch", "at", "kind", "digest", "hash"}
        async with here() as other:
            with pytest.raises(SessionErased):
                await let_in(other, tombstone)
            assert await everything(other) == ([], [])


async def test_unknown_sessions():
    async with here() as store:
        with pytest.raises(SessionNotFound):
            await export(store, "nobody")
        with pytest.raises(StoreNotFound):
            await let_in(store, "/nowhere/at/all.jsonl")
        with pytest.raises(StoreNotFound):
            await let_in(store, "with\0nul")


async def test_an_open_store_is_no_export(tmp_path: Path):
    """Opening the file of an open store would drop its locks when it is closed: it is not even opened."""
    async with here(tmp_path / "one.db") as store:
        with pytest.raises(ImportRefused, match="open store"):
            await let_in(store, tmp_path / "one.db")
    async with here() as store:
        with pytest.raises(ImportRefused):  # closed, it is just not an export
            await let_in(store, tmp_path / "one.db")


# -- approvals, and nothing by itself ----------------------------------------------------------------------------------


async def test_an_import_voids_approvals_and_runs_nothing(tmp_path: Path):
    """What was approved there is asked again here; no tool and no model is called until somebody resumes."""
    ran: list[str] = []

    @tool
    async def pay(cents: int, ctx: ToolContext) -> str:
        """Pay."""
        ran.append(ctx.session)
        return "paid"

    def agent(path: Path, model: ScriptedModel) -> StatefulAgentLoop:
        return StatefulAgentLoop(model, tools=[pay], store=path, policy=lambda _: Ask("Really?"))

    script = [[Call("pay", {"cents": 5})], "done"]
    async with agent(tmp_path / "one.db", ScriptedModel(script)) as one:
        assert (await one.send("go", "s")).status == "waiting"
        await one.settle("s", "t1r1c1", Approve(), by="ann")
        await (await one.export("s")).to(tmp_path / "s.jsonl")
    model = ScriptedModel(script)
    async with agent(tmp_path / "two.db", model) as two:
        assert (await two.import_(tmp_path / "s.jsonl")).status == "new"
        assert (ran, model.requests) == ([], [])
        assert [call.state for call in await two.pending("s")] == ["requested"]
        assert (await two.resume("s")).status == "waiting"
        assert (ran, model.requests) == ([], [])
        await two.settle("s", "t1r1c1", Approve(), by="bob")
        assert (await two.resume("s")).text == "done"
    assert ran == ["s"]


# -- attacks -----------------------------------------------------------------------------------------------------------

Lines = list[bytes]


def changed(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n"


def at(number: int, change: Callable[[bytes], bytes]) -> Callable[[Lines], Lines]:
    """Change one line."""
    return lambda lines: [*lines[:number], change(lines[number]), *(lines[number + 1 :] if number != -1 else [])]


def record(name: str, value: object) -> Callable[[Lines], Lines]:
    """Change a field of the sixth event."""
    return at(9, lambda line: changed(line, **{name: value}))


def _blob(content: bytes) -> Lines:
    return list(parcel.blob_lines(parcel.Blob(hashlib.sha256(content).hexdigest(), content)))


def _shortened(lines: Lines) -> Lines:
    """Cut off the end of a fork so far that its beginning goes too; header and trailer agree."""
    head = json.loads(lines[0])
    tip = json.loads(lines[9])["hash"]
    return [changed(lines[0], seq=6, tip=tip), *lines[1:10], changed(lines[-1], records=6, blobs=1, tip=tip, session=head["session"])]


DEEP = "[" * 100_000 + "]" * 100_000
ATTACKS: dict[str, tuple[type[PowerAgentError], Callable[[Lines], Lines]]] = {
    "nothing": (ImportRefused, lambda _: []),
    "an empty line": (ImportRefused, lambda _: [b"\n"]),
    "not JSON": (ImportRefused, lambda _: [b"hello\n"]),
    "zeros": (ImportRefused, lambda _: [bytes(5_000)]),
    "a list": (ImportRefused, lambda _: [b"[]\n"]),
    "another format": (ImportRefused, at(0, lambda line: changed(line, format="zip"))),
    "a newer version": (StoreNewer, at(0, lambda line: changed(line, version=2))),
    "an older version": (ImportRefused, at(0, lambda line: changed(line, version=0))),
    "a version that is true": (ImportRefused, at(0, lambda line: changed(line, version=True))),
    "no header": (ImportRefused, lambda lines: lines[1:]),
    "two headers": (ImportRefused, lambda lines: [lines[0], *lines]),
    "redacted": (ExportRedacted, at(0, lambda line: changed(line, redacted=True))),
    "another session in the header": (ImportRefused, at(0, lambda line: changed(line, session="other"))),
    "a session id with a line break": (ImportRefused, at(0, lambda line: changed(line, session="a\nb"))),
    "an empty lineage": (ImportRefused, at(0, lambda line: changed(line, lineage=[]))),
    "a lineage of numbers": (ImportRefused, at(0, lambda line: changed(line, lineage=[1]))),
    "a lineage that falls": (ImportRefused, at(0, lambda line: changed(line, lineage=json.loads(line)["lineage"][::-1]))),
    "a lineage without the parent": (ImportRefused, at(0, lambda line: changed(line, lineage=json.loads(line)["lineage"][1:]))),
    "another parent": (ImportRefused, at(0, lambda line: line.replace(b'"session":"parent"', b'"session":"stranger"'))),
    "another place in the parent": (ImportRefused, at(0, lambda line: line.replace(b'"upto":6', b'"upto":5'))),
    "another tip in the header": (ImportRefused, at(0, lambda line: changed(line, tip="0" * 64))),
    "another seq in the header": (ImportRefused, at(0, lambda line: changed(line, seq=9))),
    "a tip that is no hash": (ImportRefused, at(0, lambda line: changed(line, tip="xyz"))),
    "another tip in the trailer": (ImportRefused, at(-1, lambda line: changed(line, tip="0" * 64))),
    "another count in the trailer": (ImportRefused, at(-1, lambda line: changed(line, records=9))),
    "another count of blobs": (ImportRefused, at(-1, lambda line: changed(line, blobs=1))),
    "no trailer": (ImportRefused, lambda lines: lines[:-1]),
    "two trailers": (ImportRefused, lambda lines: [*lines, lines[-1]]),
    "something behind the trailer": (ImportRefused, lambda lines: [*lines, lines[9]]),
    "an empty line behind the trailer": (ImportRefused, lambda lines: [*lines, b"\n"]),
    "the last line break missing": (ImportRefused, at(-1, lambda line: line[:-1])),
    "cut in the middle": (ImportRefused, lambda lines: [b"".join(lines)[:-700]]),
    "an event missing": (ImportRefused, lambda lines: [*lines[:9], *lines[10:]]),
    "an event twice": (ImportRefused, lambda lines: [*lines[:10], *lines[9:]]),
    "two events swapped": (ImportRefused, lambda lines: [*lines[:8], lines[9], lines[8], *lines[10:]]),
    "the last event missing": (ImportRefused, lambda lines: [*lines[:-2], lines[-1]]),
    "the end cut off, header and trailer made to fit": (ImportRefused, _shortened),
    "an event of another session": (ImportRefused, record("session", "stranger")),
    "another text": (ImportRefused, at(8, lambda line: line.replace(b"Fine.", b"Fire."))),
    "a space in a body": (ImportRefused, at(8, lambda line: changed(line, body=json.loads(line)["body"] + " "))),
    "another nonce": (ImportRefused, at(1, lambda line: line.replace(b'nonce\\":\\"0', b'nonce\\":\\"1'))),
    "another time": (ImportRefused, record("at", 1)),
    "another epoch": (ImportRefused, record("epoch", 2)),
    "another seq": (ImportRefused, record("seq", 7)),
    "another kind": (ImportRefused, record("kind", "note.added")),
    "another hash": (ImportRefused, record("hash", "0" * 64)),
    "a hash in capitals": (ImportRefused, at(9, lambda line: changed(line, hash=json.loads(line)["hash"].upper()))),
    "a kind from the future": (StoreNewer, record("kind", "mind.read")),
    "a body from the future": (ImportRefused, record("body", '{"v":99}')),
    "a seq of another type": (ImportRefused, record("seq", "6")),
    "a seq that is true": (ImportRefused, record("seq", True)),
    "a negative seq": (ImportRefused, record("seq", -6)),
    "a time out of bounds": (ImportRefused, record("at", 2**63)),
    "a body that is no text": (ImportRefused, record("body", {"turn": 1})),
    "no body": (ImportRefused, record("body", None)),
    "a body that is not JSON": (ImportRefused, record("body", "hello")),
    "a body 100,000 deep": (ImportRefused, record("body", DEEP)),
    "a line 100,000 deep": (ImportRefused, at(9, lambda _: DEEP.encode() + b"\n")),
    "a field 100,000 deep": (ImportRefused, at(9, lambda line: b'{"x":' + DEEP.encode() + b"," + line[1:])),
    "NaN": (ImportRefused, at(9, lambda line: line.replace(b'"epoch":1', b'"epoch":NaN'))),
    "NUL": (ImportRefused, at(8, lambda line: line.replace(b"Fine", b"Fi\0ne"))),
    "an escaped NUL": (ImportRefused, at(8, lambda line: line.replace(b"Fine", b"Fi\\u0000ne"))),
    "half a surrogate pair": (ImportRefused, at(8, lambda line: line.replace(b"Fine", b"Fi\\ud800ne"))),
    "bytes that are not UTF-8": (ImportRefused, at(8, lambda line: line.replace(b"Fine", b"Fi\xffne"))),
    "a digest instead of a body": (
        SessionErased,
        at(9, lambda line: json.dumps({**{k: v for k, v in json.loads(line).items() if k != "body"}, "digest": "0" * 64}).encode() + b"\n"),
    ),
    "the blob missing": (ImportRefused, lambda lines: [*lines[:2], *lines[5:]]),
    "the blob missing, trailer made to fit": (ImportRefused, lambda lines: [*lines[:2], *lines[5:-1], changed(lines[-1], blobs=1)]),
    "a piece of the blob missing": (ImportRefused, lambda lines: [*lines[:3], *lines[4:]]),
    "a piece of the blob twice": (ImportRefused, lambda lines: [*lines[:4], *lines[3:]]),
    "another content of the blob": (ImportRefused, at(3, lambda _: b'{"piece":"aGVsbG8="}\n')),
    "an empty piece": (ImportRefused, lambda lines: [*lines[:3], b'{"piece":""}\n', *lines[3:]]),
    "a piece that is not base64": (ImportRefused, at(3, lambda _: b'{"piece":"a\\u00e9!"}\n')),
    "another name of the blob": (ImportRefused, at(2, lambda line: changed(line, blob="0" * 64))),
    "a blob of other size": (ImportRefused, at(2, lambda line: changed(line, size=5))),
    "a blob of a terabyte": (ImportRefused, at(2, lambda line: changed(line, size=2**40))),
    "a blob of negative size": (ImportRefused, at(2, lambda line: changed(line, size=-1))),
    "a blob that nobody names": (ImportRefused, lambda lines: [*lines[:7], *_blob(b"stowaway"), *lines[7:]]),
    "a blob before everything": (ImportRefused, lambda lines: [lines[0], *_blob(b"stowaway"), *lines[1:]]),
    "a blob behind everything": (ImportRefused, lambda lines: [*lines[:-1], *_blob(b"stowaway"), changed(lines[-1], blobs=3)]),
}


@pytest.fixture(scope="module")
def twig() -> Lines:
    """The export that is attacked: parent (1 to 6, with a blob before event 2), branch (7, 8), twig (9, 10)."""

    async def make() -> Lines:
        async with here() as store:
            await tell(store)
            return await lines_of(store, "twig")

    return alone(make)


def test_the_attacked_export_is_what_the_table_thinks(twig: Lines):
    kinds = [next(iter(json.loads(line))) for line in twig]
    assert kinds == ["format", "session", "blob", "piece", "piece", *["session"] * 6, "blob", "piece", "piece", *["session"] * 3, "records"]
    assert json.loads(twig[9])["kind"] == "turn.ended"
    assert b"Fine." in twig[8]


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_refused_and_nothing_is_written(name: str, twig: Lines):
    """Each a typed error with a sentence; the store is what it was."""
    kind, attack = ATTACKS[name]
    attacked = attack(twig)
    assert attacked != twig, "nothing was changed"
    async with here() as store:
        await sink_of(store).open(session="bystander")
        before = await everything(store)
        with pytest.raises(PowerAgentError) as caught:
            await let_in(store, attacked)
        assert type(caught.value) is kind, caught.value
        assert caught.value.message
        assert await everything(store) == before
        assert (await let_in(store, twig)).status == "new"  # and the store works on


async def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch, twig: Lines):
    """A line longer than the limit is refused without being read to its end."""
    monkeypatch.setattr(parcel, "MAX_EXPORT_LINE_BYTES", 100_000)
    asked: list[int] = []

    class Endless:
        def readline(self, limit: int) -> bytes:
            asked.append(limit)
            return b"x" * limit

    with pytest.raises(ImportRefused, match="longer"):
        list(parcel.items(Endless()))
    assert asked == [100_001]
    async with here() as store:
        await tell(store)
        sink = sink_of(store)
        await sink.record(await sink.claim("stranger"), [e.NoteAdded(text="long " * 30_000, why="test")], release=True)
        with pytest.raises(PowerAgentError) as caught:
            await lines_of(store, "stranger")
        assert caught.value.code == "event_too_large"


@given(st.data())
def test_no_changed_byte_gets_in(data: st.DataObject):
    """Any one byte of an export changed: refused, or (a space between two fields) the same session."""

    async def play() -> None:
        async with here() as store, here() as other:
            await sink_of(store).open(session="s")
            lines = b"".join(await lines_of(store, "s"))
            position, value = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, 255))
            altered = lines[:position] + bytes([value]) + lines[position + 1 :]
            try:
                await let_in(other, [altered])
            except PowerAgentError:
                assert await everything(other) == ([], [])
            else:
                assert placeless(await other.read("s"))[:-1] == placeless(await store.read("s"))
                assert await wrongs(other) == []

    alone(play)


FORGED = {
    "a second outcome": lambda call: [e.CallStarted(call=call), e.CallSucceeded(call=call, output=1), e.CallSucceeded(call=call, output=2)],
    "a start that was never approved": lambda call: [e.CallApprovalAsked(call=call, rule="r", digest="d"), e.CallStarted(call=call, digest="d")],
    "an unknown call": lambda _: [e.CallStarted(call="t9r9c9")],
    "an end of another turn": lambda _: [e.TurnEnded(turn=7)],
    "a second beginning": lambda _: [e.SessionOpened(nonce="n", owner="o")],
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_chain_that_fits_is_not_enough(name: str):
    """A forger who computes all hashes anew still cannot get an illegal move in."""
    from power_agent.chain import digest_of, link, secret_of

    opened = e.SessionOpened(nonce="n", owner="o")
    call = Call("pay", id="t1r1c1")
    facts = [opened, e.InputReceived(parts=(Text("Pay."),)), *TURN[:2], e.ModelAnswered(round=1, parts=(call,), finish="calls"), *FORGED[name](call.id)]
    tip, lines = b"", []
    for seq, fact in enumerate(facts, 1):
        body = e.encode(fact)
        tip = link(tip, "s", seq, 1, seq, fact.kind, digest_of(secret_of("n"), seq, body))
        lines.append(parcel.record_line(parcel.Record(0, "s", seq, 1, seq, fact.kind, body, None, tip)))
    header = parcel.header_line(parcel.Header("s", len(facts), tip, (parcel.Share("s", len(facts)),)))
    async with here() as store:
        with pytest.raises(ImportRefused):
            await let_in(store, [header, *lines, parcel.trailer_line(parcel.Trailer(len(facts), 0, tip))])
        assert await everything(store) == ([], [])


async def test_two_inputs_with_one_key_are_the_tables_business():
    """What the fold does not know (keys over a whole history) the table's own rules refuse, and all of it rolls back."""
    from power_agent.chain import digest_of, link, secret_of

    facts = [e.SessionOpened(nonce="n", owner="o"), e.InputReceived(parts=(Text("a"),), key="k"), e.InputReceived(parts=(Text("b"),), key="k")]
    tip, lines = b"", []
    for seq, fact in enumerate(facts, 1):
        body = e.encode(fact)
        tip = link(tip, "s", seq, 1, seq, fact.kind, digest_of(secret_of("n"), seq, body))
        lines.append(parcel.record_line(parcel.Record(0, "s", seq, 1, seq, fact.kind, body, None, tip)))
    header = parcel.header_line(parcel.Header("s", 3, tip, (parcel.Share("s", 3),)))
    async with here() as store:
        with pytest.raises(ImportRefused, match="append_only"):
            await let_in(store, [header, *lines, parcel.trailer_line(parcel.Trailer(3, 0, tip))])
        assert await everything(store) == ([], [])


async def test_a_file_that_changes_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twig: Lines):
    """What was checked is checked again as it is written: nobody can swap the file in between."""
    path = tmp_path / "twig.jsonl"
    path.write_bytes(b"".join(twig))
    run = moving._Inspection.run

    def then_swap(self: moving._Inspection) -> None:
        run(self)
        path.write_bytes(b"".join(twig).replace(b"Fine.", b"Fire."))

    monkeypatch.setattr(moving._Inspection, "run", then_swap)
    async with here() as store:
        with pytest.raises(ImportRefused):
            await let_in(store, path)
        assert await everything(store) == ([], [])


async def test_a_cancelled_import_arrives_whole_or_not_at_all(twig: Lines):
    """A caller who goes away changes nothing: all of it, or none."""
    ends = set()
    for steps in range(1, 60):
        async with here() as store:
            task = asyncio.create_task(let_in(store, twig))
            for _ in range(steps):
                await asyncio.sleep(0.0005)
                if task.done():
                    break
            task.cancel()
            await asyncio.wait([task])
            rows = await store.sessions()
            ends.add(len(rows))
            assert len(rows) in {0, 3}
            assert await wrongs(store) == []
        if len(ends) == 2 and task.done() and not task.cancelled():
            break
    assert 3 in ends


# -- kill -9 -----------------------------------------------------------------------------------------------------------

IMPORTING = """
import asyncio, sys
from power_agent import SQLiteStore
from power_agent.clock import SystemClock
from power_agent.moving import import_

async def main():
    async with SQLiteStore(sys.argv[1]) as store:
        await import_(store, SystemClock(), sys.argv[2])

asyncio.run(main())
"""


@pytest.mark.parametrize(("when", "there"), [("before", 0), ("in", 0), ("after", 3)])
async def test_kill_in_the_middle_of_an_import(tmp_path: Path, twig: Lines, when: str, there: int):
    """Killed with everything written and nothing committed, nothing is there; the next import goes through."""
    path, parcel_path = tmp_path / "agent.db", tmp_path / "twig.jsonl"
    parcel_path.write_bytes(b"".join(twig))
    environment = {**os.environ, "POWER_AGENT_FAILPOINT": f"{when}:adoption"}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPORTING, str(path), str(parcel_path), env=environment)
    assert await child.wait() == -signal.SIGKILL
    async with SQLiteStore(path) as store:
        assert len(await store.sessions()) == there
        assert len(await store.read_all()) == (11 if there else 0)
        assert await wrongs(store) == []
        assert (await import_(store, SystemClock(), parcel_path)).status == ("same" if there else "new")
        assert await wrongs(store) == []


# -- redacted ----------------------------------------------------------------------------------------------------------


@given(histories(60))
def test_a_redacted_export_says_nothing(history: list[e.Envelope]):
    """No text of any body but closed words, our ids and known tools' names; every event with its kind; and it cannot be imported."""

    async def play() -> None:
        async with here() as store:
            session = await shelve(store, history)
            full, red = await lines_of(store, session), await lines_of(store, session, redacted=True)
            events = [json.loads(line) for line in full if b'"kind":' in line]
            shown = [json.loads(line) for line in red if b'"kind":' in line]
            assert [(one["seq"], one["kind"], one["hash"]) for one in shown] == [(one["seq"], one["kind"], one["hash"]) for one in events]
            assert json.loads(red[0])["redacted"] is True
            known = {word for words in WORDS.values() for word in words} | {"charge"}
            for one in shown:
                for text in _texts(json.loads(one.get("body", "{}"))):
                    assert text.startswith("[redacted: ") or text in known or text[:2] in {"t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"}, text
            with pytest.raises(ExportRedacted):
                await let_in(store, red)

    alone(play)


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


async def test_a_redacted_export_hides_what_stands_in_free_json():
    """Keys of arguments are somebody's words too, and so are a tool's name nobody knows, and what looks like a closed word elsewhere."""
    async with here() as store:
        sink = sink_of(store)
        state = await sink.open(e.Config(tools=(e.ToolRef(name="pay", digest="d"),), settings={"secret-setting": 1}), "s", metadata={"secret-name": "x"})
        call, strange = Call("pay", {"secret-key": {"call": "t1r1c1"}}, id="t1r1c1"), Call("secret-tool", {"mode": "secret-word"}, id="t1r1c2", malformed="secret-raw")
        facts = [e.InputReceived(parts=(Text("secret-text"),), key="secret-id"), *TURN[:2], e.ModelAnswered(round=1, parts=(call, strange), finish="calls")]
        await sink.record(state, [*facts, e.CallStarted(call="t1r1c1"), e.CallSucceeded(call="t1r1c1", output={"secret-out": 1})], blobs=None)
        red = b"".join(await lines_of(store, "s", redacted=True))
        assert b"secret" not in red
        assert red.count(b"pay") == 2
        assert b"piece" not in red


# -- size --------------------------------------------------------------------------------------------------------------


async def _long(store: SQLiteStore, turns: int) -> int:
    """Keep a session of that many turns, four events each; return its length."""
    sink = sink_of(store)
    state = await sink.open(session="long")
    for first in range(0, turns, 500):
        draft = sink.draft(state)
        for turn in range(first + 1, first + 501):
            sink.check(draft, [e.InputReceived(parts=(Text("go"),)), e.TurnStarted(turn=turn, inputs=(draft.state.seq + 1,))])
            sink.check(draft, [e.NoteAdded(text="n", why="test"), e.TurnEnded(turn=turn, status="limit")])
        state = await sink.keep(draft, release=first + 500 >= turns)
    return state.seq


class Counting(SQLiteStore):
    """A store that counts the statements it runs and the events it hands out at a time."""

    statements = 0
    largest = 0

    def _count(self, _: str) -> None:
        self.statements += 1

    async def count(self) -> None:
        await self._opened().run(lambda db: db.set_trace_callback(self._count))

    async def read(self, *args, **options):
        records = await super().read(*args, **options)
        self.largest = max(self.largest, len(records))
        return records


async def test_moving_a_long_session_costs_its_length():
    """20,000 events: statements grow with the length, not with its square, and export holds few events at a time."""
    counts = {}
    for turns in (1_000, 5_000):
        async with Counting(":memory:", clock=HeldClock()) as store, Counting(":memory:", clock=HeldClock()) as other:
            length = await _long(store, turns)
            for one in (store, other):
                await one.count()
            lines = await lines_of(store, "long")
            assert (len(lines), store.largest) == (length + 2, moving.CHUNK)
            assert (await let_in(other, lines)).seq == length + 1
            counts[turns] = store.statements + other.statements
    assert counts[5_000] < counts[1_000] * 5.5
    print(counts)  # noqa: T201  shown by -rP


# -- a tip that was kept elsewhere -------------------------------------------------------------------------------------


async def test_a_tip_kept_elsewhere_shows_what_the_chain_cannot(tmp_path: Path):
    """A log whose end was cut off, or that was written anew by somebody who knows how, is whole in itself; the tip tells."""
    path = tmp_path / "one.db"
    async with here(path) as store:
        await tell(store)
        noted = {name: (await export(store, name)).tip for name in ("parent", "branch", "twig")}
        for name, tip in noted.items():
            assert await check_tip(store, name, tip) is None
        older = Tip(6, (await store.read("parent"))[5].hash.hex().upper())
        assert await check_tip(store, "parent", older) is None
        assert await check_tip(store, "twig", older) is None  # an ancestor's event is the fork's past
        assert "no event 99" in (await check_tip(store, "parent", Tip(99, "0" * 64)) or "")
        assert "no event 0" in (await check_tip(store, "parent", Tip(0, "0" * 64)) or "")
        assert "whose hash" in (await check_tip(store, "parent", Tip(6, "0" * 64)) or "")
        await _longer(store, "parent")
        assert await check_tip(store, "parent", noted["parent"]) is None
    with sqlite3.connect(path) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("DELETE FROM event WHERE session = 4 AND seq = 2")
        gone = db.execute("SELECT pos FROM event").fetchall()
        db.execute("UPDATE session SET head = 1, tip = (SELECT hash FROM event WHERE session = 4 AND seq = 1) WHERE id = 4")
        for new, (old,) in enumerate(sorted(gone), 1):
            db.execute("UPDATE event SET pos = ? WHERE pos = ?", (new, old))
        for _, sql in triggers:
            db.execute(sql)
    db.close()
    async with StatefulAgentLoop(ScriptedModel([]), store=path) as loop:
        assert [wrong async for wrong in loop.verify()] == []  # the chain alone shows nothing
        wrong = [wrong async for wrong in loop.verify("stranger", tip=Tip(2, "0" * 64))]
        assert len(wrong) == 1
        assert "no event 2" in wrong[0]


# -- backup and restore ------------------------------------------------------------------------------------------------


async def test_backup_and_restore_drill(tmp_path: Path):
    """Copied under live writes, put elsewhere, verified, resumed: each copy is a moment that was, and goes on from there."""
    live, copies = tmp_path / "live.db", [tmp_path / f"{number}.db" for number in range(4)]
    written = 0

    async def write(store: SQLiteStore, name: str, stop: asyncio.Event) -> None:
        nonlocal written
        sink = sink_of(store, name)
        state = await sink.open(session=name)
        while not stop.is_set():
            turn = state.turns + 1
            begun = [e.InputReceived(parts=(Text("go"),), key=f"{name}-{turn}"), e.TurnStarted(turn=turn, inputs=(state.seq + 1,)), e.ModelAsked(turn=turn, round=1, model="m")]
            state = await sink.record(state, begun)
            state = await sink.record(state, [e.ModelAnswered(round=1, parts=(Text(f"answer {turn}"),)), e.TurnEnded(turn=turn)])
            written += 5

    async with here(live) as store:
        stop = asyncio.Event()
        writers = [asyncio.create_task(write(store, name, stop)) for name in ("left", "right")]
        for copy in copies:
            before = written
            while written < before + 30:
                await asyncio.sleep(0)
            await store.backup(str(copy))
        stop.set()
        await asyncio.gather(*writers)
        kept = {name: placeless(await store.read(name)) for name in ("left", "right")}
    lengths = []
    for copy in copies:
        restored = copy.rename(tmp_path / f"restored-{copy.name}")
        async with StatefulAgentLoop(ScriptedModel(lambda _: "again"), store=restored) as loop:
            assert [wrong async for wrong in loop.verify()] == []
            for name, records in kept.items():
                found = placeless(await loop._store.read(name))
                assert found == records[: len(found)]
                lengths.append(len(found))
                result = await loop.resume(name)  # an open turn is ended, an ended one is answered from the log
                assert result.status == "completed"
                assert (await loop.send("and on", name)).text == "again"
            assert [wrong async for wrong in loop.verify()] == []
    assert all(earlier < later for earlier, later in pairwise(lengths[::2]))
