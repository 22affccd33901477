"""Whatever a server sends, an answer is read or a typed error raised; what is read can be kept, and the next request is legal.

Recorded streams are damaged by chance: values replaced anywhere, events lost, doubled or out of order.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from gatekeepers import GATEKEEPERS
from hypothesis import given
from hypothesis import strategies as st
from wires import TOOLS, asked, body, pieces_of, recorded

from power_agent.cleaning import clean
from power_agent.context import _Ids
from power_agent.errors import ModelError
from power_agent.events import ModelAnswered
from power_agent.messages import Call, Message, Output, Text
from power_agent.models.anthropic import Anthropic
from power_agent.models.gemini import Gemini
from power_agent.models.openai_responses import OpenAIResponses

FORMS = {"thinking": Anthropic(), "reasoning": OpenAIResponses(), "thoughts": Gemini()}
SCRAP = st.recursive(
    st.sampled_from(
        [None, True, -1, 0, 3, 1.5, 10**30, "", "x", "\ud83d", "\U0010fffd", "tool_use", "message", "function_call", "incomplete", "MAX_TOKENS", "max_tokens", "thinking"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "id", "index", "name", "args", "input", "status", "error"]), inner, max_size=3),
    max_leaves=4,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


@st.composite
def damaged(draw, events):
    """The events, with something broken."""
    events = copy.deepcopy(events)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(events) - 1))
        match draw(st.sampled_from(["replace", "replace", "replace", "lose", "double", "swap"])):
            case "lose" if len(events) > 1:
                del events[at]
            case "double":
                events.insert(at, copy.deepcopy(events[at]))
            case "swap":
                events[at - 1], events[at] = events[at], events[at - 1]
            case _:
                name, value = events[at]
                holder = {"root": value}
                path = ("root", *draw(st.sampled_from(list(places(value)))))
                inner = holder
                for step in path[:-1]:
                    inner = inner[step]
                inner[path[-1]] = draw(SCRAP)
                events[at] = name, holder["root"]
    return events


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_damage_is_survived(name, data):
    form = FORMS[name]
    events = data.draw(damaged(list(pieces_of(recorded(form, name)))))
    reading = form.read(asked(), stream=True)
    try:
        for event, value in events:
            for kind, text in reading.take(value, event):
                assert kind in {"text", "reasoning", "arguments"}
                assert isinstance(text, str)
        reply = reading.reply()
    except ModelError:
        return
    ids, numbered = _Ids(), [replace(part, id=f"t1r1c{place}") if isinstance(part, Call) else part for place, part in enumerate(reply.parts)]
    kept = clean(ModelAnswered(round=1, parts=tuple(numbered), format=reply.format, finish=reply.finish, usage=reply.usage, model=reply.model)).event
    said = Message("assistant", tuple(replace(part, provider_id=ids.give(part)) if isinstance(part, Call) else part for part in kept.parts), kept.format)
    messages = [Message("user", (Text("hello"),))]
    if said.parts:
        messages.append(said)
    outputs = tuple(Output(call.id, (Text("done"),), call.malformed is not None, call.provider_id, call.name) for call in said.calls)
    messages.append(Message("tool", outputs) if outputs else Message("user", (Text("go on"),)))
    GATEKEEPERS[form.name](body(form, asked(*messages, tools=TOOLS)))
