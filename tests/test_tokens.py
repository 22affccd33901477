"""Tokens are counted where the vocabulary is at hand, and estimated otherwise, never fetched.

`data/token_counts.json` holds texts and how many tokens of o200k_base each really has; none of them had a part in fitting the estimate.
Whoever has the vocabulary in tiktoken's cache counts them anew with `python tests/test_tokens.py`.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from power_agent import tokens
from power_agent.gauge import crude
from power_agent.tokens import Tokens, count, estimate, weigh

TRUTH = Path(__file__).parent / "data" / "token_counts.json"

PUBLISHED = {
    "antidisestablishmentarianism": 6,
    "2 + 2 = 4": 7,
    "tiktoken is great!": 6,
    "お誕生日おめでとう": 8,
    "Hello, my name is GPT-4o. I'm a new type of language model, it's nice to meet you!": 24,
    "Hallo, mein Name ist GPT-4o. Ich bin ein neues KI-Sprachmodell. Es ist schön, dich kennenzulernen.": 29,
    "Bonjour, je m'appelle GPT-4o. Je suis un nouveau type de modèle de langage, c'est un plaisir de vous rencontrer!": 28,
    "Hola, me llamo GPT-4o. Soy un nuevo tipo de modelo de lenguaje, ¡es un placer conocerte!": 26,
    "Привет, меня зовут GPT-4o. Я — новая языковая модель, приятно познакомиться!": 23,
    "你好，我的名字是GPT-4o。我是一种新型的语言模型，很高兴见到你!": 24,
    "안녕하세요, 제 이름은 GPT-4o입니다. 저는 새로운 유형의 언어 모델입니다, 만나서 반갑습니다!": 27,
}


@pytest.fixture(autouse=True)
def _no_vocabulary(monkeypatch, tmp_path):
    """An empty cache, and a network that nobody may touch."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def refused(*_args, **_values):
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for known in (tokens._encoding, tokens._begin):
        known.cache_clear()
    yield
    for known in (tokens._encoding, tokens._begin):
        known.cache_clear()
    tokens._READY = None


def kinds():
    """The texts with their true counts, by kind."""
    found: dict[str, list[tuple[str, int]]] = {}
    for one in json.loads(TRUTH.read_text(encoding="utf-8"))["texts"]:
        found.setdefault(one["kind"], []).append((one["text"], one["tokens"]))
    return found


def error(texts, by):
    """How far a way to count is off, over all these texts."""
    return sum(by(text) for text, _ in texts) / sum(true for _, true in texts) - 1


@pytest.mark.parametrize("kind", ["English", "Python", "JavaScript", "C", "JSON", "Chinese", "mixed"])
def test_estimate_is_within_a_tenth_of_the_truth(kind):
    """Over all texts of a kind; prose, code and data also one by one. Chinese is uneven: a passage alone may be off by a quarter."""
    texts = kinds()[kind]
    assert abs(error(texts, estimate)) <= 0.1
    assert all(abs(estimate(text) / true - 1) <= (0.25 if kind == "Chinese" else 0.1) for text, true in texts)


@pytest.mark.parametrize("kind", ["German", "Japanese"])
def test_estimate_of_other_languages_is_near(kind):
    """Nothing is promised for them but that they are counted as what they are."""
    assert abs(error(kinds()[kind], estimate)) <= 0.2


def test_counting_characters_is_no_estimate():
    """What everybody does is off by up to two thirds; so the truth above is none that anything would meet."""
    assert error(kinds()["Chinese"], lambda text: len(text) / 4) < -0.6
    assert error(kinds()["JSON"], lambda text: len(text) / 4) < -0.3
    assert error(kinds()["English"], lambda text: len(text) / 4) > 0.2
    assert error(kinds()["English"], crude) > 0.5


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(st.characters(max_codepoint=127)), st.text(" \t\n\r\x1c'_-./{}AZabstrv059"), st.sampled_from([text for text, _ in chain(*kinds().values())])))
def test_the_quick_way_for_ascii_is_the_same(text):
    """What is all ASCII is cut by a simpler expression, and pieces that were seen are known: to the same number as by the whole rules."""
    text = text.encode("ascii", "ignore").decode()
    assert estimate(text) == round(sum(tokens._cost(piece.lastgroup or "", piece[0]) for piece in tokens._PIECES.finditer(text)) / 1_000)


def test_what_is_known_of_pieces_is_bounded(monkeypatch):
    """Texts of which no piece comes again fill nothing up."""
    costs = tokens._Known(tokens._piece)
    monkeypatch.setattr(costs, "most", 100)
    assert sum(costs[str(number)] for number in range(1_000)) == 1_000_000
    assert len(costs) <= 100


