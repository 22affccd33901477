"""`"provider:model"`: which format, which address, which variables hold the key. A table (`presets.py`), and what third parties add.

    "openai:gpt-5"                               one model
    "openai:gpt-5, anthropic:claude-sonnet-4-5"  a chain: the next one answers when the one before it cannot

A package adds a provider by an entry point in the group `power_agent.models`: its name is the provider's, what it points at is
called with the model's name and the options of `model`, and returns a `Model`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import quote

from power_agent.errors import InvalidInput
from power_agent.givens import listed
from power_agent.models.dialect import OPENAI
from power_agent.models.failover import Failover, plain
from power_agent.models.http import HTTPModel, Service
from power_agent.models.pace import Pace
from power_agent.models.presets import CHAT, PROVIDERS, Provider
from power_agent.models.prices import Card, PriceList, entries
from power_agent.ports import Model
from power_agent.secrets import Secret
from power_agent.wire import Bounds

GROUP = "power_agent.models"
__all__ = ["GROUP", "PROVIDERS", "Provider", "keys_of", "model", "variable_of"]

_VARIABLE = re.compile(r"\{([A-Z_]+)(?::-([^}]*))?\}")


def model(  # noqa: PLR0913  what a connection is made of
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | Secret | Sequence[str | Secret] | None = None,
    headers: Mapping[str, str] | None = None,
    client: Any = None,
    stream: bool = True,
    prices: PriceList | None = None,
    pace: Pace | None = None,
    bounds: Bounds = Bounds(),  # noqa: B008  frozen
) -> Model:
    """Return the model behind `"provider:model"`, or a chain of those between commas. What is not said here is looked up in the environment.

    Several keys (a list, or commas in the variable) are a chain of their own: one that has to wait lets the next one ask. `prices`
    says what models cost and hold, by their names, or names a file that does. `pace` bounds requests and tokens per minute, `bounds` how
    long a server may be silent and how much it may say: in a chain, how soon the next one is asked.
    `client` is any object with the API of `httpx.AsyncClient`; it stays yours to close.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"{name!r:.100} names no model.", hint='Write "provider:model", for example "openai:gpt-5".')
    names = [one.strip() for one in name.split(",")]
    if len(names) > 1:
        if base_url is not None or api_key is not None:
            raise InvalidInput("One address or one key cannot be for a chain of models.", hint="Make each model by itself, and the chain with Failover([…]).")
        return Failover([model(one, headers=headers, client=client, stream=stream, prices=prices, pace=pace, bounds=bounds) for one in names], owned=True)
    provider, _, wanted = name.partition(":")
    if not provider or not wanted:
        raise InvalidInput(f"{name!r} names no model.", hint='Write "provider:model", for example "openai:gpt-5".')
    known = PROVIDERS.get(provider)
    if known is None:
        return _added(provider)(wanted, base_url=base_url, api_key=api_key, headers=headers, client=client, stream=stream)  # type: ignore[no-any-return]
    keys: Sequence[str | Secret] = keys_of(known) if api_key is None else _said(api_key)
    if not keys and known.keys and known.needs_key and not headers:
        raise InvalidInput(f"There is no key for {provider}.", hint=f"Set {' or '.join(known.keys)}, or pass api_key: a key that is empty is none.")
    address = base_url if base_url is not None else os.environ.get(known.address or "") or _filled(known.base_url, provider)
    service = Service(speaker=known.speaker, path=_path(known, wanted, provider), key_header=known.key_header)
    card = Card(entries(prices).get(name), None if known.prices is None else (known.prices, wanted))
    # the environment may be another one when they are made, and only these keys are hidden
    kin = Kin(provider, partial(model, base_url=address, api_key=keys, headers=headers, client=client, stream=stream, prices=prices, pace=pace, bounds=bounds))
    made = [
        HTTPModel(
            _format(known),
            wanted,
            base_url=address,
            key=key,
            headers=headers,
            client=client,
            stream=stream,
            name=name,
            service=service,
            card=card,
            pace=pace,
            bounds=bounds,
            kin=kin,
        )
        for key in keys or (None,)
    ]
    return made[0] if len(made) == 1 else Failover(made, owned=True)


class Kin:
    """The models of one provider that a model can stand for: made from their names when they are asked for, and closed with it."""

    def __init__(self, provider: str, make: Callable[[str], Model]) -> None:
        self._provider = provider
        self._make = make
        self._made: dict[str, Model] = {}

    def get(self, name: str) -> Model | None:
        """Return the one, or the chain, of that name; None: it is of another provider."""
        wanted = plain(name)
        if not all(one.startswith(f"{self._provider}:") and one != f"{self._provider}:" for one in wanted):
            return None
        if name not in self._made:
            made = [self._make(one) for one in wanted]
            self._made[name] = made[0] if len(made) == 1 else Failover(made, owned=True)
        return self._made[name]

    async def aclose(self) -> None:
        """Close what was made."""
        made, self._made = self._made, {}
        for one in made.values():
            await one.aclose()  # type: ignore[attr-defined]


def keys_of(known: Provider) -> list[str]:
    """Return the keys that the environment holds for a provider."""
    found = next((found for variable in known.keys if (found := os.environ.get(variable))), "")
    return [key.strip() for key in found.split(",") if key.strip()]


def _said(api_key: str | Secret | Sequence[str | Secret]) -> list[str | Secret]:
    """Return the keys that somebody passed, and no other in place of an empty one: it may be for another server."""
    keys = [api_key] if isinstance(api_key, str | Secret) else listed(api_key, "Keys", "api_key")
    if not all(isinstance(key, str | Secret) for key in keys):
        raise InvalidInput("A key is a text.", hint="Pass api_key as a text, or as a list of texts.")
    return [key for key in keys if isinstance(key, Secret) or key.strip()]


def variable_of(text: str) -> str | None:
    """Return the variable without which an address is none."""
    found = _VARIABLE.search(text)
    return None if found is None or found[2] is not None else found[1]


def _format(known: Provider) -> Any:
    room, _, kind = known.form.partition(":")
    made = getattr(import_module(room), kind)
    return made(known.dialect or OPENAI) if known.form == CHAT else made()


def _path(known: Provider, wanted: str, provider: str) -> str | None:
    """Return the path that is asked in place of the format's."""
    return None if known.path is None else _filled(known.path, provider).replace("{model}", quote(wanted, safe=""))


def _filled(text: str, provider: str) -> str:
    """Put variables in their places."""

    def fill(found: re.Match[str]) -> str:
        value = os.environ.get(found[1]) or found[2]
        if value is None:
            raise InvalidInput(f"There is no address for {provider}.", hint=f"Set {found[1]}, or pass base_url.")
        return value.rstrip("/")

    return _VARIABLE.sub(fill, text)


def _added(provider: str) -> Any:
    """Return what a third party's package calls by this name, or say which name was perhaps meant."""
    added = {entry.name: entry for entry in entry_points(group=GROUP)}
    if provider in added:
        return added[provider].load()
    names = sorted({*PROVIDERS, *added})
    close = difflib.get_close_matches(provider, names, 1)
    raise InvalidInput(f"There is no provider called {provider!r}.", hint=f"Did you mean {close[0]!r}?" if close else f"The providers are {', '.join(names)}.")
