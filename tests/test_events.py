"""The words on disk: names and numbers are frozen, every event comes back as it was, and what cannot be kept is refused.

`golden/story.jsonl` is a log as the first release wrote it, `golden/story.rendered.json` what that release made of it. They are
never edited: a change of code that fails here changes the format, and needs a version and a lifter. Only before the first
release may they be written anew, by `POWER_AGENT_WRITE_GOLDEN=1 pytest tests/test_events.py -k golden`.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from grammar import START
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from power_agent import events as e
from power_agent.chain import digest_of, idempotency_key, link, secret_of
from power_agent.cleaning import check_id, clean
from power_agent.context import render
from power_agent.errors import EventTooLarge, InvalidInput, StoreDamaged, StoreNewer
from power_agent.limits import Limits
from power_agent.messages import Attachment, Call, Opaque, OutputShape, Reasoning, Text, Usage, clean_text, restore_text
from power_agent.state import fold, freeze

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "story.jsonl"
RENDERED = GOLDEN.with_name("story.rendered.json")
MIGRATION = ROOT / "migrations" / "sqlite" / "0001_log.sql"

NAMES = {
    1: "session.opened",
    2: "session.configured",
    3: "session.imported",
    4: "session.closed",
    5: "session.erased",
    6: "owner.changed",
    10: "input.received",
    11: "turn.started",
    12: "turn.ended",
    13: "note.added",
    14: "cancel.asked",
    15: "guard.decided",
    20: "model.asked",
    21: "model.answered",
    22: "model.failed",
    30: "call.approval_asked",
    31: "call.approved",
    32: "call.denied",
    33: "call.started",
    34: "call.succeeded",
    35: "call.failed",
    36: "call.aborted",
    37: "call.doubted",
    38: "call.retried",
    40: "context.compacted",
}
"""The names and numbers on disk. A line may be added, never changed."""


# -- names and numbers -------------------------------------------------------------------------------------------------


def test_names_and_numbers_are_frozen():
    """Each kind has its own name and its own number, for ever."""
    assert dict(e.CODES) == NAMES
    assert set(e.EVENTS) == set(NAMES.values())
    assert len(e.EVENTS) == len(e.CODES) == 25
    assert all(e.EVENTS[kind].code == code and e.EVENTS[kind].kind == kind for code, kind in NAMES.items())


def test_the_database_knows_the_same_names_and_numbers():
    """The table `kind` in the file is the table in the code."""
    db = sqlite3.connect(":memory:")
    db.executescript(MIGRATION.read_text())
    rows = dict(db.execute("SELECT code, name FROM kind"))
    db.close()
    assert rows == dict(e.CODES)


def test_the_numbers_in_the_sql_are_the_ones_in_the_code():
    """Outcomes, turns, inputs, answers, calls, births, takeovers and tombstones are told apart by their numbers there."""
    code = {kind: number for number, kind in NAMES.items()}
    sql = MIGRATION.read_text()
    sets = {tuple(int(number) for number in found.split(",")) for found in re.findall(r"kind (?:NOT )?IN \(([\d, ]+)\)", sql)}
    outcomes = tuple(sorted(code[kind] for kind in e.TERMINAL))
    assert sets == {outcomes, (code["turn.started"], code["turn.ended"]), (code["session.opened"], code["owner.changed"])}
    singles = {int(number) for number in re.findall(r"kind = (\d+)", sql)}
    assert singles == {code[kind] for kind in ("session.opened", "session.erased", "owner.changed", "input.received", "turn.started", "model.answered", "call.started")}
    assert set(re.findall(r"kind BETWEEN (\d+) AND (\d+)", sql)) == {("30", "39")}
    assert {kind for number, kind in NAMES.items() if 30 <= number <= 39} == {kind for kind, event in e.EVENTS.items() if issubclass(event, e.CallEvent)}
    states = {int(number): name for number, name in re.findall(r"WHEN (\d+) THEN '(\w+)'", sql)}
    assert states == {code["call.approval_asked"]: "waiting", code["call.approved"]: "approved", code["call.started"]: "started"}


def test_who_may_say_what():
    """The four outcomes, and the facts that a process may append which does not own the session."""
    assert {"call.denied", "call.succeeded", "call.failed", "call.aborted"} == e.TERMINAL
    assert {"input.received", "cancel.asked", "call.approved", "call.retried"} | e.TERMINAL == e.FROM_OUTSIDE


FIELDS = """
session.opened nonce* owner* config metadata parent
session.configured config title by
session.imported tip* source by
session.closed reason* by
session.erased reason* by
owner.changed owner* previous why*
input.received parts* mode key by metadata output
turn.started turn* inputs continues
turn.ended turn* status reason failure
note.added text* why*
cancel.asked reason* by
guard.decided guard* at* verdict* reason subject change
model.asked turn* round* attempt purpose model* inputs prefix_digest reserved_tokens reserved_cost_nano_usd context untrusted
model.answered round* attempt parts* format finish usage model cost_nano_usd price_source
model.failed round* attempt failure* retryable not_before usage lost
call.approval_asked call* rule* digest* question deadline external untrusted
call.approved call* digest* by* reason rule
call.denied call* by* reason* digest
call.started call* attempt recovery idempotency_key digest process untrusted
call.succeeded call* attempt output parts cut by
call.failed call* attempt failure* cut by
call.aborted call* by* reason*
call.doubted call* attempt* reason*
call.retried call* by* reason
context.compacted from_seq* to_seq* summary* replaces trimmed tokens_before tokens_after strategy* by
"""


def test_fields_are_frozen():
    """Which fields an event has, and which of them must be there (*)."""
    lines = [
        " ".join([kind, *(one.name + ("*" if one.default is MISSING and one.default_factory is MISSING else "") for one in fields(event))]) for kind, event in e.EVENTS.items()
    ]
    assert lines == FIELDS.strip().splitlines()


def test_defaults_are_frozen():
    """A field at its default is not written, so the default is what its absence means: these, for ever."""
    found = {f"{kind}.{one.name}": one.default for kind, event in e.EVENTS.items() for one in fields(event) if one.default not in (MISSING, None, ())}
    assert found == {
        "input.received.mode": "turn",
        "turn.ended.status": "completed",
        "model.asked.attempt": 1,
        "model.asked.purpose": "turn",
        "model.asked.reserved_tokens": 0,
        "model.asked.untrusted": False,
        "model.answered.attempt": 1,
        "model.answered.finish": "stop",
        "model.answered.usage": Usage(),
        "model.failed.attempt": 1,
        "model.failed.retryable": False,
        "model.failed.lost": False,
        "call.approval_asked.external": False,
        "call.approval_asked.untrusted": False,
        "call.started.attempt": 1,
        "call.started.untrusted": False,
        "call.started.recovery": "ask",
        "call.succeeded.attempt": 1,
        "call.failed.attempt": 1,
    }
    assert asdict(Usage()) == {"input": 0, "output": 0, "cached": 0, "cache_written": 0, "reasoning": 0}
    assert {**asdict(e.Config()), "limits": None} == {"model": None, "system": None, "tools": (), "settings": {}, "limits": None, "output": None}
    assert asdict(Limits()) == {
        "max_rounds_per_turn": 50,
        "max_tokens_per_turn": None,
        "max_tokens_per_session": None,
        "max_cost_usd_per_turn": None,
        "max_cost_usd_per_session": None,
        "max_turn_seconds": None,
        "max_tool_seconds": 600.0,
        "max_parallel_calls": 8,
        "max_output_bytes_in_context": 32_768,
        "max_context_tokens": None,
        "max_event_bytes": 16_777_216,
        "max_same_calls": 12,
        "max_rounds_without_progress": 20,
        "last_answer": False,
    }


# -- there and back ----------------------------------------------------------------------------------------------------

WILD = st.text(st.one_of(st.characters(), st.sampled_from('\x00\n\u2028\ud800\udfff\U0010fffd\U0010d800\U0010dfff"\\')), max_size=12)
"""Any text, broken text included."""
NUMBERS = st.one_of(st.integers(), st.integers(-(2**80), 2**80), st.just(10**4_000))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(allow_nan=False, allow_infinity=False), WILD),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WILD, inner, max_size=3)),
    max_leaves=8,
)
COUNT = st.integers(-1, 2**62)
MAYBE = st.none() | WILD
OBJECT = st.dictionaries(WILD, JSON, max_size=2)
ATTACHMENT = st.builds(Attachment, WILD, MAYBE, MAYBE, MAYBE, st.none() | COUNT)
CONTENT = st.lists(st.one_of(st.builds(Text, WILD, MAYBE), ATTACHMENT), max_size=3).map(tuple)
CALL = st.builds(Call, WILD, OBJECT, WILD, MAYBE, MAYBE, MAYBE)
SAID = st.lists(st.one_of(st.builds(Text, WILD, MAYBE), ATTACHMENT, CALL, st.builds(Reasoning, WILD, MAYBE), st.builds(Opaque, WILD)), max_size=4).map(tuple)
FAILURE = st.builds(e.Failure, code=WILD, message=WILD, details=OBJECT)
USAGE = st.builds(Usage, COUNT, COUNT, COUNT, COUNT, COUNT)
LIMITS = st.builds(Limits, max_rounds_per_turn=st.none() | COUNT, max_cost_usd_per_turn=st.none() | st.floats(0, 1e9), max_tool_seconds=st.floats(0, 1e9))
TOOL = st.builds(e.ToolRef, name=WILD, digest=WILD, foreign=st.booleans())
CONFIG = st.builds(e.Config, model=MAYBE, system=MAYBE, tools=st.lists(TOOL, max_size=2).map(tuple), settings=OBJECT, limits=LIMITS)
PARENT = st.builds(e.Parent, relation=st.sampled_from(("fork", "spawn")), session=WILD, seq=COUNT, call=MAYBE)
CUT = st.builds(e.Cut, blob=WILD, size=COUNT, head=WILD, tail=WILD)
TRIM = st.builds(e.Trim, call=WILD, note=WILD)

BY_NAME: dict[str, SearchStrategy[Any]] = {
    "config": CONFIG,
    "title": MAYBE,
    "metadata": OBJECT,
    "parent": st.none() | PARENT,
    "why": st.sampled_from(("released", "expired", "dead")),
    "mode": st.sampled_from(("turn", "queue", "steer")),
    "turn": COUNT,
    "round": COUNT,
    "attempt": COUNT,
    "inputs": st.lists(COUNT, max_size=3).map(tuple),
    "continues": st.none() | COUNT,
    "status": st.sampled_from(("completed", "cancelled", "limit", "failed")),
    "at": st.sampled_from(("input", "model", "call", "end")),
    "verdict": st.sampled_from(("changed", "refused")),
    "change": JSON,
    "purpose": st.sampled_from(("turn", "summary")),
    "reserved_tokens": COUNT,
    "reserved_cost_nano_usd": st.none() | COUNT,
    "context": CONTENT,
    "finish": st.sampled_from(("stop", "calls", "length", "refused", "filtered", "other")),
    "cost_nano_usd": st.none() | COUNT,
    "retryable": st.booleans(),
    "lost": st.booleans(),
    "not_before": st.none() | COUNT,
    "deadline": st.none() | COUNT,
    "external": st.booleans(),
    "untrusted": st.booleans(),
    "recovery": st.sampled_from(("rerun", "keyed", "probe", "ask")),
    "output": JSON,
    "cut": st.none() | CUT,
    "from_seq": COUNT,
    "to_seq": COUNT,
    "replaces": st.lists(COUNT, max_size=3).map(tuple),
    "trimmed": st.lists(TRIM, max_size=2).map(tuple),
    "tokens_before": st.none() | COUNT,
    "tokens_after": st.none() | COUNT,
    "summary": MAYBE,
}
SPECIAL = {
    ("model.answered", "parts"): SAID,
    ("input.received", "parts"): CONTENT,
    ("input.received", "metadata"): st.none() | OBJECT,
    ("input.received", "output"): st.none() | st.builds(OutputShape, name=WILD, schema=OBJECT, wrapped=st.booleans()),
    ("call.succeeded", "parts"): st.none() | CONTENT,
    ("turn.ended", "failure"): st.none() | FAILURE,
    ("model.answered", "usage"): USAGE,
    ("model.failed", "usage"): st.none() | USAGE,
    ("note.added", "why"): WILD,
}


def any_event(kind: str) -> SearchStrategy[e.Event]:
    """Any event of a kind, within the types of its fields."""
    given_by: dict[str, SearchStrategy[Any]] = {}
    for one in fields(e.EVENTS[kind]):
        required = one.default is MISSING and one.default_factory is MISSING
        usual = FAILURE if one.name == "failure" else WILD if required else MAYBE
        given_by[one.name] = SPECIAL.get((kind, one.name), BY_NAME.get(one.name, usual))
    return st.builds(e.EVENTS[kind], **given_by)


@pytest.mark.parametrize("kind", list(e.EVENTS))
@settings(max_examples=25)
@given(data=st.data())
def test_an_event_comes_back_as_it_was(kind: str, data: st.DataObject):
    """Cleaned, written and read, it is equal; broken text can be restored; writing it again gives the same text."""
    event = data.draw(any_event(kind))
    kept = clean(event)
    assert kept.body.encode().decode() == kept.body
    assert e.decode(kind, kept.body) == kept.event
    assert e.encode(kept.event) == kept.body
    assert restored(kept.event) == plain(event)


def plain(value: Any) -> Any:
    """Events as plain data, so that they can be compared with their text changed."""
    return asdict(value)


def restored(event: e.Event) -> Any:
    def undo(value: Any) -> Any:
        if isinstance(value, str):
            return restore_text(value)
        if isinstance(value, dict):
            return {undo(key): undo(item) for key, item in value.items()}
        return type(value)(undo(item) for item in value) if isinstance(value, list | tuple) else value

    return undo(plain(event))


@given(WILD)
def test_any_text_can_be_stored_and_restored(text: str):
    """Cleaning makes it encodable and can be undone exactly; text that needs nothing is the same object."""
    cleaned = clean_text(text)
    cleaned.encode()
    assert restore_text(cleaned) == text
    if not any("\ud800" <= character <= "\udfff" or character == "\U0010fffd" for character in text):
        assert cleaned is text


@given(WILD, WILD)
def test_cleaning_keeps_different_texts_different(one: str, other: str):
    """No two texts become the same, so keys of objects do not collide."""
    assert (clean_text(one) == clean_text(other)) == (one == other)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_fields_at_their_default_are_not_written():
    """The common event is short; the text is compact and its order fixed."""
    assert e.encode(e.CallSucceeded(call="t1r1c1")) == '{"call":"t1r1c1"}'
    assert e.encode(e.InputReceived(parts=(Text("hällo"),), key="k")) == '{"parts":[{"text":"hällo"}],"key":"k"}'
    assert e.encode(e.CallSucceeded(call="c", output=False)) == '{"call":"c","output":false}'


def test_an_unknown_kind_is_newer():
    """A newer version wrote it: refused, and said so."""
    with pytest.raises(StoreNewer) as caught:
        e.decode("call.teleported", "{}")
    assert caught.value.fields == {"kind": "call.teleported"}


@pytest.mark.parametrize("kind", list(e.EVENTS))
def test_an_unknown_field_is_refused(kind: str):
    """Nothing that somebody wrote is dropped in silence; a future version is newer."""
    with pytest.raises((StoreDamaged, StoreNewer)):
        e.decode(kind, '{"from_the_future":1}')
    with pytest.raises(StoreNewer):
        e.decode(kind, f'{{"v":{e.EVENTS[kind].version + 1},"from_the_future":1}}')


@pytest.mark.parametrize("part", ['{"text":"x","new":1}', '{"name":"x","new":1}', '{"new":1}', "{}", "1", "null", '"x"', "[]"])
def test_an_unknown_part_is_refused(part: str):
    """Also within a message."""
    with pytest.raises(StoreDamaged):
        e.decode("model.answered", f'{{"round":1,"parts":[{part}]}}')


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "{",
        "[]",
        "1",
        '"x"',
        "{}",
        '{"call":null}',
        '{"call":"c","attempt":"one"}',
        '{"call":"c","output":"\\ud800"}',
        '{"v":"x","call":"c"}',
        '{"v":null,"call":"c"}',
        '{"v":0,"call":"c"}',
        '{"v":0.5,"call":"c"}',
        '{"v":[],"call":"c"}',
        '{"v":1,"call":"c","output":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"call":"c","output":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=lambda body: body[:24],
)
def test_a_body_that_nobody_wrote_is_damage(body: str):
    """Whatever stands there instead of an event: one error, not whatever the parser felt like."""
    with pytest.raises(StoreDamaged):
        e.decode("call.succeeded", body)


@pytest.fixture
def newer_note(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[e.Event]]:
    """`note.added` as version 3 would have it: `text` became `words`, then `why` got a default and `loud` was added."""
    from power_agent.word import word

    @word(kw_only=True)
    class NoteAdded(e.Event):
        kind: ClassVar = "note.added"
        code: ClassVar = 13
        version: ClassVar[int] = 3
        words: str
        why: str = "because"
        loud: bool

    def first(data: dict[str, Any]) -> dict[str, Any]:
        return {**{key: value for key, value in data.items() if key != "text"}, "words": data["text"]}

    e._reader.cache_clear()
    e._writer.cache_clear()
    monkeypatch.setitem(e.EVENTS, "note.added", NoteAdded)
    monkeypatch.setitem(e.LIFTERS, ("note.added", 1), first)
    monkeypatch.setitem(e.LIFTERS, ("note.added", 2), lambda data: {**data, "loud": False})
    yield NoteAdded
    e._reader.cache_clear()
    e._writer.cache_clear()


def test_an_old_shape_is_lifted(newer_note: type[e.Event]):
    """One step for each version; the current one says its version and is read as it is; a newer one is refused."""
    lifted = newer_note(words="psst", why="test", loud=False)
    assert e.decode("note.added", '{"text":"psst","why":"test"}') == lifted
    assert e.decode("note.added", '{"v":2,"words":"psst","why":"test"}') == lifted
    assert e.encode(lifted) == '{"v":3,"words":"psst","why":"test","loud":false}'
    assert e.decode("note.added", e.encode(lifted)) == lifted
    assert clean(lifted).event == lifted
    with pytest.raises(StoreNewer):
        e.decode("note.added", '{"v":4}')
    for damaged in ('{"words":"psst","why":"test"}', '{"v":3,"text":"psst","loud":true}', "null"):
        with pytest.raises(StoreDamaged):
            e.decode("note.added", damaged)


def test_an_old_shape_without_a_lifter_is_damage(newer_note: type[e.Event], monkeypatch: pytest.MonkeyPatch):
    """It is not guessed at."""
    monkeypatch.delitem(e.LIFTERS, ("note.added", 2))
    with pytest.raises(StoreDamaged):
        e.decode("note.added", '{"text":"psst","why":"test"}')


# -- what cannot be kept -----------------------------------------------------------------------------------------------


def deep(depth: int, leaf: object = None) -> Any:
    value = leaf
    for _ in range(depth):
        value = [value]
    return value


def circle() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


def output(value: Any) -> e.CallSucceeded:
    return e.CallSucceeded(call="c", output=value)


NOT_KEPT: dict[str, Callable[[], e.Event]] = {
    "NaN": lambda: output(float("nan")),
    "Infinity": lambda: output({"a": [float("inf")]}),
    "-Infinity": lambda: output(float("-inf")),
    "too large a float": lambda: output(1e400),
    "NaN in arguments": lambda: e.ModelAnswered(round=1, parts=(Call("x", {"a": float("nan")}, "t1r1c1"),)),
    "NaN in settings": lambda: e.SessionConfigured(config=e.Config(settings={"t": float("nan")})),
    "NaN in a limit": lambda: e.SessionConfigured(config=e.Config(limits=Limits(max_turn_seconds=float("nan")))),
    "NaN in details": lambda: e.CallFailed(call="c", failure=e.Failure(code="c", message="m", details={"a": float("nan")})),
    "NaN beside its name": lambda: output(["NaN", float("nan")]),
    "200 deep": lambda: output(deep(200)),
    "100,000 deep": lambda: output(deep(100_000)),
    "100,000 deep beside broken text": lambda: output(["\ud800", deep(100_000)]),
    "100,000 deep around broken text": lambda: output(deep(100_000, "\ud800")),
    "a circle": lambda: output(circle()),
    "a circle beside broken text": lambda: output(["\ud800", circle()]),
    "an object": lambda: output(object()),
    "a function": lambda: output({"a": print}),
    "bytes that are no text": lambda: output(b"\xff"),
    "an integer of 5,001 digits": lambda: output(10**5_000),
    "an integer of 5,001 digits beside a name": lambda: output(["NaN", 10**5_000]),
    "no call": lambda: e.CallAborted(call=None, by="b", reason="r"),
    "an unknown mode": lambda: e.InputReceived(parts=(Text("x"),), mode="bogus"),
    "an unknown status": lambda: e.TurnEnded(turn=1, status="bogus"),
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_what_cannot_be_kept_is_refused(name: str):
    """As what was handed in wrong, whatever it was that noticed."""
    with pytest.raises(InvalidInput):
        clean(NOT_KEPT[name]())


def test_a_cleaner_does_not_make_deep_values_worse():
    """With a cleaner at work too deep a value is refused like without."""
    with pytest.raises(InvalidInput):
        clean(output(deep(100_000)), (str.strip,))
    assert clean(output(deep(190, " x ")), (str.strip,)).event.output == deep(190, "x")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "a NaN b", '"NaN"', "[NaN]"])
def test_the_names_of_numbers_are_text_like_any_other(text: str):
    """Only the values are refused."""
    assert clean(output({text: text})).event.output == {text: text}


def test_cleaners_change_every_text():
    """Keys, parts, arguments and names included, before anything is written; the event handed in stays as it was."""
    event = e.ModelAnswered(round=1, parts=(Text("secret", raw="secret"), Call("x", {"secret": ["secret", 1]}, "t1r1c1")), format="f")
    kept = clean(event, (lambda text: text.replace("secret", "***"),))
    assert kept.event.parts == (Text("***", raw="***"), Call("x", {"***": ["***", 1]}, "t1r1c1"))
    assert "secret" not in kept.body
    assert event.parts[0].text == "secret"


@pytest.mark.parametrize(("size", "fits"), [(99, True), (100, True), (101, False)])
def test_a_fact_has_a_bound(size: int, fits: bool):
    """Counted in bytes of the text that is kept."""
    empty = len(clean(e.NoteAdded(text="", why="w")).body.encode())
    for letter in ("x", "ä", "\U0001f600"):
        width = len(letter.encode())
        event = e.NoteAdded(text=letter * ((100 - empty) // width) + "x" * ((100 - empty) % width + size - 100), why="w")
        if fits and size == 100:
            assert len(clean(event, (), 100).body.encode()) == 100
        elif not fits:
            with pytest.raises(EventTooLarge) as caught:
                clean(event, (), 100)
            assert caught.value.fields == {"bytes": 101, "limit": 100}


@pytest.mark.parametrize("name", ["a", "ä b", "x" * 200, "a@b", " ", "\U0001f600", "日本"])
def test_an_id(name: str):
    """1 to 200 characters."""
    assert check_id(name) is name


@pytest.mark.parametrize("name", ["", "x" * 201, "@last", "a\nb", "a\0", "\x7f", "\x85", "\u2028", "\u2029", "\ud800", 5, None, b"a"])
def test_not_an_id(name: object):
    """No control characters, no line breaks of any kind, no leading @, no broken text."""
    with pytest.raises(InvalidInput):
        check_id(name)


# -- the chain ---------------------------------------------------------------------------------------------------------


def test_every_part_of_an_event_changes_its_hash():
    """And so does its place in the chain."""
    whole = (b"before", "s", 1, 1, START, "note.added", digest_of(secret_of("n"), 1, "{}"))
    others = [(b"", "t", 2, 2, START + 1, "note.adde", digest_of(secret_of("n"), 1, "{ }"))[place] for place in range(7)]
    changed = [(*whole[:place], other, *whole[place + 1 :]) for place, other in enumerate(others)]
    assert len({link(*one) for one in [whole, *changed]}) == 8
    assert len({digest_of(secret_of(nonce), seq, "{}") for nonce in "nm" for seq in (1, 2)} | {digest_of(b"", 1, "{}")}) == 5
    assert len({idempotency_key(nonce, call) for nonce in "nm" for call in ("t1r1c1", "t1r1c2")}) == 4
    assert len(idempotency_key("n", "c")) == 32


# -- golden ------------------------------------------------------------------------------------------------------------


def golden_events() -> dict[str, list[e.Event]]:
    """Return a story of four sessions: every kind of event occurs, with unusual values and with nothing but the usual ones.

    `alice` lives a full life and is closed; `bob` is her fork, behind her 33rd event; `carol` came from another store; of `dave`
    only the tombstone is left. Nothing in here may depend on the grammar, on chance or on the clock.
    """
    config = e.Config(
        model="scripted:m",
        system="Be brief.\n\u2028\U0010fffd\U0010fffd",
        tools=(e.ToolRef(name="charge", digest="d1"), e.ToolRef(name="read", digest="d2")),
        settings={"temperature": 0.1, "big": 2**70, "nested": {"list": [None, True, -0.5, 1e22, "ü"]}},
        limits=Limits(max_rounds_per_turn=9, max_cost_usd_per_turn=0.25, max_tool_seconds=1.5),
    )
    blob = "b" * 64
    made = (
        Reasoning("Let me think.", raw='{"signature":"abc"}'),
        Text("I charge and read.", raw='{"id":1}'),
        Call("charge", {"order": 42, "note": "NaN \0"}, "t1r1c1", "call_1"),
        Call("read", {"path": "/a"}, "t1r1c2", "call_1"),
        Call("read", {}, "t1r1c3", "not legal", malformed="{oops", raw='{"x":1}'),
        Call("outside", {"deep": [[[]]]}, "t1r1c4"),
        Opaque('{"type":"odd"}'),
        Attachment("image/png", blob=blob, name="plot.png", size=3),
    )
    alice: list[e.Event] = [
        e.SessionOpened(nonce="00" * 16, owner="loop-1", config=config, metadata={"user": "ann", "tags": ["a"]}),
        e.InputReceived(parts=(Text("Charge order 42."), Attachment("image/jpeg", url="https://example.org/x.jpg")), key="m-1", by="ann", metadata={"n": 1}),
        e.TurnStarted(turn=1, inputs=(2,)),
        e.GuardDecided(guard="pii", at="input", verdict="changed", reason="a number", subject="2", change={"masked": 1}),
        e.NoteAdded(text="It is Tuesday.", why="context"),
        e.ModelAsked(turn=1, round=1, model="m", prefix_digest="p1", reserved_tokens=1_000, reserved_cost_nano_usd=5_000, context=(Text("ctx"),)),
        e.ModelFailed(round=1, failure=e.Failure(code="overloaded", message="Busy.", details={"status": 529}), retryable=True, not_before=START + 9_000, usage=Usage(1, 0)),
        e.ModelAsked(turn=1, round=1, attempt=2, model="m", reserved_tokens=1_000),
        e.ModelAsked(turn=1, round=1, attempt=3, model="m", reserved_tokens=1_000),
        e.ModelAnswered(round=1, attempt=3, parts=made, format="scripted", finish="calls", usage=Usage(100, 50, 20, 10, 5), model="m-2025", cost_nano_usd=123, price_source="list"),
        e.CallApprovalAsked(call="t1r1c1", rule="money", digest="x1", question="Charge ten euros?", deadline=START + 10**9),
        e.CallStarted(call="t1r1c2", recovery="rerun", idempotency_key="k2", digest="x2", process="boot/1/2"),
        e.CallFailed(call="t1r1c3", failure=e.Failure(code="bad_arguments", message="Not JSON.")),
        e.CallApprovalAsked(call="t1r1c4", rule="external", digest="x4", external=True),
        e.CallApproved(call="t1r1c1", digest="x1", by="ann", reason="fine"),
        e.CallSucceeded(call="t1r1c2", cut=e.Cut(blob=blob, size=50_000, head="héad", tail="tail")),
        e.CallStarted(call="t1r1c1", recovery="keyed", idempotency_key="k1", digest="x1"),
        e.OwnerChanged(owner="loop-2", previous="loop-1", why="dead"),
        e.CallDoubted(call="t1r1c1", attempt=1, reason="The process died."),
        e.CallRetried(call="t1r1c1", by="keyed", reason="same key"),
        e.CallStarted(call="t1r1c1", attempt=2, recovery="keyed", idempotency_key="k1", digest="x1"),
        e.CallSucceeded(call="t1r1c4", output={"approved": True, "by": None}, by="webhook"),
        e.InputReceived(parts=(Text("Hurry."),), mode="steer"),
        e.CallSucceeded(call="t1r1c1", attempt=2, output="ok \U0010fffd\U0010d800"),
        e.ModelAsked(turn=1, round=2, model="m", inputs=(23,)),
        e.ModelAnswered(round=2, parts=(Text("Done."),)),
        e.TurnEnded(turn=1),
        e.ModelAsked(turn=1, round=0, purpose="summary", model="small"),
        e.ModelAnswered(round=0, parts=(Text("A summary."),), usage=Usage(10, 2)),
        e.ContextCompacted(from_seq=1, to_seq=24, summary="Order 42 was charged.", tokens_before=900, tokens_after=90, strategy="summary", by="small"),
        e.InputReceived(parts=(Text("And order 43?"),), mode="queue", key="m-2"),
        e.TurnStarted(turn=2, inputs=(31,)),
        e.ModelAsked(turn=2, round=1, model="m"),
        e.ModelAnswered(round=1, parts=(Call("charge", {"order": 43}, "t2r1c1", "call_1"), Call("read", {}, "t2r1c2", "t2r1c1"))),
        e.CallDenied(call="t2r1c1", by="rule", reason="Too much.", digest="x5"),
        e.CallStarted(call="t2r1c2"),
        e.CancelAsked(reason="changed my mind", by="ann"),
        e.CallAborted(call="t2r1c2", by="ann", reason="changed my mind"),
        e.TurnEnded(turn=2, status="cancelled", reason="changed my mind"),
        e.ContextCompacted(from_seq=25, to_seq=38, summary=None, trimmed=(e.Trim(call="t2r1c1", note="[left out]"),), strategy="trim"),
        e.SessionConfigured(config=replace(config, model="scripted:n"), title="Order 42", by="ann"),
        e.SessionClosed(reason="over", by="ann"),
    ]
    bob: list[e.Event] = [
        e.SessionOpened(nonce="11" * 16, owner="loop-3", parent=e.Parent(relation="fork", session="alice", seq=36)),
        e.TurnStarted(turn=3, continues=2),
        e.ModelAsked(turn=3, round=1, model="m"),
        e.ModelAnswered(round=1, parts=(Call("charge", {"order": 44}, "t3r1c1"),)),
        e.CallStarted(call="t3r1c1"),
        e.CallFailed(call="t3r1c1", failure=e.Failure(code="tool_error", message="No funds."), by="tool"),
        e.ContextCompacted(from_seq=25, to_seq=26, summary="All is well.", replaces=(30,), strategy="summary"),
    ]
    carol: list[e.Event] = [
        e.SessionOpened(nonce="22" * 16, owner="loop-1", parent=e.Parent(relation="spawn", session="alice", seq=10, call="t1r1c1")),
        e.InputReceived(parts=(Text("Help."),)),
        e.SessionImported(tip="ab" * 32, source="backup", by="ann"),
    ]
    dave: list[e.Event] = [
        e.SessionOpened(nonce="33" * 16, owner="loop-1"),
        e.InputReceived(parts=(Text("My name is Dave."),), key="k"),
        e.SessionErased(reason="by law", by="dave"),
    ]
    return {"alice": alice, "bob": bob, "carol": carol, "dave": dave}


def golden_lines() -> Iterator[dict[str, Any]]:
    """Write the story down as a store would: the exact text of each event, salted, chained, the erased bodies gone."""
    tips: dict[tuple[str, int], bytes] = {}
    at = START
    for session, events in golden_events().items():
        opened = events[0]
        assert isinstance(opened, e.SessionOpened)
        base = opened.parent.seq if opened.parent is not None and opened.parent.relation == "fork" else 0
        previous = tips["alice", base] if base else b""
        epoch, erased = 1, isinstance(events[-1], e.SessionErased)
        for seq, event in enumerate(events, base + 1):
            epoch, at, body = epoch + isinstance(event, e.OwnerChanged), at + 250, e.encode(event)
            tombstone = isinstance(event, e.SessionErased)
            digest = digest_of(b"" if tombstone else secret_of(opened.nonce), seq, body)
            previous = tips[session, seq] = link(previous, session, seq, epoch, at, event.kind, digest)
            gone = erased and not tombstone
            place = {"session": session, "seq": seq, "epoch": epoch, "at": at, "kind": event.kind}
            yield {**place, "body": None if gone else body, "digest": digest.hex() if gone else None, "hash": previous.hex()}


def golden_rendered(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fold and render every session of the story, with what it shares."""
    rendered = {}
    for session in ("alice", "bob", "carol", "dave"):
        state = fold(kept_in(rows, session))
        context = render(state)
        rendered[session] = {
            "messages": [{"role": message.role, "format": message.format, "parts": [asdict(part) for part in message.parts]} for message in context.messages],
            "why_not": context.why_not,
            "state": freeze(state, b"tip"),
        }
    return rendered


