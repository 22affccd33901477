"""How the command speaks: data goes to stdout, everything else to stderr.

Nothing that came out of a log reaches a terminal unescaped: a control character is shown as what it is, never obeyed. No secret does
either. What a person is asked to decide stands behind a seal that nothing else can print.
Colour, cutting to the width and progress belong to a terminal; a pipe, `NO_COLOR`, `CI` and `TERM=dumb` get plain lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from power_agent.secrets import Secrets

SHAPE = 1
"""The version of every `--json` document: it grows by new fields only; a changed meaning raises it."""

Part = str | tuple[str, str]
"""A piece of a line, with a style or without."""

_WITHOUT_STORE = {"demo", "bench", "salvage", "errors", "skill", "--help"}
SEAL: Part = ("◆ ", "bold yellow")
"""Stands before what a person is asked to decide. In anything else its character is spelled out, so that no model, tool or file can ask."""
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u25c6\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]")
"""Controls, and what is there without being seen. What joins letters and emoji stays."""
_FLOOD = re.compile("[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0e47-\u0e4e\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe2f]{5,}")
"""Marks on top of each other, over the lines above and below."""


def safe(text: str, keep: str = "") -> str:
    """Return text that a terminal only shows: control characters and those that turn the direction of writing are spelled out."""
    text = _FLOOD.sub(lambda found: f"{found[0][:4]}[and {len(found[0]) - 4} marks]", voice.covered(text))
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _spelled(found[0]), text)


def _shown(part: Part) -> str:
    return SEAL[0] if part is SEAL else safe(part if isinstance(part, str) else part[0])


def _spelled(character: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or (
        f"\\x{ord(character):02x}" if character < "\x80" else f"\\u{ord(character):04x}" if character < "\U00010000" else f"\\U{ord(character):08x}"
    )


def one_line(text: str) -> str:
    """Return text on one line, runs of white space as one space."""
    return safe(" ".join(text.split()))


class Voice:
    """The two streams, and what the person asked for. One per command."""

    def __init__(self) -> None:
        self.as_json = False
        self.quiet = False
        self.debug = False
        self.options: list[str] = []
        self.gone = False
        self._status = ""
        self._open: TextIO | None = None
        self._secrets: Secrets | None = None

    # -- what nobody shall see -----------------------------------------------------------------------------------------

    def hide(self, secrets: Secrets) -> None:
        """Cover an agent's secrets from here on."""
        self._secrets = secrets

    def covered(self, text: str) -> str:
        """Return a text without secrets."""
        return self.secrets.cover(text)

    @property
    def secrets(self) -> Secrets:
        """What is hidden: the agent's secrets, else those that the settings name."""
        if self._secrets is None:
            from power_agent.cli.config import Settings  # noqa: PLC0415  it complains through this room
            from power_agent.errors import PowerAgentError  # noqa: PLC0415  the same
            from power_agent.secrets import Secrets  # noqa: PLC0415  the same

            self._secrets = Secrets()
            with contextlib.suppress(PowerAgentError, OSError):  # settings that cannot be read are complained of elsewhere
                self._secrets = self._secrets.and_also(Settings().secrets(all_of_them=False))
        return self._secrets

    # -- data ----------------------------------------------------------------------------------------------------------

    def data(self, document: dict[str, Any], stream: TextIO | None = None) -> None:
        """Print one JSON document. Pure ASCII, so that no terminal, pipe or locale can trip over it."""
        self.write(self.covered(json.dumps({"v": SHAPE, **plain(document)})).replace("\x7f", "\\u007f"), stream)

    def write(self, text: str, stream: TextIO | None = None) -> None:
        """Print as it stands; whoever closed the pipe has what they wanted."""
        if self.gone:
            return
        self.status("")
        self.end_piece()
        try:
            print(text, flush=True, file=stream)
        except BrokenPipeError:
            self._closed(stream or sys.stdout)

    def bytes(self, content: bytes) -> None:
        """Print bytes that are data for another program; a terminal is shown them."""
        if sys.stdout.isatty():
            self.write(safe(content.decode("utf-8", "replace").removesuffix("\n"), keep="\n\t"))
        elif not self.gone:
            self.status("")
            try:
                sys.stdout.buffer.write(content)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                self._closed(sys.stdout)

    def _closed(self, stream: TextIO) -> None:
        """Whoever read has what they wanted."""
        self.gone = True
        with contextlib.suppress(OSError):  # else the interpreter complains when it flushes at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def text(self, text: str) -> None:
        """Print a text of several lines."""
        self.write(safe(text, keep="\n\t"))

    def piece(self, text: str, stream: TextIO) -> None:
        """Print a piece of a text that is on its way; whatever is told next begins on a line of its own."""
        if self.gone or not text:
            return
        self.status("")
        try:
            print(safe(text, keep="\n\t"), end="", file=stream, flush=True)
        except BrokenPipeError:
            self._closed(stream)
        self._open = None if text.endswith("\n") else stream

    def end_piece(self) -> None:
        """End a line that is open."""
        stream, self._open = self._open, None
        if stream is not None:
            self.piece("\n", stream)

    def line(self, *parts: Part, whole: bool = False) -> None:
        """Print one line: coloured on a terminal and, unless all of it matters, cut to its width; whole in a pipe."""
        if not fancy(sys.stdout):
            self.write("".join(map(_shown, parts)).rstrip())
            return
        self.status("")
        console, text = _console(sys.stdout), _styled(parts)
        text.rstrip()
        if not whole:
            text.truncate(console.width, overflow="ellipsis")
        console.print(text, soft_wrap=True)

    def table(self, rows: Sequence[Sequence[Part]]) -> None:
        """Print rows whose columns stand below each other."""
        cells = [[safe(cell if isinstance(cell, str) else cell[0]) for cell in row] for row in rows]
        widths = [max((width(row[column]) for row in cells if column < len(row)), default=0) for column in range(max(map(len, cells), default=0))]
        for row, shown in zip(rows, cells, strict=True):
            padded = [text if number == len(row) - 1 else text + " " * (widths[number] - width(text) + 2) for number, text in enumerate(shown)]
            self.line(*(text if isinstance(cell, str) else (text, cell[1]) for cell, text in zip(row, padded, strict=True)))

    # -- everything else -----------------------------------------------------------------------------------------------

    def note(self, *parts: Part) -> None:
        """Tell something on stderr."""
        self.status("")
        if fancy(sys.stderr):
            self.end_piece()
        with contextlib.suppress(BrokenPipeError):
            if fancy(sys.stderr):
                _console(sys.stderr).print(_styled(parts), soft_wrap=True)
            else:
                print("".join(map(_shown, parts)).rstrip(), file=sys.stderr, flush=True)

    def progress(self, *parts: Part) -> None:
        """Tell what goes on, to a person who watches."""
        if fancy(sys.stderr) and not self.quiet and not self.as_json:
            self.note(*parts)

    def status(self, text: str) -> None:
        """Replace the last line of stderr on a terminal; with nothing, wipe it away."""
        if (text or self._status) and fancy(sys.stderr) and not self.quiet:
            print(f"\r\x1b[2K{safe(text)}", end="", file=sys.stderr, flush=True)
            self._status = text

    def commands(self, label: str, commands: Iterable[str], *, are_data: bool = False) -> None:
        """Tell commands to type, one below the other."""
        for number, command in enumerate(commands):
            parts = (f"  {label if not number else '':<6}", (command, "bold"))
            if are_data:
                self.line(*parts, whole=True)
            else:
                self.note(*parts)

    def command(self, *words: str) -> str:
        """Spell a command that works as it is typed, with the store that this one was told to use."""
        options = self.options if words[0] not in _WITHOUT_STORE and not {"--help", "--store"} & set(words) else ()
        return shlex.join(["power-agent", *words, *(_whose() if words[0] == "resume" and not {"--agent", "--model"} & set(words) else ()), *options])


