"""How many tokens a text has: counted where the vocabulary is at hand, estimated and marked as such where it is not.

tiktoken fetches its vocabulary from the network when it has none; nobody who waits for an answer should wait for that. So it is used
only when the file lies in its cache already, whole and unchanged. What a provider reported is better than both: `Calibrated` scales
estimates by it.

The estimate cuts text where the tokenisers of the last generations do (words with the space before them, digits in threes, runs of
signs, runs of blanks) and gives each piece what such a piece costs on average. Its numbers were set by hand, from published counts;
they were not fitted to a vocabulary.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from power_agent.word import Word, word

_NAME = "o200k_base"
_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
"""Only its digest is needed: it is the name of the file in the cache."""
_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

SHORT = 10_000
"""Characters up to which an estimate is not worth a thread: it takes a few milliseconds."""
_LOWEST, _HIGHEST = 0.25, 4.0
"""What is believed of a calibration; beyond it something else was counted."""


@word()
class Tokens(Word):
    """A number of tokens, and whether it was counted (with one vocabulary, which need not be the model's) or estimated."""

    count: int
    exact: bool


async def count(text: str) -> Tokens:
    """Count, or estimate, without holding up anybody else."""
    encoding = await asyncio.to_thread(_encoding) if not _encoding.cache_info().currsize else _encoding()
    if encoding is not None:
        return Tokens(await asyncio.to_thread(lambda: len(encoding.encode_ordinary(text))), exact=True)
    return Tokens(estimate(text) if len(text) <= SHORT else await asyncio.to_thread(estimate, text), exact=False)


class Calibrated:
    """Estimates of one session, scaled by what its provider last counted."""

    def __init__(self) -> None:
        self.ratio = 1.0

    def learn(self, estimated: int, reported: int) -> None:
        """Take in what was reported for something that was estimated; nothing reported teaches nothing."""
        if estimated > 0 and reported > 0:
            self.ratio = min(max(reported / estimated, _LOWEST), _HIGHEST)

    def scaled(self, estimated: int) -> int:
        """Return an estimate as this provider would have counted it."""
        return round(estimated * self.ratio)


# -- counting ----------------------------------------------------------------------------------------------------------


@cache
def _encoding() -> Any:
    """Return the tokeniser when its vocabulary is at hand; None otherwise. Looked up once."""
    path = _cached()
    try:
        at_hand = path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256
    except OSError:
        return None
    if not at_hand:  # tiktoken would delete a file that is not what it expects, and fetch another
        return None
    try:
        import tiktoken  # noqa: PLC0415  a tenth of a second, paid by who has a vocabulary

        return tiktoken.get_encoding(_NAME)
    except Exception:  # noqa: BLE001  an estimate is always possible
        return None


def _cached() -> Path | None:
    """Return where tiktoken keeps the vocabulary; None when it is told to keep nothing."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder == "":
        return None
    return Path(folder or Path(tempfile.gettempdir(), "data-gym-cache"), hashlib.sha1(_ADDRESS.encode(), usedforsecurity=False).hexdigest())


# -- estimating --------------------------------------------------------------------------------------------------------

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_PIECES = re.compile(
    rf"(?P<han>[{_HAN}]+)|(?P<kana>[{_KANA}]+)|(?P<hangul>\ ?[{_HANGUL}]+)"
    r"|(?P<word>\ ?(?:[A-Z]?[a-z]+)(?:'(?:s|t|re|ve|m|ll|d)\b)?)|(?P<caps>\ ?[A-Z]+(?![a-z])(?:'(?:s|t|re|ve|m|ll|d)\b)?)"
    rf"|(?P<letters>\ ?(?:(?![A-Za-z{_HAN}{_KANA}{_HANGUL}])[^\W\d_])(?:(?![{_HAN}{_KANA}{_HANGUL}])[^\W\d_])*)"
    r"|(?P<digits>\d{1,3})|(?P<lines>[ \t]*[\r\n]+)|(?P<blanks>[^\S\r\n]+(?=\s|$)|[^\S\r\n]{2,}(?=\S)|[^\S\r\n])"
    r"|(?P<signs>\ ?[!-/:-@\[-`{-~]+)|(?P<other>.)",
    re.VERBOSE | re.DOTALL,
)
_PER_CHARACTER = {"han": 0.68, "kana": 0.62, "hangul": 0.58}


def estimate(text: str) -> int:
    """Estimate the number of tokens of a text; the same for the same text everywhere."""
    return round(sum(_cost(piece.lastgroup or "", piece[0]) for piece in _PIECES.finditer(text)))


def _cost(kind: str, piece: str) -> float:
    size = len(piece) - piece.startswith(" ")
    match kind:
        case "han" | "kana" | "hangul":
            return max(size * _PER_CHARACTER[kind], 0.5)
        case "word":  # the usual ones are one token, however long; the others are cut about every five letters
            return 1 + max(size - 9, 0) / 5
        case "caps":
            return 1 + max(size - 4, 0) / 3.5
        case "letters":
            return 1 + max(size - 5, 0) / (4 if piece[-1] < "\u0530" else 2)  # Latin, Greek and Cyrillic are better known
        case "signs":
            return 1 + max(size - 2, 0) / (16 if len(set(piece.strip())) == 1 else 4)
        case "other":
            return 2 if piece > "\uffff" else 1
        case "blanks" if piece == " ":
            return 0.5  # before a digit, mostly: some tokenisers join it to what stands before
        case _:
            return 1
