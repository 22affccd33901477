"""Check, keep, tell; and who owns a session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from hashlib import sha256

import pytest

from power_agent import Call, Config, Limits, Sink, SQLiteStore, Text, errors, fold
from power_agent import events as e
from power_agent.chance import CountedChance, SystemChance
from power_agent.clock import HeldClock, SystemClock
from power_agent.hooks import Hooks
from power_agent.messages import clean_text, restore_text
from power_agent.sink import opened
from power_agent.state import FOLD

TURN = (e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="m"))
CALLED = (*TURN, e.ModelAnswered(round=1, parts=(Call("send", {"to": "Ada"}, id="t1r1c1"),)), e.CallStarted(call="t1r1c1"))


def said(text="hello", key=None, **more):
    return e.InputReceived(parts=(Text(text),), key=key, **more)


def note(text="a"):
    return e.NoteAdded(text=text, why="test")


class Scene:
    """A store, a held clock, and sinks by name; what each hears is in `heard`."""

    def __init__(self, path):
        self.clock = HeldClock()
        self.store = SQLiteStore(path, durability="normal", clock=self.clock)
        self.chance = CountedChance()
        self.dead = set()
        self.heard = {}

    def sink(self, name="me", store=None, **more):
        heard = self.heard.setdefault(name, [])
        return Sink(store or self.store, self.clock, self.chance, name, dead=self.dead.__contains__, hooks=Hooks([heard.append]), **more)

    def told(self, name="me"):
        return [(envelope.session, envelope.seq) for envelope in self.heard[name]]


@pytest.fixture(params=["file", ":memory:"])
async def scene(request, tmp_path):
    scene = Scene(tmp_path / "agent.db" if request.param == "file" else request.param)
    async with scene.store:
        yield scene
        assert [wrong async for wrong in scene.store.verify()] == []


class Between:
    """A store that lets something happen just before one of its methods is called for the n-th time."""

    def __init__(self, store, method, act, nth=1):
        self._store, self._method, self._act, self._left = store, method, act, nth

    def __getattr__(self, name):
        attribute = getattr(self._store, name)
        if name != self._method:
            return attribute

        async def method(*args, **more):
            self._left -= 1
            if self._left == 0:
                await self._act()
            return await attribute(*args, **more)

        return method


# -- check -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([e.TurnEnded(turn=1)], errors.IllegalMove),
        ([e.TurnStarted(turn=2, inputs=(2,))], errors.IllegalMove),
        ([note(), e.CallStarted(call="t1r1c1")], errors.IllegalMove),
        ([note(), e.InputReceived(parts=())], errors.IllegalMove),
        ([note(), e.SessionOpened(nonce="n", owner="me")], errors.IllegalMove),
        ([note(), e.OwnerChanged(owner="you", why="dead")], errors.IllegalMove),
        ([e.SessionErased(reason="law"), note()], errors.IllegalMove),
        ([note(), said(key="taken")], errors.KeyConflict),
        ([said(key="new"), said(key="new")], errors.KeyConflict),
        ([note(), said(key="")], errors.InvalidInput),
        ([note(), said(key="@k")], errors.InvalidInput),
        ([note(), said(key="a\nb")], errors.InvalidInput),
        ([note(), said(key="k" * 201)], errors.InvalidInput),
        ([note(), said(key="\udcff")], errors.InvalidInput),
        ([note(), said(metadata={"x": float("nan")})], errors.InvalidInput),
        ([note(), said(metadata={"x": [float("inf")]})], errors.InvalidInput),
        ([note(), said(metadata={"x": -float("inf")})], errors.InvalidInput),
        ([note(), said(metadata={"x": 10**5000})], errors.InvalidInput),
        ([note(), said(metadata={"x": 10**5000, "y": "NaN"})], errors.InvalidInput),
        ([note(), said(metadata={"x": object()})], errors.InvalidInput),
        ([note(), e.NoteAdded(text=7, why="test")], errors.InvalidInput),
        ([note(), e.NoteAdded(text=None, why="test")], errors.InvalidInput),
    ],
    ids=lambda value: None if isinstance(value, list) else value.__name__,
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_what_is_refused_writes_nothing_and_tells_nothing(scene, events, error):
    """One fact that cannot be kept keeps all that came with it from being written; nobody hears of any."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    state = await sink.record(state, [said(key="taken")])
    before, told = await scene.store.read_all(), scene.told()
    content = b"came with it"
    with pytest.raises(error) as caught:
        await sink.record(state, events, blobs={sha256(content).hexdigest(): content})
    assert type(caught.value) is error
    assert await scene.store.read_all() == before
    assert await scene.store.blob("alice", sha256(content).hexdigest(), start=0, length=1) is None
    assert scene.told() == told
    assert await sink.load("alice") == state
    after = await sink.record(state, [note("goes on")])
    assert after.seq == state.seq + 1