voice = Voice()


class Aside(io.TextIOBase):
    """Where the agent's own code prints: on stderr, where it is shown like everything else."""

    def write(self, text: str) -> int:
        """Show a text."""
        sys.stderr.write(safe(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        """Let all of it be seen."""
        sys.stderr.flush()

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True


class LastWord(logging.StreamHandler[TextIO]):
    """Shows warnings that no handler takes."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text that a terminal only shows."""
        return safe(super().format(record), keep="\n\t")


def _whose() -> tuple[str, ...]:
    """Return what has to be added to a command that needs an agent, where no setting names one."""
    from power_agent.cli.config import Settings  # noqa: PLC0415  --help spells no command
    from power_agent.errors import ConfigError  # noqa: PLC0415  the same

    try:
        return Settings().unnamed()
    except ConfigError:  # it is told by the command that needs the settings
        return ()


def fancy(stream: TextIO) -> bool:
    """Say whether a person looks at a stream through a terminal that can do more than print."""
    return stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM", "") not in {"", "dumb"}


def width(text: str) -> int:
    """Return how many columns a terminal needs for a text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415  a pipe with plain text never needs it

    return cell_len(text)


def _console(stream: TextIO) -> Console:
    from rich.console import Console  # noqa: PLC0415  only a terminal needs it

    return Console(file=stream, markup=False, highlight=False, emoji=False, no_color=bool(os.environ.get("NO_COLOR")))


def _styled(parts: Iterable[Part]) -> Text:
    from rich.text import Text  # noqa: PLC0415  the same

    plain_colours = bool(os.environ.get("NO_COLOR"))
    return Text.assemble(*(_shown(part) if isinstance(part, str) else (_shown(part), "" if plain_colours else part[1]) for part in parts))


def plain(value: Any) -> Any:
    """Return a value as what JSON knows; what it does not know is named by its type, never printed."""
    from pydantic_core import to_jsonable_python  # noqa: PLC0415  --help prints no JSON

    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants", fallback=lambda strange: f"<{type(strange).__name__}>")
