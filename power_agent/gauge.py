"""How many tokens a context has, as near as can be known without asking, and how near to its bounds that is.

A provider's own count of the last request stands in the state (`measured`); only what came after it is estimated, and scaled by
how that provider counted what the estimate had said before. What is wrong by a little the room for the answer bears; what is wrong
by more the provider refuses, and then the context is compacted. Nothing here cuts. What is cut is decided elsewhere and kept as a
fact, so that a better count later changes no context that was shown. Entries never change, so each is weighed once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue
from pydantic_core import to_json

from power_agent.context import NOTE, SUMMARY, outcome_for_model
from power_agent.limits import (
    ANSWER_SHARE,
    ANSWER_TOKENS,
    ATTACHMENT_TOKENS,
    BYTES_PER_TOKEN,
    CALIBRATING_TOKENS,
    LEAST_CALIBRATION,
    MANY_ENTRIES,
    MESSAGE_TOKENS,
    MOST_CALIBRATION,
    SAMPLED_ENTRIES,
)
from power_agent.messages import Attachment, Call, Message, Opaque, Output, Reasoning, Text
from power_agent.ports import ToolSpec
from power_agent.state import Answered, Entry, Outcome, Returned, Said, SessionState, Summed, Told, Transcript
from power_agent.word import Word, word

Count = Callable[[str], int]


def crude(text: str) -> int:
    """Estimate the tokens of a text by its bytes, for who has nothing better at hand."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


@word(kw_only=True)
class Bounds(Word):
    """`soft`: above it the context is compacted; `hard`: above it no request can be sent. None: nobody knows."""

    soft: int | None = None
    hard: int | None = None


def bounds(window: int | None, most: int | None, settings: Mapping[str, JsonValue] | None = None) -> Bounds:
    """Return the bounds of a context: from the model's window, less a reserve for the answer, and from a limit."""
    room = None if window is None else max(window - answer_tokens(window, settings), 1)
    known = [bound for bound in (room, most) if bound is not None]
    return Bounds(soft=min(known, default=None), hard=window)


