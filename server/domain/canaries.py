"""Canaries: jobs with which the market checks the work of providers. Pure.

A canary is an ordinary job of one of the market's own renters, so that nobody can answer it better than other
jobs. How often a provider gets one, and what an ended one says about its provider, is here; the texts are
compared by server.domain.equality, and the questions are in server.domain.prompts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from server.domain import equality
from server.domain.equality import AGAINST, LEAST_QUESTIONS, Answer, Equality
from server.domain.jobs import FINAL, FailureReason, Job, JobState
from server.domain.standing import is_doubted, passes_until_cleared

DAY_MS = 24 * 3600 * 1000
# Of each live provider, whatever it earns.
LEAST_A_DAY = 3.0
# One after the other to a new provider, until it passed one: as many as show another model, and more of them
# if one failed, until that is confirmed.
AT_FIRST, AT_FIRST_IN_DOUBT = LEAST_QUESTIONS, 4 * LEAST_QUESTIONS
# So many times as often after a failed check, until the doubt is gone or proved.
IN_DOUBT = 25.0
# A longer silence of the market is not made up for at once.
MOST_ELAPSED_MS = 3600 * 1000
# How long a canary waits for others to compare it with.
WAITS_MS = 3 * DAY_MS
# How long a question is asked again of others.
ASKED_AGAIN_MS = 7 * DAY_MS
# A question that waits is asked of others, twice as many each time, until so many were asked it.
MOST_ASKED = 2 * AGAINST + 1
# Others that have no free slot are waited for so long before those that answered decide.
WITNESSES_WAIT_MS = 3600 * 1000
# The most that the passed checks of another provider add to its weight.
MOST_WEIGHT = 10
# The weight of one whose word lets another pass: it passed three checks itself.
BELIEVED = 4
# Slower than others with the same GPU by this factor, and how many others there must be.
TOO_SLOW, LEAST_OTHERS = 3.0, 2
# An answer with fewer tokens has no speed.
LEAST_TOKENS = 16
# No text has more characters than this for each of its tokens, on average.
CHARACTERS_A_TOKEN = 24
# How many times as many tokens as others a provider may count in the same text, and how many at its end: what
# ends an answer is counted by some servers.
MORE_TOKENS, MORE_AT_END = 1.05, 2
# Answers to different questions that are this much alike answer neither.
FILLER = 0.9
# Steps of a computation: enough that its result cannot be guessed, and a second of work.
STEPS = 200

# What a liar may end a job with instead of an answer, since it could be paid for it. Other failures tell
# nothing about honesty: they count in the reliability.
_WITHOUT_ANSWER = frozenset({FailureReason.DURATION_LIMIT, FailureReason.IMPOSSIBLE_REPORT})


class CanaryKind(StrEnum):
    ANSWER = "answer"
    COMPUTATION = "computation"


class CanaryVerdict(StrEnum):
    PENDING = "pending"
    """Its job has not ended."""
    WAITING = "waiting"
    """There is nothing yet to compare its answer with."""
    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


# Without a result.
OPEN = frozenset({CanaryVerdict.PENDING, CanaryVerdict.WAITING})


class CanaryFault(StrEnum):
    ANSWER_DIFFERS = "ANSWER_DIFFERS"
    NO_ANSWER = "NO_ANSWER"
    TOO_SLOW = "TOO_SLOW"
    TOKENS_IMPOSSIBLE = "TOKENS_IMPOSSIBLE"


@dataclass(frozen=True, slots=True)
class Canary:
    """A check of a provider."""

    id: int
    provider_id: int
    job_id: str
    kind: CanaryKind
    subject: str
    """The model, or the image."""
    question: str
    """The seed of what was asked: equal for those that are compared."""
    verdict: CanaryVerdict
    fault: CanaryFault | None
    figure: float | None
    """How much the answer had in common with those of others."""
    tokens_per_second: float | None
    created_ms: int
    decided_ms: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a canary says."""

    verdict: CanaryVerdict
    fault: CanaryFault | None = None
    figure: float | None = None


PASSED = Finding(CanaryVerdict.PASSED)
UNDECIDED = Finding(CanaryVerdict.UNDECIDED)
WAITING = Finding(CanaryVerdict.WAITING)


def failed(fault: CanaryFault, figure: float | None = None) -> Finding:
    """The finding of a failed canary."""
    return Finding(CanaryVerdict.FAILED, fault, figure)


@dataclass(frozen=True, slots=True)
class Known:
    """What decides how soon a provider is checked again."""

    asked: int = 0
    """How many canaries it got."""
    is_settled: bool = False
    """One of them passed, or they made it suspect."""
    is_doubted: bool = False
    """One failed, which those since neither outweigh nor confirm: see server.domain.standing."""
    jobs_a_day: int = 0


def known(asked: int, checks: Sequence[bool], jobs_a_day: int) -> Known:
    """What follows from the newest checks, oldest first: whether each of them passed."""
    is_settled = any(checks) or passes_until_cleared(checks) > 0
    return Known(asked, is_settled, is_doubted(checks), jobs_a_day)


