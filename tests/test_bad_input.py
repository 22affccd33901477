"""Everything that can be handed in wrongly, and every way a file can be wrong, against every verb.

Each is a typed error with a code and a hint, or an answer; what is refused leaves the rows as they were, and a file that is
damaged is never made worse.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from power_agent import Approve, Call, Deny, Limits, ModelError, Result, ScriptedModel, SQLiteStore, StatefulAgentLoop, tool
from power_agent.errors import PowerAgentError
from power_agent.events import EVENTS
from power_agent.limits import MAX_ID_CHARACTERS
from power_agent.messages import restore_text
from power_agent.policy import Allow, Ask

Verb = Callable[[StatefulAgentLoop, str], Any]


async def read(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def verified(loop: StatefulAgentLoop, session: str) -> list[str]:
    return await read(loop.verify(session))


async def streamed(loop: StatefulAgentLoop, session: str) -> list[Any]:
    return await read(loop.stream("hello", session))


async def looked(watching: AsyncIterator[Any]) -> list[Any]:
    """Follow until nothing comes for a moment."""
    seen = []
    with contextlib.suppress(TimeoutError, StopAsyncIteration):
        while True:
            seen.append(await asyncio.wait_for(anext(watching), 0.1))
    return seen


VERBS: dict[str, Verb] = {
    "send": lambda loop, s: loop.send("hello", s),
    "send, key": lambda loop, s: loop.send("hello", s, key="another"),
    "send, queue": lambda loop, s: loop.send("hello", s, when_busy="queue"),
    "send, steer": lambda loop, s: loop.send("hello", s, when_busy="steer", wait=False),
    "stream": streamed,
    "resume": lambda loop, s: loop.resume(s),
    "pending": lambda loop, s: loop.pending(s),
    "settle": lambda loop, s: loop.settle(s, "t1r1c1", Approve()),
    "abort_pending": lambda loop, s: loop.abort_pending(s, reason="enough"),
    "abort_pending, call": lambda loop, s: loop.abort_pending(s, reason="enough", call_ids=["t9r9c9"]),
    "cancel": lambda loop, s: loop.cancel(s),
    "close_session": lambda loop, s: loop.close_session(s),
    "close_session, abort": lambda loop, s: loop.close_session(s, abort=True),
    "erase": lambda loop, s: loop.erase(s),
    "erase, forks": lambda loop, s: loop.erase(s, forks="erase"),
    "fork": lambda loop, s: loop.fork(s),
    "forks": lambda loop, s: loop.forks(s),
    "history": lambda loop, s: loop.history(s),
    "watch": lambda loop, s: looked(loop.watch(s)),
    "messages": lambda loop, s: loop.messages(s),
    "state": lambda loop, s: loop.state(s),
    "blob": lambda loop, s: loop.blob(s, "0" * 64),
    "verify": verified,
}
LOOKING = {"pending", "forks", "history", "watch", "messages", "state", "blob", "verify"}


@tool
async def wire(cents: int) -> str:
    """Wire money."""
    return f"wired {cents}"


def said(request: Any) -> Any:
    last = request.messages[-1]
    return [Call("wire", {"cents": 5})] if last.role == "user" and last.text == "wire" else "ok"


def make(store: Any, script: Any = said, **options: Any) -> StatefulAgentLoop:
    options.setdefault("tools", [wire])
    return StatefulAgentLoop(ScriptedModel(script), store=store, **options)


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Read every row of the file; leases aside."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")]
        found = []
        for table in tables:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if (table, row[1]) != ("session", "deadline")]
            found += [(table, *row) for row in db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2")]
        return found


async def came_to(work: Any) -> tuple[str, Any]:
    """Return the code of what was raised, or `ok` and the answer. Whatever is no `PowerAgentError` is a failure of the test."""
    try:
        return "ok", await asyncio.wait_for(work, 20)
    except PowerAgentError as raised:
        error = raised
    assert error.code in PowerAgentError.all_codes()
    assert error.message
    assert error.hint, f"{type(error).__name__} has no hint: {error}"
    return error.code, error


# -- sessions ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "unknown": {**dict.fromkeys(VERBS, "session_not_found"), **dict.fromkeys(("send", "send, key", "send, queue", "send, steer", "stream", "verify"), "ok")},
    "closed": {
        **dict.fromkeys(("send", "send, key", "send, queue", "send, steer", "stream"), "session_closed"),
        "resume": "nothing_to_resume",
        "settle": "call_not_found",
        "abort_pending, call": "call_not_found",
    },
    "erased": {
        **dict.fromkeys(("send", "send, key", "send, queue", "send, steer", "stream", "abort_pending", "abort_pending, call"), "session_erased"),
        **dict.fromkeys(("close_session", "close_session, abort", "fork"), "session_erased"),
        "resume": "nothing_to_resume",
        "settle": "call_not_found",
    },
    "waiting": {
        **dict.fromkeys(("send", "send, key", "stream", "close_session", "erase", "erase, forks"), "session_pending"),
        "abort_pending, call": "call_not_found",
    },
    "idle": {"settle": "call_not_found", "abort_pending, call": "call_not_found"},
}


async def prepared(loop: StatefulAgentLoop) -> None:
    """Put one session into each state."""
    for name in ("closed", "erased", "idle"):
        await loop.send("hello", name, key="k")
    await loop.send("wire", "waiting")
    await loop.close_session("closed")
    await loop.erase("erased")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a session in each state."""
    path = tmp_path_factory.mktemp("sound") / "log.db"

    async def life() -> None:
        async with make(path, policy=lambda _: Ask("?", rule="all")) as loop:
            await prepared(loop)

    asyncio.run(life())
    return path


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "log.db"))


