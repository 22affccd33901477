"""What a request costs, to the 10⁻⁹ dollar; who says so; and that nobody spends within a limit what nobody can count."""

from __future__ import annotations

import builtins
from decimal import Decimal

import pytest
from servers import ChatServer
from wires import asked

from power_agent import Answer, Limits, ScriptedModel, StatefulAgentLoop, Usage
from power_agent.errors import InvalidInput, PriceUnknown
from power_agent.models import Failover, model
from power_agent.models.prices import Card, Entry, entries
from power_agent.state import SessionState
from power_agent.testing.speaking import Loopback, Said, head, saying

FULL = {"input": 3, "output": 15, "cached": 0.3, "cache_written": 3.75, "reasoning": 20}
"""Dollars for a million tokens; so one token of input costs 3,000 · 10⁻⁹ dollars."""


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (FULL, Usage(1_000, 0), 3_000_000),
        (FULL, Usage(0, 1_000), 15_000_000),
        # 200 fresh at 3,000 + 700 cached at 300 + 100 written at 3,750; 40 said at 15,000 + 60 thought at 20,000
        (FULL, Usage(1_000, 100, cached=700, cache_written=100, reasoning=60), 600_000 + 210_000 + 375_000 + 600_000 + 1_200_000),
        # without prices of their own: cached and written at the price of input, thought at the price of output
        ({"input": 3, "output": 15}, Usage(1_000, 100, cached=700, cache_written=100, reasoning=60), 3_000_000 + 1_500_000),
        # a price below one 10⁻⁹ dollar a token: 0.0375 dollars a million are 37.5 a token; three are 112.5, counted as 113
        ({"input": "0.0375", "output": 1}, Usage(3, 0), 113),
        ({"input": "0.0375", "output": 1}, Usage(4, 0), 150),
        ({"input": 0, "output": 0}, Usage(1_000, 1_000), 0),
        # counters that contradict themselves: never more cached than there is, never less than nothing
        (FULL, Usage(10, 5, cached=50, cache_written=50, reasoning=9), 10 * 300 + 5 * 20_000),
        (FULL, Usage(10**9, 10**9), 18_000 * 10**9),
    ],
)
def test_costs_by_hand(price, usage, cost):
    """Whole numbers all the way: input and output, what came from the cache, what was written to it, what was thought."""
    assert Card(entries({"a:m": price})["a:m"]).cost(usage) == cost


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"input": 1}, "half a price"),
        ({"cached": 1}, "half a price"),
        ({"inptu": 1, "output": 1}, "no field 'inptu'"),
        ({"input": -1, "output": 1}, "cannot be -1"),
        ({"input": "cheap", "output": 1}, "cannot be 'cheap'"),
        ({"input": float("nan"), "output": 1}, "cannot be nan"),
        ({"input": "0.0000000001", "output": 1}, "cannot be"),
        ({"input": True, "output": 1}, "cannot be True"),
        ({"context_window": 0}, "cannot be 0"),
        ({"accepts": "image"}, "cannot be 'image'"),
        (3, "has no fields"),
    ],
)
def test_what_is_wrong_with_a_price_is_said(said, what):
    with pytest.raises(InvalidInput, match=what):
        entries({"a:m": said})


def test_prices_from_a_file(tmp_path):
    """TOML, decimals as they are written; what is wrong with the file is said with its path."""
    path = tmp_path / "prices.toml"
    path.write_text('["vllm:m"]\ninput = 0.1\noutput = 0.123456789\ncontext_window = 4096\nmax_output_tokens = 512\naccepts = ["image"]\n', encoding="utf-8")
    found = model("vllm:m", prices=path)
    assert (found.cost(Usage(10**6, 10**6)), found.context_window, found.max_output_tokens, found.accepts) == (223_456_789, 4096, 512, ("image",))
    assert (model("vllm:other", prices=path).cost(Usage(1, 1)), model("vllm:other", prices=path).context_window) == (None, None)
    for text, what in (("[", "are not TOML"), ('["a:m"]\ninput = 1', "half a price")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InvalidInput, match=what) as caught:
            model("vllm:m", prices=path)
        assert str(path) in str(caught.value)
    with pytest.raises(InvalidInput, match="cannot be read"):
        model("vllm:m", prices=tmp_path / "none.toml")


def test_published_prices():
    """By `genai-prices`: known to the same amount by hand, with the window; a model or a provider that it does not know is unknown."""
    card = Card(None, ("openai", "gpt-4o-2024-11-20"))
    # 2.50 dollars a million in, 1.25 from the cache, 10 out
    assert card.cost(Usage(1_000, 100, cached=400)) == 600 * 2_500 + 400 * 1_250 + 100 * 10_000
    assert card.context_window == 128_000
    assert card.price_source.startswith("genai-prices ")
    written = Card(None, ("anthropic", "claude-sonnet-4-5"))
    # 3 dollars a million in, 0.30 from the cache, 3.75 written to it, 15 out
    assert written.cost(Usage(1_000, 10, cached=500, cache_written=300)) == 200 * 3_000 + 500 * 300 + 300 * 3_750 + 10 * 15_000
    for published in (("openai", "no-such-model"), ("no-such-provider", "gpt-4o"), None):
        unknown = Card(None, published)
        assert (unknown.cost(Usage(1, 1)), unknown.price_source, unknown.context_window) == (None, None, None)