def kept_in(rows: list[dict[str, Any]], session: str) -> list[e.Envelope]:
    own = [row for row in rows if row["session"] == session]
    shared = [row for row in rows if row["session"] == "alice" and row["seq"] < own[0]["seq"]]
    return [
        e.Envelope(
            row["session"], row["seq"], row["epoch"], row["at"], None if row["body"] is None else e.decode(row["kind"], row["body"]), bytes.fromhex(row["hash"]), kind=row["kind"]
        )
        for row in (*shared, *own)
    ]


def golden_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, indent=1) + "\n"


@pytest.fixture(scope="module", autouse=True)
def golden_files() -> None:
    """Write the golden files anew, when asked to."""
    if os.environ.get("POWER_AGENT_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text("".join(json.dumps(line, ensure_ascii=True) + "\n" for line in golden_lines()), "utf-8")
        RENDERED.write_text(as_text(golden_rendered(golden_rows())), "utf-8")


def test_golden_story_tells_of_everything():
    """Every kind of event stands in it."""
    assert {row["kind"] for row in golden_rows()} == set(NAMES.values())


def test_golden_bodies_are_read_and_written_the_same():
    """Today's code reads each event and would write the very same bytes, and would make the same log of the same story."""
    rows = golden_rows()
    for row in rows:
        if row["body"] is not None:
            assert e.encode(e.decode(row["kind"], row["body"])) == row["body"]
            assert clean(e.decode(row["kind"], row["body"])).body.count("\U0010fffd") == 2 * row["body"].count("\U0010fffd")
    assert rows == list(golden_lines())


def test_golden_chain_verifies():
    """From the bytes alone: salts from the nonce, erased bodies by their digest, the fork from its parent's hash."""
    rows = golden_rows()
    tips = {(row["session"], row["seq"]): bytes.fromhex(row["hash"]) for row in rows}
    secret = b""
    for row in rows:
        body, seq, session = row["body"], row["seq"], row["session"]
        event = None if body is None else e.decode(row["kind"], body)
        if isinstance(event, e.SessionOpened):
            secret = secret_of(event.nonce)
        previous = tips.get((session, seq - 1), tips.get(("alice", seq - 1), b"") if session == "bob" else b"")
        digest = bytes.fromhex(row["digest"]) if body is None else digest_of(b"" if row["kind"] == "session.erased" else secret, seq, body)
        assert link(previous, session, seq, row["epoch"], row["at"], row["kind"], digest).hex() == row["hash"]


def test_golden_story_renders_to_the_same_bytes():
    """The context of every session and the folded state are what they were when this was written."""
    assert as_text(golden_rendered(golden_rows())) == RENDERED.read_text("utf-8")
