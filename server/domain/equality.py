"""Whether texts are the answers of the same model to the same questions, at temperature 0. Pure.

The same model on other hardware or with other kernels rounds differently. Now and then two words are almost
equally likely; then it chooses the other one, and the texts part. Another model, fewer bits or other
instructions part much sooner. Where engines say how likely each token was, that must be alike as well: a text
can be copied, and a worse model may begin as a good one does. One question tells little, so several decide
together: the more there are, the less must their mean differ from the middle. The figures of a real model are
in docs/figures.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from enum import StrEnum
from functools import lru_cache
from itertools import takewhile
from statistics import fmean

from server.domain.jobs import Logprobs

# Words, single digits and signs: about what models write at once.
_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\n")
# Only the beginning is compared: the longer an answer, the likelier is it that chance parted it.
PIECES, CHARACTERS = 60, 4_000
# A shorter reference tells nothing: many models answer a question with the same word.
LEAST_PIECES = 8
# The shortest run of equal pieces that is aligned: single words are in every answer.
LEAST_RUN = 3
# The mean of many figures above which they are the same model's, and how far above or below it the mean of a
# few must be: this divided by the square root of their number. The smallest model that we know, with other
# kernels, is taken for another one in 2 of 100 cases.
MIDDLE, ABOVE, BELOW = 0.45, 0.5, 0.7
# Instead of ``BELOW`` where somebody of another owner gives the same texts, who may have the same build. One
# question in three parts such texts of the smallest model that we know from the rest; eight in a row do not.
BELOW_WITH_A_TWIN = 1.0
# The least questions that show another model, and the most that are needed.
LEAST_QUESTIONS, MOST_QUESTIONS = 3, 24
# Two answers to one question agree if they have this figure.
AGREE = 0.45
# Where texts begin with so many equal tokens, the logarithms of the probabilities that both models gave them,
# and the one at which the texts part, must not differ by more on average. Of the smallest model that we know,
# with other kernels or a cache of fewer bits, they differ by half of it at most.
LEAST_EQUAL_TOKENS, MOST_DIFFERENCE = 4, 0.15
# So many others must give another answer, and none the same, before one question speaks against a provider:
# one in five may have the same build of the engine, whose texts part from the rest.
AGAINST = 16


class Equality(StrEnum):
    """What a comparison says."""

    SAME = "same"
    OTHER = "other"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much an answer has in common with a reference, each a share from 0 to 1."""

    prefix: float
    """Equal pieces at the beginning."""
    aligned: float
    """Equal pieces in the same order, in runs."""

    @property
    def figure(self) -> float:
        """Both in one number."""
        return (self.prefix + self.aligned) / 2


def likeness(answer: str, reference: str) -> Likeness | None:
    """How much an answer has in common with a reference; None if the reference is too short to tell."""
    return _likeness(_pieces(answer), _pieces(reference))


@lru_cache(maxsize=4096)
def _likeness(ours: tuple[str, ...], theirs: tuple[str, ...]) -> Likeness | None:
    if len(theirs) < LEAST_PIECES:
        return None
    longest = max(len(ours), len(theirs))
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    runs = [block.size for block in blocks if block.size >= LEAST_RUN]
    return Likeness(len(list(equal)) / longest, sum(runs) / longest)


def verdict(figures: Sequence[float], below: float = BELOW) -> Equality:
    """What the figures of answers to different questions say together."""
    if not figures:
        return Equality.UNCLEAR
    mean, count = fmean(figures), len(figures)
    if count >= MOST_QUESTIONS:
        return Equality.SAME if mean >= MIDDLE else Equality.OTHER
    if mean >= MIDDLE + ABOVE / math.sqrt(count):
        return Equality.SAME
    if count >= LEAST_QUESTIONS and mean <= MIDDLE - below / math.sqrt(count):
        return Equality.OTHER
    return Equality.UNCLEAR


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to the same question by another provider, and how far that one is believed."""

    text: str
    weight: int = 1
    logprobs: Logprobs = ()
    """Of its first tokens; empty where its engine gives none."""
    tokens: int = 0
    """As its provider counted them; 0 if it did not."""


def compare(answer: Answer, others: Sequence[Answer]) -> float | None:
    """The figure of an answer against the answers that most of the weight agrees on.

    None while that is nobody's but one provider's, or as much weight disagrees.
    """
    own, agreeing = _group(answer, others)
    ours = answer.weight + own
    theirs, reference = max(
        ((each.weight + _group(each, others, but=each)[0], each) for each in others if each not in agreeing),
        key=lambda group: group[0],
        default=(0, None),
    )
    if own and ours > theirs:
        return max(_figure(answer, each) for each in agreeing)
    if reference is not None and theirs > max(1, ours):
        group = [reference, *_group(reference, others, but=reference)[1]]
        return max(_figure(answer, each) for each in group)
    return None


def agreed(answer: Answer, others: Sequence[Answer]) -> bool | None:
    """Whether others, none of the same owner, gave the same answer; None: too few answered to tell.

    It passes with at least half of the weight of those who agree on something else. It fails if nobody gave
    it among ``AGAINST`` others. In between it may be another build of the engine, or two of a kind.
    """
    like: list[Answer] = []
    unlike: list[Answer] = []
    weights: dict[Answer, int] = {}
    for each in others:
        same = replace(each, weight=0)
        weights[same] = weights.get(same, 0) + each.weight
    for same, weight in weights.items():
        one = replace(same, weight=weight)
        (like if _figure(answer, one) >= AGREE else unlike).append(one)
    most = max((each.weight + _group(each, unlike, but=each)[0] for each in unlike), default=0)
    if like and 2 * sum(each.weight for each in like) >= most:
        return True
    return None if like or len(others) < AGAINST else False


def nearest(answer: Answer, others: Sequence[Answer]) -> float:
    """The figure of an answer against the one that is most like it; 0 without others."""
    return max((_figure(answer, each) for each in others), default=0.0)


def alike(answer: Answer, others: Sequence[Answer]) -> list[Answer]:
    """Those of the other answers that are like an answer."""
    return [each for each in others if _figure(answer, each) >= AGREE]


def _group(answer: Answer, others: Sequence[Answer], but: Answer | None = None) -> tuple[int, list[Answer]]:
    """The answers that are like an answer, and their weight."""
    like = alike(answer, [each for each in others if each is not but])
    return sum(each.weight for each in like), like


def difference(ours: Logprobs, theirs: Logprobs) -> float | None:
    """How much the probabilities of the same tokens differ: the mean distance of their logarithms.

    At the token where the texts of one model part, both were almost equally likely, so it counts as well.
    None if too few tokens are the same to tell.
    """
    equal = len(list(takewhile(lambda pair: pair[0][0] == pair[1][0], zip(ours, theirs, strict=False))))
    if equal < LEAST_EQUAL_TOKENS:
        return None
    pairs = list(zip(ours, theirs, strict=False))[: equal + 1]
    return fmean(abs(own - other) for (_, own), (_, other) in pairs)


def _figure(answer: Answer, reference: Answer) -> float:
    differs_by = difference(answer.logprobs, reference.logprobs)
    if differs_by is not None and differs_by > MOST_DIFFERENCE:
        return 0.0
    if answer.text == reference.text:
        return 1.0
    found = likeness(answer.text, reference.text)
    return found.figure if found is not None else 0.0


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(_PIECE.findall(text[:CHARACTERS])[:PIECES])
