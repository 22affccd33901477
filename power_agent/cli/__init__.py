"""The command line. `app.py` has the verbs on one page; each family has a room.

Whatever happens, a command ends with one of the exit codes of `advice.py` and never with a traceback, unless `--debug` asks for one.
"""

from __future__ import annotations

import os
import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Without arguments this is the whole process, and its signals are ours."""
    alone = arguments is None
    if alone:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end, by whatever name
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr, flush=True)
        if alone:
            os._exit(130)  # an interrupt inside an exec(), which every dataclass has, would make the interpreter end otherwise
        code = 130
    if alone:  # what was done is done: a late signal must not change how it ended
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return code


def _run(words: list[str]) -> int:
    from power_agent.cli import app, saying  # noqa: PLC0415  inside, so that a Ctrl-C while importing is one too
    from power_agent.errors import PowerAgentError  # noqa: PLC0415  the same

    saying.voice.__init__()  # type: ignore[misc]  # one command, one voice
    app.forgiving()
    words = _without_debug(words, saying.voice)
    try:
        return app.typed(words)
    except Exception as error:  # noqa: BLE001  the last resort
        if _interrupted(error):
            raise KeyboardInterrupt from None
        if isinstance(error, PowerAgentError):
            from power_agent.cli.advice import complain  # noqa: PLC0415  only on the way out

            return complain(error)
        from power_agent.cli.crash import report  # noqa: PLC0415  the same

        return report(error, words)


def _interrupted(error: BaseException | None) -> bool:
    """Say whether it was an interrupt that went wrong: while a class is made, as when a module is imported, Python makes an error of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _without_debug(words: list[str], voice: object) -> list[str]:
    """Take `--debug` out, wherever it stands in front of a `--`: whoever asks again adds it at the end."""
    end = words.index("--") if "--" in words else len(words)
    if "--debug" in words[:end]:
        voice.debug = True  # type: ignore[attr-defined]
    return [word for word in words[:end] if word != "--debug"] + words[end:]
