"""A key: used in one place, shown in none."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

from power_agent.errors import InvalidInput

HIDDEN = "[key]"
_SHORTEST = 8
"""A shorter text is no key (servers of one's own take any word), and replacing it everywhere would only garble what is said."""


class Secret:
    """A text that neither `repr` nor `str` tells. `reveal` does, where it is sent."""

    __slots__ = ("_text",)

    def __init__(self, text: str, what: str = "key") -> None:
        text = text.strip()  # a key read from a file ends with a line
        if not text or not text.isascii() or not text.isprintable():
            raise InvalidInput(f"The {what} is empty, or holds characters that no header can carry.", hint="Look for line breaks and quotation marks that were copied with it.")
        self._text = text

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text


class Blackout:
    """Replaces secrets in what is told, in each form a server may say them back."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        forms = {form for secret in secrets for form in _forms(secret.reveal()) if len(form) >= _SHORTEST}
        self._forms = sorted(forms, key=len, reverse=True)

    def __repr__(self) -> str:
        return "Blackout()"

    def __call__(self, text: str) -> str:
        """Return the text without them."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return text


def _forms(text: str) -> set[str]:
    bare = text.removeprefix("Bearer ").removeprefix("Basic ")
    return {form for plain in (text, bare) for form in (plain, quote(plain, safe=""), json.dumps(plain)[1:-1], plain.replace("/", "\\/"), b64encode(plain.encode()).decode())}
