"""Prompts of the market's checks: natural, different, and the same again only for the same seed."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from server.domain.prompts import LEAST_TOKENS, MOST_TOKENS, Shape, draw

MANY = 5_000


def test_seed_draws_the_same_prompt_again_and_another_seed_another_one() -> None:
    assert draw("a") == draw("a")
    assert draw("a") != draw("b")


def test_answer_that_was_kept_practically_never_helps_again() -> None:
    texts = Counter(draw(f"seed {number}").text for number in range(MANY))
    assert sum(times for times in texts.values() if times > 1) < MANY // 100


def test_every_slot_is_filled() -> None:
    for number in range(MANY):
        prompt = draw(f"seed {number}")
        assert not re.search(r"[{}]", prompt.text + (prompt.system or ""))


def test_lengths_follow_those_of_real_jobs() -> None:
    shapes = [Shape(100), Shape(100), Shape(100), Shape(400, is_long=True)]
    drawn = [draw(f"seed {number}", shapes) for number in range(400)]
    long = [prompt for prompt in drawn if prompt.max_tokens == 400]
    assert 60 < len(long) < 140
    assert {prompt.max_tokens for prompt in drawn} == {100, 400}
    assert min(len(prompt.text.split()) for prompt in long) > 60
    assert all(len(prompt.text.split()) < 60 for prompt in drawn if prompt.max_tokens == 100)


@pytest.mark.parametrize(("real", "drawn"), [(1, LEAST_TOKENS), (1_000_000, MOST_TOKENS)])
def test_check_is_never_too_short_to_tell_and_never_dear(real: int, drawn: int) -> None:
    assert draw("a", [Shape(real)]).max_tokens == drawn
