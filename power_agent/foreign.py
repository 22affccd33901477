"""JSON that comes from outside: read in bounded time and space, or refused.

The interpreter's own parser raises RecursionError on `[[[[…`, stalls on numbers of a million digits and takes NaN for JSON. Here
nesting and digits are bounded before anything is built. Keys that occur twice are tolerated (the last one counts), half of a
surrogate pair is kept as it came: whoever keeps the text cleans it.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from power_agent.limits import MAX_JSON_DEPTH, MAX_JSON_DIGITS

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class ForeignError(ValueError):
    """The text is not JSON, or is more than is read; the message says which."""


def parsed(text: str | bytes | bytearray) -> Any:
    """Return the value of one JSON text, or raise `ForeignError`."""
    if not isinstance(text, str):
        text = text.decode("utf-8-sig", "replace")
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        _refuse_depth(text)
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_fraction)
    except RecursionError:
        raise ForeignError("It is nested too deeply.") from None
    except ForeignError:
        raise
    except ValueError as error:
        raise ForeignError(f"It is not JSON: {error}") from None


def _refuse_depth(text: str) -> None:
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise ForeignError(f"It is nested more than {MAX_JSON_DEPTH} deep.")
        elif mark in "]}":
            depth -= 1


def _refuse_constant(constant: str) -> NoReturn:
    raise ForeignError(f"It holds {constant}, which is not JSON.")


def _whole(digits: str) -> int:
    if len(digits) > MAX_JSON_DIGITS:
        raise ForeignError(f"It holds a number of {len(digits)} digits.")
    return int(digits)


def _fraction(digits: str) -> float:
    """Read a number with a fraction; one too large for a float would be written as Infinity later, which is not JSON."""
    if len(digits) > MAX_JSON_DIGITS:
        raise ForeignError(f"It holds a number of {len(digits)} digits.")
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ForeignError(f"It holds {digits[:40]}, which is too large.")
    return value