def test_long_pieces_are_not_kept(monkeypatch):
    """A genome is one word, and so is the next one: twenty thousand of them are more than a process should hold."""
    known = {"_COSTS": tokens._Known(tokens._piece), "_WORDS": tokens._Known(tokens._behind_a_space), "_ENDS": tokens._Known(tokens._by_pieces)}
    for name, costs in known.items():
        monkeypatch.setattr(tokens, name, costs)
    genomes = ["acgt" * 5_000 + "a" * number for number in range(20)]
    texts = [*genomes, " ".join(genomes)]
    assert [estimate(text) for text in texts] == [estimate(text) for text in texts]
    assert sum(map(len, chain(*known.values()))) == 0


@pytest.mark.parametrize("text", PUBLISHED)
def test_estimate_is_sane(text):
    """Within a quarter, or two tokens, of counts that a cookbook and the announcement of a model published."""
    assert abs(estimate(text) - PUBLISHED[text]) <= max(2, PUBLISHED[text] / 4)


def test_estimate_of_shapes():
    """Digits go in threes, runs of blanks are one, nothing is nothing, and no character is passed over."""
    assert [estimate(text) for text in ("", "123", "1234567", "\n\n\n", "word", " word", "a b c")] == [0, 1, 3, 1, 1, 1, 3]
    assert estimate("x = 1\n" + " " * 40 + "y") <= 7
    assert estimate("🙂" * 100) >= 100
    assert estimate("\ud800\0\x7f") == 3
    assert all(estimate(chr(number)) in {0, 1, 2} for number in range(0, 0x30000, 7))
    assert estimate(" ".join(["word"] * 1000)) == 1000


def test_estimate_takes_no_more_than_it_reads():
    """Linear in any text: a quadratic one would not end here."""
    for text in ("a" * 300_000, " " * 300_000, "Aa" * 150_000, "'" * 300_000, "好" * 300_000, " \t" * 150_000):
        assert estimate(text) > 0


async def test_without_a_vocabulary_it_is_an_estimate():
    """Marked as one; long texts, too. A cache that is switched off holds nothing."""
    assert await count("Hello, world!") == Tokens(4, exact=False)
    assert (await count("word " * tokens.SHORT)).exact is False


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
async def test_a_broken_vocabulary_is_left_alone(variable, monkeypatch, tmp_path):
    """tiktoken would delete it, and fetch another."""
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv(variable, str(tmp_path))
    path = tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790"
    path.write_bytes(b"half of it")
    assert tokens._cached() == path
    assert (await count("Hello")).exact is False
    assert path.read_bytes() == b"half of it"
    monkeypatch.setenv(variable, "")
    assert tokens._cached() is None
    assert (await count("Hello")).exact is False


async def test_with_a_vocabulary_it_is_counted(monkeypatch, tmp_path):
    """With a small one, in which every byte is a token: so many bytes, so many tokens."""
    import tiktoken.registry
    import tiktoken_ext.openai_public

    path = tokens._cached()
    path.write_bytes(b"a vocabulary")
    monkeypatch.setattr(tokens, "_SHA256", hashlib.sha256(b"a vocabulary").hexdigest())
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda address, expected_hash: {bytes([number]): number for number in range(256)})
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    assert await count("Grüße <|endoftext|>") == Tokens(len("Grüße <|endoftext|>".encode()), exact=True)


def test_the_loop_weighs_at_once():
    """What it waits for is bounded whatever the text; a sample of a long text stands for it; the same text weighs the same."""
    text = "".join(text for text, _ in kinds()["English"])
    assert weigh(text) == estimate(text)
    long = text * 200
    assert abs(weigh(long) / estimate(long) - 1) < 0.02
    assert weigh("x" * 10_000_000) == weigh("x" * 10_000_000) > 0
    assert threading.active_count() == len([one for one in threading.enumerate() if one.name != "power-agent-vocabulary"])


def test_the_loop_weighs_with_the_vocabulary_once_it_is_there(monkeypatch):
    """It is loaded beside the work, once, when enough was weighed; until then it estimates."""
    monkeypatch.setattr(tokens, "WORTH_IT", 26)
    monkeypatch.setattr(tokens, "_weighed", 0)
    tokens._cached().write_bytes(b"a vocabulary")
    may, asked = threading.Event(), []

    class Bytes:
        def encode_ordinary(self, text):
            return text.encode()

    def loading():
        asked.append(1)
        may.wait(30)
        return Bytes()

    loading.cache_clear = lambda: None
    monkeypatch.setattr(tokens, "_encoding", loading)
    assert weigh("Hello, world!") == 4
    assert asked == []
    assert weigh("Hello, world!") == 4
    may.set()
    for thread in threading.enumerate():
        if thread.name == "power-agent-vocabulary":
            thread.join(30)
    assert weigh("Hello, world!") == 13
    assert asked == [1]


if __name__ == "__main__":
    encoding = tokens._encoding()
    truth = json.loads(TRUTH.read_text(encoding="utf-8"))
    assert encoding is not None, "The vocabulary is not at hand."
    assert (encoding.name, tokens._SHA256) == (truth["vocabulary"], truth["sha256"])
    for one in truth["texts"]:
        assert len(encoding.encode_ordinary(one["text"])) == one["tokens"], one["text"]
