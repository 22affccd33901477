"""Settings have one name everywhere, and what is misspelt is refused."""

import pytest

from power_agent.errors import InvalidInput
from power_agent.models.settings import Settings, merged


def test_settings_are_read_as_they_stand():
    """Every setting comes back typed; None and nothing mean what the provider does by itself."""
    assert Settings.of(None) == Settings.of({}) == Settings.of({"temperature": None}) == Settings()
    asked = {"temperature": 0, "top_p": 0.5, "max_output_tokens": 9, "stop": ["a", "b"], "tool_choice": "tool:look", "parallel_tool_calls": False}
    read = Settings.of({**asked, "reasoning_effort": "xhigh", "reasoning_tokens": 5, "seed": -1, "extra": {"a": {"b": 1}}})
    assert (read.temperature, read.top_p, read.max_output_tokens, read.stop, read.chosen_tool, read.parallel_tool_calls) == (0, 0.5, 9, ("a", "b"), "look", False)
    assert (read.reasoning_effort, read.reasoning_tokens, read.seed, read.extra) == ("xhigh", 5, -1, {"a": {"b": 1}})
    assert Settings.of({"stop": "x"}).stop == ("x",)
    assert Settings.of({"stop": []}).stop == ()
    assert Settings.of({"tool_choice": "required"}).chosen_tool is None


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'?"),
        ({"logit_bias": {}}, "goes into extra"),
        ({"temperature": True}, "number"),
        ({"temperature": "hot"}, "number"),
        ({"max_output_tokens": 0}, "whole number above 0"),
        ({"seed": 1.5}, "whole number"),
        ({"stop": [""]}, "text"),
        ({"stop": 1}, "text"),
        ({"parallel_tool_calls": 1}, "True or False"),
        ({"reasoning_effort": ""}, "word"),
        ({"tool_choice": "any"}, '"required"'),
        ({"tool_choice": "tool:"}, '"tool:"'),
        ({"extra": []}, "mapping"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said(settings, hint):
    with pytest.raises(InvalidInput) as caught:
        Settings.of(settings)
    assert hint in caught.value.hint


def test_extra_is_laid_over_the_body():
    """Objects are merged level by level, everything else is replaced; neither side is changed."""
    body, extra = {"a": 1, "b": {"c": 1, "d": [1]}}, {"b": {"d": [2], "e": None}, "f": 1}
    assert merged(body, extra) == {"a": 1, "b": {"c": 1, "d": [2], "e": None}, "f": 1}
    assert body == {"a": 1, "b": {"c": 1, "d": [1]}}
