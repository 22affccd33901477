"""`"provider:model"` finds its format, its address and its key, or says what is missing."""

from __future__ import annotations

import pytest

from power_agent import StatefulAgentLoop
from power_agent.errors import InvalidInput
from power_agent.models import ScriptedModel, model, named

KEY = "a-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for provider in named.PROVIDERS.values():
        for variable in (*provider.keys, provider.address):
            if variable:
                monkeypatch.delenv(variable, raising=False)


def test_missing_key_names_the_variables():
    with pytest.raises(InvalidInput) as caught:
        model("openai-chat:m")
    assert "OPENAI_API_KEY" in caught.value.hint


def test_key_is_found_and_never_shown(monkeypatch):
    """From the environment or passed in; a `repr` shows the address, not the key."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = model("openai-chat:m", base_url="http://127.0.0.1:1/v1/")
    assert (found.name, repr(found)) == ("openai-chat:m", "HTTPModel('openai-chat:m', 'http://127.0.0.1:1/v1')")
    assert KEY not in repr(vars(found))
    assert model("ollama:m").name == "ollama:m"


@pytest.mark.parametrize(("name", "hint"), [("opnai:m", "'openai'"), ("zzz:m", "ollama"), ("gpt", "provider:model"), ("openai:", "provider:model")])
def test_unknown_names_get_a_suggestion(name, hint):
    with pytest.raises(InvalidInput) as caught:
        model(name, api_key=KEY)
    assert hint in caught.value.hint


def test_third_parties_add_providers(monkeypatch):
    """An entry point's object is called with the model's name and the options."""

    class Entry:
        name = "mine"

        def load(self):
            return lambda wanted, **options: ScriptedModel([], name=f"mine:{wanted}:{options['api_key']}")

    monkeypatch.setattr(named, "entry_points", lambda group: [Entry()] if group == "power_agent.models" else [])
    assert model("mine:m", api_key="k").name == "mine:m:k"


async def test_loop_takes_a_name(tmp_path):
    """The loop makes the model from its name, and closes what it made."""
    async with StatefulAgentLoop("ollama:m", store=tmp_path / "log.db") as agent:
        assert agent._model.name == "ollama:m"
    with pytest.raises(InvalidInput, match="no key"):
        StatefulAgentLoop("openai-chat:m", store=tmp_path / "log.db")
