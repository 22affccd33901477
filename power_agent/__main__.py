"""`python -m power_agent` is `power-agent`."""

from power_agent.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
