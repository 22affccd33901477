"""Sink and SQLite store against a plain list: whatever is done in whatever order, the log is the list.

Hypothesis chooses what happens: facts, stale owners, outsiders, takeovers, forks, crashes, snapshots, erasures. A crash is what
kill -9 leaves: the file and its write-ahead log, copied as they lie there at that moment, and opened under another path.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from power_agent import Call, Sink, SQLiteStore, Text, errors, fold
from power_agent import events as e
from power_agent.chance import CountedChance
from power_agent.clock import HeldClock
from power_agent.hooks import Hooks
from power_agent.sink import opened
from power_agent.store.verify import check_chain

NAMES = st.sampled_from(["a", "b", "c", "d"])
OWNERS = st.sampled_from([0, 1])
CHOICE = st.integers(0, 2**20).map(lambda number: number * 2_654_435_761 >> 9)  # spread: small numbers must not all choose the first


class Line(NamedTuple):
    """One line of the list that the log is compared with."""

    session: str
    seq: int
    epoch: int
    at: int
    kind: str
    body: str | None


@dataclass
class Row:
    """What the list knows of a session."""

    owner: str
    deadline: int
    head: int = 1
    epoch: int = 1
    parent: str | None = None
    base: int = 0
    erased: bool = False


def said(text, key=None):
    return e.InputReceived(parts=(Text(text),), key=key)


def legal(state, choice):
    """Return one or more facts that may follow."""
    text = f"{state.seq} {choice} \u2028 \U0001f600"
    options = [[e.NoteAdded(text=text, why="test")], [said(text)], [said(text), e.NoteAdded(text=text, why="test")]]
    if state.place == "idle":
        options.append([e.SessionConfigured(config=e.Config(model=f"m{choice}"))])
        if state.inputs:
            options += 5 * [[e.TurnStarted(turn=state.turns + 1, inputs=tuple(item.seq for item in state.inputs))]]
        elif choice % 11 == 0:
            return [e.SessionClosed(reason=text)]
    elif state.place == "ready":
        turn = state.turn
        number, attempt = (turn.round + 1, 1) if turn.answered else (turn.round, turn.attempt + 1)
        if state.cancel is None:
            options += 3 * [[e.ModelAsked(turn=turn.number, round=number, attempt=attempt, model="m", reserved_tokens=choice)]]
            options.append([e.CancelAsked(reason=text)])
        options.append([e.TurnEnded(turn=turn.number, status="cancelled")])
    elif state.place == "asking":
        request = state.request
        names = [f"t{state.turn.number}r{request.round}c{number}" for number in range(1, 1 + choice % 4)]
        calls = tuple(Call("tool", {"n": choice}, id=name) for name in names)
        options += 3 * [[e.ModelAnswered(round=request.round, attempt=request.attempt, parts=(Text(text), *calls))]]
        options.append([e.ModelFailed(round=request.round, attempt=request.attempt, failure=e.Failure(code="x", message=text))])
    elif state.place == "calling":
        call = state.unresolved[choice % len(state.unresolved)]
        options += 3 * [[_call_fact(call, choice, cancelled=state.cancel is not None)]]
    elif state.place == "closed":
        return None
    return options[choice % len(options)]


def _call_fact(call, choice, *, cancelled):
    name = call.call.id
    aborted = e.CallAborted(call=name, by="ada", reason="enough")
    started = e.CallStarted(call=name, attempt=call.attempt + 1, digest=call.digest)
    options = {
        "requested": [e.CallApprovalAsked(call=name, rule="r", digest=f"d{choice}"), e.CallDenied(call=name, by="ada", reason="no"), aborted, started, started],
        "waiting": [e.CallApproved(call=name, digest=call.digest, by="ada"), aborted],
        "approved": [started, aborted],
        "started": [
            e.CallSucceeded(call=name, attempt=call.attempt, output={"n": choice}),
            e.CallFailed(call=name, attempt=call.attempt, failure=e.Failure(code="x", message="y")),
            e.CallDoubted(call=name, attempt=call.attempt, reason="?"),
        ],
        "doubted": [aborted, e.CallRetried(call=name, by="ada"), *([started] if call.permitted_by else [])],
    }[call.place]
    fact = options[choice % len(options)]
    return aborted if cancelled and fact.kind in {"call.started", "call.retried"} else fact


class LogMachine(RuleBasedStateMachine):
    """The list, and rules that do the same to it and to the store."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="power-agent-machine-"))
        self.loop = asyncio.new_event_loop()
        self.clock = HeldClock()
        self.chance = CountedChance()
        self.lives = 0
        self.dead = set()
        self.log = []
        self.rows = {}
        self.keys = set()
        self.seen = []
        self.epochs = {}
        self.turn = 0
        self.path = self.folder / "0.db"
        self._open()

    # -- the scene -----------------------------------------------------------------------------------------------------

    def run(self, work):
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    def _open(self):
        self.lives += 1
        self.store = SQLiteStore(self.path, durability="normal", clock=self.clock)
        self.run(self.store.__aenter__())
        self.heard = ([], [])
        self.sinks = [self._sink(f"owner-{who}-{self.lives}", Hooks([self.heard[who].append])) for who in (0, 1)]
        self.outside = self._sink(f"outside-{self.lives}", None)
        self.states = {}

    def _sink(self, name, hooks):
        return Sink(self.store, self.clock, self.chance, name, dead=self.dead.__contains__, hooks=hooks)

    def _close(self):
        self._check_heard()
        self.run(self.store.__aexit__(None, None, None))
        self.dead |= {sink.owner for sink in self.sinks}

    def _check_heard(self):
        """What listeners heard is in the log, once and in order."""
        kept = {(record.session, record.seq): record for record in self.run(self.store.read_all(limit=100_000))}
        for heard in self.heard:
            last = {}
            for envelope in heard:
                record = kept[envelope.session, envelope.seq]
                assert (envelope.hash, envelope.position, envelope.epoch, envelope.kind) == (record.hash, record.position, record.epoch, record.kind)
                assert envelope.seq > last.get(envelope.session, 0), "told twice, or out of order"
                last[envelope.session] = envelope.seq

    def teardown(self):
        try:
            self._reads_everything()
            for name in self.rows:
                self._check_session(name)
            assert self.run(self._wrongs()) == []
        finally:
            with contextlib.suppress(errors.PowerAgentError):
                self.run(self.store.__aexit__(None, None, None))
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _wrongs(self):
        return [sentence async for sentence in self.store.verify()]

    # -- the list ------------------------------------------------------------------------------------------------------

    def kept(self, name, epoch, events, *, hold):
        row = self.rows[name]
        for event in events:
            row.head += 1
            self.log.append(Line(name, row.head, epoch, self.clock.now(), event.kind, e.encode(event)))
            if isinstance(event, e.InputReceived) and event.key:
                self.keys.add((name, event.key))
        if hold and self.clock.now() + self.store.lease_ms - row.deadline > 3_000:
            row.deadline = self.clock.now() + self.store.lease_ms

    def lineage(self, name):
        row = self.rows[name]
        before = self.lineage(row.parent) if row.parent else []
        return [line for line in before if line.seq <= row.base] + [line for line in self.log if line.session == name]

    def refusal(self, name, epoch, head):
        """Return what the store must answer to facts of this epoch behind this head; None: it keeps them."""
        row = self.rows[name]
        if row.erased:
            return errors.SessionErased
        if epoch is not None and epoch != row.epoch:
            return errors.OwnershipLost
        return errors.HeadMoved if head != row.head else None

    def tried(self, work, expected):
        """Do something that must be refused with an error of this class, or kept; returns the state or None."""
        if expected is None:
            return self.run(work)
        with pytest.raises(expected) as caught:
            self.run(work)
        assert type(caught.value) is expected
        return None

    # -- what can happen -----------------------------------------------------------------------------------------------

    @initialize(who=OWNERS)
    def begins(self, who):
        self.opens("a", who)

    @rule(name=NAMES, who=OWNERS)
    def opens(self, name, who):
        sink = self.sinks[who]
        state = self.tried(sink.open(session=name), errors.SessionExists if name in self.rows else None)
        if state is not None:
            self._born(name, who, state)

    def _born(self, name, who, state, parent=None, base=0):
        sink = self.sinks[who]
        self.rows[name] = Row(sink.owner, self.clock.now() + self.store.lease_ms, base, parent=parent, base=base)
        event = opened(self.run(self.store.read(name, after=base))[0]).event
        assert (event.owner, event.nonce) == (sink.owner, state.nonce)
        self.kept(name, 1, [event], hold=False)
        self.states[who, name] = state

    @precondition(lambda self: self.rows)
    @rule(pick=CHOICE, who=OWNERS, choices=st.lists(CHOICE, min_size=1, max_size=8))
    def records(self, pick, who, choices):
        """An owner, perhaps a stale one, records what follows from what it knows; one who knows nothing wants to own first."""
        name = list(self.rows)[pick % len(self.rows)]
        if (who, name) not in self.states:
            self.claims(pick, who)
        for choice in choices:
            state = self.states.get((who, name))
            if state is None or (events := legal(state, choice)) is None:
                return
            expected = self.refusal(name, state.epoch, state.seq)
            after = self.tried(self.sinks[who].record(state, events), expected)
            if after is not None:
                self.kept(name, state.epoch, events, hold=True)
                self.states[who, name] = after
            elif expected is errors.HeadMoved:
                self.states[who, name] = self.run(self.sinks[who].catch_up(state))
                assert self.states[who, name].owner == self.sinks[who].owner
            else:
                del self.states[who, name]

    @precondition(lambda self: self.states)
    @rule(pick=CHOICE, choice=CHOICE)
    def refused(self, pick, choice):
        """What does not follow is refused, alone or behind what would, and nothing is written or told."""
        (who, _), state = list(self.states.items())[pick % len(self.states)]
        wrong = [e.TurnEnded(turn=99), e.CallStarted(call="t9r9c9"), e.OwnerChanged(owner="x", why="dead"), e.SessionOpened(nonce="n", owner="x"), e.InputReceived(parts=())]
        before = len(self.heard[who])
        events = [*(legal(state, choice) or []), wrong[choice % len(wrong)]]
        self.tried(self.sinks[who].record(state, events), errors.IllegalMove)
        assert len(self.heard[who]) == before

    @precondition(lambda self: self.rows)
    @rule(pick=CHOICE, key=st.sampled_from([None, "k1", "k2"]), stale=st.booleans())
    def reports(self, pick, key, stale):
        """Somebody from outside hands something in, perhaps not knowing the last event, perhaps under a used key."""
        name = list(self.rows)[pick % len(self.rows)]
        row = self.rows[name]
        state = self.run(self.outside.load(name, at=max(row.base + 1, row.head - 1) if stale else None))
        if row.erased or state.place == "closed":
            self.tried(self.outside.report(state, [said("outside", key)]), errors.IllegalMove)
            return
        expected = self.refusal(name, None, state.seq)
        if expected is None and (name, key) in self.keys:
            expected = errors.KeyConflict
        if expected is errors.HeadMoved and state.epoch != row.epoch:
            state = state.moved(epoch=row.epoch)
        events = [e.CancelAsked(reason="outside"), said("outside", key)] if state.turn is not None and pick % 2 else [said("outside", key)]
        if self.tried(self.outside.report(state, events), expected) is not None:
            self.kept(name, row.epoch, events, hold=False)

    @precondition(lambda self: self.rows)
    @rule(pick=CHOICE, who=OWNERS)
    def claims(self, pick, who):
        """Somebody wants to own a session: it gets it when it may, and only then."""
        name = list(self.rows)[pick % len(self.rows)]
        row, sink = self.rows[name], self.sinks[who]
        if row.erased:
            self.tried(sink.claim(name), errors.SessionErased)
            return
        free = row.owner == sink.owner or row.deadline < self.clock.now() or row.owner in self.dead
        state = self.tried(sink.claim(name), None if free else errors.SessionBusy)
        if state is None:
            return
        if row.owner == sink.owner:
            row.deadline = max(row.deadline, self.clock.now() + self.store.lease_ms)
        else:
            why = "released" if row.deadline == 0 else "expired" if row.deadline < self.clock.now() else "dead"
            changed = e.OwnerChanged(owner=sink.owner, previous=row.owner, why=why)
            row.epoch += 1
            self.kept(name, row.epoch, [changed], hold=True)
            row.owner = sink.owner
        assert (state.epoch, state.owner) == (row.epoch, sink.owner)
        self.states[who, name] = state

    @precondition(lambda self: self.states)
    @rule(pick=CHOICE, choice=CHOICE, knows_the_head=st.booleans())
    def sleeps_past_its_lease(self, pick, choice, knows_the_head):
        """An owner sleeps, another one takes over, the sleeper wakes and writes: refused, even if it knows the head."""
        (who, name), state = list(self.states.items())[pick % len(self.states)]
        row = self.rows[name]
        events = legal(state, choice)
        if events is None or (row.owner, row.epoch) != (self.sinks[who].owner, state.epoch):
            return
        self.clock.move(31)
        self.claims(list(self.rows).index(name), 1 - who)
        if row.owner == self.sinks[who].owner:
            return  # the clock was set back: the lease still lives
        asleep = state.moved(seq=row.head) if knows_the_head else state
        self.tried(self.sinks[who].record(asleep, events), errors.OwnershipLost)
        del self.states[who, name]

    @precondition(lambda self: self.states)
    @rule(pick=CHOICE)
    def releases(self, pick):
        """An owner gives a session up; one whose epoch is over gives up nothing."""
        (who, name), state = list(self.states.items())[pick % len(self.states)]
        self.run(self.sinks[who].release(state))
        if state.epoch == self.rows[name].epoch:
            self.rows[name].deadline = 0
        del self.states[who, name]

    @rule(seconds=st.sampled_from([1, 5, 20, 31, 31, -2]))
    def time_passes(self, seconds):
        self.clock.move(seconds)

    @precondition(lambda self: self.rows)
    @rule(pick=CHOICE, place=CHOICE, name=NAMES, who=OWNERS)
    def forks(self, pick, place, name, who):
        """A new session begins at any event of another one."""
        parent = list(self.rows)[pick % len(self.rows)]
        line = self.lineage(parent)
        seq = line[place % len(line)].seq
        origin = e.Parent(relation="fork", session=parent, seq=seq)
        holder = line[seq - 1].session
        if self.rows[holder].erased or self.rows[parent].erased:
            return
        expected = errors.SessionExists if name in self.rows else None
        state = self.tried(self.sinks[who].open(session=name, parent=origin), expected)
        if state is not None:
            self._born(name, who, state, holder, seq)

    @precondition(lambda self: self.rows)
    @rule(pick=CHOICE, who=OWNERS)
    def snapshots(self, pick, who):
        """A state is cached; nothing else changes."""
        name = list(self.rows)[pick % len(self.rows)]
        state = self.states.get((who, name)) or self.run(self.outside.load(name))
        self.run(self.outside.snapshot(state))

    @precondition(lambda self: self.states)
    @rule(pick=CHOICE)
    def erases(self, pick):
        """Contents are destroyed where the log allows it; forks hold on to what they share."""
        (who, name), state = list(self.states.items())[pick % len(self.states)]
        row = self.rows[name]
        expected = self.refusal(name, state.epoch, state.seq)
        if state.place not in {"idle", "summarising", "closed"}:
            expected = errors.IllegalMove
        elif expected is None and any(other.parent == name and not other.erased for other in self.rows.values()):
            expected = errors.HasForks
        after = self.tried(self.sinks[who].erase(state, "by law"), expected)
        if after is None:
            return
        self.log = [line._replace(body=None) if line.session == name else line for line in self.log]
        self.kept(name, row.epoch, [e.SessionErased(reason="by law")], hold=True)
        self.keys = {(session, key) for session, key in self.keys if session != name}
        row.erased = True
        self.states = {(one, session): state for (one, session), state in self.states.items() if session != name}

    @rule(limit=st.integers(1, 20))
    def reads_on(self, limit):
        """A reader with a cursor reads a page more."""
        page = self.run(self.store.read_all(after=len(self.seen), limit=limit))
        assert len(page) <= limit
        self.seen += [(record.position, record.session, record.seq, record.hash) for record in page]

    @rule()
    def closes_and_opens(self):
        """Everybody stops politely and comes back."""
        self._close()
        self._open()

    @rule(moment=st.sampled_from(["between", "before", "in", "after"]), pick=CHOICE, choice=CHOICE)
    def crashes(self, moment, pick, choice):
        """The process is killed, between commits or at any moment of one: what was acknowledged is there, and no half of anything."""
        copy = self.folder / f"{self.lives}.db"
        states = [(who, name, state) for (who, name), state in self.states.items() if self.refusal(name, state.epoch, state.seq) is None]
        who, name, state = states[pick % len(states)] if states else (0, "", None)
        events = legal(state, choice) if state is not None and moment != "between" else None
        if events is None:
            self._copy(copy)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("power_agent.store.commit.passing", lambda when, _kinds: self._copy(copy) if when == moment else None)
                self.run(self.sinks[who].record(state, events))
        self._close()
        self.path = copy
        self._open()
        if events is not None and moment == "after":
            self.kept(name, state.epoch, events, hold=True)

    def _copy(self, target):
        """Take the file as it lies there. Opening it drops this process's locks on it, but nobody else comes here."""
        for end in ("-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{self.path}{end}", f"{target}{end}")

    # -- what must always hold -----------------------------------------------------------------------------------------

    @invariant()
    def the_log_is_the_list(self):
        records = self.run(self.store.read_all(limit=100_000))
        assert [Line(*one[1:7]) for one in records] == self.log
        assert [record.position for record in records] == list(range(1, len(self.log) + 1))

    @invariant()
    def rows_are_right(self):
        rows = {row.session: row for row in self.run(self.store.sessions())}
        assert rows.keys() == self.rows.keys()
        for name, row in self.rows.items():
            found = rows[name]
            assert (found.head, found.epoch, found.owner, found.parent, found.base, found.erased) == (row.head, row.epoch, row.owner, row.parent, row.base, row.erased)
            longest = self.clock.now() + self.store.lease_ms  # more than that was given before the clock was set back
            assert found.deadline in {row.deadline, min(row.deadline, longest)} or (row.deadline and 0 < found.deadline - row.deadline <= 3_000), (
                "a lease may be written more exactly"
            )
            row.deadline = found.deadline
            assert found.epoch >= self.epochs.get(name, 0), "an epoch fell"
            self.epochs[name] = found.epoch

    @precondition(lambda self: self.rows)
    @invariant()
    def one_session_is_sound(self):
        """One session per step, in turn, is read, folded and verified."""
        self.turn += 1
        self._check_session(list(self.rows)[self.turn % len(self.rows)])

    def _check_session(self, name):
        records = self.run(self.store.read(name))
        assert [Line(*one[1:7]) for one in records] == self.lineage(name)
        assert [record.seq for record in records] == list(range(1, self.rows[name].head + 1))
        state = self.run(self.outside.load(name))
        assert state == fold(map(opened, records))
        for (_, session), known in self.states.items():
            if session == name and known.seq == state.seq:
                assert known == state
        assert self.run(self._chain(name)) == []

    async def _chain(self, name):
        return [sentence async for sentence in check_chain(self.store, name)]

    def _reads_everything(self):
        while page := self.run(self.store.read_all(after=len(self.seen), limit=7)):
            assert page[0].position == len(self.seen) + 1
            self.seen += [(record.position, record.session, record.seq, record.hash) for record in page]
        records = self.run(self.store.read_all(limit=100_000))
        assert self.seen == [(record.position, record.session, record.seq, record.hash) for record in records]
        self._check_heard()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=list(Phase) if os.environ.get("POWER_AGENT_HYPOTHESIS") == "deep" else [Phase.generate],  # to shrink a failure takes minutes
)
