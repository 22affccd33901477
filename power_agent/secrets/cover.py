"""Puts a mark in the place of every secret: in texts, and in bytes of any size.

What was registered goes first, in each of its forms, then what has the shape of a secret. A mark is never looked into, so covering twice
changes nothing more. Whatever holds no secret comes back as the same object, after one look for what every secret has in it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property

from power_agent.secrets.shapes import SHAPES, Shape, whole_of

MARK = "[secret:{name}]"
CHUNK_BYTES = 1_048_576
"""As much of a large content is looked at as text at a time."""
Span = tuple[int, int, str]
"""From where to where something stands, and what shall stand there."""

_LONG_LINE = r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{56,}+"
_WRAPPED = re.compile(rf"{_LONG_LINE}(?:\r?\n|\\r\\n|\\n)(?=[A-Za-z0-9+/_-])".encode())
"""How a line of base64 or hex ends that goes on in the next one, in a text or in a JSON text."""
_BLOCK = re.compile(rf"(?:{_LONG_LINE}\r?\n)+[A-Za-z0-9+/_=-]+")
_BREAK = re.compile(r"\r?\n")
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./+=%~"
_AS_RUNS = bytes(120 if one in _LETTERS else 32 for one in range(256))
_RUN = 16
"""Keys are long and unbroken, prose is not: few texts have a word of so many letters, and only their long words are looked at closely."""


class Cover:
    """Covers texts (`marks`: what stands in the place of each) and, with `shapes`, what looks like a secret."""

    def __init__(self, marks: Mapping[str, str], shapes: Iterable[Shape] = SHAPES) -> None:
        self.marks = dict(sorted(marks.items(), key=lambda item: (-len(item[0]), item[0])))
        self.shapes = tuple(shapes)
        within = (json.dumps(one, ensure_ascii=False)[1:-1] for one in self.marks)  # as a JSON text that is kept holds them
        signs = [sign.encode("utf-8", "surrogatepass") for sign in dict.fromkeys((*self.marks, *within))]
        self._anywhere = tuple(sign for sign in signs if len(sign) < _RUN or sign.strip(_LETTERS))
        triggers = {trigger.encode() for shape in self.shapes if not (shape.loud or shape.quick) for trigger in shape.triggers}
        self._in_runs = tuple(sign for sign in signs if sign not in self._anywhere)
        self._beginnings = _any_of(sorted(triggers))
        self._loud = tuple(sorted({word.encode() for shape in self.shapes for word in shape.loud}))
        self._quick = tuple(re.compile(shape.whole.encode()) for shape in self.shapes if shape.quick)
        ours = {*self.marks.values(), *(MARK.format(name=shape.name) for shape in self.shapes)}
        self._mark = re.compile("|".join(map(re.escape, sorted(ours, key=len, reverse=True))) or r"(?!)")

    def suspects(self, text: str) -> bool:
        """Say whether there may be a secret in a text, or in what a JSON text says. It is asked about everything that is kept."""
        return self.suspects_bytes(text.encode("utf-8", "surrogatepass"))

    def suspects_bytes(self, text: bytes) -> bool:
        """Say the same of a text's bytes."""
        for one in self._quick:
            if one.search(text):
                return True
        if self._anywhere and any(map(text.__contains__, self._anywhere)):
            return True
        if not (self._in_runs or self._beginnings):
            return False
        runs = _runs(text)
        if not runs:
            return False
        long_words = b" ".join(runs)
        if (self._in_runs and any(map(long_words.__contains__, self._in_runs))) or (self._beginnings and self._beginnings.search(long_words)):
            return True
        if self.marks and any(len(run) > 55 for run in runs) and _WRAPPED.search(text):  # noqa: PLR2004  as long as a line
            return True
        lowered = text.lower() if self._loud else b""
        return any(map(lowered.__contains__, self._loud))

    def __call__(self, text: str) -> str:
        """Return a text with marks in the places of secrets."""
        return self.between(text, 0, len(text)) if self.suspects(text) else text

    def between(self, text: str, start: int, end: int) -> str:
        """Return a part of a text with marks in the places of the secrets that lie in it; around it is only looked."""
        while True:  # what stands beside a mark may be one more
            taken = [(*found.span(), found[0]) for found in self._mark.finditer(text)]
            fresh = False
            for found in (self.registered(text), self.shaped(text)):
                new = [one for one in found if start <= one[0] and one[1] <= end and not any(one[0] < stop and begin < one[1] for begin, stop, _ in taken)]
                taken, fresh = sorted([*taken, *new]), fresh or bool(new)
            if not fresh:
                return text[start:end]
            covered = _replaced(text, taken)
            end += len(covered) - len(text)
            text = covered

    def registered(self, text: str) -> Iterator[Span]:
        """Yield where registered secrets stand: the first, and there the longest form."""
        here = [form for form in self.marks if form in text]
        if here:
            for found in re.finditer("|".join(map(re.escape, here)), text):
                yield (*found.span(), self.marks[found[0]])
        if self.marks and "\n" in text:
            yield from self._wrapped(text)

    def _wrapped(self, text: str) -> Iterator[Span]:
        """Yield where an encoded secret goes over the end of a line."""
        for block in _BLOCK.finditer(text):
            breaks = [found.span() for found in _BREAK.finditer(block[0])]
            whole = _BREAK.sub("", block[0])
            for form in [form for form in self.marks if form in whole]:
                at = whole.find(form)
                while at >= 0:
                    first, last = _place(at, breaks), _place(at + len(form) - 1, breaks) + 1
                    if last - first > len(form):
                        yield block.start() + first, block.start() + last, self.marks[form]
                    at = whole.find(form, at + len(form))

    def shaped(self, text: str) -> Iterator[Span]:
        """Yield where something stands that has the shape of a secret: the first, and there the longest."""
        found = list[Span]()
        for shape in self.shapes:
            if any(map(text.__contains__, shape.triggers)):
                mark = MARK.format(name=shape.name)
                found += [(*one.span("s" if "s" in one.re.groupindex else 0), mark) for one in whole_of(shape).finditer(text)]
        end = 0
        for one in sorted(found, key=lambda one: (one[0], -one[1])):
            if one[0] >= end:
                yield one
                end = one[1]

    @cached_property
    def _without_shapes(self) -> Cover:
        return Cover(self.marks, ())

    def bytes(self, content: bytes) -> bytes:
        """Return content with marks in the places of secrets; a picture or an archive can hold only what was registered."""
        from power_agent.secrets.flow import Flow  # noqa: PLC0415  it is made of this class

        text = b"\0" not in content
        if not text and self.shapes:
            return self._without_shapes.bytes(content)
        if not (self.suspects_bytes(content) if text else any(form.encode("utf-8", "surrogatepass") in content for form in self.marks)):
            return content
        decoder, flow = codecs.getincrementaldecoder("utf-8")("surrogateescape"), Flow(self)
        pieces = [flow.feed(decoder.decode(content[at : at + CHUNK_BYTES])) for at in range(0, len(content), CHUNK_BYTES)]
        pieces += (flow.feed(decoder.decode(b"", final=True)), flow.end())
        covered = b"".join(piece.encode("utf-8", "surrogateescape") for piece in pieces)
        return content if covered == content else covered


def _any_of(signs: Collection[bytes]) -> re.Pattern[bytes] | None:
    """Return what finds any of these, which are short: one look for all of them costs less than one for each. Of long ones it costs more."""
    return re.compile(b"|".join(map(re.escape, signs))) if signs else None


def _runs(text: bytes) -> list[bytes]:
    """Return the long unbroken words of a text."""
    shape, found = text.translate(_AS_RUNS), list[bytes]()
    at = shape.find(b"x" * _RUN)
    while at >= 0:
        end = shape.find(b" ", at)
        end = len(text) if end < 0 else end
        found.append(text[at:end])
        at = shape.find(b"x" * _RUN, end)
    return found


def _replaced(text: str, spans: Iterable[Span]) -> str:
    """Return a text with other words in some places, given in order; of two that touch the first one counts."""
    pieces, at = list[str](), 0
    for start, end, mark in spans:
        if start >= at:
            pieces += (text[at:start], mark)
            at = end
    return "".join((*pieces, text[at:])) if pieces else text


def _place(at: int, breaks: Collection[tuple[int, int]]) -> int:
    """Return where a character of a text without line breaks stands in the text with them."""
    for start, end in breaks:
        if at < start:
            break
        at += end - start
    return at
