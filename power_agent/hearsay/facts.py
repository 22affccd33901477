"""An account becomes a history of ours: legal from the first event to the last, with no turn and no call left open.

Nothing runs. A call whose outcome was recorded was started and ended there, and who handed the outcome in is named; one without is
aborted, and says so: it may have taken effect. Records that have no meaning here are kept with the input they came behind, where no
model sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any, cast

from power_agent import events as e
from power_agent.cleaning import clean, covered
from power_agent.context import MAY_HAVE_HAPPENED, cut_of
from power_agent.errors import ImportRefused, InvalidInput
from power_agent.hearsay.account import Account, Answered, Folded, Heard, Item, Noted, Resulted, Shown, Strange
from power_agent.messages import Attachment, Call, ContentPart, Text
from power_agent.ports import Fact
from power_agent.secrets import Cover
from power_agent.state import SessionState, evolve
from power_agent.uploads import taken
from power_agent.word import replace

IMPORT = "import"
NO_OUTCOME = "imported without an outcome"
NO_ANSWER = "imported without an answer"
BEGINS = "[The recording begins with the agent.]"
MAX_RECORD_CHARACTERS = 32_768
"""Of a record that has no meaning here; of a larger one its size and digest are kept."""
CUT_WORDS = 256
"""Bytes around the head and the tail of an output that was cut before: it is not cut a second time."""
MAX_RECORDS = 1_000
MAX_RECORDS_CHARACTERS = 2_097_152
"""Such records kept with one input, and all their characters: an event must have room for them, however they are spelled. The others are counted."""


class History:
    """Takes an account item by item; `facts` and `blobs` are what is to be kept in the end."""

    def __init__(self, account: Account, session: str, nonce: str, now: int, cover: Cover | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.facts: list[Fact] = []
        self.state = SessionState("")
        self._account = account
        self._session = session
        self._cover = cover
        self._fresh: dict[str, bytes] = {}
        self._ids: dict[str, str] = {}
        self._strange: dict[int, list[str]] = {}
        self._inputs: dict[int, e.InputReceived] = {}
        self._waiting: list[int] = []
        self._summaries: tuple[int, ...] = ()
        self._at = next((item.at for item in account.items if not isinstance(item, Strange) and item.at is not None), now)
        model = account.model or next((item.model for item in account.items if isinstance(item, Answered) and item.model), None)
        about = {"format": account.form, **account.about}
        self._keep(e.SessionOpened(nonce=nonce, owner=IMPORT, config=e.Config(model=model, system=account.system), metadata={"imported": about}))
        if account.title:
            self._keep(e.SessionConfigured(title=account.title, by=account.form))

    def take(self, item: Item) -> None:
        """Take the next thing that was recorded."""
        if not isinstance(item, Strange) and item.at is not None:
            self._at = max(self._at, item.at)
        match item:
            case Heard():
                self._heard(item)
            case Answered():
                self._answered(item)
            case Resulted():
                self._resulted(item)
            case Noted(text=text):
                self._end_calls()
                self._keep(e.NoteAdded(text=text, why=self._account.form))
            case Folded(summary=summary):
                self._folded(summary)
            case Strange(record=record):
                self._strange.setdefault(max(self._inputs, default=0), []).append(record)

    def end(self, tip: str, source: str, now: int, by: str | None) -> None:
        """Leave nothing open, and say where all of it came from."""
        if not self._inputs:
            raise ImportRefused("Nobody says anything in it.", hint="Is it the file of a session?")
        self._end_turn()
        if self._waiting:
            self._begin()
            self._keep(e.TurnEnded(turn=self.state.turns, status="cancelled", reason=NO_ANSWER))
        self._put_strange()
        self._at = max(self._at, now)
        self._keep(e.SessionImported(tip=tip, source=source, by=by))

    # -- item by item --------------------------------------------------------------------------------------------------

    def _heard(self, item: Heard) -> None:
        self._end_turn()
        parts = self._content(item.parts) or (Text("(nothing)"),)
        received = e.InputReceived(parts=parts, mode="queue" if self._waiting else "turn", by=item.by)
        kept = self._keep(received)
        self._inputs[self.state.seq] = cast("e.InputReceived", kept)
        self._waiting.append(self.state.seq)

    def _begin(self) -> None:
        """Begin a turn with what was said, or go on with the one that ended."""
        continues = None if self._waiting or not self.state.turns else self.state.turns
        if continues is None and not self._waiting:
            self._heard(Heard(at=None, parts=(Text(BEGINS),), by=IMPORT))
        self._keep(e.TurnStarted(turn=self.state.turns + 1, inputs=tuple(self._waiting), continues=continues))
        self._waiting.clear()

    def _answered(self, item: Answered) -> None:
        self._end_calls()
        if self.state.turn is None or self._waiting:
            self._end_turn()
            self._begin()
        assert self.state.turn is not None  # noqa: S101  begun above
        turn, number = self.state.turn.number, self.state.turn.round + 1
        model = item.model or self._account.model or "unknown"
        self._keep(e.ModelAsked(turn=turn, round=number, model=model))
        self._ids.clear()
        parts, count = list[Any](), 0
        for part in item.parts:
            if isinstance(part, Call):
                count += 1
                ours = f"t{turn}r{number}c{count}"
                self._ids.setdefault(part.id, ours)
                parts.append(replace(part, id=ours))
            else:
                parts.append(part)
        finish: e.Finish = "calls" if count else "stop"
        source = self._account.form if item.cost_nano_usd is not None else None
        answered = e.ModelAnswered(round=number, parts=tuple(parts), format=self._account.form, finish=finish, usage=item.usage, model=model)
        self._keep(replace(answered, cost_nano_usd=item.cost_nano_usd, price_source=source))

    def _resulted(self, item: Resulted) -> None:
        name = self._ids.get(item.id, "")
        call = self.state.calls.get(name)
        if call is None or call.resolved:
            text = "\n".join(part.text for part in item.parts if isinstance(part, Text))
            self._strange.setdefault(max(self._inputs, default=0), []).append(f"A result of a call that is not open, {item.id!r}: {text}")
            return
        by, how = self._account.form, item.how
        outcome, started = how.get("outcome"), how.get("started", True) is True and call.call.malformed is None
        said, why = str(how.get("by") or by), str(how.get("reason") or "no reason given")
        if outcome == "denied":
            self._keep(e.CallDenied(call=name, by=said, reason=why))
            return
        if started:
            self._keep(e.CallStarted(call=name, recovery="rerun" if how.get("harmless") is True else "ask"))
        if outcome == "aborted":
            self._keep(e.CallAborted(call=name, by=said, reason=why))
        elif item.failed or outcome == "failed" or not started:
            self._failed(name, item, started=started)
        else:
            self._succeeded(name, item)

    def _failed(self, name: str, item: Resulted, *, started: bool) -> None:
        """Keep that a tool said it failed, in its own words: those that we add when rendering are taken off."""
        text = str(item.how.get("message") or "\n".join(part.text for part in item.parts if isinstance(part, Text)))
        text = text.removesuffix(f" {MAY_HAVE_HAPPENED}") or "It failed."
        limit = self.state.config.limits.max_output_bytes_in_context
        failure = e.Failure(code=str(item.how.get("code") or "tool_failed"), message=text[:limit], details={"untouched": True} if item.how.get("untouched") is True else {})
        cut = None
        if len(raw := text.encode(errors="replace")) > limit:
            cut, blobs = cut_of(raw, limit)
            self._fresh |= blobs
        self._keep(e.CallFailed(call=name, attempt=1, failure=failure, cut=cut, by=self._account.form if started else None))

    def _succeeded(self, name: str, item: Resulted) -> None:
        parts, by = self._content(item.parts), self._account.form
        limit = self.state.config.limits.max_output_bytes_in_context
        text = "\n".join(part.text for part in parts if isinstance(part, Text)).encode(errors="replace")
        attached = tuple(part for part in parts if isinstance(part, Attachment))
        if len(text) > limit + CUT_WORDS:
            cut, blobs = cut_of(text, limit)
            self._fresh |= blobs
            self._keep(e.CallSucceeded(call=name, cut=cut, parts=attached or None, by=by))
        elif len(parts) == 1 and isinstance(parts[0], Text):
            self._keep(e.CallSucceeded(call=name, output=parts[0].text, by=by))
        else:
            self._keep(e.CallSucceeded(call=name, parts=parts or None, by=by))

    def _folded(self, summary: str) -> None:
        self._end_calls()
        first, last = self.state.compacted_to + 1, self.state.seq
        if any(first <= entry.seq <= last for entry in self.state.transcript):
            folded = e.ContextCompacted(from_seq=first, to_seq=last, summary=summary, replaces=self._summaries, strategy=self._account.form, by=self._account.form)
            self._keep(folded)
            self._summaries = (self.state.seq,)

    # -- what is left open ---------------------------------------------------------------------------------------------

    def _end_calls(self) -> None:
        """End what has no outcome: it was made, so it may have been run."""
        for call in self.state.unresolved:
            if call.place == "requested" and call.call.malformed is None:
                self._keep(e.CallStarted(call=call.call.id))
            self._keep(e.CallAborted(call=call.call.id, by=IMPORT, reason=NO_OUTCOME))

    def _end_turn(self) -> None:
        turn = self.state.turn
        if turn is None:
            return
        cut_off = bool(self.state.unresolved)
        self._end_calls()
        last = self.state.transcript[-1] if len(self.state.transcript) else None
        done = not cut_off and getattr(last, "entry", "") in {"answered", "summed"}
        reason = None if done else NO_OUTCOME if cut_off else NO_ANSWER
        self._keep(e.TurnEnded(turn=turn.number, status="completed" if done else "cancelled", reason=reason))

    def _put_strange(self) -> None:
        """Put the records nobody understands beside the inputs they came behind; those before the first one go with it."""
        if 0 in self._strange:
            first = min(self._inputs)
            self._strange[first] = self._strange.pop(0) + self._strange.get(first, [])
        for seq, records in self._strange.items():
            kept = _kept(records)
            fact = self.facts[seq - 1]
            self.facts[seq - 1] = self._fact(replace(self._inputs[seq], metadata=kept), fact.at)[0]

    # -- keeping -------------------------------------------------------------------------------------------------------

    def _content(self, parts: tuple[Shown, ...]) -> tuple[ContentPart, ...]:
        """Return parts with attachments in the places of bytes; bytes that are not what they are called are named in a text."""
        said = list[ContentPart]()
        for part in parts:
            try:
                one, blobs = taken((part,))
            except InvalidInput as error:
                said.append(Text(f"[An attachment was left out: {error.message}]"))
                continue
            self._fresh |= blobs
            said += [piece for piece in one if isinstance(piece, Text | Attachment)]
        return tuple(said)

    def _keep(self, event: e.Event) -> e.Event:
        """Keep a fact, and the blobs that it names, without secrets."""
        if self._fresh:
            event, self._fresh = (event, self._fresh) if self._cover is None else covered(event, self._cover, self._fresh)
            self.blobs |= self._fresh
            self._fresh = {}
        fact, event = self._fact(event, self._at)
        seq = self.state.seq + 1
        self.state = evolve(self.state, e.Envelope(self._session, seq, 1, fact.at, event, kind=event.kind))
        self.facts.append(fact)
        return event

    def _fact(self, event: e.Event, at: int) -> tuple[Fact, e.Event]:
        cleaned = clean(event, (), self.state.config.limits.max_event_bytes, self._cover)
        return Fact(event.kind, at, cleaned.body, e.call_of(cleaned.event)), cleaned.event


def _kept(records: Sequence[str]) -> dict[str, Any]:
    """Return as many records as are kept, and how many are left out."""
    bounded = [_bounded(record) for record in records[:MAX_RECORDS]]
    sizes = accumulate(len(record) if isinstance(record, str) else 0 for record in bounded)
    most = sum(size <= MAX_RECORDS_CHARACTERS for size in sizes)
    return {"records": bounded[:most], **({"left_out": len(records) - most} if len(records) > most else {})}


def _bounded(record: str) -> str | dict[str, Any]:
    if len(record) <= MAX_RECORD_CHARACTERS:
        return record
    raw = record.encode("utf-8", "replace")
    return {"bytes": len(raw), "sha256": sha256(raw).hexdigest(), "begin": record[:200]}


def history(account: Account, session: str, *, nonce: str, now: int, tip: str, by: str | None, cover: Cover | None = None) -> History:
    """Return an account as facts and blobs that a store can keep."""
    made = History(account, session, nonce, now, cover)
    for item in account.items:
        made.take(item)
    made.end(tip, f"{account.form} sha256:{tip}", now, by)
    return made
