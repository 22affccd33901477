"""Where new names and nonces come from: the system's randomness, and a list that tests hold in their hand."""

from __future__ import annotations

import itertools
import secrets


class SystemChance:
    """The system's randomness."""

    def session_id(self) -> str:
        """Return a new id: 80 random bits, short enough to be read aloud."""
        return secrets.token_hex(10)

    def nonce(self) -> str:
        """Return 128 random bits in hex."""
        return secrets.token_hex(16)


class CountedChance:
    """No chance at all: ids and nonces count up, the same in every run."""

    def __init__(self) -> None:
        self._sessions = itertools.count(1)
        self._nonces = itertools.count(1)

    def session_id(self) -> str:
        """Return session-1, then session-2, and so on."""
        return f"session-{next(self._sessions)}"

    def nonce(self) -> str:
        """Return the next number as 32 hex digits."""
        return f"{next(self._nonces):032x}"