@pytest.mark.parametrize("session", REFUSED)
async def test_every_verb_in_every_state(sound, tmp_path, session):
    """A verb that is not possible says so and writes nothing; looking writes nothing either."""
    for number, (name, verb) in enumerate(VERBS.items()):
        path = Path(shutil.copy(sound, tmp_path / f"{number}.db"))
        before = rows(path)
        async with make(path, policy=lambda _: Ask("?", rule="all")) as loop:
            code, answer = await came_to(verb(loop, session))
            assert code == REFUSED[session].get(name, "ok"), (name, answer)
            if code != "ok" or name in LOOKING:
                assert _without_owners(rows(path)) == _without_owners(before), name
            assert [wrong async for wrong in loop.verify()] == []


def _without_owners(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Leave out who owned what, and what moved because of it: a verb may own a session for a moment to find out that it cannot be done."""
    return [
        (row[0], *row[2:3], *row[5:]) if row[0] == "event" else row
        for row in found
        if row[0] not in {"session", "event"} or (row[0] == "event" and row[6] != EVENTS["owner.changed"].code)
    ]


ILLEGAL = ["", "@home", "a\0b", "line\nbreak", "\ud800", "x" * (MAX_ID_CHARACTERS + 1), "\u2028", 5, b"bytes", ["list"], {}, 1.5, True]


@pytest.mark.parametrize("name", ILLEGAL, ids=lambda name: repr(name)[:20])
async def test_ids_that_cannot_be(copy, name):
    """No verb takes them, and nothing is written."""
    before = rows(copy)
    async with make(copy) as loop:
        for verb in VERBS.values():
            code, _ = await came_to(verb(loop, name))
            assert code == "invalid_session_id"
        assert (await came_to(loop.fork("idle", session_id_new=name)))[0] == "invalid_session_id"
        assert (await came_to(loop.send("x", "idle", key=name)))[0] == "invalid_input"
        assert (await came_to(loop.blob("idle", name)))[0] == "invalid_input"
        assert (await came_to(loop.settle("idle", name, Approve())))[0] in {"invalid_input", "call_not_found"}
        assert (await came_to(loop.abort_pending("waiting", reason="x", call_ids=[name])))[0] in {"invalid_input", "call_not_found"}
    assert _without_owners(rows(copy)) == _without_owners(before)


@pytest.mark.parametrize("number", [-1, -(2**70), 2**63, 2**70, 1.5, float("nan"), float("inf"), "1", b"1", True, []], ids=repr)
async def test_numbers_that_cannot_be(copy, number):
    """A place, a count, an age: whole numbers from 0 on that the store can hold."""
    before = rows(copy)
    async with make(copy) as loop:
        tries = [
            loop.fork("idle", at=number), loop.history("idle", after=number), loop.history("idle", limit=number), loop.messages("idle", at=number),
            loop.state("idle", at=number), looked(loop.watch("idle", after=number)), looked(loop.watch(after=number)), loop.blob("idle", "0" * 64, start=number),
            loop.blob("idle", "0" * 64, length=number), loop.sessions(limit=number),
        ]  # fmt: skip
        for one in tries:
            code, error = await came_to(one)
            assert code == "invalid_input"
            assert str(2**63 - 1) not in error.hint
        if number not in {1.5, True} if not isinstance(number, list) else True:
            assert (await came_to(loop.prune(older_than_seconds=number, dry_run=True)))[0] == "invalid_input"
    assert rows(copy) == before


async def test_the_store_itself_refuses_by_name(copy):
    """Whoever uses the port without the loop is told as much."""
    async with SQLiteStore(copy) as store:
        tries: list[Any] = [
            store.read("idle", kinds={"nope"}), store.blob("idle", "zz"), store.find_key("idle", "\ud800"), store.find("\ud800"), store.sessions(after="\ud800"),
            store.read_all(after=2**63), store.sessions(limit=2**63),
        ]  # fmt: skip
        for one in tries:
            assert (await came_to(one))[0] == "invalid_input"


# -- what is said ------------------------------------------------------------------------------------------------------

TEXTS = {"10 MB": "x" * 10_000_000, "NUL": "a\0b", "lone surrogates": "\ud800 and \udfff", "separators": "one\u2028two\u2029three\x85", "its own escape": "\U0010fffd"}


@pytest.mark.parametrize("name", TEXTS)
async def test_odd_texts_are_kept_as_they_are(copy, name):
    """What a string can hold is kept and reaches the model, in every mode."""
    text = TEXTS[name]
    async with make(copy) as loop:
        result = await loop.send(text, "new", key="k")
        assert (result.status, restore_text(loop._model.requests[-1].messages[-1].text)) == ("completed", text)
        assert (await loop.send(text, "new", key="k")).seq == result.seq
        assert (await read(loop.stream(text, "streamed")))[-1].kind == "turn.ended"
        left = await loop.send(text, "waiting", when_busy="queue")
        assert left.status == "waiting"
        assert [wrong async for wrong in loop.verify()] == []


@pytest.mark.parametrize("message", ["", " \n\t", [], (), None, 5, b"x", 1.5, [5], ["text", 5], {}, {"a": 1}, {"a"}, object(), iter(())], ids=lambda one: repr(one)[:20])
async def test_nothing_to_send(copy, message):
    """Refused before anything is created."""
    before = rows(copy)
    async with make(copy) as loop:
        for session in ("new", "idle", "waiting", "closed"):
            for mode in ("raise", "queue", "steer"):
                assert (await came_to(loop.send(message, session, when_busy=mode)))[0] == "invalid_input"
        with pytest.raises(PowerAgentError):
            loop.stream(message, "new")
    assert rows(copy) == before


@pytest.mark.parametrize("by", [5, float("nan"), True, [], {}, object()], ids=lambda one: repr(one)[:20])
async def test_who_it_was_is_a_text(copy, by):
    """A name or a reason that is no text is refused; the session stays what it was and can be used at once."""
    before = rows(copy)
    async with make(copy) as loop:
        tries = [
            loop.send("x", "idle", by=by), loop.send("x", "waiting", by=by, when_busy="queue"), loop.cancel("waiting", reason=by), loop.abort_pending("waiting", reason=by),
            loop.settle("waiting", "t1r1c1", Approve(), by=by),
            loop.settle("waiting", "t1r1c1", Deny(by), by="ada"), loop.close_session("idle", reason=by), loop.erase("idle", reason=by),
        ]  # fmt: skip
        for one in tries:
            assert (await came_to(one))[0] == "invalid_input"
        assert _without_owners(rows(copy)) == _without_owners(before)
        assert (await loop.send("x", "idle")).status == "completed"


@pytest.mark.parametrize(
    "decision",
    [None, "approve", 5, Approve, object(), Result(float("nan")), Result(object()), Result({1: 2, (3,): 4})],
    ids=lambda one: repr(one).split(" at 0x")[0][:24],
)
async def test_decisions_that_cannot_be(copy, decision):
    """Refused, and the call still waits."""
    before = rows(copy)
    async with make(copy) as loop:
        assert (await came_to(loop.settle("waiting", "t1r1c1", decision)))[0] in {"invalid_input", "settle_not_allowed"}
    assert rows(copy) == before


# -- what a model says ---------------------------------------------------------------------------------------------------


def deep(levels: int = 100_000) -> Any:
    """Nest a list in a list, so many times."""
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


ODD_CALLS: dict[str, list[Call]] = {
    "an unknown tool": [Call("teleport", {})],
    "a tool without a name": [Call("", {})],
    "a name that a provider would refuse": [Call("no such/tool!\n", {})],
    "a very long name": [Call("x" * 10_000, {})],
    "a name with a lone surrogate": [Call("wire\ud800", {})],
    "a name in another case": [Call("Wire", {"cents": 1})],
    "two calls with one id": [Call("wire", {"cents": 1}, provider_id="a"), Call("wire", {"cents": 2}, provider_id="a")],
    "ids that differ by case": [Call("wire", {"cents": 1}, provider_id="a"), Call("wire", {"cents": 2}, provider_id="A")],
    "an id of ours": [Call("wire", {"cents": 1}, provider_id="t1r1c2"), Call("wire", {"cents": 2}, provider_id="t1r1c1")],
    "ids that no provider takes": [Call("wire", {"cents": 1}, provider_id="not legal\n"), Call("wire", {"cents": 2}, provider_id="x" * 500)],
    "empty ids": [Call("wire", {"cents": 1}, provider_id=""), Call("wire", {"cents": 2}, provider_id="")],
    "NaN": [Call("wire", {"cents": float("nan")})],
    "Infinity, deep inside": [Call("wire", {"cents": {"a": [float("-inf")]}})],
    "no arguments": [Call("wire", {})],
    "too many arguments": [Call("wire", {"cents": 1, "dollars": 2})],
    "text that is no JSON": [Call("wire", {}, malformed="{'cents'")],
    "huge arguments": [Call("wire", {"cents": "9" * 20_000_000})],
    "a huge number": [Call("wire", {"cents": 10**5000})],
    "100,000 deep": [Call("wire", {"cents": deep()})],
    "a hundred calls": [Call("wire", {"cents": number}, provider_id="same") for number in range(100)],
}


@pytest.mark.parametrize("name", ODD_CALLS)
async def test_odd_calls(tmp_path, name):
    """Each is answered to the model or ends the turn as failed; afterwards the context can be sent, and the session goes on."""
    script: list[Any] = [ODD_CALLS[name], "after", ODD_CALLS[name], "again", "at last"]
    async with make(tmp_path / "log.db", lambda request: script[request.replies]) as loop:
        for message in ("one", "two"):
            result = await loop.send(message, "s")
            assert result.status in {"completed", "failed"}, result
            _sendable(await loop.messages("s"))
        assert [wrong async for wrong in loop.verify()] == []
        before = await loop.messages("s")
    async with make(tmp_path / "log.db", lambda _: "on") as loop:
        assert await loop.messages("s") == before
        assert (await loop.send("three", "s")).status == "completed"
        _sendable(await loop.messages("s"))


def _sendable(messages: Any) -> None:
    """Demand that every call is answered once, directly after its message, under an id that is legal and used once."""
    made: list[str] = []
    for place, message in enumerate(messages):
        calls = [part for part in message.parts if isinstance(part, Call)]
        if calls:
            answered = [part.call for later in messages[place + 1 :] for part in later.parts if hasattr(part, "call")][: len(calls)]
            assert sorted(answered) == sorted(call.id for call in calls)
            made += [call.provider_id or call.id for call in calls]
    assert len(made) == len(set(made)), made
    assert all(name and len(name) <= 64 and name.replace("_", "").replace("-", "").isalnum() and name.isascii() for name in made), made


@pytest.mark.parametrize(
    "output", [float("nan"), {"a": [float("inf")]}, "\ud800", "a\0b", deep(), {1: 2}, object(), 10**5000, b"bytes", {"x": {1, 2}}], ids=lambda one: type(one).__name__
)
async def test_odd_outputs(tmp_path, output):
    """What a tool gives back is an answer to the model, whatever it is: the turn goes on, the log verifies."""

    @tool(name="wire", recovery="rerun")
    async def odd(cents: int) -> Any:
        return output

    async with make(tmp_path / "log.db", tools=[odd]) as loop:
        result = await loop.send("wire", "s")
        assert result.status == "completed"
        assert [call.state for call in result.calls] in (["succeeded"], ["failed"])
        _sendable(await loop.messages("s"))
        assert [wrong async for wrong in loop.verify()] == []


async def test_a_model_that_never_stops(tmp_path):
    """It is stopped by the limit of rounds; resuming without a higher one asks nothing."""
    async with make(tmp_path / "log.db", lambda _: [Call("wire", {"cents": 1}, provider_id="same")], limits=Limits(max_rounds_per_turn=7)) as loop:
        result = await loop.send("go", "s")
        assert (result.status, len(loop._model.requests)) == ("limit", 7)
        assert (await loop.resume("s")).status == "limit"
        assert len(loop._model.requests) == 7
        _sendable(await loop.messages("s"))


@pytest.mark.parametrize("line", [None, 5, object(), [None], ["text"], ValueError("bug"), ModelError("no"), KeyError(), "", [], "\ud800"], ids=lambda one: repr(one)[:20])
async def test_odd_answers(tmp_path, line):
    """A reply that is none ends the turn as failed, an empty one as it is; the next turn works."""
    script = [line, "ok", "ok"]
    async with make(tmp_path / "log.db", lambda request: script[request.replies]) as loop:
        assert (await loop.send("one", "s")).status in {"completed", "failed"}
        assert (await loop.send("two", "s")).status == "completed"
        assert [wrong async for wrong in loop.verify()] == []


def test_tools_that_cannot_be():
    """Two of one name, or a name that a provider would refuse: said when the loop is made."""
    with pytest.raises(PowerAgentError) as refused:
        make(":memory:", tools=[wire, tool(name="wire")(lambda cents: cents)])
    assert refused.value.hint
    for name in ("a b", "", "ä", "x" * 65, "a.b", "a\n", "a/b"):
        with pytest.raises(PowerAgentError):
            tool(name=name or "\0")(lambda: None)


# -- what a file may be ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unguarded(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file without its guards, as somebody with the means would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        yield db
        for _, sql in guards:
            db.execute(sql)


OF_IDLE = "session = (SELECT id FROM session WHERE name = 'idle')"
TAMPERED = {
    "tampered text": [f"UPDATE event SET body = replace(body, 'hello', 'jello') WHERE {OF_IDLE}"],
    "tampered into no JSON": [f"UPDATE event SET body = '{{' WHERE {OF_IDLE} AND seq = 2"],
    "tampered into another event": [f"UPDATE event SET body = '{{\"turn\":7}}' WHERE {OF_IDLE} AND seq = 3"],
    "a body gone": [f"UPDATE event SET body = NULL, digest = zeroblob(32) WHERE {OF_IDLE} AND seq = 3"],
    "a deleted row": [f"DELETE FROM event WHERE {OF_IDLE} AND seq = 3"],
    "the last row deleted": [f"DELETE FROM event WHERE {OF_IDLE} AND seq = (SELECT max(seq) FROM event WHERE {OF_IDLE})"],
    "the first row deleted": [f"DELETE FROM event WHERE {OF_IDLE} AND seq = 1"],
    "all rows deleted": [f"DELETE FROM event WHERE {OF_IDLE}"],
    "swapped rows": [f"UPDATE event SET seq = {after} WHERE {OF_IDLE} AND seq = {before}" for before, after in ((3, 99), (4, 3), (99, 4))],
    "an unknown kind": [f"UPDATE event SET kind = 99 WHERE {OF_IDLE} AND seq = 3"],
    "an epoch that falls": [f"UPDATE event SET epoch = 0 WHERE {OF_IDLE} AND seq = 4"],
    "a row of another session": [f"UPDATE event SET session = (SELECT id FROM session WHERE name = 'closed'), seq = 50 WHERE {OF_IDLE} AND seq = 4"],
    "a head too far": ["UPDATE session SET head = head + 5 WHERE name = 'idle'"],
    "a head too near": ["UPDATE session SET head = head - 2 WHERE name = 'idle'"],
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_a_tampered_file(sound, tmp_path, name):
    """`verify` says so; every verb gives a typed error or an answer and none takes anything away; the other sessions go on."""
    broken = Path(shutil.copy(sound, tmp_path / "broken.db"))
    with unguarded(broken) as db:
        for sql in TAMPERED[name]:
            db.execute(sql)
    for number, verb in enumerate(VERBS.values()):
        path = Path(shutil.copy(broken, tmp_path / f"{number}.db"))
        before = {row[1:] for row in rows(path) if row[0] == "event"}
        async with make(path, policy=lambda _: Allow("all")) as loop:
            await came_to(verb(loop, "idle"))
            if "erase" not in list(VERBS)[number]:
                assert before <= {row[1:] for row in rows(path) if row[0] == "event"}, f"{list(VERBS)[number]} took something away"
            code, found = await came_to(read(loop.verify()))
            assert code != "ok" or found, f"after {list(VERBS)[number]} nobody would know"
            assert (await loop.send("x", "other")).status == "completed"


def _foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


def _old_log_beside_a_new_file(path: Path) -> None:
    """The file is replaced by a new one while the write-ahead log of the old one stays."""
    other = path.with_name("other.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("UPDATE session SET deadline = 5 WHERE name = 'idle'")
        shutil.copy(f"{path}-wal", f"{other}-wal")
    path.unlink()
    _fresh(path)
    shutil.copy(f"{other}-wal", f"{path}-wal")


def _fresh(path: Path) -> None:
    import subprocess
    import sys

    code = "import asyncio, sys; from power_agent import SQLiteStore\nasync def life():\n  async with SQLiteStore(sys.argv[1]): pass\nasyncio.run(life())"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


FILES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a foreign file": (_foreign, {"store_foreign"}),
    "no database": (lambda path: path.write_text("hello " * 1000, encoding="utf-8"), {"store_foreign"}),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), {"store_not_found", "store_read_only", "store_failed"}),
    "truncated to a half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), {"store_damaged", "ok"}),
    "truncated to a header": (lambda path: path.write_bytes(path.read_bytes()[:100]), {"store_damaged", "store_foreign"}),
    "pages of zeros": (lambda path: path.write_bytes(path.read_bytes()[:8192] + bytes(path.stat().st_size - 8192)), {"store_damaged", "ok"}),
    "an old write-ahead log beside a new file": (_old_log_beside_a_new_file, {"ok"}),
}


@pytest.mark.parametrize("name", FILES)
async def test_files_that_are_not_what_they_should_be(copy, name):
    """Said when it is opened or, where only a part is wrong, by the verb that meets it; never anything untyped."""
    spoil, codes = FILES[name]
    spoil(copy)
    content = copy.read_bytes() if copy.is_file() else b""
    loop = make(copy)
    code, _ = await came_to(loop.__aenter__())
    assert code in codes
    if code != "ok":
        assert content == (copy.read_bytes() if copy.is_file() else b""), "it was written to"
        return
    try:
        for verb in VERBS.values():
            await came_to(verb(loop, "idle"))
        if "log beside" in name:
            assert await read(loop.verify()), "SQLite takes it for its own: only a check can tell"
    finally:
        await loop.aclose()


@pytest.mark.parametrize("path", ["/nowhere/at/all/log.db", "/dev/null", "/proc/log.db", "log\0.db", "", "x" * 5000], ids=lambda path: repr(path)[:20])
async def test_places_that_cannot_hold_a_file(path):
    """Said when it is opened, by name."""
    code, _ = await came_to(make(path).__aenter__())
    assert code.startswith(("store_", "invalid_input"))


@pytest.mark.parametrize("path", ["/nowhere/at/all.jsonl", "a\0b"], ids=repr)
async def test_what_is_imported_has_to_be_there(copy, path):
    """What helps is another name, not a directory."""
    async with make(copy) as loop:
        code, error = await came_to(loop.import_(path))
    assert (code, "irectory" in error.hint, "export wrote" in error.hint) == ("store_not_found", False, True)
