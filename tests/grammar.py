"""Legal histories. A walker stands in a session, looks at what may plausibly happen next, picks one thing by seeded chance
and goes on; what it collected on the way is a history. It knows the rules on its own and hands every event to `evolve`, so a
fold that became too strict fails here, and one that became too lax fails in `test_state.py`.

`history(seed, steps)` is the same list for the same numbers. `histories()` is the strategy of them: it shrinks to fewer steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from power_agent import events as e
from power_agent.context import cut_places
from power_agent.limits import Limits
from power_agent.messages import AnswerPart, Attachment, Call, ContentPart, Opaque, Reasoning, Text, Usage
from power_agent.state import Answered, CallState, Returned, SessionState, Summed, evolve, fold

START = 1_700_000_000_000
Choice = tuple[float, e.Event]
"""How likely, and what."""

PROVIDER_IDS = (None, "", "call_1", "call_1", "toolu_01-A_b", "t1r1c1", "t1r1c2", "t2r1c1_", "not legal", "é", "x" * 65, "new\nline")
OUTPUTS = (None, "", "done", 0, False, 3.5, [], {"ok": True, "list": [1, None]}, 2**70, "naïve \u2028 text", "NaN")
FAILURE = e.Failure(code="tool_error", message="It broke.", details={"where": "there"})


def envelope(session: str, seq: int, event: e.Event, epoch: int = 1, at: int | None = None) -> e.Envelope:
    """Put an event in its place."""
    return e.Envelope(session, seq, epoch, START + seq if at is None else at, event, kind=event.kind)


def story(*events: e.Event, session: str = "s", state: SessionState | None = None) -> list[e.Envelope]:
    """Number events, from the beginning or behind a state, and raise the epoch where the owner changes."""
    seq, epoch = (state.seq, state.epoch) if state else (0, 1)
    kept = []
    for number, event in enumerate(events, seq + 1):
        epoch += isinstance(event, e.OwnerChanged)
        kept.append(envelope(session, number, event, epoch))
    return kept


# -- pieces for scenes -------------------------------------------------------------------------------------------------

NOTHING = Usage()
OPENED = e.SessionOpened(nonce="nonce", owner="owner")


def say(text: str = "hello", mode: e.Mode = "turn") -> e.InputReceived:
    """Something said."""
    return e.InputReceived(parts=(Text(text),), mode=mode)


def ask(turn: int = 1, number: int = 1, attempt: int = 1, *inputs: int) -> e.ModelAsked:
    """Ask for round `number` of a turn."""
    return e.ModelAsked(turn=turn, round=number, attempt=attempt, model="m", inputs=inputs)


def summarise(attempt: int = 1, reserved: int = 0) -> e.ModelAsked:
    """Ask for a summary."""
    return e.ModelAsked(turn=0, round=0, attempt=attempt, purpose="summary", model="m", reserved_tokens=reserved)


def answer(*calls: Call, number: int = 1, attempt: int = 1, text: str = "answer", usage: Usage = NOTHING) -> e.ModelAnswered:
    """Answer with text, or with calls."""
    return e.ModelAnswered(round=number, attempt=attempt, parts=calls or (Text(text),), usage=usage)


def make(number: int = 1, turn: int = 1, in_round: int = 1, provider_id: str | None = None, malformed: str | None = None) -> Call:
    """Make the call of that number."""
    return Call("charge", {"order": number}, f"t{turn}r{in_round}c{number}", provider_id, malformed)


TURN: tuple[e.Event, ...] = (OPENED, say(), e.TurnStarted(turn=1, inputs=(2,)))
"""An open turn."""
DONE: tuple[e.Event, ...] = (*TURN, ask(), answer(), e.TurnEnded(turn=1))
"""A turn that is over; seq 4 asked, 5 answered, 6 ended."""


def calling(*calls: Call) -> tuple[e.Event, ...]:
    """A turn with these calls; the answer has seq 5."""
    return (*TURN, ask(), answer(*(calls or (make(),))))


def after(*events: e.Event) -> SessionState:
    """Return the state that these amount to."""
    return fold(story(*events))


# -- the walk ----------------------------------------------------------------------------------------------------------


def history(seed: int, steps: int) -> list[e.Envelope]:
    """Walk so many steps."""
    walker = Walker(seed)
    for _ in range(steps):
        if not walker.step():
            break
    return walker.kept


def histories(most: int = 90) -> SearchStrategy[list[e.Envelope]]:
    """Legal histories up to so many steps."""
    return st.builds(history, st.integers(0, 2**20), st.integers(1, most))


class Walker:
    """Somebody who walks the state machine."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.kept: list[e.Envelope] = []
        self.state = SessionState("")
        self.now = START
        self.made = 0

    def step(self) -> bool:
        """Let one thing happen; False when nothing can any more."""
        self.now += self.chance.choice((0, 1, 40, 5_000, 90_000, -3_000))
        if not self.kept:
            self._keep(e.SessionOpened(nonce=self._name("nonce"), owner="owner-0", config=self._config(), metadata={"n": 1}), "session-0", 1)
            return True
        if self.state.place == "erased":
            return False
        if len(self.kept) > 1 and self.chance.random() < (0.2 if self.state.closed else 0.02):
            self._fork()
            return True
        choices = self._choices()
        event = self.chance.choices([choice for _, choice in choices], [weight for weight, _ in choices])[0]
        self._keep(event, self.state.session, self.state.epoch + isinstance(event, e.OwnerChanged))
        return True

    def _keep(self, event: e.Event, session: str, epoch: int) -> None:
        kept = envelope(session, self.state.seq + 1, event, epoch, self.now)
        self.state = evolve(self.state, kept)
        self.kept.append(kept)

    def _fork(self) -> None:
        """Branch off here or a little earlier; the walk goes on in the branch."""
        at = self.chance.choice((len(self.kept), self.chance.randint(max(1, len(self.kept) - 8), len(self.kept))))
        self.kept = self.kept[:at]
        self.state = fold(self.kept)
        parent = e.Parent(relation="fork", session=self.state.session, seq=at)
        self._keep(e.SessionOpened(nonce=self._name("nonce"), owner="owner-f", config=self.state.config, parent=parent), self._name("session"), 1)

    # -- what may come next --------------------------------------------------------------------------------------------

    def _choices(self) -> list[Choice]:
        place = self.state.place
        if place == "closed":
            return [
                (0.5, e.OwnerChanged(owner=self._name("owner"), previous=self.state.owner, why="dead")),
                (0.5, e.SessionImported(tip="00")),
                (0.3, e.SessionErased(reason="asked to", by="ann")),
            ]
        return [*self._anytime(), *getattr(self, f"_{place}")()]

    def _anytime(self) -> list[Choice]:
        idle = self.state.turn is None and not self.state.inputs
        mode = self.chance.choice(("turn", "queue", "steer")) if not idle else "turn"
        received = e.InputReceived(parts=self._said(), mode=mode, key=self._name("key") if self.chance.random() < 0.5 else None, by="ann")
        return [
            (8 if idle else 0.6, received),
            (0.2, e.NoteAdded(text=f"note {self.made}", why="test")),
            (0.2, e.SessionConfigured(config=self.chance.choice((None, self._config())), title=self.chance.choice((None, "", "a title")), by="ann")),
            (0.1, e.SessionImported(tip="00" * 32, source="elsewhere")),
            (0.3, e.OwnerChanged(owner=self._name("owner"), previous=self.state.owner, why=self.chance.choice(("released", "expired", "dead")))),
            (0.2, e.GuardDecided(guard="g", at="model", verdict="changed", reason="why not", change={"a": [1]})),
        ]

    def _idle(self) -> list[Choice]:
        state, choices = self.state, self._compactions()
        choices += self._starts()
        choices.append((0.5, self._ask_summary()))
        if not state.inputs:
            choices.append((0.2, e.SessionClosed(reason="over", by="ann")))
        choices.append((0.03, e.SessionErased(reason="asked to", by="ann")))
        return choices

    def _starts(self) -> list[Choice]:
        state, choices = self.state, []
        if state.inputs:
            count = self.chance.randint(1, len(state.inputs))
            choices.append((8, e.TurnStarted(turn=state.turns + 1, inputs=tuple(item.seq for item in state.inputs[:count]))))
        if state.last is not None and state.last.status in {"limit", "failed", "forked"}:
            choices.append((3, e.TurnStarted(turn=state.turns + 1, continues=state.last.number)))
        return choices

    def _ready(self) -> list[Choice]:
        state = self.state
        assert state.turn is not None
        choices = [*self._compactions(), (0.2, e.CancelAsked(reason="enough", by="ann"))]
        if state.cancel is not None:
            return [*choices, (6, e.TurnEnded(turn=state.turn.number, status="cancelled", reason=state.cancel.reason))]
        last = state.transcript[-1] if len(state.transcript) else None
        final = state.turn.answered and isinstance(last, Answered)
        choices += [(1 if final else 8, self._ask()), (0.2, self._ask_summary())]
        choices.append((8 if final else 0.2, e.TurnEnded(turn=state.turn.number, status="completed" if final else "limit")))
        if state.setback is not None:
            choices.append((3, e.TurnEnded(turn=state.turn.number, status="failed", failure=state.setback.failure)))
        return choices

    def _asking(self) -> list[Choice]:
        state = self.state
        assert state.turn is not None
        turn = state.turn
        failed = e.ModelFailed(
            round=turn.round,
            attempt=turn.attempt,
            failure=e.Failure(code="overloaded", message="Busy."),
            retryable=True,
            not_before=self.chance.choice((None, self.now + 2_000)),
            usage=self.chance.choice((None, Usage(3, 1))),
            lost=turn.round % 2 == 0,
        )
        choices: list[Choice] = [(8, self._answer()), (1, failed), (0.2, e.CancelAsked(reason="enough")), (0.1, e.TurnEnded(turn=turn.number, status="cancelled"))]
        return choices if state.cancel else [*choices, (0.6, self._ask())]

    def _summarising(self) -> list[Choice]:
        state = self.state
        assert state.request is not None
        place = {"round": state.request.round, "attempt": state.request.attempt}
        choices: list[Choice] = [
            (2, e.ModelAnswered(**place, parts=(Text("a summary"),), usage=Usage(20, 5), cost_nano_usd=7)),
            (1, e.ModelFailed(**place, failure=FAILURE, not_before=self.chance.choice((None, self.now + 10)))),
            *((weight / 2, event) for weight, event in self._compactions()),
        ]
        if state.turn is None:
            closing = [] if state.inputs else [(0.6, e.SessionClosed(reason="over"))]
            return [*choices, *self._starts(), *closing, (0.3, self._ask_summary()), (1, e.SessionErased(reason="asked to"))]
        choices += [(0.8, e.CancelAsked(reason="enough")), (0.2, e.TurnEnded(turn=state.turn.number, status="failed", reason="no summary"))]
        return choices if state.cancel else [*choices, (0.5, self._ask_summary()), (1, self._ask())]

    def _calling(self) -> list[Choice]:
        choices: list[Choice] = [(0.2, e.CancelAsked(reason="enough", by="ann"))]
        for call in self.state.unresolved:
            choices += getattr(self, f"_{call.place}")(call)
        return choices

    # -- one call ------------------------------------------------------------------------------------------------------

    def _requested(self, call: CallState) -> list[Choice]:
        name = call.call.id
        asked = e.CallApprovalAsked(
            call=name, rule="ask first", digest=f"digest {name}", deadline=self.chance.choice((None, self.now + 60_000)), external=self.chance.random() < 0.3
        )
        return [
            (2, asked),
            (0.5, e.CallDenied(call=name, by="rule", reason="not allowed")),
            (0.5, e.CallFailed(call=name, failure=e.Failure(code="unknown_tool", message=f"There is no tool {call.call.name!r}."))),
            (0.3, e.CallAborted(call=name, by="ann", reason="enough")),
            *self._start(call, 5),
        ]

    def _start(self, call: CallState, weight: float) -> list[Choice]:
        if self.state.cancel is not None or call.call.malformed is not None:
            return []
        recovery = self.chance.choice(("rerun", "keyed", "probe", "ask"))
        return [(weight, e.CallStarted(call=call.call.id, attempt=call.attempt + 1, recovery=recovery, idempotency_key="k", digest=call.digest, process="p"))]

    def _waiting(self, call: CallState) -> list[Choice]:
        name = call.call.id
        choices: list[Choice] = [(0.5, e.CallDenied(call=name, by="ann", reason="no.")), (0.3, e.CallAborted(call=name, by="ann", reason="enough"))]
        if call.external:
            return [*choices, (3, e.CallSucceeded(call=name, output=self.chance.choice(OUTPUTS), by="ann"))]
        assert call.digest is not None
        return [*choices, (3, e.CallApproved(call=name, digest=call.digest, by="ann", reason="fine"))]

    def _approved(self, call: CallState) -> list[Choice]:
        name = call.call.id
        again = e.CallApprovalAsked(call=name, rule="arguments changed", digest=f"other digest {name}")
        return [(0.3, again), (0.3, e.CallAborted(call=name, by="ann", reason="enough")), *self._start(call, 4)]

    def _started(self, call: CallState) -> list[Choice]:
        doubted = e.CallDoubted(call=call.call.id, attempt=call.attempt, reason="the process died")
        return [*self._outcomes(call, None), (1, doubted), (0.3, e.CallAborted(call=call.call.id, by="time limit", reason="too slow"))]

    def _doubted(self, call: CallState) -> list[Choice]:
        choices = [*self._outcomes(call, "ann"), (0.3, e.CallAborted(call=call.call.id, by="ann", reason="leave it"))]
        if self.state.cancel is not None:
            return choices
        return [*choices, (2, e.CallRetried(call=call.call.id, by="ann", reason="try again")), *(self._start(call, 4) if call.permitted_by else [])]

    def _outcomes(self, call: CallState, by: str | None) -> list[Choice]:
        name, attempt = call.call.id, call.attempt
        large = e.Cut(blob="b" * 64, size=100, head="head", tail="tail")
        parts = (Text("seen"), Attachment("image/png", blob="c" * 64))
        return [
            (3, e.CallSucceeded(call=name, attempt=attempt, output=self.chance.choice(OUTPUTS), by=by)),
            (0.5, e.CallSucceeded(call=name, attempt=attempt, parts=parts, by=by)),
            (0.5, e.CallSucceeded(call=name, attempt=attempt, cut=large, by=by)),
            (1, e.CallFailed(call=name, attempt=attempt, failure=FAILURE, cut=self.chance.choice((None, large)), by=by)),
        ]

    # -- the model and its context -------------------------------------------------------------------------------------

    def _ask(self) -> e.ModelAsked:
        state = self.state
        assert state.turn is not None
        turn = state.turn
        place = (turn.round + 1, 1) if turn.answered else (turn.round, turn.attempt + 1)
        steers = tuple(item.seq for item in state.inputs if item.mode == "steer")
        return e.ModelAsked(turn=turn.number, round=place[0], attempt=place[1], model="m", inputs=steers, reserved_tokens=100, reserved_cost_nano_usd=50)

    def _ask_summary(self) -> e.ModelAsked:
        open_one = self.state.request or self.state.setback
        attempt = open_one.attempt + 1 if open_one is not None and open_one.purpose == "summary" else 1
        return e.ModelAsked(turn=self.state.turns, round=0, attempt=attempt, purpose="summary", model="m", reserved_tokens=30)

    def _answer(self) -> e.ModelAnswered:
        state = self.state
        assert state.turn is not None
        turn = state.turn
        said: list[AnswerPart] = [Text(f"answer {self.made}", raw=self.chance.choice((None, '{"signed":1}')))]
        if self.chance.random() < 0.2:
            said = [Reasoning("thinking", raw='{"signature":"x"}'), *said, Opaque('{"type":"new"}')]
        if self.chance.random() < 0.1:
            said = []
        count = self.chance.choice((0, 0, 1, 1, 2, 3, 4))
        said += [self._call(f"t{turn.number}r{turn.round}c{number}") for number in range(1, count + 1)]
        return e.ModelAnswered(
            round=turn.round,
            attempt=turn.attempt,
            parts=tuple(said),
            format="scripted",
            finish="calls" if count else "stop",
            usage=Usage(10, 5, 2, 1, 1),
            cost_nano_usd=self.chance.choice((None, 40)),
        )

    def _call(self, name: str) -> Call:
        self.made += 1
        provider_id = self.chance.choice((*PROVIDER_IDS, f"call-{self.made}", f"call-{self.made}"))
        if self.chance.random() < 0.1:
            return Call("broken", {}, name, provider_id, malformed="{not json")
        return Call("charge", {"order": self.made, "deep": {"list": [1, 2.5, None, True, "x"]}}, name, provider_id)

    def _compactions(self) -> list[Choice]:
        state, choices = self.state, []
        summaries = [entry for entry in state.transcript if isinstance(entry, Summed)]
        places = [place for place in cut_places(state) if place > state.compacted_to and _keeps_pairs(state, place)]
        if places:
            replaces = tuple(entry.seq for entry in summaries) if self.chance.random() < 0.5 else ()
            to = self.chance.choice(places)
            compacted = e.ContextCompacted(from_seq=state.compacted_to + 1, to_seq=to, summary=f"up to {to}", replaces=replaces, strategy="summary", tokens_before=90)
            choices.append((0.4, compacted))
        returned = [call.call.id for entry in state.transcript if isinstance(entry, Returned) for call in entry.calls]
        if returned:
            trim = e.Trim(call=self.chance.choice(returned), note="(left out; ask for it)")
            choices.append((0.4, e.ContextCompacted(from_seq=1, to_seq=state.seq, summary=None, trimmed=(trim,), strategy="trim")))
        return choices

    # -- words ---------------------------------------------------------------------------------------------------------

    def _said(self) -> tuple[ContentPart, ...]:
        self.made += 1
        shown = Attachment("image/png", url="https://example.org/a.png", name="a.png")
        return (Text(f"say {self.made}"), shown) if self.chance.random() < 0.1 else (Text(f"say {self.made}"),)

    def _name(self, what: str) -> str:
        self.made += 1
        return f"{what}-{self.made}"

    def _config(self) -> e.Config:
        limits = Limits(max_rounds_per_turn=self.chance.choice((None, 3, 50)), max_cost_usd_per_turn=0.5)
        return e.Config(model="scripted:m", system="Be brief.", tools=(e.ToolRef(name="charge", digest="d"),), settings={"temperature": 0.5}, limits=limits)


def _keeps_pairs(state: SessionState, to: int) -> bool:
    """Say whether a compaction up to here parts no call from its output (`test_context.py` holds `cut_places` to it)."""
    return all((state.compacted_to < entry.first <= to) == (state.compacted_to < entry.seq <= to) for entry in state.transcript if isinstance(entry, Returned))


def kinds(many: Sequence[Sequence[e.Envelope]]) -> set[str]:
    """Return every kind of event in these histories."""
    return {kept.kind for one in many for kept in one}
