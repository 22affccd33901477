"""What an error means that a provider reports: too long, worth another attempt, or final.

The status is the first witness, the provider's own word for the error the second: inside a stream there is only the word.
"""

from __future__ import annotations

import re
from typing import Any

from power_agent.errors import ContextTooLong, ModelError
from power_agent.models.format import may_help

FINAL_WORDS = frozenset(
    {
        "authentication_error",
        "billing_error",
        "billing_hard_limit_reached",
        "content_policy_violation",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_prompt",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
        "permission_error",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
    }
)
"""Errors that waiting does not mend, whatever status they come with; without a status every other one is worth another attempt."""

_KEY_WORDS = frozenset({"authentication_error", "invalid_api_key", "permission_error", "PERMISSION_DENIED", "UNAUTHENTICATED"})
_TOO_LONG_WORDS = frozenset({"context_length_exceeded", "request_too_large", "string_above_max_length"})
_TOO_LONG = re.compile(
    r"prompt is too long|exceeds? (the |your |this model's )?(maximum )?(available )?context|maximum context length|context (length|window|limit) (was |is )?exceeded"
    r"|(input )?token count.{0,40}exceeds the maximum|exceeds the (model's )?maximum (input )?(number of )?tokens|request_too_large",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST = 600


def failure(said: str, *, status: int | None = None, word: str = "", retry_after: float | None = None) -> ModelError:
    """Return the error for what was reported: `said` is the message for people, `word` the provider's name for the error."""
    said = " ".join(said.split())[:_LONGEST]
    message = ": ".join(piece for piece in (f"HTTP {status}" if status is not None else "", word, said) if piece) or "The provider reported an error."
    fields: dict[str, Any] = {name: value for name, value in (("status", status), ("word", word)) if value}
    if _too_long(said, status, word):
        return ContextTooLong(message, **fields)
    retryable = (status is None or may_help(status)) and word not in FINAL_WORDS and not word.startswith("invalid_")
    hint = "Check the key, and what it may do." if status in {401, 403} or word in _KEY_WORDS else None
    return ModelError(message, hint=hint, retryable=retryable, retry_after=retry_after if retryable else None, **fields)


def _too_long(said: str, status: int | None, word: str) -> bool:
    if status == 413 or word in _TOO_LONG_WORDS:  # noqa: PLR2004  Content Too Large
        return True
    return status in {None, 400, 422, 500} and _TOO_LONG.search(said) is not None


def broken_off() -> ModelError:
    """Return the error for an answer that ended before it was whole."""
    return ModelError("The answer broke off before it was whole.", retryable=True)
