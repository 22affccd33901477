"""The tongue: what reads words from JSON and writes them, made from their annotations.

pydantic's way from annotations to a schema knows every type there is and takes milliseconds for each kind of event; a fresh process
that reopens a session waits for them. Words are made of few types: each has one line here, and the schema goes to pydantic's core
directly. It is the very schema that pydantic would have made for JSON; `tests/test_tongue.py` compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import JsonValue
from pydantic_core import CoreConfig, CoreSchema, SchemaSerializer, SchemaValidator
from pydantic_core import core_schema as core

from power_agent.word import Word

STRICT: CoreConfig = {"extra_fields_behavior": "forbid", "ser_json_inf_nan": "constants"}
"""Nothing that is not known is dropped in silence; NaN shows, and is refused, as NaN."""


def reader(hint: Any) -> Callable[[str], Any]:
    """Make what reads a word, or a tuple with words in it, from JSON; a `ValueError` says what is wrong."""
    return SchemaValidator(schema_of(hint), STRICT).validate_json


def writer(hint: Any) -> Callable[..., bytes]:
    """Make what writes one as JSON."""
    return SchemaSerializer(schema_of(hint), STRICT).to_json


_known: dict[Any, CoreSchema] = {str: core.str_schema(), int: core.int_schema(), float: core.float_schema(), bool: core.bool_schema(), JsonValue: core.any_schema()}
"""The schemas of words that were met, and of what has no parts. `JsonValue` is anything: nothing else comes out of JSON."""
_meant: dict[tuple[str, str], Any] = {}
"""What annotations name, by their text and the module they are written in."""


def schema_of(hint: Any) -> CoreSchema:
    """Return the schema of a type that a word can hold."""
    if hint in _known:
        return _known[hint]
    if isinstance(hint, type) and issubclass(hint, Word):
        _known[hint] = _word(hint)
        return _known[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in _MADE_OF:
        return _MADE_OF[origin](*args)
    if hasattr(hint, "__get_pydantic_core_schema__"):
        return hint.__get_pydantic_core_schema__(hint, schema_of)  # type: ignore[no-any-return]
    raise TypeError(f"A word cannot hold {hint!r}.")


def _tuple(*kinds: Any) -> CoreSchema:
    if kinds[-1] is Ellipsis:
        return core.tuple_schema([schema_of(kinds[0])], variadic_item_index=0)
    return core.tuple_schema([schema_of(one) for one in kinds])


def _or_none(*kinds: Any) -> CoreSchema:
    (kind,) = [one for one in kinds if one is not NoneType]
    return core.nullable_schema(schema_of(kind))


def _told_apart(union: Any, discriminator: Any) -> CoreSchema:
    """Return the schema of a union whose members, each with a tag, are told apart by a function that names the tag."""
    members = map(get_args, get_args(union))
    return core.tagged_union_schema({tag.tag: schema_of(member) for member, tag in members}, discriminator.discriminator)


_MADE_OF: Mapping[Any, Callable[..., CoreSchema]] = {
    Literal: lambda *values: core.literal_schema(list(values)),
    tuple: _tuple,
    list: lambda kind: core.list_schema(schema_of(kind)),
    dict: lambda key, value: core.dict_schema(schema_of(key), schema_of(value)),
    Mapping: lambda key, value: core.dict_schema(schema_of(key), schema_of(value)),
    Union: _or_none,
    UnionType: _or_none,
    Annotated: _told_apart,
}
"""What has parts."""


def _word(kind: type[Word]) -> CoreSchema:
    own: tuple[Field[Any], ...] = fields(kind)  # type: ignore[arg-type]
    inside = core.dataclass_args_schema(kind.__name__, [core.dataclass_field(one.name, _field(one, kind.__module__)) for one in own])
    return core.dataclass_schema(kind, inside, [one.name for one in own], config=STRICT, slots=True)


def _field(field: Field[Any], module: str) -> CoreSchema:
    named = str(field.type), module
    if named not in _meant:
        _meant[named] = eval(named[0], vars(sys.modules[module]))  # noqa: S307  our own annotations, kept as text until here
    schema = schema_of(_meant[named])
    if field.default is not MISSING:
        return core.with_default_schema(schema, default=field.default)
    if field.default_factory is not MISSING:
        return core.with_default_schema(schema, default_factory=field.default_factory)
    return schema
