"""What nobody promised is read as far as it goes; what is kept raw is the same bytes again."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wires import asked

from power_agent.errors import InvalidInput
from power_agent.messages import Attachment, Message, clean_text
from power_agent.models.format import body_of
from power_agent.models.gleaning import contents_of, data_url, index_of, joined, kept, kind_of, list_of, name_of, object_of, own, text_of
from power_agent.models.gleaning import given as given_back

ITEMS = st.dictionaries(
    st.text(max_size=4), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists), max_size=4
)


@given(ITEMS)
@example({"private": "a\U0010fffdb\U0010fffd\U0010fffd"})
def test_raw_items_are_the_same_bytes_again(item):
    """Kept, cleaned by the log, read and written into a body: not one byte differs, private characters included."""
    raw = kept(item)
    assert body_of({"x": given_back(clean_text(raw))}) == b'{"x":' + raw.encode() + b"}"
    assert body_of({"x": given_back(raw)}) == b'{"x":' + raw.encode() + b"}" or "\U0010fffd" in raw


def test_order_of_keys_and_numbers_stay():
    text = '{"z":1.0,"a":[1e-07,123456789012345678901234567890],"é":"\\u0000 /"}'
    assert kept(json.loads(text)) == text


def test_half_a_pair_cannot_be_kept_raw():
    assert kept({"a": "\ud83d"}) == '{"a":"?"}'
    assert kept({"a": "\ud83d\ude00"}) == '{"a":"😀"}'


@pytest.mark.parametrize("raw", [None, "", "{", "[]", '"x"', "NaN"])
def test_what_is_no_item_gives_none(raw):
    assert given_back(raw) is None


def test_raw_items_belong_to_their_format():
    assert own(Message("assistant", (), "one"), '{"a":1}', "one") == {"a": 1}
    assert own(Message("assistant", (), "other"), '{"a":1}', "one") is None
    assert own(Message("assistant", ()), '{"a":1}', "one") is None


@pytest.mark.parametrize("value", [None, 1, True, "x", [1], {"a": 1}])
def test_each_type_or_an_empty_one(value):
    assert object_of(value) == (value if isinstance(value, dict) else {})
    assert list_of(value) == (value if isinstance(value, list) else [])
    assert text_of(value) == (value if isinstance(value, str) else "")
    assert index_of(value, 7) == (1 if value == 1 and value is not True else 7)


def test_pairs_cut_in_two_are_whole_again():
    assert joined(["a\ud83d", "\ude00b"]) == "a😀b"
    assert joined(["a\ud83d", "b"]) == "a\ud83db"
    assert joined([]) == ""


@pytest.mark.parametrize(("name", "legal"), [("look", "look"), ("multi_tool_use.parallel", "multi_tool_use_parallel"), ("", "unnamed"), ("x" * 90, "x" * 64), ("ö b", "__b")])
def test_names_a_model_made_up_are_mended(name, legal):
    assert name_of(name) == legal


def test_parameters_of_a_media_type_are_left_out():
    assert kind_of(Attachment("Text/Plain; charset=utf-8")) == "text/plain"
    assert data_url(asked(), Attachment("image/PNG;x=y", blob="png")).startswith("data:image/png;base64,")


def test_attachments_are_bytes_or_an_address():
    assert data_url(asked(), Attachment("image/png", blob="png")) == "data:image/png;base64,iVBORw0KGgo="
    assert data_url(asked(), Attachment("image/png", url="https://example.org/a.png")) == "https://example.org/a.png"
    assert contents_of(asked(), Attachment("text/plain", blob="txt")) == "Grüße"
    for lost in (Attachment("text/plain", blob="gone"), Attachment("text/plain")):
        with pytest.raises(InvalidInput):
            contents_of(asked(), lost)
