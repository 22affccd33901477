"""A session as an ATIF v1.7 trajectory (Agent Trajectory Interchange Format, RFC 0001 of the Harbor project), step by step.

    system   the prompt; notes of the harness; summaries, where the context was made smaller
    user     what was said to the agent
    agent    one answer of the model, its calls, and what came of them as `observation`

What the format has no field for stands in `extra.power_agent`, so that an import restores it: how a call that did not succeed
ended, arguments that were no object, ids. Pictures are `data:` addresses, because a trajectory is one file; what ATIF 1.7 cannot
hold (sound, documents) is named in a text. Unknown costs are left out, never 0.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from power_agent.context import NOTE
from power_agent.editions.edition import About
from power_agent.editions.retelling import Heard, Noted, Spoken, Summed, Telling, told
from power_agent.editions.visible import moment
from power_agent.events import Envelope, ModelAnswered
from power_agent.messages import Attachment, Call, ContentPart, Reasoning, Text, Usage
from power_agent.state import CallState

SCHEMA = "ATIF-v1.7"
AGENT = "power-agent"
NANO = 1_000_000_000
PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""The media types that ATIF 1.7 knows."""

Step = dict[str, Any]


class Trajectory:
    """Writes one trajectory."""

    needs: Literal["event", "tellings", "nothing"] = "tellings"

    def __init__(self, about: About) -> None:
        self._about = about
        self._steps = 0
        self._usage = Usage()
        self._cost: int | None = 0

    def begin(self) -> Iterator[str]:
        """Write everything before the steps, and the prompt as the first of them."""
        about, config = self._about, self._about.config
        agent: Step = {"name": AGENT, "version": _version()}
        if config.model:
            agent["model_name"] = config.model
        if config.tools:
            agent["extra"] = {"tools": [tool.name for tool in config.tools]}
        head = {"schema_version": SCHEMA, "session_id": about.session, "trajectory_id": f"{about.session}:{about.seq}", "agent": agent}
        yield _json(head)[:-1] + ',"steps":['
        if config.system:
            yield self._step({"source": "system", "message": config.system, "extra": {"power_agent": {"prompt": True}}})

    def take(self, _kept: Envelope, tellings: Sequence[Telling], blobs: Mapping[str, bytes]) -> Iterator[str]:
        """Write the steps that are complete."""
        for telling in tellings:
            match telling:
                case Heard(seq=seq, at=at, parts=parts, by=by):
                    extra = {"power_agent": {"seq": seq, **({"by": by} if by else {})}}
                    yield self._step({"timestamp": moment(at), "source": "user", "message": _content(parts, blobs), "extra": extra})
                case Noted(seq=seq, at=at, text=text):
                    extra = {"power_agent": {"seq": seq, "note": text}}
                    yield self._step({"timestamp": moment(at), "source": "system", "message": NOTE.format(text=text), "extra": extra})
                case Summed(seq=seq, at=at, event=event):
                    what = {"seq": seq, "compaction": {"from_seq": event.from_seq, "to_seq": event.to_seq, "strategy": event.strategy}}
                    yield self._step({"timestamp": moment(at), "source": "system", "message": event.summary or "", "extra": {"power_agent": what}})
                case Spoken():
                    yield self._step(self._spoken(telling, blobs))

    def end(self, tellings: Sequence[Telling], blobs: Mapping[str, bytes]) -> Iterator[str]:
        """Write the last steps and the sums."""
        yield from self.take(Envelope("", 0, 0, 0, None), tellings, blobs)
        usage = self._usage
        final: Step = {"total_prompt_tokens": usage.input, "total_completion_tokens": usage.output, "total_cached_tokens": usage.cached, "total_steps": self._steps}
        if self._cost is not None:
            final["total_cost_usd"] = self._cost / NANO
        extra = {"power_agent": {"seq": self._about.seq, "tip": self._about.tip}}
        yield f'],"final_metrics":{_json(final)},"extra":{_json(extra)}}}\n'

    def _step(self, step: Step) -> str:
        self._steps += 1
        return ("," if self._steps > 1 else "") + "\n" + _json({"step_id": self._steps, **step})

    def _spoken(self, spoken: Spoken, blobs: Mapping[str, bytes]) -> Step:
        answer = spoken.answer
        step: Step = {"timestamp": moment(spoken.at), "source": "agent", "model_name": spoken.model}
        step["message"] = _content([part for part in answer.parts if isinstance(part, Text | Attachment)], blobs)
        thought = "\n".join(part.reasoning for part in answer.parts if isinstance(part, Reasoning) and part.reasoning)
        if thought:
            step["reasoning_content"] = thought
        calls = [part for part in answer.parts if isinstance(part, Call)]
        if calls:
            step["tool_calls"] = [_call(call) for call in calls]
            results = [_result(call, blobs) for call in spoken.calls if call.resolved]
            if results:
                step["observation"] = {"results": results}
        step["metrics"] = self._metrics(answer)
        step["llm_call_count"] = 1
        step["extra"] = {"power_agent": {"seq": spoken.seq, "turn": spoken.turn, "finish": answer.finish}}
        return step

    def _metrics(self, answer: ModelAnswered) -> Step:
        usage = answer.usage
        self._usage += usage
        metrics: Step = {"prompt_tokens": usage.input, "completion_tokens": usage.output, "cached_tokens": usage.cached}
        if answer.cost_nano_usd is None:
            self._cost = None
        else:
            metrics["cost_usd"] = answer.cost_nano_usd / NANO
            self._cost = None if self._cost is None else self._cost + answer.cost_nano_usd
        more = {"reasoning_tokens": usage.reasoning, "cache_written_tokens": usage.cache_written}
        if any(more.values()):
            metrics["extra"] = more
        return metrics


