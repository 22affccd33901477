"""What every store promises, as tests that run on any store.

Each test makes a store of its own and runs in an event loop of its own, so the suite works with pytest-asyncio in either mode,
with another plugin, or with none. The hash formula stands here a second time, on purpose: it is a format, and frozen.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar
from unittest import SkipTest

from power_agent import errors
from power_agent import events as e
from power_agent.messages import Call, Text
from power_agent.ports import Adoption, Append, Blob, Fact, Kept, Place, Record, Store

NOW = 1_700_000_000_000
LATER = NOW + 30_000
FOLD = 7

E = TypeVar("E", bound=BaseException)
C = TypeVar("C", bound=type)


class refused(Generic[E]):  # noqa: N801  reads as a word
    """Expect an error of exactly this class; it is put into the list that is yielded."""

    def __init__(self, kind: type[E]) -> None:
        self._kind = kind
        self._caught: list[E] = []

    def __enter__(self) -> list[E]:
        return self._caught

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        assert error is not None, f"{self._kind.__name__} was not raised"
        if not isinstance(error, self._kind):
            return False
        assert type(error) is self._kind, f"{type(error).__name__} instead of {self._kind.__name__}: {error}"
        self._caught.append(error)
        return True


def in_loops(suite: C) -> C:
    """Make every async test of a suite a plain one that runs in an event loop of its own."""

    def alone(test: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: object, **kwargs: object) -> None:
            asyncio.run(test(*args, **kwargs))

        return run

    for name, test in list(vars(suite).items()):
        if name.startswith("test_"):
            setattr(suite, name, alone(test))
    return suite


# -- what is kept ------------------------------------------------------------------------------------------------------


def nonce_of(session: str) -> str:
    """Return the nonce that a session of this suite has."""
    return sha256(session.encode()).hexdigest()[:32]


def salt_of(session: str) -> bytes:
    """Return the secret that the digests of a session are salted with."""
    return sha256(b"salt:" + nonce_of(session).encode()).digest()


def fact(event: e.Event, at: int = NOW) -> Fact:
    """Turn an event into what a store is handed."""
    return Fact(event.kind, at, e.encode(event), e.call_of(event), event.key if isinstance(event, e.InputReceived) else None)


def opening(session: str, *, owner: str = "owner-1", hold_until: int | None = LATER, branch: Place | None = None, blobs: dict[str, bytes] | None = None) -> Append:
    """Ask for a session, or for a fork of another one."""
    parent = None if branch is None else e.Parent(relation="fork", session=branch.holder, seq=branch.seq)
    event = e.SessionOpened(nonce=nonce_of(session), owner=owner, parent=parent, metadata={"blobs": ", ".join(blobs)} if blobs else {})
    head = 0 if branch is None else branch.seq
    return Append(session=session, head=head, facts=[fact(event)], salt=salt_of(session), epoch=1, hold_until=hold_until, branch=branch, blobs=blobs)


def adding(session: str, head: int, *events: e.Event, epoch: int | None = 1, at: int = NOW, hold_until: int | None = None, blobs: dict[str, bytes] | None = None) -> Append:
    """Ask for more facts behind a head."""
    return Append(session=session, head=head, facts=[fact(event, at) for event in events], salt=salt_of(session), epoch=epoch, hold_until=hold_until, blobs=blobs)


def taking(session: str, head: int, *, epoch: int, why: e.HandOver = "expired", at: int = NOW, previous: str | None = "owner-1", hold_until: int = LATER) -> Append:
    """Ask to become the owner."""
    return adding(session, head, e.OwnerChanged(owner="owner-2", previous=previous, why=why), epoch=epoch, at=at, hold_until=hold_until)


def erasing(session: str, head: int) -> Append:
    """Ask for the end of a session's contents."""
    return adding(session, head, e.SessionErased(reason="by law"))


def said(text: str, key: str | None = None) -> e.InputReceived:
    """Return an input."""
    return e.InputReceived(parts=(Text(text),), key=key)


def note(text: str) -> e.NoteAdded:
    """Return a note."""
    return e.NoteAdded(text=text, why="test")


def turn_with_a_call(input_seq: int) -> tuple[e.Event, ...]:
    """Return a turn up to a call that was started."""
    return (
        e.TurnStarted(turn=1, inputs=(input_seq,)),
        e.ModelAsked(turn=1, round=1, model="test:none"),
        e.ModelAnswered(round=1, parts=(Call("send", {"to": "Ada"}, id="t1r1c1"),), finish="calls"),
        e.CallStarted(call="t1r1c1"),
    )


def named(content: bytes) -> dict[str, bytes]:
    """Return a blob under its name."""
    return {sha256(content).hexdigest(): content}


def chained(records: list[Record]) -> None:
    """Recompute every hash of a session (with its ancestors) from the formula; bodies must be there."""
    tip = b""
    for record in records:
        assert record.body is not None
        salt = sha256(salt_of(record.session) + record.seq.to_bytes(8, "big")).digest()[:16]
        digest = sha256(salt + record.body.encode()).digest()
        place = f"{record.session}\n{record.seq}\n{record.epoch}\n{record.at}\n{record.kind}\n"
        tip = sha256(tip + place.encode() + digest).digest()
        assert record.hash == tip, f"event {record.seq} of {record.session} has another hash"


async def wrongs(store: Store, session: str | None = None) -> list[str]:
    """Return what verify finds."""
    return [sentence async for sentence in store.verify(session)]


async def patiently(work: Awaitable[Any]) -> Any:
    """Wait, but not for ever: a store that forgets a waiter fails its test instead of hanging."""
    return await asyncio.wait_for(work, 20)


# -- the contract ------------------------------------------------------------------------------------------------------


