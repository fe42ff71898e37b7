"""Answers at temperature 0: the same model's are told from others', over several questions together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from server.domain.equality import (
    AGAINST,
    AGREE,
    MOST_DIFFERENCE,
    Answer,
    Equality,
    agreed,
    alike,
    compare,
    difference,
    likeness,
    verdict,
)

TEXT = (
    "A rain gauge measures how much rain falls in a given time. It is a simple cylinder with a scale, which "
    "you read every morning at the same hour. Write it down, empty the cylinder and put it back in its "
    "place. After a year you know which months are wet."
)
PARTED = (
    TEXT[:150]
    + " You may use a notebook for it, and a pencil that does not mind the rain. Good luck with it!"
)
DIFFERENT = (
    "Rain gauges are tools of meteorology. There are many kinds, for instance weighing gauges and tipping "
    "buckets, and each has advantages that depend on the climate of the place where it is used."
)
FILLER = "I am happy to help you with that. Please tell me more about what you need, and I will do my best."


def figure(answer: str, reference: str = TEXT) -> float:
    found = likeness(answer, reference)
    assert found is not None
    return found.figure


def test_equal_texts_are_alike_and_others_are_not() -> None:
    assert figure(TEXT) == 1
    for other in (DIFFERENT, FILLER, "", "Yes."):
        assert figure(other) < AGREE / 2


def test_text_that_parts_late_is_still_like_it() -> None:
    assert AGREE < figure(PARTED) < 1
    assert figure(PARTED) > 2 * figure(DIFFERENT)


def test_spaces_tell_nothing() -> None:
    assert figure(TEXT.replace(" ", "  ")) == 1


def test_arabic_is_compared_by_its_words() -> None:
    arabic = (
        "مقياس المطر أداة بسيطة لقياس كمية الأمطار، ويُقرأ كل صباح في الساعة نفسها ثم يُفرغ ويعاد إلى مكانه."
    )
    assert figure(arabic, arabic) == 1
    assert figure(TEXT, arabic) < AGREE / 2


def test_short_reference_tells_nothing() -> None:
    assert likeness("Yes.", "Yes.") is None


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ([], Equality.UNCLEAR),
        ([1.0], Equality.SAME),
        ([0.0], Equality.UNCLEAR),
        ([0.0, 0.0], Equality.UNCLEAR),
        ([0.0, 0.0, 0.0], Equality.OTHER),
        ([0.1, 0.0, 0.1], Equality.UNCLEAR),
        ([0.1, 0.0, 0.1, 0.1], Equality.OTHER),
        ([0.0, 1.0, 1.0], Equality.UNCLEAR),
        ([0.0, 1.0, 1.0, 1.0], Equality.SAME),
        ([0.5] * 23, Equality.UNCLEAR),
        ([0.5] * 24, Equality.SAME),
        ([0.4] * 24, Equality.OTHER),
    ],
)
def test_several_questions_decide_together(figures: list[float], said: Equality) -> None:
    assert verdict(figures) is said


# Figures of a real small model against itself, measured by scripts.calibrate.
OTHER_KERNELS = (0.66, 0.13, 1.0, 0.73, 1.0, 1.0, 0.18, 1.0, 0.05, 0.57, 1.0, 1.0, 0.0, 1.0, 1.0, 0.04)
FEWER_BITS = (0.03, 0.01, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.06, 0.08, 0.04)


def decided(figures: Sequence[float], seed: int) -> Equality:
    """The verdict of as many questions as it needs."""
    chance, drawn = random.Random(seed), list[float]()
    while (said := verdict(drawn)) is Equality.UNCLEAR:
        drawn.append(chance.choice(figures))
    return said


def test_other_kernels_are_seldom_taken_for_another_model_and_fewer_bits_always() -> None:
    honest = [decided(OTHER_KERNELS, seed) for seed in range(1000)]
    assert honest.count(Equality.OTHER) < 30
    assert all(decided(FEWER_BITS, seed) is Equality.OTHER for seed in range(1000))


def test_answer_without_others_is_compared_with_nothing() -> None:
    assert compare(Answer(TEXT), []) is None


def test_of_two_that_differ_nobody_knows_who_is_right() -> None:
    assert compare(Answer(TEXT), [Answer(FILLER)]) is None
    assert compare(Answer(FILLER), [Answer(TEXT)]) is None


def test_majority_is_right() -> None:
    assert compare(Answer(TEXT), [Answer(TEXT), Answer(FILLER)]) == 1
    alone = compare(Answer(FILLER), [Answer(TEXT), Answer(TEXT)])
    assert alone is not None
    assert alone < AGREE / 2


def test_two_pairs_that_differ_leave_it_open() -> None:
    assert compare(Answer(TEXT), [Answer(TEXT), Answer(FILLER), Answer(FILLER)]) is None


def test_one_that_passed_many_checks_is_believed_before_new_ones() -> None:
    old = Answer(TEXT, weight=5)
    alone = compare(Answer(FILLER), [old, Answer(FILLER)])
    assert alone is not None
    assert alone < AGREE / 2
    assert compare(Answer(TEXT, weight=5), [Answer(TEXT), Answer(FILLER), Answer(FILLER)]) == 1


def test_short_answers_agree_only_if_they_are_equal() -> None:
    assert compare(Answer("42"), [Answer("42"), Answer("41")]) == 1
    assert compare(Answer("41"), [Answer("42"), Answer("42")]) == 0


def test_one_question_passes_by_half_of_the_weight_and_fails_only_alone_against_many() -> None:
    assert agreed(Answer(TEXT), []) is None
    assert agreed(Answer(TEXT), [Answer(TEXT)]) is True
    assert agreed(Answer(FILLER), [Answer(TEXT)] * (AGAINST - 1)) is None
    assert agreed(Answer(FILLER), [Answer(TEXT)] * AGAINST) is False


def test_a_minority_that_agrees_neither_passes_nor_fails() -> None:
    many = [Answer(TEXT)] * AGAINST
    assert agreed(Answer(DIFFERENT), [*many, Answer(DIFFERENT)]) is None
    assert agreed(Answer(DIFFERENT), [*many, Answer(DIFFERENT, weight=AGAINST // 2)]) is True


def logprobs(text: str, shift: float = 0.0) -> tuple[tuple[str, float], ...]:
    """How likely the words of a text are, each the same at every call but for a shift."""
    words = text.split()[:64]
    return tuple((word, -random.Random(word).expovariate(2) - shift) for word in words)


def test_probabilities_of_the_same_tokens_are_compared_by_their_mean_distance() -> None:
    assert difference(logprobs(TEXT), logprobs(TEXT)) == 0
    assert difference(logprobs(TEXT), logprobs(TEXT, 0.5)) == pytest.approx(0.5)
    assert difference(logprobs(TEXT, 0.5), logprobs(TEXT)) == pytest.approx(0.5)


def test_token_at_which_texts_part_counts_and_those_behind_it_do_not() -> None:
    common = (("a", -1.0), ("b", -1.0), ("c", -1.0), ("d", -1.0))
    ours = (*common, ("e", -1.0), ("g", -9.0))
    assert difference(ours, (*common, ("f", -2.0), ("g", -1.0))) == pytest.approx(1 / 5)


def test_few_equal_tokens_tell_nothing_about_probabilities() -> None:
    ours = (("a", -1.0), ("b", -1.0), ("c", -1.0))
    assert difference(ours, tuple((token, -8.0) for token, _ in ours)) is None
    assert difference((), ours) is None
    assert difference(logprobs(TEXT), logprobs(FILLER)) is None


@pytest.mark.parametrize(("share", "is_like"), [(0.9, True), (1.1, False)])
def test_equal_texts_with_other_probabilities_are_another_models(share: float, is_like: bool) -> None:
    right = Answer(TEXT, logprobs=logprobs(TEXT))
    copied = Answer(TEXT, logprobs=logprobs(TEXT, share * MOST_DIFFERENCE))
    assert bool(alike(copied, [right])) is is_like
    assert compare(copied, [right, replace(right)]) == float(is_like)
    assert agreed(copied, [right] * AGAINST) is is_like


def test_answer_without_probabilities_is_compared_by_its_text() -> None:
    right = Answer(TEXT, logprobs=logprobs(TEXT))
    assert alike(Answer(TEXT), [right]) == [right]
    assert alike(right, [Answer(TEXT)]) == [Answer(TEXT)]
    assert not alike(Answer(DIFFERENT), [right])


def test_equal_probabilities_do_not_make_texts_alike() -> None:
    """A liar may run the model for the tokens that are compared, and write filler after them."""
    assert not alike(Answer(FILLER, logprobs=logprobs(TEXT)), [Answer(TEXT, logprobs=logprobs(TEXT))])
