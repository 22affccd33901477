"""The tongue reads and writes as pydantic would: the same schema, the same values, the same refusals, the same text."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import MISSING, fields
from decimal import Decimal
from functools import cache
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter, ValidationError

from power_agent import events as e
from power_agent.messages import Message
from power_agent.state import SessionState
from power_agent.tongue import reader, schema_of, writer

KEPT = [*e.EVENTS.values(), SessionState, Message]
"""All that is read from a file, or written into one."""
AT_ITS_DEFAULT = {
    "init": True,
    "kw_only": False,
    "post_init": False,
    "frozen": False,
    "strict": False,
    "collect_init_only": False,
    "default_factory_takes_data": False,
    "computed_fields": [],
}
NAMES = {"ref", "metadata", "title"}
"""What pydantic notes for itself and for a JSON Schema; nothing that is read or written depends on it."""


def plain(schema: Any, known: dict[str, Any] | None = None) -> Any:
    """A schema with every reference followed, without what is said at length or for others, and as it is for JSON."""
    known = known or {}
    if isinstance(schema, list):
        return [plain(one, known) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "definitions":
        return plain(schema["schema"], {one["ref"]: one for one in schema["definitions"]})
    if schema.get("type") == "definition-ref":
        return plain(known[schema["schema_ref"]], known)
    if schema.get("type") == "json-or-python":
        return plain(schema["json_schema"], known)
    return {name: plain(value, known) for name, value in schema.items() if name not in NAMES and not (name in AT_ITS_DEFAULT and value == AT_ITS_DEFAULT[name])}


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.__name__)
def test_the_schema_is_the_one_that_pydantic_makes(kind: type):
    """Every field, its type, its default, and what is refused."""
    assert plain(schema_of(kind)) == plain(TypeAdapter(kind).core_schema)


PART = st.sampled_from([{"text": "t"}, {"reasoning": "r"}, {"name": "n", "arguments": {"a": [1]}}, {"media_type": "a/b"}, {"opaque": "{}"}, {"text": 1}, {"new": 1}])
OTHER = st.sampled_from(
    [
        *("x", "", "7", "1.0", "true", "stop", "ask", "turn", "completed", "released", "refused", "input", "fork"),
        *(0, 7, -1, 2**70, 1.0, 1.5, True, False, None),
        *([], {}, [1], ["1"], {"a": {"b": None}}, [None]),
        *({"code": "c", "message": "m"}, {"input": 1}, {"input": 1, "new": 2}, {"blob": "b", "size": 1, "head": "h", "tail": "t"}),
        *({"relation": "fork", "session": "s", "seq": 1}, {"name": "n", "schema": {}}, [{"call": "c", "note": "n"}]),
        *({"model": "m", "tools": [{"name": "n", "digest": "d"}], "limits": {"max_tool_seconds": 1}}, {"limits": {"max_tool_seconds": "1"}}),
    ]
)
VALUE = st.one_of(OTHER, st.lists(PART, max_size=2))


def outcome(read: Any, text: str) -> Any:
    """What is read, or what exactly is wrong with it and where."""
    try:
        return read(text)
    except ValidationError as error:
        return error.errors(include_url=False, include_context=False)


@pytest.mark.parametrize("kind", list(e.EVENTS))
@settings(max_examples=60)
@given(data=st.data())
def test_it_takes_and_refuses_what_pydantic_does(kind: str, data: st.DataObject):
    """Whatever stands in a body: the same event, or the same fault in the same place."""
    event = e.EVENTS[kind]
    theirs = adapter(event)
    required = {one.name: VALUE for one in fields(event) if one.default is MISSING and one.default_factory is MISSING}
    others = {one.name: VALUE for one in fields(event) if one.name not in required} | {"from_the_future": VALUE}
    text = json.dumps(data.draw(st.fixed_dictionaries(required, optional=others)))
    read = outcome(read_by_us(event), text)
    assert read == outcome(theirs.validate_json, text)
    if isinstance(read, e.Event):
        assert types_in(read) == types_in(theirs.validate_json(text))
        assert written_by_us(event)(read, exclude_defaults=True) == theirs.dump_json(read, exclude_defaults=True)


read_by_us, written_by_us = cache(reader), cache(writer)


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    """What pydantic makes. A union with None is the way to tell it about NaN in a dataclass."""
    return TypeAdapter(Optional[kind], config=ConfigDict(ser_json_inf_nan="constants"))  # noqa: UP045


def types_in(value: Any) -> Any:
    """The types of all that is inside: equal is not enough, 1 equals 1.0 and True."""
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [types_in(getattr(value, name)) for name in value.__dataclass_fields__]
    if isinstance(value, dict):
        return dict, [(name, types_in(one)) for name, one in value.items()]
    return (type(value), [types_in(one) for one in value]) if isinstance(value, list | tuple) else type(value)


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1, 2}, b"x", (1, 2), Decimal("1.5"), dt.date(2020, 1, 1), {1: 2}, 10**400], ids=repr)
def test_a_value_is_written_as_pydantic_writes_it(value: object):
    """Also one that is no value of JSON, which the types do not let through but a caller may."""
    event = e.CallSucceeded(call="c", output=value)  # type: ignore[arg-type]
    assert writer(e.CallSucceeded)(event, warnings=False) == adapter(e.CallSucceeded).dump_json(event, warnings=False)


def test_a_type_without_a_line_is_refused():
    """A field of a new type fails when it is first read, not in silence."""
    with pytest.raises(TypeError, match="set"):
        reader(tuple[set[int], ...])
