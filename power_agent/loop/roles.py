"""Which model does what: `main` answers, `summary` makes contexts smaller, on a cheaper model where one is named.

A name makes a model that is closed with the loop; a model that was handed in stays its owner's.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from power_agent.errors import InvalidInput
from power_agent.givens import fitting
from power_agent.ports import Model

if TYPE_CHECKING:
    from power_agent.models.prices import PriceList

ROLES = ("main", "summary")


class Roles:
    """The models of one loop, by what they do."""

    def __init__(self, model: Model | str | None, models: Mapping[str, Model | str] | None, prices: PriceList | None = None) -> None:
        self._made: list[Any] = []
        self._prices = prices
        if models is not None and not isinstance(models, Mapping):
            raise InvalidInput(f"Models by what they do are a mapping, not {type(models).__name__}.", hint='For example: models={"summary": "openai:gpt-5-mini"}.')
        if prices is not None:
            from power_agent.models.prices import entries  # noqa: PLC0415  only who says what models cost

            entries(prices)  # what is wrong with them is said at once, whoever answers
        said = dict(models or {})
        for role in said:
            if role not in ROLES:
                near = difflib.get_close_matches(str(role), ROLES, 1)
                raise InvalidInput(f"There is no role {role!r}.", hint=f"Did you mean {near[0]!r}?" if near else f"The roles are {', '.join(ROLES)}.")
        if model is not None and "main" in said:
            raise InvalidInput("The main model is said twice.", hint='Pass it as the model, or as models["main"].')
        main = said.get("main") if model is None else model
        if main is None:
            raise InvalidInput("There is no model to answer.", hint='Pass one, or "provider:model".')
        self.main: Model = self._taken(main)
        summary = said.get("summary")
        self.summary: Model | None = None if summary is None else self._taken(summary)

    def _taken(self, one: Model | str) -> Model:
        if not isinstance(one, str):
            fitting(one, "model", ("name", "ask"), 'Pass "provider:model", or an object with a name and an async ask(request, glimpse).')
            return one
        from power_agent.models.named import model  # noqa: PLC0415  only who names a model needs the wire

        made = model(one, prices=self._prices)
        self._made.append(made)
        return made

    async def aclose(self) -> None:
        """Close what was made here."""
        for one in self._made:
            if hasattr(one, "aclose"):
                await one.aclose()