def chance(known: Known, percent: int, elapsed_ms: int) -> float:
    """How likely a canary is due now, so many milliseconds after the last look.

    Nothing can be told from the time since the last one: it is a process without memory. A new provider is
    due at once, until it passed one or is suspect.
    """
    if percent <= 0:
        return 0.0
    if not known.is_settled and known.asked < (AT_FIRST_IN_DOUBT if known.is_doubted else AT_FIRST):
        return 1.0
    a_day = max(LEAST_A_DAY, known.jobs_a_day * percent / 100) * (IN_DOUBT if known.is_doubted else 1)
    return 1 - math.exp(-a_day * min(elapsed_ms, MOST_ELAPSED_MS) / DAY_MS)


def by_end(job: Job, text: str) -> Finding | None:
    """What the end of a canary's job says without any comparison; None: its answer must be compared."""
    if job.state not in FINAL:
        raise ValueError("a canary is judged when its job has ended")
    if job.state is not JobState.COMPLETED:
        return failed(CanaryFault.NO_ANSWER) if job.failure_reason in _WITHOUT_ANSWER else UNDECIDED
    if not text.strip():
        return failed(CanaryFault.NO_ANSWER)
    tokens = job.completion_tokens
    most = int(job.spec.get("params", {}).get("max_tokens", 0))
    if tokens and (tokens * CHARACTERS_A_TOKEN < len(text) or (most and tokens > most + 1)):
        return failed(CanaryFault.TOKENS_IMPOSSIBLE)
    return None


def by_answers(
    answer: Answer, others: Sequence[Answer], earlier: Sequence[float], *, is_last: bool
) -> Finding:
    """What an answer says beside those of other owners to the same question, one of each: see ``voices``.

    Each question decides alone, if enough others answered it: see ``equality.agreed``. It passes only with
    somebody who is ``BELIEVED``: else newcomers who agree could pass each other. With ``is_last``, as nobody
    is left to be asked, newcomers must do; and the figures of ``earlier`` questions that decided nothing are
    looked at too: several unlike answers together show another model. Nobody fails but by others who agree,
    and not before: who is still to be asked may have the same build.
    """
    is_agreed = equality.agreed(answer, others)
    alike = equality.alike(answer, others)
    is_vouched = any(each.weight >= BELIEVED for each in alike)
    if is_agreed and (is_vouched or is_last):
        return Finding(CanaryVerdict.PASSED, figure=equality.nearest(answer, others))
    if not is_last:
        return WAITING
    figure = equality.compare(answer, others)
    if figure is None:
        return WAITING
    below = equality.BELOW_WITH_A_TWIN if alike else equality.BELOW
    if is_agreed is False or equality.verdict([*earlier, figure], below) is Equality.OTHER:
        return failed(CanaryFault.ANSWER_DIFFERS, figure)
    return Finding(CanaryVerdict.UNDECIDED, figure=figure)


def voices(own: frozenset[str], answers: Iterable[tuple[Answer, frozenset[str]]]) -> list[Answer]:
    """The answers of others, the weightiest of each owner; owners are told apart by their marks."""
    heard: list[Answer] = []
    marks = set(own)
    for answer, theirs in sorted(answers, key=lambda each: -each[0].weight):
        if marks.isdisjoint(theirs):
            marks |= theirs
            heard.append(answer)
    return heard


def to_ask(asked: int) -> int:
    """How many more are asked a question that so many were asked and that decided nothing."""
    return max(0, min(asked, MOST_ASKED - asked))


@dataclass(frozen=True, slots=True)
class Measured:
    """How fast a provider answered a question of the market, by the server's clock."""

    tokens_per_second: float | None
    """From the start of the run to its end; None if none was measured."""
    first_token_ms: int | None
    """From the offer to the first output, so loading the model is in it; None if it was not noted."""


NOT_MEASURED = Measured(None, None)


def speed(job: Job) -> float | None:
    """Tokens per second of a completed job by the server's clock; None if it is too short to tell."""
    tokens = job.completion_tokens
    if job.started_ms is None or job.ended_ms is None or tokens < LEAST_TOKENS:
        return None
    return tokens * 1000 / max(1, job.ended_ms - job.started_ms)


def counts_too_many(answer: Answer, others: Sequence[Answer]) -> bool:
    """Whether a provider counts more tokens in a text than the others that wrote the very same."""
    counts = [each.tokens for each in others if each.text == answer.text and each.tokens]
    return bool(counts) and answer.tokens > median(counts) * MORE_TOKENS + MORE_AT_END


def is_too_slow(own: float | None, others: Sequence[float]) -> bool:
    """Whether a provider is far slower than the median of others with the same GPU model."""
    return own is not None and len(others) >= LEAST_OTHERS and own * TOO_SLOW < median(others)


def weight(passed: int) -> int:
    """How far the answers of a provider are believed that passed so many checks."""
    return min(MOST_WEIGHT, 1 + passed)


def computed(seed: str, steps: int = STEPS) -> str:
    """What a computation writes: a text that is hashed again and again."""
    text = seed
    for _ in range(steps):
        text = hashlib.sha256(text.encode()).hexdigest()
    return text


def command(seed: str, steps: int = STEPS) -> list[str]:
    """The command of a computation, for every image with a shell."""
    loop = (
        f"x={seed}; i=0; while [ $i -lt {steps} ]; do "
        'x=$(printf %s "$x" | sha256sum | cut -d" " -f1); i=$((i+1)); done; echo "$x"'
    )
    return ["sh", "-c", loop]
