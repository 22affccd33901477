"""What an error means that a provider reports: too long, worth another attempt, or final.

The status is the first witness, the provider's own words for the error the second: inside a stream, and inside a body that came as
a success, there are only the words, and sometimes a status among them. Some words are used for everything (`invalid_request_error`
comes with a 429, too), so they decide only where there is no status, the particular word (`code`) before the general one (`type`);
a quota that is used up is final with any. Who reports an error instead of an answer counts nothing for the request (`unspent`).
"""

from __future__ import annotations

import re
from typing import Any

from power_agent.errors import ContextTooLong, ModelError
from power_agent.models.format import may_help
from power_agent.models.gleaning import kept, text_of

SPENT_WORDS = frozenset({"billing_error", "billing_hard_limit_reached", "exceeded_current_quota_error", "insufficient_balance", "insufficient_quota"})
"""Errors that waiting does not mend, whatever status they come with."""
FINAL_WORDS = frozenset(
    {
        *SPENT_WORDS,
        "authentication_error",
        "bad_request",
        "content_filter",
        "content_policy_violation",
        "forbidden",
        "invalid_api_key",
        "invalid_prompt",
        "invalid_request_error",
        "missing_required_parameter",
        "model_not_found",
        "not_found_error",
        "permission_denied",
        "permission_error",
        "unauthorized",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_value",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)
"""Errors that waiting does not mend where there is no status that says more; every other one is worth another attempt."""
PASSING_WORDS = frozenset(
    {
        "api_error",
        "internal_server_error",
        "overloaded",
        "overloaded_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "server_error",
        "slow_down",
        "timeout_error",
        "ABORTED",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "RESOURCE_EXHAUSTED",
        "UNAVAILABLE",
    }
)
"""Errors that pass, whatever more general word stands beside them."""

KEY_WORDS = frozenset({"authentication_error", "invalid_api_key", "permission_denied", "permission_error", "unauthorized", "PERMISSION_DENIED", "UNAUTHENTICATED"})
"""Errors that the key, or what it may do, is the reason of."""
_TOO_LONG_WORDS = frozenset({"context_length_exceeded", "request_too_large", "string_above_max_length"})
_TOO_LONG = re.compile(
    r"prompt is too long|exceeds? (the |your |this model's )?(maximum )?(available )?context|maximum (context|prompt) length|context (length|window|limit) (was |is )?exceeded"
    r"|(input )?token count.{0,40}exceeds the maximum|exceeds the (model's )?maximum (input )?(number of )?tokens|request_too_large",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST = 600


def failure(said: str, *, status: int | None = None, word: str = "", kind: str = "", retry_after: float | None = None) -> ModelError:
    """Return the error for what was reported: `said` is the message for people, `word` the provider's name for the error, `kind` a more
    general one that stands beside it.
    """
    said = " ".join(said.split())[:_LONGEST]
    message = ": ".join(piece for piece in (f"HTTP {status}" if status is not None else "", word or kind, said) if piece) or "The provider reported an error."
    fields: dict[str, Any] = {name: value for name, value in (("status", status), ("word", word or kind)) if value}
    if _too_long(said, status, {word, kind}):
        return ContextTooLong(message, **fields)
    final = _final(word, kind) if status is None else bool({word, kind} & SPENT_WORDS) or not may_help(status)
    hint = "Check the key, and what it may do." if status in {401, 403} or {word, kind} & KEY_WORDS else None
    return ModelError(message, hint=hint, retryable=not final, retry_after=None if final else retry_after, unspent=True, **fields)


def _final(*words: str) -> bool:
    """Say whether waiting is of no use, by the first word that tells."""
    for word in words:
        if word in PASSING_WORDS:
            return False
        if word in FINAL_WORDS or word.startswith("invalid_"):
            return True
    return False


def _too_long(said: str, status: int | None, words: set[str]) -> bool:
    if status == 413 or words & _TOO_LONG_WORDS:  # noqa: PLR2004  Content Too Large
        return True
    return status in {None, 400, 422, 500} and _TOO_LONG.search(said) is not None


def reported(body: Any, text: str, status: int | None) -> ModelError:
    """Return the error for a body as OpenAI writes it, or as others do who speak its language: a text, an object, or one around it."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return failure(error if isinstance(error, str) else text, status=status)
    said = error.get("message") or error.get("detail")
    code, kind = error.get("code"), text_of(error.get("type")) if error is not body else ""
    word = "" if status_of(code) is not None else text_of(code)
    return failure(said if isinstance(said, str) else text or kept(error), status=status or status_of(code), word=word, kind=kind)


def status_of(code: Any) -> int | None:
    """Return the status that an error names by itself, where it came without one of its own: in a stream, or as a success."""
    if isinstance(code, str) and re.fullmatch(r"[45]\d\d", code, re.ASCII):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else None  # noqa: PLR2004  the errors of HTTP


def broken_off() -> ModelError:
    """Return the error for an answer that ended before it was whole."""
    return ModelError("The answer broke off before it was whole.", retryable=True)