async def test_nothing_to_record_is_no_commit(scene):
    sink = scene.sink()
    state = await sink.open(session="alice")
    assert await sink.record(state, []) == state
    assert await sink.report(state, []) == state
    assert len(await scene.store.read_all()) == 1


async def test_a_state_is_not_changed_by_what_follows(scene):
    """The state that was handed in stays what it was: deciding again from it gives the same."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    again = await sink.load("alice")
    await sink.record(state, [said(), *CALLED])
    assert state == again
    with pytest.raises(errors.HeadMoved):
        await sink.record(state, [note()])


async def test_outsiders_may_not_do_the_owners_work(scene):
    """Only facts that are meant for it can be reported from outside; the owner's are refused before anything is read."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    state = await sink.record(state, [said(), *TURN])
    other = scene.sink("other")
    for fact in (note(), e.TurnEnded(turn=1), e.SessionClosed(reason="a"), e.SessionErased(reason="a"), e.OwnerChanged(owner="other", why="dead")):
        with pytest.raises(errors.IllegalMove, match="owner"):
            await other.report(state, [said(), fact])
    assert (await other.report(state, [said("more"), e.CancelAsked(reason="enough")])).seq == state.seq + 2
    assert (await scene.store.find("alice")).owner == "me"


async def test_events_too_large_are_refused(scene):
    """`max_event_bytes` counts bytes of the text that would be kept, and is the session's own."""
    sink = scene.sink()
    state = await sink.open(Config(limits=Limits(max_event_bytes=1_000)), session="alice")
    overhead = len(e.encode(note("")).encode())
    state = await sink.record(state, [note("x" * (1_000 - overhead))])
    state = await sink.record(state, [note("\U0001f600" * ((1_000 - overhead) // 4))])
    for text in ("x" * (1_001 - overhead), "\xe9" * ((1_002 - overhead) // 2), "\U0001f600" * 250, '"' * 600):
        with pytest.raises(errors.EventTooLarge) as caught:
            await sink.record(state, [note(text)])
        assert (caught.value.limit, caught.value.bytes) == (1_000, len(e.encode(note(text)).encode()))
    with pytest.raises(errors.EventTooLarge):
        await scene.sink().open(Config(limits=Limits(max_event_bytes=10)), session="small") and await sink.record(await sink.load("small"), [said()])


# -- tell --------------------------------------------------------------------------------------------------------------


async def test_listeners_hear_what_was_kept(scene):
    """Each kept event once, in order, with the place and hash it has on disk."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    other = await sink.open(session="bob")
    state = await sink.record(state, [said(), *CALLED])
    await sink.record(other, [note(), note()])
    state = await sink.record(state, [e.CallSucceeded(call="t1r1c1", output=1)])
    records = await scene.store.read_all()
    assert scene.heard["me"] == [opened(record) for record in records]
    await sink.catch_up(state)
    assert len(scene.heard["me"]) == len(records)


async def test_nothing_is_told_before_it_is_kept(scene):
    """While a listener hears of an event, another reader finds it; of a commit that fails nobody hears."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    told = scene.told()

    async def fail(_request):
        raise errors.StoreFull("full")

    real, scene.store.append = scene.store.append, fail
    with pytest.raises(errors.StoreFull):
        await sink.record(state, [note()])
    assert scene.told() == told
    order = []

    async def kept(request):
        answer = await real(request)
        order.append("kept")
        return answer

    scene.store.append = kept
    listening = Sink(scene.store, scene.clock, scene.chance, "me", hooks=Hooks([lambda _: order.append("told")]))
    await listening.record(state, [note(), note()])
    assert order == ["kept", "told", "told"]
    del scene.store.append


async def test_settled_waits_for_the_commit_that_is_under_way(scene):
    """Also where an earlier one of the same session ends meanwhile, badly."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    after = await sink.record(state, [note()])
    real, gate = scene.store.append, asyncio.Event()

    async def slow(request):
        if request.head == after.seq:
            await gate.wait()
        return await real(request)

    scene.store.append = slow
    late = asyncio.ensure_future(sink.record(state, [note("late")]))
    await asyncio.sleep(0)
    kept = asyncio.ensure_future(sink.record(after, [note("kept")]))
    with pytest.raises(errors.HeadMoved):
        await late
    kept.cancel()
    settled = asyncio.ensure_future(sink.settled("alice"))
    await asyncio.sleep(0.05)
    assert not settled.done()
    gate.set()
    await settled
    assert [record.kind for record in await scene.store.read("alice")][-1:] == ["note.added"]
    assert len(await scene.store.read("alice")) == after.seq + 1
    del scene.store.append


async def test_listeners_hear_of_what_others_did(scene):
    """What others appended is told when it is read, between what the owner did, once."""
    sink, other = scene.sink(), scene.sink("other")
    state = await sink.open(session="alice")
    await other.report(await other.load("alice"), [said("one")])
    with pytest.raises(errors.HeadMoved):
        await sink.record(state, [note()])
    assert scene.told() == [("alice", 1)]
    caught_up = await sink.catch_up(state)
    assert await sink.catch_up(state) == caught_up == await sink.load("alice")
    await sink.record(caught_up, [note()])
    assert scene.told() == [("alice", 1), ("alice", 2), ("alice", 3)]
    assert scene.heard["me"] == [opened(record) for record in await scene.store.read("alice")]


async def test_listeners_miss_nothing_between(scene):
    """When this sink writes behind something it has not told yet, listeners hear that first: no gap, no reorder."""
    sink, other = scene.sink(), scene.sink("other")
    state = await sink.open(session="alice")
    await other.report(await other.load("alice"), [said("theirs")])
    await sink.report(await sink.load("alice"), [said("ours")])
    await sink.catch_up(state)
    assert scene.told() == [("alice", 1), ("alice", 2), ("alice", 3)]


async def test_listeners_hear_once_after_a_release(scene):
    """Giving a session up does not make the sink forget what it has told."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    await sink.record(state, [note(), note()])
    await sink.release(state)
    await sink.catch_up(state)
    assert scene.told() == [("alice", 1), ("alice", 2), ("alice", 3)]


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
async def test_a_listener_that_raises_changes_nothing(scene, caplog, error):
    """It is logged and told the next event all the same; the others hear everything; the fact is kept."""
    heard, tried = [], []

    def broken(kept):
        tried.append(kept.seq)
        raise error("broken listener")

    hooks = Hooks([broken])
    sink = Sink(scene.store, scene.clock, scene.chance, "me", hooks=hooks)
    hooks.add(heard.append)
    state = await sink.open(session="alice")
    state = await sink.record(state, [note(), note()])
    assert [kept.seq for kept in heard] == tried == [1, 2, 3]
    assert [record.seq for record in await scene.store.read("alice")] == [1, 2, 3]
    assert caplog.text.count("broken listener") >= 3
    assert "A listener failed at event 2 of session 'alice'" in caplog.text
    hooks.remove(broken)
    await sink.record(state, [note()])
    assert (tried, heard[-1].seq) == ([1, 2, 3], 4)


async def test_a_listener_that_adds_or_removes_listeners(scene):
    """The listeners of an event are those there were when it was told."""
    hooks, heard = Hooks(), []

    def once(kept):
        hooks.remove(once)
        hooks.add(heard.append)

    hooks.add(once)
    sink = Sink(scene.store, scene.clock, scene.chance, "me", hooks=hooks)
    state = await sink.open(session="alice")
    await sink.record(state, [note()])
    assert [kept.seq for kept in heard] == [2]


async def test_a_cancelled_caller_changes_nothing(scene):
    """Once a commit has begun it is kept and told, whoever waits for it; afterwards the log is read again."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    for steps in range(8):
        task = asyncio.create_task(sink.record(state, [note(str(steps))]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await scene.store.find("alice")
        for _ in range(10):
            await asyncio.sleep(0.001)
        state = await sink.catch_up(state)
        assert state == await sink.load("alice")
    assert scene.heard["me"] == [opened(record) for record in await scene.store.read("alice")]
    assert state.seq > 1


# -- clean -------------------------------------------------------------------------------------------------------------

ODD = "a\udcff\ud800 \U0010fffd b"


async def test_broken_text_is_kept_reversibly(scene):
    """Lone surrogates anywhere (text, keys and values of data, metadata) become storable, and can be turned back exactly."""
    sink = scene.sink()
    state = await sink.open(session="alice", metadata={ODD: [ODD, {"deep": {ODD: ODD}}]})
    state = await sink.record(state, [said(ODD, metadata={ODD: ODD}), note(ODD), *TURN])
    call = Call(ODD, {ODD: [ODD]}, id="t1r1c1", provider_id=ODD, malformed=ODD)
    state = await sink.record(state, [e.ModelAnswered(round=1, parts=(Text(ODD, raw=ODD), call), format=ODD)])
    records = await scene.store.read("alice")
    opening, received, noted, answered = (opened(records[number]).event for number in (0, 1, 2, 5))
    assert restore_text(next(iter(opening.metadata))) == ODD
    assert restore_text(opening.metadata[clean_text(ODD)][1]["deep"][clean_text(ODD)]) == ODD
    assert restore_text(received.parts[0].text) == restore_text(noted.text) == ODD
    assert {restore_text(key): restore_text(value) for key, value in received.metadata.items()} == {ODD: ODD}
    assert restore_text(answered.parts[0].raw) == restore_text(answered.parts[1].malformed) == restore_text(answered.parts[1].name) == ODD
    assert state == await sink.load("alice")
    for record in records:
        record.body.encode()


async def test_sound_text_is_kept_as_it_is(scene):
    """Text that needs no cleaning is on disk as it was said: controls, lines, quotes, four-byte characters."""
    sink = scene.sink()
    text = 'nul \x00 esc \x1b \u2028 \x85 " \\ \U0001f600 NaN Infinity -Infinity'
    state = await sink.record(await sink.open(session="alice"), [note(text), said(metadata={"NaN": "Infinity"})])
    assert json.loads((await scene.store.read("alice"))[1].body)["text"] == text
    assert state == await sink.load("alice")


async def test_cleaners_change_every_text(scene):
    """What a cleaner returns is what is kept, folded and told; the original is nowhere."""
    sink = scene.sink(cleaners=[lambda text: text.replace("s3cret", "[hidden]")])
    state = await sink.open(session="alice", metadata={"s3cret": "my s3cret"})
    state = await sink.record(state, [said("the s3cret", metadata={"s3cret": ["s3cret"]}), note("s3cret")])
    assert all("s3cret" not in record.body for record in await scene.store.read("alice"))
    assert "s3cret" not in repr(state)
    assert "s3cret" not in repr(scene.heard["me"])
    assert state.inputs[0].parts[0].text == "the [hidden]"


@pytest.mark.parametrize(
    "name",
    ["", "a" * 201, "@alice", "a\nb", "a\x00", "a\x7f", "a\x85", "a\u2028b", "a\u2029", "\udcff", "a\ud800", "\t", None, 7, b"alice"],
    ids=repr,
)
async def test_session_ids_that_cannot_be(scene, name):
    """Ids that could not be stored or printed are refused wherever they are handed in, and say what an id is."""
    sink = scene.sink()
    uses = [lambda: sink.load(name), lambda: sink.claim(name)]
    if name is not None:
        uses.append(lambda: sink.open(session=name))
    for use in uses:
        with pytest.raises(errors.InvalidSessionId) as caught:
            await use()
        assert caught.value.hint
    assert await scene.store.sessions() == []


@pytest.mark.parametrize("name", ["a", "a" * 200, "a@b", "A b/c:d", "\xe9\U0001f600", "..", "%s", "'; --", "\U0010fffd"])
async def test_session_ids_that_can_be(scene, name):
    """Everything printable is an id; those that differ by case only are different sessions."""
    sink = scene.sink()
    state = await sink.record(await sink.open(session=name), [note()])
    assert state == await sink.load(name)
    assert state.session == name == (await scene.store.sessions())[0].session
    if name.swapcase() != name:
        with pytest.raises(errors.SessionNotFound):
            await sink.load(name.swapcase())
        await sink.open(session=name.swapcase())
        assert len(await scene.store.sessions()) == 2


async def test_keys(scene):
    """An input has the key it was given, to the character, and is found by it."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    for number, key in enumerate(["k", "K", "k" * 200, "\xe9 \U0001f600", "a'b\"c"], 2):
        state = await sink.record(state, [said(key=key)])
        assert await scene.store.find_key("alice", key) == number
        assert state.inputs[-1].key == key
        with pytest.raises(errors.KeyConflict):
            await sink.record(state, [said("other", key=key)])


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(
    "value",
    [
        {1: "int", None: "none", 2.5: "float", False: "bool", (1, 2): "tuple"},
        {1: "int", "1": "text"},
        (1, (2, [3, (4,)])),
        {"t": ("a",), "s": {1}},
        b"bytes",
        {"int": 2**63, "big": 10**300, "float": 1e300, "small": 5e-324, "zero": -0.0, "digits": 0.1 + 0.2, "whole": 1.0, "e": 1e22},
        [None, True, False, "", [], {}],
        "\x00 \ud83d\ude00 \udcff",
    ],
    ids=repr,
)
async def test_memory_is_what_a_restart_would_find(scene, value):
    """The state after a commit is the one that is folded after a restart, to the type and bit, whatever was handed in."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    try:
        state = await sink.record(state, [said(), *CALLED, e.CallSucceeded(call="t1r1c1", output=value)])
    except errors.InvalidInput:
        assert len(await scene.store.read("alice")) == 1
        return
    records = await scene.store.read("alice")
    folded = fold(map(opened, records))
    assert state == folded == await scene.sink("other").load("alice")
    assert repr(state) == repr(folded)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_memory_is_what_a_reopened_file_holds(tmp_path):
    """The same across a close: another process loads the very state that this one went away with."""
    path = tmp_path / "agent.db"
    first = Scene(path)
    async with first.store:
        sink = first.sink()
        state = await sink.open(Config(model="m", settings={"a": (1, {2: 3})}), session="alice", metadata={1: (2,)})
        state = await sink.record(state, [said(), *CALLED, e.CallDoubted(call="t1r1c1", attempt=1, reason="x")])
        await sink.snapshot(state)
    second = Scene(path)
    async with second.store:
        assert await second.sink().load("alice") == state
        assert repr(await second.sink().load("alice")) == repr(state)


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def _with_a_snapshot(scene):
    sink = scene.sink()
    state = await sink.record(await sink.open(session="alice"), [said(), *CALLED])
    await sink.snapshot(state)
    return sink, state, await sink.record(state, [e.CallSucceeded(call="t1r1c1", output={"a": [1, 2.5, None]})])


async def test_a_snapshot_saves_reading(scene, caplog):
    """With a cached state only what came after it is read; the result is the same, at any place of the log."""
    sink, cached, state = await _with_a_snapshot(scene)
    reads, read = [], scene.store.read

    async def counted(session, **window):
        reads.append(window)
        return await read(session, **window)

    scene.store.read = counted
    assert await sink.load("alice") == state
    assert min(window["after"] for window in reads) == cached.seq - 1
    for at in range(1, state.seq + 1):
        assert await sink.load("alice", at=at) == fold(map(opened, await read("alice", upto=at)))
    assert "cached" not in caplog.text
    del scene.store.read


@pytest.mark.parametrize("damage", ["another history", "broken text", "no JSON", "another session", "another seq", "unknown field"])
async def test_a_snapshot_that_does_not_fit_is_not_used(scene, caplog, damage):
    """A cached state of another history, or an unreadable one, is passed over with a line in the log."""
    sink, cached, state = await _with_a_snapshot(scene)
    seq, text = await scene.store.snapshot("alice", FOLD)
    tip = (await scene.store.read("alice", after=seq - 1, upto=seq))[0].hash.hex()
    data = json.loads(text[64:])
    changed = {
        "another history": text.replace(tip, "00" * 32),
        "broken text": text[:-20],
        "no JSON": "",
        "another session": text.replace('"session":"alice"', '"session":"bob"'),
        "another seq": text.replace(f'"seq":{seq}', f'"seq":{seq - 1}', 1),
        "unknown field": json.dumps([data[0], {**data[1], "seq": "many"}] if isinstance(data, list) else {**data, "state": {**data["state"], "seq": "many"}}),
    }[damage]
    assert changed != text
    if damage not in {"broken text", "no JSON"}:  # whoever changed it knew about the digest in front
        body = changed if damage == "unknown field" else changed[64:]
        changed = sha256(body.encode()).hexdigest() + body
    await scene.store.keep_snapshot("alice", seq, FOLD, changed)
    with caplog.at_level(logging.WARNING):
        assert await sink.load("alice") == state
    assert "The cached state of session 'alice' does not fit its log and is not used." in caplog.text
    assert cached.seq == seq


async def test_a_look_is_what_loading_would_find(scene, monkeypatch):
    """Whatever others did since the last one, erasure too; and only of so many sessions the last one is remembered."""
    monkeypatch.setattr("power_agent.sink.MAX_SEEN_STATES", 2)
    ours, other = scene.sink("us"), scene.sink("them")
    state = await other.open(session="alice")
    assert await ours.look("alice") == state
    for event in (said("one"), note(), said("two")):
        state = await other.record(state, [event])
        assert await ours.look("alice") == await ours.look("alice") == state
    for name in ("bob", "carol"):
        assert await other.open(session=name) == await ours.look(name)
    assert list(ours._seen) == ["bob", "carol"]
    assert await ours.look("alice") == state
    gone = await other.erase(state, "law")
    assert await ours.look("alice") == gone
    with pytest.raises(errors.SessionNotFound):
        await ours.look("nobody")


@pytest.mark.parametrize("further", [0, 2, 6])
async def test_a_look_behind_a_backup_that_was_put_back(tmp_path, further):
    """A remembered state counts while the log goes on from it: not when an older file was put back in place, however far that has come since."""
    path = tmp_path / "log.db"
    async with SQLiteStore(path) as store:
        ours = Sink(store, SystemClock(), SystemChance(), "us")
        state = await ours.open(session="alice")
        await store.backup(str(tmp_path / "copy.db"))
        for _ in range(4):
            state = await ours.record(state, [note()])
        assert await ours.look("alice") == state
        with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy, contextlib.closing(sqlite3.connect(path)) as file:
            copy.backup(file)
        back = await ours.load("alice")
        for _ in range(further):
            back = await ours.record(back, [said("something else")])
        assert await ours.look("alice") == await ours.load("alice") == back
        assert back.seq == 1 + further


async def test_a_look_at_a_log_that_lost_its_end_is_refused(scene):
    """Else whoever looks again for what moved would look for ever."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    await sink.look("alice")
    await sink.record(state, [note()])
    read, scene.store.read = scene.store.read, lambda *_args, **_more: asyncio.sleep(0, [])
    with pytest.raises(errors.StoreDamaged, match="its row says 2"):
        await sink.look("alice")
    scene.store.read = read


async def test_a_snapshot_of_another_fold_is_not_used(scene, caplog):
    """A state that another version of the fold made is as good as none; that is no reason to complain."""
    sink, _, state = await _with_a_snapshot(scene)
    seq, text = await scene.store.snapshot("alice", FOLD)
    await scene.store.keep_snapshot("alice", seq, FOLD + 1, text.replace("hello", "changed"))
    assert await sink.load("alice") == state
    assert "cached" not in caplog.text


async def test_a_snapshot_later_than_asked_is_not_used(scene):
    sink, cached, _ = await _with_a_snapshot(scene)
    assert (await sink.load("alice", at=cached.seq - 1)).seq == cached.seq - 1


# -- forks -------------------------------------------------------------------------------------------------------------


async def test_a_fork_in_the_middle_of_a_commit(scene):
    """A fork may begin at any event, in the middle of a commit, too: what was open there is left behind."""
    sink = scene.sink()
    state = await sink.open(Config(model="m"), session="alice", metadata={"a": 1})
    state = await sink.record(state, [said("one"), *CALLED])
    whole = await scene.store.read("alice")
    for seq in range(1, state.seq + 1):
        fork = await sink.open(session=f"fork-{seq}", parent=e.Parent(relation="fork", session="alice", seq=seq))
        assert (fork.seq, fork.epoch, fork.place, fork.config.model) == (seq + 1, 1, "idle", "m")
        assert fork == await sink.load(f"fork-{seq}")
        assert (await scene.store.read(f"fork-{seq}"))[:seq] == whole[:seq]
        fork = await sink.record(fork, [said("again", key="k"), e.TurnStarted(turn=fork.turns + 1, inputs=(seq + 2,))])
        deep = await sink.open(session=f"deep-{seq}", parent=e.Parent(relation="fork", session=f"fork-{seq}", seq=seq))
        assert (await scene.store.find(f"deep-{seq}")).parent == "alice"
        assert deep.seq == seq + 1
    assert await sink.load("alice") == state


async def test_a_fork_needs_an_event_to_begin_at(scene):
    """A place that the parent does not have is an error a caller can understand, and no session is made."""
    sink = scene.sink()
    await sink.record(await sink.open(session="alice"), [note()])
    for seq in (0, 3, 99, -1):
        with pytest.raises(errors.PowerAgentError):
            await sink.open(session="fork", parent=e.Parent(relation="fork", session="alice", seq=seq))
    with pytest.raises(errors.SessionNotFound):
        await sink.open(session="fork", parent=e.Parent(relation="fork", session="nobody", seq=1))
    assert await scene.store.find("fork") is None


async def test_a_spawned_session_starts_afresh(scene):
    """A child that a call spawned shares nothing but the name of where it came from."""
    sink = scene.sink()
    state = await sink.record(await sink.open(session="alice"), [said(), *CALLED])
    parent = e.Parent(relation="spawn", session="alice", seq=state.seq, call="t1r1c1")
    child = await sink.open(session="child", parent=parent)
    assert (child.seq, child.parent, child.place) == (1, parent, "idle")
    assert [record.session for record in await scene.store.read("child")] == ["child"]


# -- owners ------------------------------------------------------------------------------------------------------------


async def test_time_and_chance_come_through_the_door(scene):
    """Times are the clock's, ids and nonces are the chance's: the same story gives the same log, hash for hash."""

    async def story(store, sink, clock):
        state = await sink.open()
        clock.move(1.5)
        await sink.record(state, [said(), *CALLED])
        await sink.open()
        return await store.read_all()

    first = await story(scene.store, scene.sink(), scene.clock)
    assert [record.at - first[0].at for record in first] == [0, 1500, 1500, 1500, 1500, 1500, 1500]
    assert [record.session for record in first] == ["session-1"] * 6 + ["session-2"]
    other = Scene(":memory:")
    async with other.store:
        assert await story(other.store, other.sink(), other.clock) == first


async def test_a_lease_is_renewed_by_work_and_runs_out(scene):
    """Somebody else gets a session once its lease is over, at the next epoch; the old owner keeps nothing any more."""
    old, new = scene.sink("old"), scene.sink("new")
    state = await old.open(session="alice")
    scene.clock.move(20)
    state = await old.record(state, [said()])
    scene.clock.move(20)
    with pytest.raises(errors.SessionBusy) as caught:
        await new.claim("alice")
    assert (caught.value.owner, caught.value.deadline) == ("old", scene.clock.now() + 10_000)
    scene.clock.move(10.001)
    taken = await new.claim("alice")
    assert (taken.epoch, taken.owner, opened((await scene.store.read("alice"))[-1]).event.why) == (2, "new", "expired")
    for facts in ([note()], [said()]):
        with pytest.raises(errors.OwnershipLost):
            await old.record(state, facts)
    with pytest.raises(errors.OwnershipLost):
        await old.erase(state, "law")
    await new.record(taken, [note()])


async def test_a_dead_owner_and_a_polite_one(scene):
    """Who is proven dead, or has released, is followed at once, and the log says why."""
    state = await scene.sink("one").open(session="alice")
    with pytest.raises(errors.SessionBusy):
        await scene.sink("two").claim("alice")
    scene.dead.add("one")
    state = await scene.sink("two").claim("alice")
    await scene.sink("two").release(state)
    state = await scene.sink("three").claim("alice")
    state = await scene.sink("three").record(state, [note()], release=True)
    state = await scene.sink("four").claim("alice")
    changes = [opened(record).event for record in await scene.store.read("alice", kinds={"owner.changed"})]
    assert [(change.owner, change.previous, change.why) for change in changes] == [
        ("two", "one", "dead"),
        ("three", "two", "released"),
        ("four", "three", "released"),
    ]
    assert state.epoch == 4


async def test_claiming_ones_own_session(scene):
    """Who holds a session gets it again, without an event."""
    sink = scene.sink()
    state = await sink.record(await sink.open(session="alice"), [note()])
    assert await sink.claim("alice") == state
    assert len(await scene.store.read("alice")) == 2


@pytest.mark.parametrize("gone", ["released", "expired"])
async def test_claiming_again_means_owning_again(scene, gone):
    """Who claims a session that it had given up, or let run out, holds it afterwards: nobody else gets it meanwhile."""
    sink = scene.sink()
    state = await sink.open(session="alice")
    if gone == "released":
        await sink.release(state)
    else:
        scene.clock.move(31)
    again = await sink.claim("alice")
    assert (await scene.store.find("alice")).deadline >= scene.clock.now()
    with pytest.raises(errors.SessionBusy):
        await scene.sink("other").claim("alice")
    await sink.record(again, [note()])


async def test_a_stranger_is_not_the_owner(scene):
    """A state that was only loaded does not make its holder the owner, whatever epoch it says."""
    await scene.sink().open(session="alice")
    stranger = scene.sink("stranger")
    state = await stranger.load("alice")
    with pytest.raises(errors.OwnershipLost):
        await stranger.record(state, [note()])
    with pytest.raises(errors.OwnershipLost):
        await stranger.erase(state, "law")
    assert len(await scene.store.read("alice")) == 1


async def test_catching_up_past_a_takeover_does_not_bring_it_back(scene):
    """An owner that reads the event which took the session from it has lost it: it cannot write in the new owner's epoch."""
    old, new = scene.sink("old"), scene.sink("new")
    state = await old.open(session="alice")
    scene.clock.move(31)
    taken = await new.claim("alice")
    state = await old.catch_up(state)
    with pytest.raises(errors.OwnershipLost):
        await old.record(state, [note("zombie")])
    await new.record(taken, [note("owner")])


async def test_a_claim_that_is_overtaken_while_it_reads(scene):
    """What `claim` returns is owned: a takeover between looking and reading is noticed."""
    old, new = scene.sink("old"), scene.sink("new")
    await old.open(session="alice")
    scene.clock.move(31)

    async def overtake():
        await new.claim("alice")

    with pytest.raises(errors.SessionBusy):
        await scene.sink("old", store=Between(scene.store, "read", overtake)).claim("alice")
    assert (await scene.store.find("alice")).owner == "new"


@pytest.mark.parametrize(("method", "nth"), [("find", 1), ("find", 2), ("read", 1), ("append", 1)])
async def test_a_claim_looks_again_when_somebody_writes(scene, method, nth):
    """Facts from outside that arrive in the middle of a claim are in the state that it returns."""
    await scene.sink("old").open(session="alice")
    scene.clock.move(31)
    outside = scene.sink("outside")

    async def report():
        await outside.report(await outside.load("alice"), [said("meanwhile")])

    state = await scene.sink("new", store=Between(scene.store, method, report, nth)).claim("alice")
    assert (state.epoch, state.owner) == (2, "new")
    assert state.inputs[0].parts[0].text == "meanwhile"
    assert state == await scene.sink("new").load("alice")


async def test_sessions_that_are_not_there_or_gone(scene):
    sink = scene.sink()
    for use in (lambda: sink.load("nobody"), lambda: sink.claim("nobody")):
        with pytest.raises(errors.SessionNotFound):
            await use()
    state = await sink.open(session="alice", metadata={"a": "secret"})
    with pytest.raises(errors.SessionExists):
        await sink.open(session="alice")
    gone = await sink.erase(await sink.record(state, [said("secret", key="k")]), "law", by="ada")
    assert gone == await sink.load("alice")
    assert (gone.place, gone.inputs, gone.nonce) == ("erased", (), "")
    with pytest.raises(errors.SessionErased):
        await sink.claim("alice")
    with pytest.raises(errors.LogError):
        await sink.record(gone, [note()])
    assert opened((await scene.store.read("alice"))[-1]).event == e.SessionErased(reason="law", by="ada")
    assert "secret" not in repr(await scene.store.read("alice"))
