"""A history as a conversation: who said what, and each call with its outcome, in the order in which the model came to see it.

It is followed event by event, and what is over is let go: a session of any length is retold in the memory of its longest answer.
Compactions are told where they happened; what they folded away is told as it was said.
"""

from __future__ import annotations

from collections.abc import Iterator

from power_agent import events as e
from power_agent.context import outcome_for_model
from power_agent.events import Envelope
from power_agent.messages import Attachment, Call, ContentPart, Message, Output, Text
from power_agent.state import Answered, CallState, Entry, Returned, Said, SessionState, Told, Transcript, evolve
from power_agent.word import Word, replace, word

UNRESOLVED = "It had no outcome yet when this was exported: {place}."


@word(kw_only=True)
class Heard(Word):
    """Somebody said something: `seq` and `at` are where and when it was received."""

    seq: int
    at: int
    parts: tuple[ContentPart, ...]
    by: str | None = None


@word(kw_only=True)
class Noted(Word):
    """The harness told the model something."""

    seq: int
    at: int
    text: str


@word(kw_only=True)
class Spoken(Word):
    """The model answered; `calls` are its calls as they ended, or as they stand. `turn` counts from 1."""

    seq: int
    at: int
    turn: int
    answer: e.ModelAnswered
    model: str
    calls: tuple[CallState, ...] = ()

    def messages(self) -> tuple[Message, ...]:
        """Return the answer and what was said to it, each call answered once."""
        parts = tuple(replace(part, provider_id=None) if isinstance(part, Call) else part for part in self.answer.parts)  # ours are legal and unique
        said = Message("assistant", parts, self.answer.format)
        if not self.calls:
            return (said,) if self.answer.parts else ()
        return said, Message("tool", tuple(Output(call.call.id, told(call), call.place != "succeeded", call.call.id, call.call.name) for call in self.calls))


@word(kw_only=True)
class Summed(Word):
    """The context was made smaller."""

    seq: int
    at: int
    event: e.ContextCompacted


Telling = Heard | Noted | Spoken | Summed


def told(call: CallState) -> tuple[ContentPart, ...]:
    """Return what a model is told about a call, also where it has no outcome yet."""
    return outcome_for_model(call) if call.resolved else (Text(UNRESOLVED.format(place=call.place)),)


def blobs_of(telling: Telling) -> list[str]:
    """Return the blobs that somebody who retells this needs."""
    parts: list[object] = []
    if isinstance(telling, Heard):
        parts = list(telling.parts)
    elif isinstance(telling, Spoken):
        parts = [*telling.answer.parts, *(part for call in telling.calls for part in told(call))]
    return [part.blob for part in parts if isinstance(part, Attachment) and part.blob]


def attached(event: e.Event | None) -> list[str]:
    """Return the blobs that are attached to one event."""
    return [part.blob for part in getattr(event, "parts", None) or () if isinstance(part, Attachment) and part.blob]


class Retelling:
    """Follows a history."""

    def __init__(self) -> None:
        self.state = SessionState("")
        self._inputs: dict[int, tuple[int, str | None]] = {}
        self._open: Spoken | None = None
        self._model = ""

    def take(self, kept: Envelope) -> Iterator[Telling]:
        """Take one event; yield what is complete with it."""
        event = kept.event
        if isinstance(event, e.ContextCompacted):  # what it folds away was let go long ago
            self.state = self.state.moved(seq=kept.seq, at=kept.at, request=None)
            yield Summed(seq=kept.seq, at=kept.at, event=event)
            return
        if isinstance(event, e.InputReceived):
            self._inputs[kept.seq] = (kept.at, event.by)
        elif isinstance(event, e.ModelAsked):
            self._model = event.model
        self.state = evolve(self.state, kept)
        entries, self.state = list(self.state.transcript), self.state.moved(transcript=Transcript())
        for entry in entries:
            yield from self._told(entry, kept)

    def _told(self, entry: Entry, kept: Envelope) -> Iterator[Telling]:
        match entry:
            case Said(input=seq, parts=parts):
                at, by = self._inputs.pop(seq, (kept.at, None))
                yield Heard(seq=seq, at=at, parts=parts, by=by)
            case Told(text=text):
                yield Noted(seq=kept.seq, at=kept.at, text=text)
            case Answered() if isinstance(kept.event, e.ModelAnswered):
                spoken = Spoken(seq=kept.seq, at=kept.at, turn=self.state.turns, answer=kept.event, model=kept.event.model or self._model)
                if self.state.calls:
                    self._open = spoken
                else:
                    yield spoken
            case Returned(calls=calls) if self._open is not None:
                spoken, self._open = self._open, None
                yield replace(spoken, calls=calls)

    def end(self) -> Iterator[Telling]:
        """Yield what was still open at the end: an answer whose calls have no outcome, and inputs that nobody took."""
        if self._open is not None:
            yield replace(self._open, calls=tuple(self.state.calls.values()))
        for waiting in self.state.inputs:
            at, by = self._inputs.get(waiting.seq, (0, None))
            yield Heard(seq=waiting.seq, at=at, parts=waiting.parts, by=by)
