"""What all five formats do alike, whatever else they do differently."""

from __future__ import annotations

import pytest
from wires import TOOLS, asked, body, pinned

from power_agent.messages import Attachment, Call, Message, Output, Reasoning, Text
from power_agent.models.anthropic import Anthropic
from power_agent.models.gemini import Gemini
from power_agent.models.ollama import Ollama
from power_agent.models.openai_chat import OpenAIChat
from power_agent.models.openai_responses import OpenAIResponses

FORMS = {form.name: form for form in (Anthropic(), OpenAIResponses(), OpenAIChat(), Gemini(), Ollama())}


@pytest.mark.parametrize("name", FORMS)
def test_tools_of_the_provider_stand_beside_ours(name):
    """`extra["tools"]` is added to our tools, not put in their place; also where there are none of ours."""
    extra = {"tools": [{"type": "web_search"}]}
    for tools in (TOOLS, ()):
        made = body(FORMS[name], asked(tools=tools, settings={"extra": extra}))
        assert {"type": "web_search"}.items() <= made["tools"][-1].items()
        assert ("look" in str(made["tools"])) == bool(tools)
    assert extra == {"tools": [{"type": "web_search"}]}


@pytest.mark.parametrize("name", FORMS)
def test_names_that_a_model_made_up_are_mended(name):
    """A call of `my tool.v2!` was refused here; its provider would refuse to hear of it, too."""
    call = Call("my tool.v2!", {}, "t1r1c1", "c1")
    made = str(
        body(FORMS[name], asked(Message("user", (Text("x"),)), Message("assistant", (call,)), Message("tool", (Output("t1r1c1", (Text("no"),), True, "c1", "my tool.v2!"),))))
    )
    assert "my_tool_v2_" in made
    assert "my tool" not in made


def conversation(form: str) -> tuple[Message, ...]:
    """What happens in a session: a picture, thoughts, parallel calls, one that failed, one that was cut."""
    calls = (Call("look", {"place": "süd"}, "t1r1c1", "c1"), Call("wait", {}, "t1r1c2", "c2"))
    return (
        Message("user", (Text("What is it?"), Attachment("image/png", blob="png"))),
        Message("assistant", (Reasoning("Hm.", '{"reasoning_content":"Hm."}'), Text("Let me look."), *calls), form),
        Message(
            "tool", (Output("t1r1c1", (Text("a place"), Attachment("image/png", blob="png")), provider_id="c1", name="look"), Output("t1r1c2", (Text("late"),), True, "c2", "wait"))
        ),
        Message("assistant", (Call("look", {}, "t1r2c1", "c3", '{"place": "no'),), form),
        Message("tool", (Output("t1r2c1", (Text("Not a JSON object."),), True, "c3", "look"),)),
        Message("assistant", (Text("It is a picture."),), "elsewhere"),
        Message("user", (Text("Thanks 🙂"),)),
    )


@pytest.mark.parametrize("form", [OpenAIChat(), Ollama()], ids=lambda form: form.name)
def test_requests_are_pinned(form):
    """The bytes of a request are what a provider's cache knows it by: they change on purpose only."""
    settings = {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 100, "stop": ["END"], "reasoning_effort": "low", "seed": 7, "tool_choice": "auto"}
    pinned(form, "hello", form.write("model", asked(), stream=False))
    pinned(form, "everything", form.write("model", asked(*conversation(form.name), system="Be kind.", tools=TOOLS, settings=settings), stream=True))
