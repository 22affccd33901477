"""What users test their agents with: each fixture does what the kit's README says, and fails the test that it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import power_agent.testing

pytest_plugins = ["pytester"]
README = Path(power_agent.testing.__file__).with_name("README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
addopts = --strict-markers -p no:cacheprovider
"""


@pytest.fixture
def ran(pytester):
    """Return a function that runs test files in a process of its own, as a user would, and says how many passed, failed, and what was said."""

    def run(*files: str, **outcomes: int) -> str:
        pytester.makeini(SETTINGS)
        pytester.makepyfile(**{f"test_file_{number}": code for number, code in enumerate(files)})
        result = pytester.runpytest_subprocess()
        assert {name: number for name, number in result.parseoutcomes().items() if name != "warnings"} == outcomes
        return result.stdout.str()

    return run


def test_the_readme_is_true(ran):
    """Every snippet is a test file that passes."""
    assert len(SNIPPETS) == 4
    ran(*SNIPPETS, passed=7)


def test_every_fixture_is_in_the_readme():
    """The table names every fixture of the plugin, and none that is not there."""
    plugin = Path(power_agent.testing.__file__).with_name("plugin.py").read_text(encoding="utf-8")
    fixtures = set(re.findall(r"@pytest\.fixture\ndef (\w+)", plugin))
    assert fixtures == {row.split("`")[1].partition("(")[0] for row in README.splitlines() if row.startswith("| `")}
    assert all(f"`{name}`" in plugin.split('"""')[1] for name in fixtures)


def test_a_script_that_was_not_said_to_its_end(ran):
    """It fails the test behind which it was made, unless the test says that this is fine; a function has no end."""
    said = ran(
        """
        from power_agent import StatefulAgentLoop

        def talk(model):
            with StatefulAgentLoop(model, store=":memory:").sync as loop:
                loop.send("Hello.", "s")

        def test_half(scripted_model):
            talk(scripted_model(["one", "two"]))

        def test_never(scripted_model):
            scripted_model(["one"])

        def test_fine(scripted_model):
            talk(scripted_model(["one", "two"], to_the_end=False))
            talk(scripted_model(lambda _: "one"))
        """,
        passed=3,
        errors=2,
    )
    assert "line 2 of 2 of the script was never asked for" in said
    assert "line 1 of 1 of the script was never asked for" in said


def test_no_live_models(ran):
    """A test that asks a real model fails, even one that looks at nothing; no byte leaves; one that is marked may ask."""
    said = ran(
        """
        import socket, pytest
        from power_agent import StatefulAgentLoop, model

        @pytest.fixture
        def server():
            with socket.create_server(("127.0.0.1", 0)) as one:
                one.settimeout(0.1)
                yield one

        def talk(server):
            live = model("openai-chat:m", base_url=f"http://127.0.0.1:{server.getsockname()[1]}", api_key="k")
            with StatefulAgentLoop(live, store=":memory:").sync as loop:
                return loop.send("Hello.", "s", wait=True)

        @pytest.mark.usefixtures("no_live_models")
        def test_careless(server):
            assert talk(server).status == "failed"
            with pytest.raises(TimeoutError):
                server.accept()

        @pytest.mark.live_models
        def test_meant(no_live_models, server):
            from power_agent.models.http import HTTPModel
            assert HTTPModel.ask.__name__ == "ask"
        """,
        passed=2,
        errors=1,
    )
    assert "A live model was asked: openai-chat:m" in said


def test_the_plugin_costs_nothing_until_it_is_used():
    """It is loaded by every run of pytest wherever this package is installed: it brings nothing of the package but its name."""
    script = "import sys, power_agent.testing.plugin; print(*[name for name in sys.modules if name.startswith(('power_agent.', 'pydantic', 'httpx', 'aiosqlite'))])"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert set(told) == {"power_agent.testing", "power_agent.testing.plugin"}


def test_the_suites_are_where_they_are_looked_for():
    """The contract suites come by name, and nothing else does."""
    assert power_agent.testing.StoreContract.__name__ == "StoreContract"
    assert power_agent.testing.ModelContract.__name__ == "ModelContract"
    with pytest.raises(AttributeError, match="StoreContrat"):
        power_agent.testing.StoreContrat  # noqa: B018


def test_a_place_that_cannot_be(ran):
    """A word that is none, a passage before the first one, and a function that no other process finds are refused before anything runs."""
    ran(
        """
        import pytest

        from power_agent.errors import InvalidInput


        async def agent():
            pass


        @pytest.mark.parametrize("how", [("x", "sometime"), ("x", "after", 0)])
        def test_place(crash_at, how):
            with pytest.raises(InvalidInput, match="is not possible. `when` is one of before, in, after"):
                crash_at(*how)


        def test_function(crash_at):
            def inside():
                pass

            for function in (inside, lambda: None):
                with pytest.raises(InvalidInput, match="cannot be found by a process of its own. Let it stand by itself"):
                    crash_at("x").run(function)
        """,
        passed=3,
    )