@in_loops
class StoreContract:
    """Derive a class whose name begins with Test, and say how a fresh store is made."""

    exact_texts: ClassVar[Collection[str]] = (
        "",
        "plain",
        'a "quote", a \\ and a \\\\" and a /',
        "nul \x00 and the other controls " + "".join(map(chr, range(1, 32))) + "\x7f\x85",
        "\u2028 and \u2029 and \ufeff and \u200b",
        "four bytes: \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0002070e \U0010ffff",
        "e\u0301 is not \xe9 and \u212b is not \xc5",
        "  spaces \t tabs \r\n lines \n\n",
        '{"looks": "like JSON"} and \\u0041 and \'; DROP TABLE event; --',
        "%s {} $1 :name ?1 @at",
    )

    def make(self, tmp_path: Path) -> Store:
        """Return a fresh store, not yet opened."""
        raise NotImplementedError

    def reopen(self, tmp_path: Path) -> Store:  # noqa: ARG002  who overrides this needs it
        """Return the store that `make` made, as another process would open it. For stores that outlive themselves."""
        raise SkipTest("this store does not outlive itself")

    def restored(self, target: str) -> Store:  # noqa: ARG002  who overrides this needs it
        """Return a store made from what `backup(target)` wrote, where that is a path."""
        raise SkipTest("backups of this store are not opened from a path")

    # -- birth and append ----------------------------------------------------------------------------------------------

    async def test_a_session_is_born_with_its_first_event(self, tmp_path: Path) -> None:
        """The first event of a session makes it: seq 1, epoch 1, held by the owner that the event names."""
        async with self.make(tmp_path) as store:
            assert await store.find("alice") is None
            kept = await store.append(opening("alice"))
            assert (kept.seq, kept.epoch, kept.position, len(kept.hashes)) == (1, 1, 1, 1)
            row = await store.find("alice")
            assert row is not None
            assert row._asdict() == {
                "session": "alice",
                "head": 1,
                "tip": kept.hashes[0],
                "epoch": 1,
                "owner": "owner-1",
                "deadline": LATER,
                "erased": False,
                "parent": None,
                "base": 0,
            }

    async def test_append_answers_where_the_facts_stand(self, tmp_path: Path) -> None:
        """The answer names the seq and position of the first fact, the epoch, and a hash for each."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(opening("bob"))
            kept = await store.append(adding("alice", 1, said("one"), note("two"), note("three")))
            assert (kept.seq, kept.epoch, kept.position) == (2, 1, 3)
            records = await store.read("alice", after=1)
            assert [record.hash for record in records] == list(kept.hashes)
            assert [(record.position, record.seq) for record in records] == [(3, 2), (4, 3), (5, 4)]
            row = await store.find("alice")
            assert row is not None
            assert (row.head, row.tip) == (4, kept.hashes[-1])

    async def test_what_is_read_is_what_was_kept(self, tmp_path: Path) -> None:
        """A record carries session, epoch, time, kind and the very text, and no digest while the body is there."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            request = adding("alice", 1, said("one", key="k"), at=NOW + 5)
            await store.append(request)
            record = (await store.read("alice", after=1))[0]
            assert (record.session, record.epoch, record.at, record.kind) == ("alice", 1, NOW + 5, "input.received")
            assert (record.body, record.digest) == (request.facts[0].body, None)

    async def test_time_may_run_backwards(self, tmp_path: Path) -> None:
        """Order is the seq's business: a clock that was set back does not stop the log."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, note("later"), at=NOW + 100))
            await store.append(adding("alice", 2, note("earlier"), at=NOW - 100))
            assert [record.at for record in await store.read("alice", after=1)] == [NOW + 100, NOW - 100]

    async def test_all_or_nothing(self, tmp_path: Path) -> None:
        """When the last of many facts is refused, none of them is kept, nor the blobs that came with them."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, said("one", key="taken")))
            before = (await store.find("alice"), await store.read_all())
            content = named(b"came with it")
            with refused(errors.KeyConflict):
                await store.append(adding("alice", 2, note("a"), note("b"), said("again", key="taken"), blobs=content, hold_until=LATER + 60_000))
            assert (await store.find("alice"), await store.read_all()) == before
            assert await store.blob("alice", next(iter(content)), start=0, length=100) is None

    async def test_a_refused_birth_leaves_no_session(self, tmp_path: Path) -> None:
        """A session whose first commit is refused was never there."""
        async with self.make(tmp_path) as store:
            request = opening("alice")
            both = Append(session="alice", head=0, facts=[*request.facts, fact(said("a", "k")), fact(said("b", "k"))], salt=request.salt, epoch=1, hold_until=LATER)
            with refused(errors.KeyConflict):
                await store.append(both)
            assert await store.find("alice") is None
            assert await store.sessions() == []

    async def test_many_facts_in_one_commit(self, tmp_path: Path) -> None:
        """Hundreds of facts in one commit are numbered and chained like any others."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            kept = await store.append(adding("alice", 1, *(note(str(number)) for number in range(500))))
            assert len(kept.hashes) == len(set(kept.hashes)) == 500
            records = await store.read("alice")
            assert [record.seq for record in records] == list(range(1, 502))
            chained(records)

    async def test_exact_text_is_preserved(self, tmp_path: Path) -> None:
        """Whatever a body holds comes back to the character, and its hash is made from exactly that."""
        texts = list(self.exact_texts)
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            requests = adding("alice", 1, *(note(text) for text in texts))
            await store.append(requests)
            records = await store.read("alice", after=1)
            assert [record.body for record in records] == [one.body for one in requests.facts]
            assert [json.loads(record.body or "")["text"] for record in records] == texts
            chained(await store.read("alice"))

    async def test_a_body_keeps_its_spelling(self, tmp_path: Path) -> None:
        """The text is kept, not its meaning: spaces, order, escapes and repeated names stay as they are."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            body = '{ "why":"b", "text" : "\\u0041\\/\\u00e9\\ud83d\\ude00 1.0 1e2",  "why":"a" }'
            await store.append(Append(session="alice", head=1, facts=[Fact("note.added", NOW, body)], salt=salt_of("alice"), epoch=1))
            assert (await store.read("alice", after=1))[0].body == body
            chained(await store.read("alice"))

    async def test_very_long_bodies(self, tmp_path: Path) -> None:
        """A fact of five megabytes is kept like any other."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            request = adding("alice", 1, note("\U0001f600x" * 1_000_000))
            await store.append(request)
            record = (await store.read("alice", after=1))[0]
            assert record.body == request.facts[0].body
            assert await wrongs(store) == []

    # -- refusals ------------------------------------------------------------------------------------------------------

    async def test_a_moved_head_is_told(self, tmp_path: Path) -> None:
        """Who does not know the last event is told where it is, whether behind it or ahead of it."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, note("first")))
            for head in (0, 1, 3, 99):
                with refused(errors.HeadMoved) as caught:
                    await store.append(adding("alice", head, note("second")))
                assert (caught[0].head, caught[0].session, caught[0].retryable) == (2, "alice", True)
            assert len(await store.read("alice")) == 2

    async def test_a_stale_epoch_has_lost_the_session(self, tmp_path: Path) -> None:
        """Nothing of an old epoch is kept after a takeover, even from a writer whose head is right; nor of one to come."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW))
            await store.append(taking("alice", 1, epoch=2, at=NOW + 1))
            for epoch in (1, 0, 3, 17):
                for head in (2, 1):  # the fence is told even when the head moved, too
                    with refused(errors.OwnershipLost) as caught:
                        await store.append(adding("alice", head, note("zombie"), epoch=epoch))
                    assert (caught[0].epoch, caught[0].retryable) == (2, False)
            assert [record.kind for record in await store.read("alice")] == ["session.opened", "owner.changed"]
            await store.append(adding("alice", 2, note("owner"), epoch=2))

    async def test_facts_from_outside_take_the_current_epoch(self, tmp_path: Path) -> None:
        """A fact without an epoch is kept at whatever epoch is current, and does not renew anybody's lease."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW))
            await store.append(taking("alice", 1, epoch=2, at=NOW + 1))
            kept = await store.append(adding("alice", 2, said("from outside"), epoch=None, at=NOW + 50_000))
            assert (kept.seq, kept.epoch) == (3, 2)
            row = await store.find("alice")
            assert row is not None
            assert (row.epoch, row.owner, row.deadline) == (2, "owner-2", LATER)
            with refused(errors.HeadMoved):
                await store.append(adding("alice", 2, said("from outside"), epoch=None))

    async def test_unknown_sessions(self, tmp_path: Path) -> None:
        """What is not there is not found: no write, no read, no blob, and no cache makes it."""
        async with self.make(tmp_path) as store:
            with refused(errors.SessionNotFound) as caught:
                await store.append(adding("nobody", 0, note("a")))
            assert caught[0].session == "nobody"
            with refused(errors.SessionNotFound):
                await store.append(adding("nobody", 0, said("a"), epoch=None))
            with refused(errors.SessionNotFound):
                await store.append(taking("nobody", 0, epoch=1))
            with refused(errors.SessionNotFound):
                await store.read("nobody")
            assert await store.find("nobody") is None
            assert await store.find_key("nobody", "k") is None
            await store.keep_snapshot("nobody", 0, FOLD, "{}")
            assert await store.snapshot("nobody", FOLD) is None
            assert await store.read_all() == []
            assert await wrongs(store, "nobody") != []

    async def test_a_name_is_taken_once(self, tmp_path: Path) -> None:
        """A second birth under the same name is refused, by whoever and however; names differ by case."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            with refused(errors.SessionExists) as caught:
                await store.append(opening("alice", owner="owner-2"))
            assert caught[0].session == "alice"
            with refused(errors.SessionExists):
                await store.append(opening("alice", branch=Place("alice", 1)))
            await store.append(opening("Alice"))
            assert [row.session for row in await store.sessions()] == ["Alice", "alice"]

    async def test_a_session_is_opened_once(self, tmp_path: Path) -> None:
        """`session.opened` cannot stand further down."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            again = e.SessionOpened(nonce=nonce_of("alice"), owner="owner-2")
            with refused(errors.IllegalMove):
                await store.append(adding("alice", 1, note("a"), again))
            assert len(await store.read("alice")) == 1

    async def test_one_input_per_key(self, tmp_path: Path) -> None:
        """A key means one input for ever, whoever sends it; another session has keys of its own."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(opening("bob"))
            await store.append(adding("alice", 1, said("one", key="k-1"), said("two", key="k-2")))
            for epoch in (1, None):
                with refused(errors.KeyConflict) as caught:
                    await store.append(adding("alice", 3, said("other", key="k-2"), epoch=epoch))
                assert (caught[0].session, caught[0].key) == ("alice", "k-2")
            await store.append(adding("bob", 1, said("one", key="k-1")))
            assert await store.find_key("alice", "k-1") == 2
            assert await store.find_key("alice", "k-2") == 3
            assert await store.find_key("bob", "k-1") == 2
            assert await store.find_key("bob", "k-2") is None
            assert await store.find_key("alice", "K-1") is None
            await store.append(adding("alice", 3, said("no key"), said("nor this")))

    async def test_a_key_twice_in_one_commit(self, tmp_path: Path) -> None:
        """Two inputs of one commit cannot share a key."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            with refused(errors.KeyConflict):
                await store.append(adding("alice", 1, said("one", key="k"), said("two", key="k")))
            assert await store.find_key("alice", "k") is None

    async def test_a_second_outcome_is_refused(self, tmp_path: Path) -> None:
        """A call has one terminal event, whatever a writer believes, and whichever of the four comes second."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, said("go"), *turn_with_a_call(2), e.CallSucceeded(call="t1r1c1", output="done")))
            ends: tuple[e.Event, ...] = (
                e.CallSucceeded(call="t1r1c1", output="again"),
                e.CallFailed(call="t1r1c1", failure=e.Failure(code="x", message="y")),
                e.CallAborted(call="t1r1c1", by="me", reason="late"),
                e.CallDenied(call="t1r1c1", by="me", reason="late"),
            )
            for end in ends:
                for epoch in (1, None):
                    with refused(errors.IllegalMove):
                        await store.append(adding("alice", 7, end, epoch=epoch))
            assert len(await store.read("alice")) == 7
            assert await wrongs(store) == []

    async def test_the_second_outcome_is_named_as_such(self, tmp_path: Path) -> None:
        """A commit refused for its outcome is not blamed on the fresh key that it also carried."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, said("go"), *turn_with_a_call(2), e.CallSucceeded(call="t1r1c1")))
            with refused(errors.IllegalMove):
                await store.append(adding("alice", 7, said("fresh", key="fresh"), e.CallAborted(call="t1r1c1", by="me", reason="late")))
            assert await store.find_key("alice", "fresh") is None

    # -- ownership -----------------------------------------------------------------------------------------------------

    async def test_the_owner_renews_its_lease_with_its_facts(self, tmp_path: Path) -> None:
        """A commit of the owner moves the deadline; 0 releases it; without `hold_until` it stays."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW))
            for number, (hold, expected) in enumerate([(LATER, LATER), (None, LATER), (LATER + 60_000, LATER + 60_000), (0, 0), (LATER, LATER)], 1):
                await store.append(adding("alice", number, note("a"), hold_until=hold))
                row = await store.find("alice")
                assert row is not None
                assert row.deadline == expected

    async def test_a_living_lease_is_respected(self, tmp_path: Path) -> None:
        """Nobody takes over before the deadline has passed, not even with a reason that is not true."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            for why, previous, at in (("expired", "owner-1", LATER), ("released", "owner-1", NOW), ("dead", "owner-0", NOW), ("dead", None, NOW)):
                with refused(errors.SessionBusy) as caught:
                    await store.append(taking("alice", 1, epoch=2, why=why, previous=previous, at=at))  # type: ignore[arg-type]  # a tuple's text
                assert (caught[0].owner, caught[0].deadline, caught[0].session) == ("owner-1", LATER, "alice")
            row = await store.find("alice")
            assert row is not None
            assert (row.epoch, row.owner, row.head) == (1, "owner-1", 1)

    async def test_an_expired_lease_is_taken(self, tmp_path: Path) -> None:
        """After the deadline anybody may take the session, at the next epoch and no other."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            for epoch in (1, 3):
                with refused(errors.OwnershipLost):
                    await store.append(taking("alice", 1, epoch=epoch, at=LATER + 1))
            kept = await store.append(taking("alice", 1, epoch=2, at=LATER + 1, hold_until=LATER + 99_000))
            assert (kept.seq, kept.epoch) == (2, 2)
            row = await store.find("alice")
            assert row is not None
            assert (row.epoch, row.owner, row.deadline) == (2, "owner-2", LATER + 99_000)
            assert [record.epoch for record in await store.read("alice")] == [1, 2]

    async def test_a_released_session_is_taken(self, tmp_path: Path) -> None:
        """A release takes effect at once; only the current epoch can release."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.release("alice", 0)
            await store.release("alice", 2)
            with refused(errors.SessionBusy):
                await store.append(taking("alice", 1, epoch=2))
            await store.release("alice", 1)
            await store.append(taking("alice", 1, epoch=2, why="released"))
            await store.release("alice", 1)  # too late to matter
            row = await store.find("alice")
            assert row is not None
            assert (row.epoch, row.deadline) == (2, LATER)

    async def test_a_dead_owner_is_followed(self, tmp_path: Path) -> None:
        """An owner that is named, and named as dead, is followed at once."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(taking("alice", 1, epoch=2, why="dead", previous="owner-1"))
            row = await store.find("alice")
            assert row is not None
            assert (row.epoch, row.owner) == (2, "owner-2")

    async def test_one_of_many_takers_wins(self, tmp_path: Path) -> None:
        """When many want the session at the same moment, one gets it; epochs go up by one."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW - 1))
            answers = await patiently(asyncio.gather(*(store.append(taking("alice", 1, epoch=2)) for _ in range(10)), return_exceptions=True))
            assert sum(isinstance(answer, Kept) for answer in answers) == 1
            assert all(isinstance(answer, Kept | errors.OwnershipLost | errors.HeadMoved | errors.SessionBusy) for answer in answers)
            assert [record.epoch for record in await store.read("alice")] == [1, 2]

    async def test_a_lease_is_renewed_by_itself(self, tmp_path: Path) -> None:
        """A renewal moves the deadline forward, never back, and only at the current epoch; True means that it is still held."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW))
            assert await store.renew("alice", 1, LATER)
            assert await store.renew("alice", 1, NOW)
            assert not await store.renew("alice", 2, LATER + 1)
            assert not await store.renew("nobody", 1, LATER)
            row = await store.find("alice")
            assert row is not None
            assert row.deadline == LATER
            with refused(errors.SessionBusy):
                await store.append(taking("alice", 1, epoch=2, at=LATER))
            await store.append(taking("alice", 1, epoch=2, at=LATER + 1, hold_until=LATER + 30_000))
            assert not await store.renew("alice", 1, LATER + 99_000)
            row = await store.find("alice")
            assert row is not None
            assert (row.owner, row.deadline) == ("owner-2", LATER + 30_000)

    async def test_a_short_lease_is_a_lease(self, tmp_path: Path) -> None:
        """Who takes a session holds it for as long as asked, be it half a second: nobody else takes it meanwhile."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW + 500))
            await store.append(taking("alice", 1, epoch=2, at=NOW + 501, hold_until=NOW + 1_001))
            with refused(errors.SessionBusy):
                await store.append(taking("alice", 2, epoch=3, at=NOW + 502, previous="owner-2"))
            row = await store.find("alice")
            assert row is not None
            assert (row.epoch, row.deadline) == (2, NOW + 1_001)

    async def test_what_is_held_is_not_lost(self, tmp_path: Path) -> None:
        """A lease that nobody else took is never found lost, held or not."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            assert not store.lost("alice", 1)
            await store.hold("alice", 1, "owner-1")
            assert not store.lost("alice", 1)
            await store.release("alice", 1)
            assert not store.lost("alice", 1)
            assert store.lease_ms > 0

    # -- forks ---------------------------------------------------------------------------------------------------------

    async def _family(self, store: Store) -> None:
        """Make a grandparent of 5 events, a parent that branched at 3 and has 5, a child that branched at 4 and has 6."""
        await store.append(opening("grand", blobs=named(b"of grand")))
        await store.append(adding("grand", 1, said("g2", key="g"), note("g3"), note("g4"), note("g5")))
        await store.append(opening("parent", branch=Place("grand", 3), blobs=named(b"of parent")))
        await store.append(adding("parent", 4, said("p5", key="p")))
        await store.append(opening("child", branch=Place("parent", 4), blobs=named(b"of child")))
        await store.append(adding("child", 5, note("c6")))

    async def test_a_fork_reads_its_ancestors_up_to_its_place(self, tmp_path: Path) -> None:
        """A fork's log is its ancestors' up to where it left them and then its own, numbered as one."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            whole = await store.read("child")
            assert [(record.session, record.seq) for record in whole] == [("grand", 1), ("grand", 2), ("grand", 3), ("parent", 4), ("child", 5), ("child", 6)]
            assert [(record.session, record.seq) for record in await store.read("parent", after=2)] == [("grand", 3), ("parent", 4), ("parent", 5)]
            assert await store.read("child", after=2, upto=5) == whole[2:5]
            assert await store.read("child", upto=2) == whole[:2]
            assert await store.read("child", after=1, limit=3) == whole[1:4]
            assert await store.read("child", kinds={"session.opened"}) == [whole[0], whole[3], whole[4]]
            row = await store.find("child")
            assert row is not None
            assert (row.parent, row.base, row.head, row.epoch, row.owner) == ("parent", 4, 6, 1, "owner-1")

    async def test_a_fork_is_one_chain_with_its_parent(self, tmp_path: Path) -> None:
        """The first hash of a fork covers the event that it left its parent at."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            for session in ("grand", "parent", "child"):
                chained(await store.read(session))
            assert await wrongs(store) == []

    # -- adopting ------------------------------------------------------------------------------------------------------

    async def _moved(self, tmp_path: Path) -> list[Record | Blob]:
        """Return a session of another store: nine events, a change of owner, a blob."""
        (tmp_path / "there").mkdir()
        async with self.make(tmp_path / "there") as store:
            await store.append(opening("alice", blobs=named(b"large")))
            await store.append(adding("alice", 1, said("one", key="k"), *turn_with_a_call(2), e.CallSucceeded(call="t1r1c1"), hold_until=0))
            await store.append(taking("alice", 7, epoch=2, why="released"))
            await store.append(adding("alice", 8, note("on"), epoch=2))
            records = await store.read("alice")
            return [records[0], Blob(sha256(b"large").hexdigest(), b"large"), *records[1:]]

    async def test_events_of_another_store_are_adopted(self, tmp_path: Path) -> None:
        """Same bytes, hashes, epochs, keys and blobs; new facts stand behind them; nobody holds the session; it goes on."""
        arrived = await self._moved(tmp_path)
        async with self.make(tmp_path) as store:
            await store.append(opening("bystander"))
            await store.adopt([Adoption(session="alice", head=0, tip=b"", salt=salt_of("alice"), arrivals=lambda: arrived, facts=[fact(note("arrived"))])], NOW)
            records = await store.read("alice")
            chained(records)
            assert [record._replace(position=0) for record in records[:-1]] == [one._replace(position=0) for one in arrived if isinstance(one, Record)]
            assert [record.position for record in records] == list(range(2, 12))
            row = await store.find("alice")
            assert row is not None
            assert (row.head, row.tip, row.epoch, row.owner, row.deadline) == (10, records[-1].hash, 2, "owner-2", 0)
            assert (await store.find_key("alice", "k"), await store.blob("alice", sha256(b"large").hexdigest())) == (2, b"large")
            assert await wrongs(store) == []
            assert (await store.append(taking("alice", 10, epoch=3, why="released", previous="owner-2"))).epoch == 3

    async def test_what_does_not_fit_is_not_adopted(self, tmp_path: Path) -> None:
        """One wrong byte, a gap, another order, a body that is gone: nothing of any session of the request is kept."""
        arrived = await self._moved(tmp_path)
        records = [one for one in arrived if isinstance(one, Record)]
        broken: dict[str, list[Record | Blob]] = {
            "a time": [*records[:4], records[4]._replace(at=1), *records[5:]],
            "a body": [*records[:8], records[8]._replace(body='{"text":"off","why":"test"}')],
            "a gap": [*records[:4], *records[5:]],
            "an order": [*records[:4], records[5], records[4], *records[6:]],
            "an erased body": [*records[:8], records[8]._replace(body=None)],
            "another session": [*records[:8], records[8]._replace(session="bob")],
        }
        async with self.make(tmp_path) as store:
            await store.append(opening("bystander"))
            before = (await store.sessions(), await store.read_all())
            fine = Adoption(session="alice", head=0, tip=b"", salt=salt_of("alice"), arrivals=lambda: records[:2])
            for arrivals in broken.values():
                bad = Adoption(session="alice", head=2, tip=records[1].hash, salt=salt_of("alice"), known=True, arrivals=lambda arrivals=arrivals: arrivals[2:])  # type: ignore[misc]
                with refused(errors.ImportRefused):
                    await store.adopt([fine, bad], NOW)
                assert (await store.sessions(), await store.read_all()) == before
            with refused(errors.SessionExists):
                await store.adopt([fine, fine], NOW)
            assert (await store.sessions(), await store.read_all()) == before

    async def test_an_adoption_goes_on_behind_what_is_there(self, tmp_path: Path) -> None:
        """Only behind the very head it was made for, and not while somebody living holds the session."""
        records = [one for one in await self._moved(tmp_path) if isinstance(one, Record)]
        more = Adoption(session="alice", head=2, tip=records[1].hash, salt=salt_of("alice"), known=True, arrivals=lambda: records[2:])
        async with self.make(tmp_path) as store:
            with refused(errors.SessionNotFound):
                await store.adopt([more], NOW)
            await store.adopt([Adoption(session="alice", head=0, tip=b"", salt=salt_of("alice"), arrivals=lambda: records[:2])], NOW)
            assert await store.renew("alice", 1, LATER)
            with refused(errors.SessionBusy):
                await store.adopt([more], NOW)
            await store.release("alice", 1)
            await store.adopt([more], NOW)
            assert len(await store.read("alice")) == 9
            with refused(errors.HeadMoved):
                await store.adopt([more], NOW)
            assert await wrongs(store) == []

    async def test_a_fork_leaves_its_parent_alone(self, tmp_path: Path) -> None:
        """Parent and fork go on, each by itself."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            await store.append(adding("grand", 5, note("g6")))
            await store.append(adding("parent", 5, note("p6")))
            assert [record.session for record in await store.read("child")] == ["grand", "grand", "grand", "parent", "child", "child"]
            assert [record.seq for record in await store.read("grand")] == [1, 2, 3, 4, 5, 6]

    async def test_a_fork_has_keys_of_its_own(self, tmp_path: Path) -> None:
        """A key that was used in a parent is free in its fork, and is not found there."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            assert await store.find_key("child", "g") is None
            await store.append(adding("child", 6, said("again", key="g")))
            assert await store.find_key("child", "g") == 7
            assert await store.find_key("grand", "g") == 2

    async def test_a_fork_has_calls_of_its_own(self, tmp_path: Path) -> None:
        """An outcome in a parent does not settle the same name in its fork."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, said("go"), *turn_with_a_call(2)))
            await store.append(opening("fork", branch=Place("alice", 2)))
            await store.append(adding("fork", 3, said("again"), *turn_with_a_call(4), e.CallAborted(call="t1r1c1", by="me", reason="no")))
            await store.append(adding("alice", 6, e.CallSucceeded(call="t1r1c1")))
            assert await wrongs(store) == []

    async def test_blobs_of_ancestors_are_readable(self, tmp_path: Path) -> None:
        """A fork reads the blobs that the events it shares name; an ancestor does not read those of its forks, nor a stranger any."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            await store.append(opening("stranger"))
            of = {name: sha256(f"of {name}".encode()).hexdigest() for name in ("grand", "parent", "child")}
            readable = {"child": {"grand", "parent", "child"}, "parent": {"grand", "parent"}, "grand": {"grand"}, "stranger": set()}
            for session, names in readable.items():
                for name, digest in of.items():
                    expected = f"of {name}".encode() if name in names else None
                    assert await store.blob(session, digest, start=0, length=100) == expected, f"{session} reads the blob of {name}"
            late = named(b"later than the fork")
            await store.append(adding("grand", 5, note(next(iter(late))), blobs=late))
            assert await store.blob("grand", next(iter(late))) == b"later than the fork"
            assert await store.blob("parent", next(iter(late))) is None, "what an ancestor got later is none of its forks' business"

    async def test_a_fork_needs_a_place(self, tmp_path: Path) -> None:
        """There is no fork of what is not there, and none beyond the head."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            for place in (Place("nobody", 1), Place("grand", 6), Place("grand", 0), Place("parent", 3)):
                with refused(errors.SessionNotFound):
                    await store.append(opening("lost", branch=place))
            assert await store.find("lost") is None

    async def test_what_forks_share_is_not_erased(self, tmp_path: Path) -> None:
        """A session with forks cannot be erased while they live; from the leaves up it can."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            for session, head in (("grand", 5), ("parent", 5)):
                with refused(errors.HasForks) as caught:
                    await store.append(erasing(session, head))
                assert caught[0].session == session
            assert all(record.body is not None for record in await store.read_all())
            for session, head in (("child", 6), ("parent", 5), ("grand", 5)):
                await store.append(erasing(session, head))
            assert await wrongs(store) == []

    async def test_an_erased_session_is_not_forked(self, tmp_path: Path) -> None:
        """Nothing begins behind events whose contents are gone: such a log could never be folded."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, note("a")))
            await store.append(erasing("alice", 2))
            with refused(errors.SessionErased):
                await store.append(opening("fork", branch=Place("alice", 2)))
            assert await store.find("fork") is None

    # -- reading -------------------------------------------------------------------------------------------------------

    async def test_read_takes_a_window(self, tmp_path: Path) -> None:
        """`after` is not part of it, `upto` is; `limit` and `kinds` narrow it; the order is the log's."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, *(said("a") if number % 3 else note("b") for number in range(20))))
            whole = await store.read("alice")
            assert [record.seq for record in whole] == list(range(1, 22))
            for after in (0, 1, 7, 20, 21, 99):
                for upto in (None, 0, 1, 8, 21, 99):
                    for limit in (None, 0, 1, 5, 99):
                        for kinds in (None, {"note.added"}, ["note.added", "session.opened"], ()):
                            expected = [one for one in whole if one.seq > after and (upto is None or one.seq <= upto) and (kinds is None or one.kind in kinds)]
                            assert await store.read("alice", after=after, upto=upto, limit=limit, kinds=kinds) == expected[:limit]

    async def test_a_long_log_is_read_whole(self, tmp_path: Path) -> None:
        """Thousands of events, partly an ancestor's, come once each and in order, also by kind and up to a limit."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, *(note(str(number)) for number in range(2_500))))
            await store.append(opening("fork", branch=Place("alice", 2_100)))
            await store.append(adding("fork", 2_101, *(said("a") if number % 2 else note("b") for number in range(2_500))))
            whole = await store.read("fork")
            assert [record.seq for record in whole] == list(range(1, 4_602))
            assert await store.read("fork", after=1_999, limit=2_000) == whole[1_999:3_999]
            for limit in (1_999, 2_000, 2_001, 4_000, 4_001, 4_601, 5_000):
                assert await store.read("fork", limit=limit) == whole[:limit]
            assert await store.read("fork", kinds={"note.added"}, after=50) == [one for one in whole if one.kind == "note.added" and one.seq > 50]
            assert await store.read("fork", kinds={"note.added"}, limit=3_000) == [one for one in whole if one.kind == "note.added"][:3_000]

    async def test_a_reader_of_everything_misses_nothing(self, tmp_path: Path) -> None:
        """Over all sessions positions have no gaps; a cursor at any page size sees each event once, in the order of commits."""
        async with self.make(tmp_path) as store:
            heads = {f"s{number}": 1 for number in range(5)}
            for session in heads:
                await store.append(opening(session))
            for number in range(60):
                session = f"s{number * 7 % 5}"
                await store.append(adding(session, heads[session], *(note(f"{number}") for _ in range(1 + number % 3))))
                heads[session] += 1 + number % 3
            whole = await store.read_all()
            assert [record.position for record in whole] == list(range(1, 5 + 60 * 2 + 1))
            for session in heads:
                assert [record for record in whole if record.session == session] == await store.read(session)
            for size in (1, 7, 124, 125, 126):
                seen: list[Record] = []
                while page := await store.read_all(after=seen[-1].position if seen else 0, limit=size):
                    assert len(page) <= size
                    assert page[0].position == len(seen) + 1
                    seen += page
                assert seen == whole

    async def test_a_reader_follows_the_writers(self, tmp_path: Path) -> None:
        """A cursor that polls while many write sees each kept event once and in order."""
        async with self.make(tmp_path) as store:
            done = asyncio.Event()

            async def write(session: str) -> None:
                await store.append(opening(session))
                for head in range(1, 21):
                    await store.append(adding(session, head, note("a")))

            async def follow() -> list[Record]:
                seen: list[Record] = []
                while True:
                    over = done.is_set()
                    page = await store.read_all(after=seen[-1].position if seen else 0, limit=9)
                    assert not page or page[0].position == len(seen) + 1
                    seen += page
                    if over and not page:
                        return seen
                    await asyncio.sleep(0)

            following = asyncio.create_task(follow())
            await patiently(asyncio.gather(*(write(f"s{number}") for number in range(8))))
            done.set()
            seen = await patiently(following)
            assert [record.position for record in seen] == list(range(1, 8 * 21 + 1))

    async def test_sessions_are_listed_in_pages(self, tmp_path: Path) -> None:
        """Sessions come by id, in pages that begin behind a cursor."""
        names = sorted([*(f"s{number:02}" for number in range(25)), "A", "a", "\xe9", "z z", "\U0001f600", "s1/2"])
        async with self.make(tmp_path) as store:
            for name in reversed(names):
                await store.append(opening(name))
            assert [row.session for row in await store.sessions()] == names
            for size in (1, 10, 31):
                seen: list[str] = []
                while page := await store.sessions(after=seen[-1] if seen else "", limit=size):
                    assert page[0].session not in seen
                    seen += [row.session for row in page]
                assert seen == names
            assert [await store.find(name) for name in names] == await store.sessions()

    async def test_what_is_unfinished_is_listed(self, tmp_path: Path) -> None:
        """An open turn and an input that nobody took are; what is at rest may be left out, and nothing else."""
        ended = (*turn_with_a_call(2), e.CallSucceeded(call="t1r1c1"), e.TurnEnded(turn=1))
        left = {
            "a call": (said("a"), *turn_with_a_call(2)),
            "an input": (said("a"),),
            "an input behind a turn": (said("a"), *ended, said("b")),
            "an input that a turn passed by": (said("a"), *turn_with_a_call(2), said("b"), e.CallSucceeded(call="t1r1c1"), e.TurnEnded(turn=1)),
        }
        rests = {"nothing said": (), "an end": (said("a"), *ended)}
        async with self.make(tmp_path) as store:
            for name, facts in (left | rests).items():
                await store.append(opening(name))
                if facts:
                    await store.append(adding(name, 1, *facts))
            found = await store.sessions(unfinished=True)
            assert [row.session for row in found if row.session not in rests] == sorted(left)
            assert [row for row in await store.sessions() if row in found] == found
            seen: list[str] = []
            while page := await store.sessions(after=seen[-1] if seen else "", limit=1, unfinished=True):
                seen += [row.session for row in page]
            assert seen == [row.session for row in found]

    # -- blobs ---------------------------------------------------------------------------------------------------------

    async def test_blobs_come_back(self, tmp_path: Path) -> None:
        """A blob is read whole, or any part of it; what is unknown is None; the same content is kept once, for ever."""
        content = bytes(range(256)) * 40
        digest = sha256(content).hexdigest()
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", blobs=named(content) | named(b"")))
            assert await store.blob("alice", digest) == content
            for start, length in (
                (0, 10),
                (5, None),
                (100, 300),
                (10_239, 5),
                (10_240, 1),
                (99_999, 1),
                (99_999, None),
                (0, 0),
                (0, 99_999),
                (2**32, 5),
                (10, 2**32 - 5),
                (0, 2**31),
            ):
                end = None if length is None else start + length
                assert await store.blob("alice", digest, start=start, length=length) == content[start:end], f"{length} bytes from {start}"
            assert await store.blob("alice", sha256(b"").hexdigest()) == b""
            assert await store.blob("alice", sha256(b"").hexdigest(), start=0, length=5) == b""
            assert await store.blob("alice", sha256(b"unknown").hexdigest()) is None
            await store.append(adding("alice", 1, note("again"), blobs=named(content)))
            assert await store.blob("alice", digest) == content

    async def test_a_blob_is_what_its_name_says(self, tmp_path: Path) -> None:
        """Content under a wrong name is refused, and the facts that came with it."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            for digest in (sha256(b"other").hexdigest(), sha256(b"content").hexdigest()[:-2]):
                with refused(errors.InvalidInput):
                    await store.append(adding("alice", 1, note("a"), blobs={digest: b"content"}))
            assert len(await store.read("alice")) == 1

    async def test_a_blob_needs_a_name(self, tmp_path: Path) -> None:
        """What is no hash at all is refused like a wrong one: to the one who sent it, and to nobody else."""
        async with self.make(tmp_path) as store:
            for name in ("alice", "bob", "carol"):
                await store.append(opening(name))
            requests = [adding("alice", 1, note("a")), adding("bob", 1, note("a"), blobs={"not a hash": b"content"}), adding("carol", 1, note("a"))]
            answers = await patiently(asyncio.gather(*map(store.append, requests), return_exceptions=True))
            gc.collect()  # a task that died of it complains now, not while the failure is being reported
            assert isinstance(answers[1], errors.InvalidInput), f"{answers[1]!r}"
            assert isinstance(answers[0], Kept), f"{answers[0]!r}"
            assert isinstance(answers[2], Kept), f"{answers[2]!r}"

    # -- erasure -------------------------------------------------------------------------------------------------------

    async def test_erasure_leaves_the_chain(self, tmp_path: Path) -> None:
        """Bodies, keys and blobs are gone, digests and hashes stay, the chain verifies, and nothing can follow."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", blobs=named(b"secret")))
            await store.append(opening("bob", blobs=named(b"secret")))
            await store.append(adding("alice", 1, said("secret", key="k"), note("secret")))
            await store.append(adding("bob", 1, said("other", key="k")))
            await store.keep_snapshot("alice", 3, FOLD, "secret")
            before, others = await store.read("alice"), await store.read("bob")
            kept = await store.append(erasing("alice", 3))
            assert (kept.seq, kept.epoch) == (4, 1)
            after = await store.read("alice")
            assert [record.kind for record in after] == ["session.opened", "input.received", "note.added", "session.erased"]
            for old, new in zip(before, after, strict=False):
                salt = sha256(salt_of("alice") + old.seq.to_bytes(8, "big")).digest()[:16]
                assert new == old._replace(body=None, digest=sha256(salt + (old.body or "").encode()).digest())
            assert after[3].body is not None
            assert after[3].hash == kept.hashes[0]
            assert await store.find_key("alice", "k") is None
            assert await store.blob("alice", sha256(b"secret").hexdigest(), start=0, length=10) is None
            assert await store.snapshot("alice", FOLD) is None
            row = await store.find("alice")
            assert row is not None
            assert (row.erased, row.head, row.tip) == (True, 4, kept.hashes[0])
            assert await store.read("bob") == others
            assert await store.find_key("bob", "k") == 2
            assert await store.blob("bob", sha256(b"secret").hexdigest(), start=0, length=10) == b"secret"
            assert await wrongs(store) == []

    async def test_nothing_follows_an_erasure(self, tmp_path: Path) -> None:
        """An erased session takes no fact, no owner, no blob, no cache, no second erasure, and its name stays taken."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW))
            await store.append(erasing("alice", 1))
            late = [adding("alice", 2, said("a", key="k")), adding("alice", 2, said("a"), epoch=None), taking("alice", 2, epoch=2, at=LATER)]
            for request in late:
                with refused(errors.SessionErased) as caught:
                    await store.append(request)
                assert caught[0].session == "alice"
            with refused(errors.SessionErased):
                await store.append(erasing("alice", 2))
            with refused(errors.SessionExists):
                await store.append(opening("alice"))
            await store.keep_snapshot("alice", 2, FOLD, "{}")
            assert await store.snapshot("alice", FOLD) is None
            assert len(await store.read("alice")) == 2

    async def test_a_refused_erasure_erases_nothing(self, tmp_path: Path) -> None:
        """Who has lost the session, or does not know its head, erases nothing."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice", hold_until=NOW, blobs=named(b"content")))
            await store.append(taking("alice", 1, epoch=2, at=NOW + 1))
            with refused(errors.OwnershipLost):
                await store.append(erasing("alice", 2))
            with refused(errors.HeadMoved):
                await store.append(adding("alice", 1, e.SessionErased(reason="by law"), epoch=2))
            assert all(record.body is not None for record in await store.read("alice"))
            assert await store.blob("alice", sha256(b"content").hexdigest(), start=0, length=10) == b"content"

    # -- the cache -----------------------------------------------------------------------------------------------------

    async def test_a_snapshot_is_a_cache(self, tmp_path: Path) -> None:
        """The last text that was cached comes back to the version of the fold that made it, and to no other."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, note("a"), note("b")))
            assert await store.snapshot("alice", FOLD) is None
            await store.keep_snapshot("alice", 2, FOLD, 'a "state" \u2028 \U0001f600')
            assert await store.snapshot("alice", FOLD) == (2, 'a "state" \u2028 \U0001f600')
            assert await store.snapshot("alice", FOLD + 1) is None
            assert await store.snapshot("alice", FOLD - 1) is None
            await store.keep_snapshot("alice", 3, FOLD, "newer")
            assert await store.snapshot("alice", FOLD) == (3, "newer")
            assert await wrongs(store) == []

    async def test_a_snapshot_is_never_ahead_of_the_log(self, tmp_path: Path) -> None:
        """A state of events that are not kept is not cached."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.keep_snapshot("alice", 2, FOLD, "from the future")
            assert await store.snapshot("alice", FOLD) is None
            await store.keep_snapshot("alice", 1, FOLD, "now")
            await store.keep_snapshot("alice", 2, FOLD, "from the future")
            assert await store.snapshot("alice", FOLD) in {(1, "now"), None}

    # -- many at once --------------------------------------------------------------------------------------------------

    async def test_many_sessions_append_at_once(self, tmp_path: Path) -> None:
        """64 sessions write at the same time: everything is kept, positions have no gap, each session has its own order."""

        async def live(store: Store, session: str) -> list[Kept]:
            kept = [await store.append(opening(session))]
            for head in range(1, 11):
                kept.append(await store.append(adding(session, head, note(f"{session} {head}"))))  # noqa: PERF401  one after another
            return kept

        async with self.make(tmp_path) as store:
            names = [f"s{number:02}" for number in range(64)]
            answers = await patiently(asyncio.gather(*(live(store, name) for name in names)))
            whole: list[Record] = []
            while page := await store.read_all(after=len(whole), limit=500):
                assert page[0].position == len(whole) + 1
                whole += page
            assert [record.position for record in whole] == list(range(1, 64 * 11 + 1))
            for name, kept in zip(names, answers, strict=True):
                records = [record for record in whole if record.session == name]
                assert [(record.seq, record.position, record.hash) for record in records] == [(one.seq, one.position, one.hashes[0]) for one in kept]
                chained(records)
            assert await wrongs(store) == []

    async def test_many_want_the_same_place(self, tmp_path: Path) -> None:
        """Of many facts for the same place one is kept; the others are told that the head moved."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            answers = await patiently(asyncio.gather(*(store.append(adding("alice", 1, note(str(number)))) for number in range(20)), return_exceptions=True))
            assert sum(isinstance(answer, Kept) for answer in answers) == 1
            assert sum(isinstance(answer, errors.HeadMoved) for answer in answers) == 19
            assert len(await store.read("alice")) == 2

    async def test_a_refused_session_does_not_touch_the_others(self, tmp_path: Path) -> None:
        """Of requests made at the same moment each is judged alone: refused ones leave no trace and hold nobody back."""
        async with self.make(tmp_path) as store:
            for number in range(12):
                await store.append(opening(f"s{number}", hold_until=NOW))
                await store.append(adding(f"s{number}", 1, said("go", key="k"), *turn_with_a_call(2), e.CallSucceeded(call="t1r1c1")))
            bad = {
                1: (adding("s1", 1, note("a")), errors.HeadMoved),
                3: (adding("s3", 7, note("a"), note("b"), said("a", key="k")), errors.KeyConflict),
                4: (adding("s4", 7, note("a"), e.CallAborted(call="t1r1c1", by="x", reason="y")), errors.IllegalMove),
                6: (adding("s6", 7, note("a"), epoch=9), errors.OwnershipLost),
                7: (adding("unknown", 7, note("a")), errors.SessionNotFound),
                8: (opening("s8"), errors.SessionExists),
                10: (adding("s10", 7, note("a"), blobs={sha256(b"a").hexdigest(): b"b"}), errors.InvalidInput),
            }
            requests = [bad[number][0] if number in bad else adding(f"s{number}", 7, note("kept"), said("b", key="new")) for number in range(12)]
            answers = await patiently(asyncio.gather(*map(store.append, requests), return_exceptions=True))
            for number, answer in enumerate(answers):
                expected = bad[number][1] if number in bad else Kept
                assert type(answer) is expected, f"{number}: {answer!r}"
                assert len(await store.read(f"s{number}")) == (7 if number in bad else 9)
            positions = [record.position for record in await store.read_all()]
            assert all(late == early + 1 for early, late in pairwise(positions))
            assert await wrongs(store) == []

    # -- backup, verify, the end ---------------------------------------------------------------------------------------

    async def test_a_backup_is_the_same_store(self, tmp_path: Path) -> None:
        """What a backup wrote opens as a store that holds the same, and is sound."""
        target = str(tmp_path / "copy")
        async with self.make(tmp_path) as store:
            await self._family(store)
            await store.append(opening("gone", blobs=named(b"gone")))
            await store.append(erasing("gone", 1))
            expected = (await store.read_all(), await store.sessions(), await store.read("child"))
            await store.backup(target)
            await store.append(adding("child", 6, note("after the backup")))
        async with self.restored(target) as copy:
            assert (await copy.read_all(), await copy.sessions(), await copy.read("child")) == expected
            assert await copy.blob("child", sha256(b"of grand").hexdigest(), start=0, length=10) == b"of grand"
            assert await copy.find_key("grand", "g") == 2
            assert await wrongs(copy) == []
            await copy.append(adding("child", 6, note("goes on")))

    async def test_verify_finds_nothing_in_a_sound_log(self, tmp_path: Path) -> None:
        """A log of every turn of fate (calls, forks, takeovers, erasures) is found right, whole and session by session."""
        async with self.make(tmp_path) as store:
            assert await wrongs(store) == []
            await self._family(store)
            await store.append(opening("alice", hold_until=NOW))
            await store.append(adding("alice", 1, said("go"), *turn_with_a_call(2)))
            await store.append(taking("alice", 6, epoch=2, at=NOW + 1))
            await store.append(adding("alice", 7, e.CallDoubted(call="t1r1c1", attempt=1, reason="gone"), epoch=2))
            await store.append(opening("gone"))
            await store.append(erasing("gone", 1))
            assert await wrongs(store) == []
            for row in await store.sessions():
                assert await wrongs(store, row.session) == []

    async def test_verify_folds(self, tmp_path: Path) -> None:
        """What the store cannot refuse by itself, a fact that does not follow, verify finds."""
        async with self.make(tmp_path) as store:
            await store.append(opening("alice"))
            await store.append(adding("alice", 1, e.TurnEnded(turn=1)))
            found = await wrongs(store, "alice")
            assert len(found) == 1
            assert "event 2" in found[0]

    async def test_what_was_kept_outlives_the_store(self, tmp_path: Path) -> None:
        """Closed and opened again, a store holds the same and goes on from there, fences and keys included."""
        async with self.make(tmp_path) as store:
            await self._family(store)
            await store.keep_snapshot("child", 6, FOLD, "cached")
            expected = (await store.read_all(), await store.sessions())
        async with self.reopen(tmp_path) as store:
            assert (await store.read_all(), await store.sessions()) == expected
            assert await store.snapshot("child", FOLD) in {(6, "cached"), None}
            with refused(errors.KeyConflict):
                await store.append(adding("grand", 5, said("again", key="g")))
            with refused(errors.OwnershipLost):
                await store.append(adding("grand", 5, note("a"), epoch=2))
            kept = await store.append(adding("grand", 5, note("a")))
            assert kept.position == len(expected[0]) + 1
            assert await wrongs(store) == []

    async def test_closing_keeps_what_waits(self, tmp_path: Path) -> None:
        """Closing lets requests that were made before it be kept; nobody waits for ever."""
        store = self.make(tmp_path)
        async with store:
            await store.append(opening("alice"))
            waiting = [asyncio.ensure_future(store.append(opening(f"s{number}"))) for number in range(5)]
            await asyncio.sleep(0)
        answers = await patiently(asyncio.gather(*waiting, return_exceptions=True))
        assert all(isinstance(answer, Kept | errors.StoreClosed) for answer in answers), answers
        async with self.reopen(tmp_path) as store:
            there = {row.session for row in await store.sessions()}
        assert there == {"alice"} | {f"s{number}" for number, answer in enumerate(answers) if isinstance(answer, Kept)}

    async def test_closed_is_closed(self, tmp_path: Path) -> None:
        """Before and after its `async with` a store answers StoreClosed; closing twice is no error."""
        store = self.make(tmp_path)
        for _ in range(2):
            uses: list[Callable[[], Awaitable[Any]]] = [
                lambda: store.append(opening("alice")),
                lambda: store.append(erasing("alice", 1)),
                lambda: store.read("alice"),
                store.read_all,
                lambda: store.find("alice"),
                store.sessions,
                lambda: store.find_key("alice", "k"),
                lambda: store.blob("alice", "00" * 32),
                lambda: store.release("alice", 1),
                lambda: store.renew("alice", 1, LATER),
                lambda: store.hold("alice", 1, "owner-1"),
                lambda: store.snapshot("alice", FOLD),
                lambda: store.keep_snapshot("alice", 1, FOLD, ""),
                lambda: store.backup(str(tmp_path / "never")),
                lambda: wrongs(store),
            ]
            for use in uses:
                with refused(errors.StoreClosed):
                    await use()
            await store.__aexit__(None, None, None)
            async with store:
                await store.append(opening(f"s{len(await store.sessions())}"))
            await store.__aexit__(None, None, None)
        assert not (tmp_path / "never").exists()

    async def test_an_error_inside_passes_through(self, tmp_path: Path) -> None:
        """A store closes behind an error and does not swallow it."""
        store = self.make(tmp_path)
        with refused(KeyError):
            async with store:
                await store.append(opening("alice"))
                raise KeyError
        with refused(errors.StoreClosed):
            await store.read_all()
