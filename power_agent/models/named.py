"""`"provider:model"`: which format, which address, which variables hold the key. A table, and what third parties add to it.

A package adds a provider by an entry point in the group `power_agent.models`: its name is the provider's, what it points at is
called with the model's name and the options of `model`, and returns a `Model`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from power_agent.errors import InvalidInput
from power_agent.models.http import HTTPModel
from power_agent.ports import Model
from power_agent.word import Word, word

GROUP = "power_agent.models"


@word()
class Provider(Word):
    """Where a provider is and how it is spoken to. The first variable that is set holds the key; without any, none is needed."""

    form: str
    base_url: str
    keys: tuple[str, ...] = ()
    address: str | None = None
    """A variable that names another address."""


_OPENAI = ("https://api.openai.com/v1", ("OPENAI_API_KEY",), "OPENAI_BASE_URL")
_GOOGLE = Provider("power_agent.models.gemini:Gemini", "https://generativelanguage.googleapis.com/v1beta", ("GEMINI_API_KEY", "GOOGLE_API_KEY"))
PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("power_agent.models.openai_responses:OpenAIResponses", *_OPENAI),
    "openai-chat": Provider("power_agent.models.openai_chat:OpenAIChat", *_OPENAI),
    "anthropic": Provider("power_agent.models.anthropic:Anthropic", "https://api.anthropic.com", ("ANTHROPIC_API_KEY",), "ANTHROPIC_BASE_URL"),
    "google": _GOOGLE,
    "gemini": _GOOGLE,
    "ollama": Provider("power_agent.models.ollama:Ollama", "http://127.0.0.1:11434"),
}


def model(name: str, *, base_url: str | None = None, api_key: str | None = None, headers: Mapping[str, str] | None = None, client: Any = None, stream: bool = True) -> Model:
    """Return the model behind `"provider:model"`. What is not said here is looked up in the environment.

    `client` is any object with the API of `httpx.AsyncClient`; it stays yours to close.
    """
    provider, _, wanted = name.partition(":")
    if not provider or not wanted:
        raise InvalidInput(f"{name!r} names no model.", hint='Write "provider:model", for example "openai:gpt-5".')
    known = PROVIDERS.get(provider)
    if known is None:
        return _added(provider)(wanted, base_url=base_url, api_key=api_key, headers=headers, client=client, stream=stream)  # type: ignore[no-any-return]
    address = base_url or os.environ.get(known.address or "") or known.base_url
    key = api_key or next((found for variable in known.keys if (found := os.environ.get(variable))), None)
    if key is None and known.keys and not headers:
        raise InvalidInput(f"There is no key for {provider}.", hint=f"Set {' or '.join(known.keys)}, or pass api_key.")
    room, _, kind = known.form.partition(":")
    return HTTPModel(getattr(import_module(room), kind)(), wanted, base_url=address, key=key, headers=headers, client=client, stream=stream, name=name)


def _added(provider: str) -> Any:
    """Return what a third party's package calls by this name, or say which name was perhaps meant."""
    added = {entry.name: entry for entry in entry_points(group=GROUP)}
    if provider in added:
        return added[provider].load()
    names = sorted({*PROVIDERS, *added})
    close = difflib.get_close_matches(provider, names, 1)
    raise InvalidInput(f"There is no provider called {provider!r}.", hint=f"Did you mean {close[0]!r}?" if close else f"The providers are {', '.join(names)}.")
