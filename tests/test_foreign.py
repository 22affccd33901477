"""JSON from outside is read in bounded time, or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from power_agent.foreign import ForeignError, parsed
from power_agent.limits import MAX_JSON_DEPTH, MAX_JSON_DIGITS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(VALUES)
def test_json_is_read_as_it_is(value):
    """What is JSON and not absurd comes back as the standard parser reads it, from text and from bytes."""
    text = json.dumps(value)
    assert parsed(text) == value
    assert parsed(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1),
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        "9" * (MAX_JSON_DIGITS + 1),
        "0." + "9" * (MAX_JSON_DIGITS + 1),
        "",
        "{",
        '{"a":1} {',
        "<html>",
        '"' + '\\"[{' * 200_000,
    ],
    ids=range(14),
)
def test_what_is_absurd_is_refused(text):
    """Too deep, too long, not a number, not JSON: an error of one kind."""
    with pytest.raises(ForeignError):
        parsed(text)


def test_what_is_merely_odd_is_read():
    """Brackets in strings are no nesting, a key may stand twice, half a surrogate pair and a byte order mark are survived."""
    assert parsed("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH)
    assert parsed(json.dumps({"[{" * 1_000 + '\\"': "[" * 1_000})) == {"[{" * 1_000 + '\\"': "[" * 1_000}
    assert parsed("[" + "[]," * 500 + "[]]") == [[]] * 501
    assert parsed('{"a":1,"a":2}') == {"a": 2}
    assert parsed('"\\ud800"') == "\ud800"
    assert parsed(b'\xef\xbb\xbf"caf\xc3\xa9"') == "café"
    assert parsed(b'"\xff"') == "�"