def answer_tokens(window: int | None, settings: Mapping[str, JsonValue] | None = None) -> int:
    """Return how many tokens an answer may need: what the settings allow it, else a share of the window."""
    for name in ("max_tokens", "max_output_tokens", "max_completion_tokens"):
        value = (settings or {}).get(name)
        if isinstance(value, int) and value > 0:
            return value if window is None else min(value, window // 2)
    return ANSWER_TOKENS if window is None else min(ANSWER_TOKENS, int(window * ANSWER_SHARE))


# -- weighing ----------------------------------------------------------------------------------------------------------


def of_part(part: object, count: Count) -> int:
    """Estimate one part. What goes back to the provider unchanged weighs what it weighs there."""
    match part:
        case Text(text=text, raw=raw) | Reasoning(reasoning=text, raw=raw):
            return count(raw or text)
        case Call():
            return count(part.name) + count(part.malformed or to_json(part.arguments).decode())
        case Opaque(opaque=text):
            return count(text)
        case Output(content=content):
            return sum(of_part(one, count) for one in content)
        case Attachment():
            return ATTACHMENT_TOKENS
    return 0


def of_message(message: Message, count: Count) -> int:
    """Estimate one message."""
    return MESSAGE_TOKENS + sum(of_part(part, count) for part in message.parts)


def of_entry(entry: Entry, count: Count) -> int:
    """Estimate what one entry of the transcript is shown as."""
    match entry:
        case Said(parts=parts) | Answered(parts=parts):
            return MESSAGE_TOKENS + sum(of_part(part, count) for part in parts)
        case Told(text=text):
            return MESSAGE_TOKENS + count(NOTE.format(text=text))
        case Summed(text=text):
            return MESSAGE_TOKENS + count(SUMMARY.format(text=text))
        case Returned(calls=calls, trimmed=trimmed):
            shown = ((Text(trimmed[call.call.id]),) if call.call.id in trimmed else outcome_for_model(call) for call in calls)
            return MESSAGE_TOKENS + sum(of_part(part, count) for content in shown for part in content)


def of_prefix(system: str | None, specs: Iterable[ToolSpec], count: Count) -> int:
    """Estimate what stands before the messages: the system prompt and the tools."""
    return (count(system) if system else 0) + sum(of_tool(spec, count) for spec in specs)


def of_tool(spec: ToolSpec, count: Count) -> int:
    """Estimate how a tool is described to the model."""
    return count(spec.name) + count(spec.description) + count(json.dumps(spec.parameters, ensure_ascii=False))


def of_context(state: SessionState, specs: Iterable[ToolSpec], count: Count) -> int:
    """Return the tokens of a context: what was measured last, and an estimate of what was added since, by the same measure."""
    measured = state.measured
    if not measured.tokens:
        return estimated(state, specs, count)
    known = _known(state)
    weights = _weights(state.transcript, count, known)
    before = weights.of(state.transcript, known)
    added = weights.of(state.transcript, len(state.transcript)) - before
    return measured.tokens + round(added * calibration(_prefix_of(state, specs, count) + before, measured.tokens)) if added else measured.tokens


def calibration(estimate: int, measure: int) -> float:
    """Return how many of a provider's tokens one that was estimated is. Little that was measured teaches nothing, for what a
    provider adds by itself weighs more there; what seems absurd is not believed.
    """
    return min(max(measure / estimate, LEAST_CALIBRATION), MOST_CALIBRATION) if estimate >= CALIBRATING_TOKENS else 1.0


def _known(state: SessionState) -> int:
    """Return how many entries of the transcript were measured."""
    place = len(state.transcript)
    while place and state.transcript[place - 1].seq > state.measured.seq:
        place -= 1
    return place


class Weights:
    """What the first so many entries of a transcript weigh, from `start` entries on; each entry behind them is weighed once."""

    def __init__(self, count: Count, start: int = 0, weight: int = 0) -> None:
        self.start = start
        self._count = count
        self._sums = [weight]

    def of(self, transcript: Transcript, place: int) -> int:
        """Return what the first `place` entries weigh."""
        for behind in range(self.start + len(self._sums) - 1, place):
            self._sums.append(self._sums[-1] + of_entry(transcript[behind], self._count))
        return self._sums[place - self.start]


def _weights(transcript: Transcript, count: Count, start: int = 0) -> Weights:
    """Return the weights of a transcript, as far back as `start`. What a provider counted only scales what came after it: of many
    entries in a session that was opened anew a sample is weighed, by which the lengths of the others are judged.
    """
    known: dict[Count, Weights] = transcript.memo.setdefault("weights", {})
    if count not in known or known[count].start > start:
        known[count] = Weights(count, start, _sampled(transcript, start, count)) if start > MANY_ENTRIES else Weights(count)
    return known[count]


def _sampled(transcript: Transcript, place: int, count: Count) -> int:
    """Estimate what the first `place` entries weigh: the longest ones are weighed, of the others some."""
    lengths = [_length(transcript[one]) for one in range(place)]
    order = sorted(range(place), key=lengths.__getitem__, reverse=True)
    longest, others = order[:SAMPLED_ENTRIES], order[SAMPLED_ENTRIES:]
    sample = others[:: max(len(others) // SAMPLED_ENTRIES, 1)]
    weight = sum(of_entry(transcript[one], count) for one in sample)
    scale = weight / max(sum(lengths[one] for one in sample), 1)
    return sum(of_entry(transcript[one], count) for one in longest) + round(scale * sum(lengths[one] for one in others))


def _length(entry: Entry) -> int:
    """Return about how long an entry is, without putting it into words."""
    match entry:
        case Said(parts=parts) | Answered(parts=parts):
            return sum(map(_length_of, parts)) + 1
        case Returned(calls=calls, trimmed=trimmed):
            return sum(len(trimmed.get(call.call.id, "")) or _length_of_outcome(call.outcome) for call in calls) + 1
        case Told(text=text) | Summed(text=text):
            return len(text) + 1


def _length_of(part: object) -> int:
    match part:
        case Text(text=text, raw=raw) | Reasoning(reasoning=text, raw=raw):
            return len(raw or text)
        case Call():
            return len(part.name) + len(part.malformed or str(part.arguments))
        case Opaque(opaque=text):
            return len(text)
    return ATTACHMENT_TOKENS


def _length_of_outcome(outcome: Outcome | None) -> int:
    if outcome is None or outcome.output is None:
        shown = outcome.parts or () if outcome is not None else ()
        cut = outcome.cut if outcome is not None else None
        return sum(map(_length_of, shown)) + (len(cut.head) + len(cut.tail) if cut is not None else 0)
    return len(outcome.output if isinstance(outcome.output, str) else str(outcome.output))


def of_coming(state: SessionState, count: Count) -> int:
    """Estimate what the next request shows for the first time: notes, and what steers."""
    notes = sum(MESSAGE_TOKENS + count(NOTE.format(text=note.text)) for note in state.notes)
    return notes + sum(MESSAGE_TOKENS + sum(of_part(part, count) for part in item.parts) for item in state.inputs if item.mode == "steer")


def estimated(state: SessionState, specs: Iterable[ToolSpec], count: Count) -> int:
    """Estimate the whole context, as if nothing had been measured."""
    return _prefix_of(state, specs, count) + _weights(state.transcript, count).of(state.transcript, len(state.transcript))


def _prefix_of(state: SessionState, specs: Iterable[ToolSpec], count: Count) -> int:
    """Estimate what stands before the messages, once for each transcript: it is the same for all of its requests, nearly always."""
    config, offered = state.turn.config if state.turn is not None else state.config, tuple(specs)
    known: dict[Count, tuple[object, int]] = state.transcript.memo.setdefault("before", {})
    if count not in known or known[count][0] != (config.system, offered):
        known[count] = ((config.system, offered), of_prefix(config.system, offered, count))
    return known[count][1]
