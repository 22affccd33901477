"""How many tokens a text has: counted where the vocabulary is at hand, estimated and marked as such where it is not.

tiktoken fetches its vocabulary from the network when it has none; nobody who waits for an answer should wait for that. So it is used
only when the file lies in its cache already, whole and unchanged. What a provider reported is better than both: the gauge scales
what it does not know yet by it.

The estimate cuts text by the rules of o200k_base (words with the sign or the space before them, digits in threes, runs of signs,
runs of blanks) and gives each piece what such a piece costs on average there, by its kind and length. The numbers were fitted on
prose, code and data; `tests/data/token_counts.json` holds texts that had no part in it, with their true counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable
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
SAMPLES = 4
"""Pieces of that length that stand for a text that is longer than all of them."""
WORTH_IT = 200_000
"""Characters weighed by a process before it loads a vocabulary: sessions that stay far from any bound need none."""


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


def weigh(text: str) -> int:
    """Count or estimate at once, in bounded time: for the loop, which waits neither for a disk nor for a thread.

    The vocabulary, where one is at hand, is fetched from the disk beside the work, once so much was weighed that it is worth the
    half second for which building it stops everybody; until it is there, and for long texts, this estimates, and of a very long one
    only samples.
    """
    global _weighed  # noqa: PLW0603  one tokeniser for the process
    _weighed += len(text)
    if _weighed >= WORTH_IT:
        _begin()
    if len(text) <= SHORT:
        return estimate(text) if _READY is None else len(_READY.encode_ordinary(text))
    if len(text) <= SAMPLES * SHORT:
        return estimate(text)
    step = len(text) // SAMPLES
    return round(sum(estimate(text[place * step : place * step + SHORT]) for place in range(SAMPLES)) / (SAMPLES * SHORT) * len(text))


# -- counting ----------------------------------------------------------------------------------------------------------


_weighed = 0
_READY: Any = None
"""The tokeniser, once it was loaded."""


@cache
def _begin() -> None:
    """See to it that the vocabulary is loaded, if there is one. Asked for once."""
    path = _cached()
    if path is not None and path.exists():
        threading.Thread(target=_load, name="power-agent-vocabulary", daemon=True).start()


def _load() -> None:
    global _READY  # noqa: PLW0603  one tokeniser for the process
    _READY = _encoding()


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
_SCRIPTS = _HAN + _KANA + _HANGUL
_BEFORE = r"(?:[^\w\r\n]|_)?"
"""What stands before a word belongs to it: a space, mostly, or one sign."""
_CONTRACTED = r"(?:'(?:s|t|re|ve|m|ll|d)\b)?"
_PIECES = re.compile(
    rf"(?P<kanji>[{_HAN}]++(?=[{_KANA}]))|(?P<han>[{_HAN}]++)|(?P<kana>[{_KANA}]++)|(?P<hangul>\ ?[{_HANGUL}]++)"
    rf"|(?P<word>{_BEFORE}[A-Z]*+[a-z]++(?![^\W\d_a-zA-Z{_SCRIPTS}]){_CONTRACTED})|(?P<caps>{_BEFORE}[A-Z]++(?![^\W\d_A-Z{_SCRIPTS}]){_CONTRACTED})"
    rf"|(?P<letters>{_BEFORE}(?:(?![{_SCRIPTS}])[^\W\d_])++)|(?P<digits>\d{{1,3}})|(?P<signs>\ ?(?:[!-/:-@\[-`{{-~])++[\r\n/]*)"
    r"|(?P<lines>\s*[\r\n]+)|(?P<blanks>\s+(?!\S)|\s+)|(?P<other>.)",
    re.VERBOSE | re.DOTALL,
)
_PER_CHARACTER = {"han": 0.72, "kanji": 0.85, "kana": 0.66, "hangul": 0.58}


def estimate(text: str) -> int:
    """Estimate the number of tokens of a text; the same for the same text everywhere."""
    if not text.isascii():
        return round(sum(_cost(piece.lastgroup or "", piece[0]) for piece in _PIECES.finditer(text)) / _TOKEN)
    first, *words = text.split(" ")
    if not words or first[-1:].isspace():
        return round(_by_pieces(text) / _TOKEN)
    last = words.pop()
    try:
        return round((_ENDS[first] + sum(map(_WORDS.__getitem__, words)) + _ENDS[f" {last}"]) / _TOKEN)
    except _NoBoundaryError:
        return round(_by_pieces(text) / _TOKEN)


_TOKEN = 1000
"""Costs are whole numbers, so that it does not matter in which order they are added up: so many of them are a token."""
_BLANK = r"[\s\x1c-\x1f]"
_PLAIN = re.compile(
    rf"{_BEFORE}(?:[A-Z]*+[a-z]++|[A-Z]++){_CONTRACTED}|\d{{1,3}}|\ ?[!-/:-@\[-`{{-~]++[\r\n/]*|{_BLANK}*[\r\n]+|{_BLANK}+(?={_BLANK}|\Z)|{_BLANK}+|.",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
"""The same pieces where all is ASCII, without the names of their kinds."""


class _NoBoundaryError(Exception):
    """A space stands behind another blank, so that no piece need begin with it."""


def _by_pieces(text: str) -> int:
    return sum(map(_COSTS.__getitem__, _PLAIN.findall(text)))


def _piece(piece: str) -> int:
    """Return what a piece of ASCII costs. There a piece alone says of what kind it is."""
    found = _PIECES.fullmatch(piece)
    return _cost(found.lastgroup or "" if found else "", piece)


def _behind_a_space(word: str) -> int:
    """Return what stands between two spaces costs, the first of them included. Behind what is not blank, a space begins a piece."""
    if not word or word[-1].isspace():
        raise _NoBoundaryError
    return _by_pieces(f" {word}")


class _Known(dict[str, int]):
    """What costs what, by now: words come again and again."""

    most = 20_000
    longest = 64  # characters; longer ones hardly come again, and would be kept for nothing

    def __init__(self, cost: Callable[[str], int]) -> None:
        super().__init__()
        self._cost = cost

    def __missing__(self, text: str) -> int:
        cost = self._cost(text)
        if len(self) >= self.most:
            self.clear()
        if len(text) <= self.longest:
            self[text] = cost
        return cost


_COSTS = _Known(_piece)
_WORDS = _Known(_behind_a_space)
_ENDS = _Known(_by_pieces)


def _cost(kind: str, piece: str) -> int:
    return round(_TOKEN * _tokens(kind, piece))


def _tokens(kind: str, piece: str) -> float:
    size = len(piece)
    match kind:
        case "word" | "caps":
            return _word(piece)
        case "han" | "kanji" | "kana" | "hangul":
            return max((size - (piece[0] == " ")) * _PER_CHARACTER[kind], 0.5)
        case "letters":
            return 1 + max(size - 4, 0) / (3.5 if piece[-1] < "\u0530" else 2)  # Latin, Greek and Cyrillic are better known
        case "signs":
            signs = piece.strip()
            return 1 + max(len(signs) - 2.7, 0) * (0.06 if len(set(signs)) == 1 else 0.4)
        case "other":
            return 2 if piece > "\uffff" else 1
        case _:
            return 1


def _word(piece: str) -> float:
    """Return what a word of plain letters costs: behind a space it is better known than behind a sign or inside of a name."""
    size = len(piece) - (not piece[0].isalpha())
    if piece.isupper():
        return 1 + 0.12 * max(size - 3, 0) if piece[0] == " " else 1.05 + 0.2 * max(size - 2.5, 0)
    if piece[0] == " ":
        return 1 + 0.025 * max(size - 4, 0) + 0.35 * max(size - 13, 0)
    if piece[0].isalpha():
        return 1 + 0.03 * max(size - 3, 0) + 0.14 * max(size - 7, 0)
    return 1.12 + 0.18 * max(size - 5, 0)