def test_the_users_word_wins_field_by_field():
    card = Card(Entry(context_window=7), ("openai", "gpt-4o-2024-11-20"))
    assert (card.context_window, card.cost(Usage(1_000, 0))) == (7, 2_500_000)
    card = Card(Entry(input=1_000, output=1_000), ("openai", "gpt-4o-2024-11-20"))
    assert (card.context_window, card.cost(Usage(10**6, 0)), card.price_source) == (128_000, 1_000, "given")


def test_without_the_extra_everything_is_unknown(monkeypatch):
    """Its absence is no error: nobody knows, and that is what is said."""
    real = builtins.__import__

    def absent(name, *more):
        if name == "genai_prices":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", absent)
    card = Card(None, ("openai", "gpt-4o-2024-11-20"))
    assert (card.cost(Usage(1, 1)), card.price_source, card.context_window) == (None, None, None)


# -- in the log --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prices", [None, {"vllm:m": FULL}], ids=["unknown", "known"])
async def test_each_answer_keeps_its_cost_and_who_says_so(prices, tmp_path):
    """Or null: an unknown cost is not 0, in the log, in the result, in what is added up."""
    server = ChatServer()
    said = Said(text="Yes.", usage=Usage(1_000, 100, cached=400))
    async with Loopback(saying(head(media_type=server.media_type), *server.stream(said))) as loopback:
        found = model("vllm:m", base_url=loopback.url, prices=prices)
        async with StatefulAgentLoop(found, store=tmp_path / "log.db") as loop:
            results = [await loop.send("Hello.", "s") for _ in range(2)]
            kept = [(one.event.cost_nano_usd, one.event.price_source) for one in await loop.history("s", kinds=["model.answered"])]
            reserved = [one.event.reserved_cost_nano_usd for one in await loop.history("s", kinds=["model.asked"])]
            spent = (await loop.state("s")).spent
        await found.aclose()
    cost = 600 * 3_000 + 400 * 300 + 100 * 15_000
    if prices is None:
        assert kept == [(None, None)] * 2
        assert [(one.cost_nano_usd, one.cost_usd, one.price_sources) for one in results] == [(None, None, ())] * 2
        assert (reserved, spent.unpriced) == ([None, None], 2)
    else:
        assert kept == [(cost, "given")] * 2
        assert [(one.cost_nano_usd, one.cost_usd, one.price_sources) for one in results] == [(cost, Decimal(cost) / 10**9, ("given",))] * 2
        assert (spent.cost_nano_usd, spent.unpriced, all(reserved)) == (2 * cost, 0, True)


async def test_no_more_is_reserved_than_an_answer_can_have(tmp_path):
    """The limit of a model's output bounds what a request that nobody saw the end of may come to."""
    card = {"vllm:m": {"input": 1, "output": 1, "max_output_tokens": 50}}
    server = ChatServer()
    async with Loopback(saying(head(media_type=server.media_type), *server.stream(Said(text="Yes.")))) as loopback:
        for name, most in (("bounded", card), ("unbounded", None)):
            found = model("vllm:m", base_url=loopback.url, prices=most)
            async with StatefulAgentLoop(Failover([found]), store=tmp_path / "log.db") as loop:
                await loop.send("Hello.", name)
                reserved = (await loop.history(name, kinds=["model.asked"]))[0].event.reserved_tokens
            await found.aclose()
            assert (reserved < 100) == (most is not None)


async def test_an_answer_without_counts_has_no_cost():
    """A server that counts nothing told nothing: its answer is not free."""
    server = ChatServer()
    async with Loopback(saying(head(media_type=server.media_type), *server.stream(Said(text="Yes.", usage=Usage())))) as loopback:
        found = model("vllm:m", base_url=loopback.url, prices={"vllm:m": {"input": 1, "output": 1}})
        reply = await found.ask(asked(), lambda kind, text: None)
        await found.aclose()
    assert (reply.usage, reply.cost_nano_usd, reply.price_source) == (Usage(), None, None)


class Priced(ScriptedModel):
    """Costs a dollar for a million tokens, and tells it by its `cost` alone."""

    def cost(self, usage: Usage) -> int:
        return usage.total * 1_000


async def said(loop: StatefulAgentLoop, verb: str) -> None:
    if verb == "send":
        await loop.send("Hello.", "s")
    else:
        _ = [one async for one in loop.stream("Hello.", "s")]


MONEY = [Limits(max_cost_usd_per_turn=1.0), Limits(max_cost_usd_per_session=1.0)]