def _call(call: Call) -> Step:
    made: Step = {"tool_call_id": call.id, "function_name": call.name, "arguments": dict(call.arguments)}
    extra: Step = {"provider_id": call.provider_id} if call.provider_id else {}
    if call.malformed is not None:
        extra["malformed"] = call.malformed
    return {**made, "extra": {"power_agent": extra}} if extra else made


def _result(call: CallState, blobs: Mapping[str, bytes]) -> Step:
    result: Step = {"source_call_id": call.call.id, "content": _content(told(call), blobs)}
    outcome = call.outcome
    if call.place == "succeeded" or outcome is None:
        return result
    how: Step = {"outcome": call.place, "started": outcome.touched}
    how |= {name: value for name, value in (("by", outcome.by), ("reason", outcome.reason)) if value}
    if outcome.failure is not None:
        how |= {"code": outcome.failure.code, "message": outcome.failure.message}
        untouched = call.attempt == 1 and outcome.failure.details.get("untouched")  # of an earlier attempt a tool's word says nothing
        how |= {name: True for name, so in (("harmless", outcome.harmless), ("untouched", untouched)) if so}
    return {**result, "extra": {"power_agent": how}}


def _content(parts: Sequence[ContentPart], blobs: Mapping[str, bytes]) -> str | list[Step]:
    """Return parts as the format has them: a text, or texts and pictures."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [{"type": "text", "text": part.text} if isinstance(part, Text) else _attached(part, blobs) for part in parts]


def _attached(part: Attachment, blobs: Mapping[str, bytes]) -> Step:
    kind = part.media_type.partition(";")[0].strip().lower()
    if kind in PICTURES:
        address = f"data:{kind};base64,{b64encode(blobs[part.blob]).decode()}" if part.blob else part.url
        if address:
            return {"type": "image", "source": {"media_type": kind, "path": address}}
    return {"type": "text", "text": named(part)}


def named(part: Attachment) -> str:
    """Say in words what is attached where it cannot be shown."""
    about = [part.media_type, f"{part.size} bytes" if part.size is not None else "", part.url or "", f"SHA-256 {part.blob}" if part.blob else ""]
    return f"[Attachment{f' {part.name!r}' if part.name else ''}: {', '.join(one for one in about if one)}]"


def _version() -> str:
    try:
        return version(AGENT)
    except PackageNotFoundError:  # run from a folder, never installed
        return "unknown"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
