"""A word: a frozen piece of data, and the decorator that makes one.

`@word` is `@dataclass(frozen=True, slots=True)` in all that can be seen. What the standard decorator compiles anew for every
class (equality, printing, freezing, the constructor) is written here once, and the constructor is compiled when the first one of
its kind is made. Sixty kinds cost a tenth of an import that way, and whoever imports the package feels it every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict

T = TypeVar("T", bound=type)
W = TypeVar("W", bound="Word")


class Word:
    """A frozen piece of data. Read from JSON, fields that are not known are refused: they come from a newer version."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if type(other) is not type(self):
            return NotImplemented
        values = _reader(type(self))
        return bool(values(self) == values(other))

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in names_of(type(self)))))

    def __repr__(self) -> str:
        values = ", ".join([f"{name}={getattr(self, name)!r}" for name in names_of(type(self))])
        return f"{type(self).__qualname__}({values})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), {name: getattr(self, name) for name in names_of(type(self))})


def _fields(thing: Any) -> tuple[Field[Any], ...]:
    return fields(thing)


_known_names: dict[type, tuple[str, ...]] = {}
_known_readers: dict[type, Callable[[object], object]] = {}


def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a kind."""
    known = _known_names.get(kind)
    if known is None:
        known = _known_names[kind] = tuple(one.name for one in _fields(kind))
    return known


def _reader(kind: type) -> Callable[[object], object]:
    """Return what reads all fields of this kind at once."""
    known = _known_readers.get(kind)
    if known is None:
        known = _known_readers[kind] = attrgetter(*names_of(kind)) if names_of(kind) else lambda _: ()
    return known


def _rebuilt(kind: type, values: dict[str, Any]) -> object:
    return kind(**values)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def word(*, kw_only: bool = False, slots: bool = True) -> Callable[[T], T]:
    """Make a subclass of `Word` a frozen dataclass."""

    def made(kind: T) -> T:
        finished: Any = dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(kind)
        finished.__init__ = _first_init
        return finished  # type: ignore[no-any-return]

    return made


def replace(one: W, **changes: Any) -> W:
    """Return a word with changes: `dataclasses.replace`, at a fifth of its cost."""
    kind = type(one)
    values = {name: getattr(one, name) for name in names_of(kind)}
    values.update(changes)
    return kind(**values)


def _first_init(self: Any, *args: Any, **values: Any) -> None:
    """Compile the constructor of this kind, put it in its place, and use it."""
    kind = type(self)
    kind.__init__ = _constructor(kind)
    kind.__init__(self, *args, **values)


_OPEN = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
"""What makes a kind an open one; both, because one slot of the type serves both."""


def _constructor(kind: type) -> Callable[..., None]:
    """Compile a constructor. A word cannot be set, so where it has slots it is of an open kind, which can, while it is filled: a fraction
    of what passing by its own `__setattr__` costs, once for each field. A subclass that is no word of its own is filled slot by slot.
    """
    names: dict[str, Any] = {"_missing": MISSING}
    checks = ["self.__post_init__()"] if hasattr(kind, "__post_init__") else []
    plain = hasattr(kind, "__dict__") and "__slots__" not in vars(kind)
    positional, keyword, made, filled, put = ["self"], list[str](), list[str](), list[str](), list[str]()
    for one in _fields(kind):
        default = ""
        if one.default is not MISSING:
            names[f"_default_{one.name}"] = one.default
            default = f"=_default_{one.name}"
        elif one.default_factory is not MISSING:
            names[f"_make_{one.name}"] = one.default_factory
            default = "=_missing"
            made += [f"if {one.name} is _missing:", f"    {one.name} = _make_{one.name}()"]
        (keyword if one.kw_only else positional).append(one.name + default)
        filled.append(f"_fields[{one.name!r}] = {one.name}" if plain else f"self.{one.name} = {one.name}")
        if not plain:
            names[f"_put_{one.name}"] = getattr(kind, one.name).__set__
            put.append(f"    _put_{one.name}(self, {one.name})")
    if plain:
        body = [*made, "_fields = self.__dict__", *filled, *checks]
    else:
        names |= {"_word_become": vars(object)["__class__"].__set__, "_word_open": type(kind.__name__, (kind,), _OPEN), "_word_kind": kind}
        other = [*put, *(f"    {one}" for one in checks), "    return"]
        body = [*made, "if type(self) is not _word_kind:", *other, "_word_become(self, _word_open)", *filled, "self.__class__ = _word_kind", *checks]
    head = ", ".join([*positional, *(["*", *keyword] if keyword else [])])
    exec(f"def __init__({head}):\n" + "\n".join(f"    {line}" for line in body), names)  # noqa: S102  only names of fields stand in it, as in dataclasses
    constructor: Callable[..., None] = names["__init__"]
    return constructor
