"""`"provider:model"` finds its format, its address and its key, or says what is missing."""

from __future__ import annotations

import httpx
import pytest
from servers import ChatServer, OllamaServer
from vendors import AnthropicServer, GeminiServer, ResponsesServer
from wires import asked

from power_agent import StatefulAgentLoop
from power_agent.errors import InvalidInput, ModelError
from power_agent.models import ScriptedModel, model, named
from power_agent.secrets import Secret
from power_agent.testing.speaking import Loopback, Said, head, saying

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


@pytest.mark.parametrize("empty", ["", " ", [], [""], ()], ids=repr)
def test_an_empty_key_is_none(monkeypatch, empty):
    """Who passes one gets no other in its place: what the environment holds may not be for that server. Where a key is needed it is asked for."""
    for variable in ("OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    with pytest.raises(InvalidInput, match="There is no key for openai-chat") as caught:
        model("openai-chat:m", base_url="https://example.com", api_key=empty)
    assert "a key that is empty is none" in caught.value.hint
    own = model("vllm:m", api_key=empty)
    assert (own.secrets, own.another("vllm:n").secrets) == ({}, {})
    assert set(model("openai-chat:m", api_key=empty, headers={"x-key": "other"}).secrets) == {"x-key"}
    assert model("openai-chat:m").secrets["model-key"].reveal() == model("vllm:m").another("vllm:n").secrets["model-key"].reveal() == KEY


@pytest.mark.parametrize("wrong", [5, [5], {"key": KEY}, [None]], ids=lambda one: type(one).__name__)
def test_a_key_is_a_text(wrong):
    """Or a secret, or several of them; what is not is refused without being shown."""
    with pytest.raises(InvalidInput) as caught:
        model("openai-chat:m", api_key=wrong)
    assert KEY not in str(caught.value)
    assert model("openai-chat:m", api_key=Secret(KEY)).secrets["model-key"].reveal() == KEY


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


async def went_to(name, **options):
    """Where a request goes, as the client is told; nothing leaves this process."""
    gone = []

    def answer(request):
        gone.append(str(request.url))
        return httpx.Response(418)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(ModelError, match="418"):
            await model(name, api_key=KEY, client=client, **options).ask(asked(), lambda kind, text: None)
    return gone


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("openai:m", "https://api.openai.com/v1/responses"),
        ("openai-chat:m", "https://api.openai.com/v1/chat/completions"),
        ("anthropic:m", "https://api.anthropic.com/v1/messages"),
        ("google:m", "https://generativelanguage.googleapis.com/v1beta/models/m:streamGenerateContent?alt=sse"),
        ("gemini:tunedModels/m", "https://generativelanguage.googleapis.com/v1beta/tunedModels/m:streamGenerateContent?alt=sse"),
        ("ollama:m", "http://127.0.0.1:11434/api/chat"),
    ],
)
async def test_addresses(name, address):
    """Without an address of one's own a request goes where the provider's documentation says."""
    assert await went_to(name) == [address]


@pytest.mark.parametrize(
    ("name", "base_url", "path"),
    [
        ("anthropic:m", "http://host/proxy", "/proxy/v1/messages"),
        ("anthropic:m", "http://host/proxy/v1/", "/proxy/v1/messages"),
        ("openai:m", "http://host/v1", "/v1/responses"),
        ("ollama:m", "http://host/api", "/api/chat"),
        ("ollama:m", "http://host", "/api/chat"),
        ("google:m", "http://host/models", "/models/m:streamGenerateContent?alt=sse"),
    ],
)
async def test_addresses_of_ones_own(name, base_url, path):
    """A version that stands behind the address already is not said twice."""
    assert await went_to(name, base_url=base_url) == [f"http://host{path}"]


@pytest.mark.parametrize(
    ("name", "server", "path"),
    [
        ("openai:m", ResponsesServer(), "/responses"),
        ("openai-chat:m", ChatServer(), "/chat/completions"),
        ("anthropic:m", AnthropicServer(), "/v1/messages"),
        ("google:m", GeminiServer(), "/models/m:streamGenerateContent?alt=sse"),
        ("ollama:m", OllamaServer(), "/api/chat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_name_and_an_address_are_all_it_takes(name, server, path):
    """By its name alone, against a server of one's own: asked at the right path, with the key, and understood."""
    async with Loopback(saying(head(media_type=server.media_type), *server.stream(Said(text="Hello.")))) as loopback:
        found = model(name, base_url=loopback.url, api_key=KEY)
        reply = await found.ask(asked(), lambda kind, text: None)
        await found.aclose()
    assert [part.text for part in reply.parts] == ["Hello."]
    assert (loopback.asked[0].path, KEY in str(loopback.asked[0].headers)) == (path, True)
    server.check(loopback.asked[0].json)


async def test_loop_takes_a_name(tmp_path):
    """The loop makes the model from its name, and closes what it made."""
    async with StatefulAgentLoop("ollama:m", store=tmp_path / "log.db") as agent:
        assert agent._model.name == "ollama:m"
    with pytest.raises(InvalidInput, match="no key"):
        StatefulAgentLoop("openai-chat:m", store=tmp_path / "log.db")
