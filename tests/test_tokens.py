"""Tokens are counted where the vocabulary is at hand, and estimated otherwise, never fetched.

The expected numbers of the estimate are counts that were published for o200k_base (a cookbook, an announcement of a model). They are
a band of sanity: the estimate was set by hand and not fitted, because no vocabulary was at hand, and nothing here proves ten percent.
"""

from __future__ import annotations

import hashlib
import socket

import pytest

from power_agent import tokens
from power_agent.tokens import Calibrated, Tokens, count, estimate

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
    tokens._encoding.cache_clear()
    yield
    tokens._encoding.cache_clear()


@pytest.mark.parametrize("text", PUBLISHED)
def test_estimate_is_sane(text):
    """Within a quarter, or two tokens, of what was published."""
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


def test_calibration():
    """What was reported last decides; nothing and nonsense do not."""
    calibrated = Calibrated()
    assert calibrated.scaled(100) == 100
    calibrated.learn(100, 120)
    assert calibrated.scaled(1_000) == 1_200
    calibrated.learn(0, 50)
    calibrated.learn(50, 0)
    assert calibrated.scaled(1_000) == 1_200
    calibrated.learn(1, 10**9)
    assert calibrated.scaled(10) == 40
