"""What is known of a model: what it costs, how much it reads and writes, what it takes. What nobody knows is None, never 0.

    prices.toml, or `prices={…}` in code        the user's word, which wins field by field
    genai-prices (extra `prices`)               published prices and windows; nothing is fetched, its table came with the package

    ["openai:gpt-5"]                            # the name of the model as `model` takes it
    input = 1.25                                # dollars for a million tokens
    output = 10
    cached = 0.125                              # of the input, what came from the provider's cache; else at the price of input
    cache_written = 1.25                        # of the input, what was written to it; else at the price of input
    reasoning = 10                              # of the output, what was thought; else at the price of output
    context_window = 400_000                    # tokens
    max_output_tokens = 128_000
    accepts = ["image", "pdf"]

Amounts are exact: decimal on the way in, whole 10⁻⁹ dollars on the way out, a fraction of one counted as one, so that no sum is
too small.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from decimal import ROUND_CEILING, Decimal
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from power_agent.errors import InvalidInput
from power_agent.messages import Usage
from power_agent.word import Word, word

PriceList = Mapping[str, Any] | str | os.PathLike[str]
"""Where a user says what is known: entries by the name of the model, or the path of a file with them."""
EXTRA = "pip install 'power-agent[prices]'"

_NANO_PER_USD = 10**9
_MILLION = 10**6
_ABSURD_USD = 10**6
"""More dollars for a million tokens than anybody asks: a slip of the unit."""


@word(kw_only=True)
class Entry(Word):
    """What a user says of a model, amounts in 10⁻⁹ dollars for a million tokens."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_written: int | None = None
    reasoning: int | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    accepts: tuple[str, ...] | None = None
    source: str = "given"

    def cost(self, usage: Usage) -> int | None:
        """Return what a usage costs; None unless input and output have a price."""
        if self.input is None or self.output is None:
            return None
        cached = min(usage.cached, usage.input)
        written = min(usage.cache_written, usage.input - cached)
        thought = min(usage.reasoning, usage.output)
        parts = (
            (usage.input - cached - written, self.input),
            (cached, self.input if self.cached is None else self.cached),
            (written, self.input if self.cache_written is None else self.cache_written),
            (usage.output - thought, self.output),
            (thought, self.output if self.reasoning is None else self.reasoning),
        )
        return -(-sum(tokens * price for tokens, price in parts) // _MILLION)


class Card:
    """What is known of one model, looked up when it is first asked for. `published` names it as `genai-prices` does."""

    def __init__(self, entry: Entry | None = None, published: tuple[str, str] | None = None) -> None:
        self._entry = entry or Entry()
        self._published_as = published

    @cached_property
    def _published(self) -> Published | None:
        return None if self._published_as is None else Published.find(*self._published_as)

    @property
    def _says_price(self) -> bool:
        return self._entry.input is not None and self._entry.output is not None

    def cost(self, usage: Usage) -> int | None:
        """Return what a usage costs in 10⁻⁹ dollars, or None: nobody knows."""
        if self._says_price:
            return self._entry.cost(usage)
        return None if self._published is None else self._published.cost(usage)

    @property
    def price_source(self) -> str | None:
        """Who says so."""
        if self._says_price:
            return self._entry.source
        return None if self._published is None else self._published.source

    @property
    def context_window(self) -> int | None:
        """How many tokens a request and its answer may have."""
        said = self._entry.context_window
        return said if said is not None or self._published is None else self._published.context_window

    @property
    def max_output_tokens(self) -> int | None:
        """How long an answer may get."""
        return self._entry.max_output_tokens

    @property
    def accepts(self) -> tuple[str, ...] | None:
        """What may be attached, in the user's words."""
        return self._entry.accepts


class Published:
    """A model in the table of `genai-prices`, which knows steps in a price and when it changed."""

    def __init__(self, provider: str, model: str, context_window: int | None) -> None:
        self._provider = provider
        self._model = model
        self.context_window = context_window
        self.source = f"genai-prices {version('genai-prices')}"

    @classmethod
    def find(cls, provider: str, model: str) -> Published | None:
        """Look a model up; None where the extra is not installed or does not know it."""
        calculate = _calculator()
        found = None if calculate is None else calculate(Usage(), model, provider)
        return None if found is None else cls(provider, model, found.model.context_window)

    def cost(self, usage: Usage) -> int | None:
        """Return what a usage costs today."""
        calculate = _calculator()
        found = None if calculate is None else calculate(usage, self._model, self._provider)
        return None if found is None else int((found.total_price * _NANO_PER_USD).to_integral_value(ROUND_CEILING))


def _calculator() -> Callable[[Usage, str, str], Any] | None:
    """Return what asks `genai-prices`, loaded when first needed: that takes a third of a second."""
    try:
        import genai_prices  # noqa: PLC0415  an extra, and slow to load
    except ModuleNotFoundError as missing:
        if missing.name != "genai_prices":
            raise
        return None

    def calculate(usage: Usage, model: str, provider: str) -> Any:
        cached = min(usage.cached, usage.input)
        tokens = genai_prices.Usage(
            input_tokens=usage.input, output_tokens=usage.output, cache_read_tokens=cached, cache_write_tokens=min(usage.cache_written, usage.input - cached)
        )
        try:
            return genai_prices.calc_price(tokens, model, provider_id=provider)
        except (LookupError, ValueError):  # not in its table, or of a shape it has no price for
            return None

    return calculate


# -- the user's word -----------------------------------------------------------------------------------------------------


def entries(source: PriceList | None) -> dict[str, Entry]:
    """Read what a user says of models, or say what is wrong with it."""
    if source is None:
        return {}
    if not isinstance(source, Mapping | str | os.PathLike):
        raise InvalidInput(f"Prices are a mapping or the path of a file, not {type(source).__name__}.", hint='For example: prices={"openai:gpt-5": {"input": 1.25, "output": 10}}.')
    where, said = ("the prices that were given", source) if isinstance(source, Mapping) else (str(source), _file(Path(source)))
    name = "given" if isinstance(source, Mapping) else Path(source).name
    return {model: one if isinstance(one, Entry) else _entry(model, one, where, name) for model, one in said.items()}


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise InvalidInput(f"The prices {path} cannot be read: {error.strerror}.", hint="Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The prices {path} are not TOML: {error}.", hint="Mend the line that it names.") from error


_AMOUNTS = {"input", "output", "cached", "cache_written", "reasoning"}
_COUNTS = {"context_window", "max_output_tokens"}
_NAMES = [one.name for one in fields(Entry) if one.name != "source"]


def _entry(model: str, said: Any, where: str, source: str) -> Entry:
    if not isinstance(said, Mapping):
        raise InvalidInput(f"{where}: {model} has no fields.", hint=f'Write ["{model}"] and below it input = … and output = … (dollars for a million tokens).')
    for name in said:
        if name not in _NAMES:
            near = difflib.get_close_matches(str(name), _NAMES, 1)
            raise InvalidInput(f"{where}: {model} has no field {name!r}.", hint=f"Did you mean {near[0]}?" if near else f"The fields are {', '.join(_NAMES)}.")
    if ("input" in said) != ("output" in said) or (_AMOUNTS & said.keys() and "input" not in said):
        raise InvalidInput(f"{where}: {model} has half a price.", hint="Say both input and output, in dollars for a million tokens.")
    return Entry(**{name: _value(f"{where}: {model}.{name}", name, value) for name, value in said.items()}, source=source)


def _value(what: str, name: str, value: Any) -> Any:
    if name in _AMOUNTS:
        return _amount(what, value)
    if name in _COUNTS and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if name == "accepts" and isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise InvalidInput(f"{what} cannot be {value!r}.", hint="It is a list of texts." if name == "accepts" else "It is a whole number above 0.")


def _amount(what: str, value: Any) -> int:
    """Return dollars as whole 10⁻⁹ dollars; a text, a whole number or a decimal fraction says them exactly, a float as it is printed."""
    try:
        amount = Decimal(str(value)) * _NANO_PER_USD if isinstance(value, int | float | Decimal | str) and not isinstance(value, bool) else None
    except ArithmeticError:
        amount = None
    if amount is None or not amount.is_finite() or not 0 <= amount <= _ABSURD_USD * _NANO_PER_USD or amount != amount.to_integral_value():
        raise InvalidInput(f"{what} cannot be {value!r}.", hint="It is an amount of dollars for a million tokens, with at most nine decimals.")
    return int(amount)
