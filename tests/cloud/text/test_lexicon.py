"""Difficulty of texts whose values can be computed by hand."""

import math

import pytest

from cloud.text.lexicon import (
    SAMPLE_WORDS,
    lexical_entropy_bits,
    load_lexicon,
    measure_text,
    save_lexicon,
    words,
)
from hil.contract import ModelError


def test_words_are_runs_of_letters_in_lower_case():
    assert words("The VALVE's well-made, 2 m long_ish!") == [
        "the",
        "valve's",
        "well-made",
        "m",
        "long",
        "ish",
    ]


def test_scripts_without_blanks_have_a_word_a_letter():
    # UAX #29: Han, Hiragana and Thai break between letters, Katakana and Hangul do not; marks stay.
    assert words("我喜欢 GPT，很好。") == ["我", "喜", "欢", "gpt", "很", "好"]
    assert words("ひら カタカナ 한국어 हिन्दी ที่") == ["ひ", "ら", "カタカナ", "한국어", "हिन्दी", "ที่"]


def test_a_run_that_is_no_word_counts_as_several():
    assert words("x" * 150) == ["x" * 64, "x" * 64, "x" * 22]


def test_chinese_is_measured_letter_by_letter():
    asked = []

    def count_pieces(word):
        asked.append(word)
        return len(word.encode())

    state = measure_text(
        ["好好学习", "ok"], domain="d", lexicon=frozenset("好ok"), count_pieces=count_pieces
    )
    assert sorted(asked) == [" ok", "习", "好", "学"]
    assert state.oov_rate == pytest.approx(3 / 5)
    assert state.pieces_per_word == pytest.approx((4 * 3 + 3) / 5)
    assert state.lexical_entropy_bits == pytest.approx(
        2 / 5 * math.log2(5 / 2) + 3 / 5 * math.log2(5)
    )


@pytest.mark.parametrize(
    ("sample", "bits"),
    [
        ([], 0.0),
        (["a"] * 7, 0.0),
        (["a", "b"], 1.0),
        (["a", "b", "c", "d"] * 3, 2.0),
        # 1/2, 1/4, 1/4
        (["a", "a", "b", "c"], 1.5),
    ],
)
def test_entropy_of_known_distributions(sample, bits):
    assert lexical_entropy_bits(sample) == pytest.approx(bits, abs=1e-12)


def test_measures_of_a_batch_computed_by_hand():
    # Eight words: the ×2, valve ×2, was ×2, zorp, good; only zorp is unknown and takes three
    # pieces.
    state = measure_text(
        ["the valve was zorp", "The valve was good!"],
        domain="d",
        lexicon=frozenset({"the", "valve", "was", "good"}),
        count_pieces=lambda word: 3 if word == " zorp" else 1,
    )
    assert state.lexical_entropy_bits == pytest.approx(3 * (1 / 4) * 2 + 2 * (1 / 8) * 3)
    assert state.lexical_entropy == pytest.approx(2.25 / math.log2(8))
    assert state.oov_rate == pytest.approx(1 / 8)
    assert state.pieces_per_word == pytest.approx(10 / 8)
    assert state.domain == "d"


def test_a_batch_without_words_is_no_error():
    state = measure_text(["123 ...", ""], domain="d", lexicon=frozenset(), count_pieces=len)
    assert (
        state.lexical_entropy_bits,
        state.lexical_entropy,
        state.oov_rate,
        state.pieces_per_word,
    ) == (0, 0, 0, 1)


def test_entropy_is_taken_over_a_fixed_number_of_words():
    known = [f"w{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}" for i in range(SAMPLE_WORDS)]
    long = measure_text([*known, "zzz " * 5000], domain="d", lexicon=frozenset(), count_pieces=len)
    short = measure_text(known, domain="d", lexicon=frozenset(), count_pieces=len)
    assert long == short


def test_lexicon_round_trip(tmp_path):
    path = tmp_path / "lexicon.txt"
    assert save_lexicon(path, ["The valve", "the pump"]) == 3
    assert load_lexicon(path) == {"the", "valve", "pump"}


def test_missing_lexicon_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"lexicon .*gone\.txt"):
        load_lexicon(tmp_path / "gone.txt")