@pytest.mark.parametrize("limits", MONEY, ids=["turn", "session"])
@pytest.mark.parametrize("verb", ["send", "stream"])
async def test_money_is_not_spent_at_an_unknown_price(limits, verb, tmp_path):
    """Refused before anything is asked or what was said is kept, with what to do; with a price the same words go through."""
    unpriced = ScriptedModel(["Yes."], name="some:model")
    async with StatefulAgentLoop(unpriced, store=tmp_path / "log.db", limits=limits) as loop:
        with pytest.raises(PriceUnknown, match="some:model") as caught:
            await said(loop, verb)
        assert "prices" in caught.value.hint
        assert (unpriced.requests, caught.value.models) == ([], "some:model")
        assert [one.kind for one in await loop.history("s")] == ["session.opened"], "neither what was said nor a request"
    async with StatefulAgentLoop(Priced(["Yes."], name="some:model"), store=tmp_path / "log.db", limits=limits) as loop:
        result = await loop.send("Hello.", "s")
        assert (result.text, result.cost_nano_usd, result.price_sources) == ("Yes.", result.usage.total * 1_000, ("some:model",))


@pytest.mark.parametrize("who", ["one of a chain", "summaries"])
async def test_nobody_in_the_cast_may_be_unpriced(who, tmp_path):
    """The one that may answer later, and the one that makes contexts smaller, are asked about first, too."""
    unknown, known = ScriptedModel([], name="dark:m"), Priced(["Yes."], name="light:m")
    options = {"models": {"summary": unknown}} if who == "summaries" else {}
    async with StatefulAgentLoop(known if options else Failover([known, unknown]), store=tmp_path / "log.db", limits=MONEY[0], **options) as loop:
        with pytest.raises(PriceUnknown) as caught:
            await loop.send("Hello.", "s")
        assert caught.value.models == "dark:m"
        assert known.requests == []


async def test_an_uncounted_answer_costs_what_was_reserved(tmp_path):
    """Within a limit of money an answer without counts may not be free, or the limit would hold nothing."""
    silent = Priced(lambda _: Answer("Yes.", usage=Usage()), name="silent:m")
    async with StatefulAgentLoop(silent, store=tmp_path / "log.db", limits=Limits(max_cost_usd_per_session=0.02)) as loop:
        first = await loop.send("Hello.", "s")
        reserved = (await loop.history("s", kinds=["model.asked"]))[0].event.reserved_cost_nano_usd
        assert (first.cost_nano_usd, first.price_sources) == (reserved, ("what was reserved, because no tokens were counted",))
        statuses = [(await loop.send("Again.", "s")).status for _ in range(4)]
        assert statuses[-1] == "limit"


# -- roles -------------------------------------------------------------------------------------------------------------------


async def test_summaries_run_on_the_model_of_their_role(tmp_path):
    """The main model answers, the other one makes the context smaller; each is in the log by its own name and its own price."""
    main, small = Priced(lambda _: "word " * 300, name="big:m"), Priced(lambda _: "All was said.", name="small:m")
    async with StatefulAgentLoop(models={"main": main, "summary": small}, store=tmp_path / "log.db") as loop:
        for number in range(8):
            await loop.send(f"{number} " * 50, "s")
        await loop.compact("s")
        asked_for = {(one.event.purpose, one.event.model) for one in await loop.history("s", kinds=["model.asked"])}
        sources = {one.event.price_source for one in await loop.history("s", kinds=["model.answered"])}
    assert asked_for == {("turn", "big:m"), ("summary", "small:m")}
    assert sources == {"big:m", "small:m"}
    assert len(small.requests) == 1


async def test_roles_may_be_names(tmp_path):
    """Models made from names are closed with the loop, and get their prices; a role that nobody knows is refused."""
    loop = StatefulAgentLoop("vllm:big", models={"summary": "vllm:small"}, prices={"vllm:small": {"input": 1, "output": 2}}, store=tmp_path / "log.db")
    async with loop:
        assert (loop._model.name, loop._compactor.summariser(SessionState("s")).name) == ("vllm:big", "vllm:small")
        assert (loop._model.cost(Usage(1, 1)), loop._compactor.summariser(SessionState("s")).cost(Usage(1, 1))) == (None, 3_000)
    async with StatefulAgentLoop("vllm:a, vllm:b", store=tmp_path / "log.db") as loop:
        assert loop._model.name == "vllm:a,vllm:b"
    for arguments, what in ((("a:m", {"sumary": "b:m"}), "no role 'sumary'"), (("ollama:m", {"main": "b:m"}), "said twice"), ((None, {"summary": "b:m"}), "no model to answer")):
        with pytest.raises(InvalidInput, match=what):
            StatefulAgentLoop(arguments[0], models=arguments[1], store=tmp_path / "log.db")


async def test_an_agent_of_before_reads_the_same_log(tmp_path):
    """A chain, then one of its models alone, then the chain again: the log goes on, and looking back goes the same way."""
    first, second = ScriptedModel(lambda _: "one", name="a:m"), ScriptedModel(lambda _: "two", name="b:m")
    for cast in (Failover([first, second]), second, Failover([first, second])):
        async with StatefulAgentLoop(cast, store=tmp_path / "log.db") as loop:
            await loop.send("Hello.", "s")
            models = [one.event.model for one in await loop.history("s", kinds=["model.asked"])]
            found = await loop.replay("s")
    assert models == ["a:m", "b:m", "b:m"]
    assert (found.requests, found.divergence, found.left_out) == (3, None, ())
