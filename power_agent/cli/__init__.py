"""The command line. So far it has two verbs: `demo` and `bench`."""

from __future__ import annotations

import sys

USAGE = """usage: power-agent VERB

  demo   kill a process in the middle of a tool call, open its log from another one, and see that nothing is lost
  bench [--json]
         measure the log on this directory's disk, beside raw SQLite in the same run

  -h, --help     show this
  --version      show the version"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    match words:
        case ["demo"]:
            from power_agent.cli.demo import demo  # noqa: PLC0415  --help needs no database

            return demo()
        case ["bench"] | ["bench", "--json"]:
            from power_agent.cli.bench import bench  # noqa: PLC0415  the same

            return bench(as_json="--json" in words)
        case ["--version"]:
            from power_agent import __version__  # noqa: PLC0415  the same

            print(__version__)
            return 0
        case [] | ["-h"] | ["--help"]:
            print(USAGE)
            return 0
        case _:
            print(f"error[usage]: power-agent does not know {' '.join(words)!r}.\n\n{USAGE}", file=sys.stderr)
            return 2
