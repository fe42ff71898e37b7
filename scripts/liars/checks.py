"""The checks of the simulated market, by the real rules of when a machine is asked and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from random import Random

from scripts.liars.answers import Question
from scripts.liars.machines import MODELS, SLOW, Kind, Machine, Work
from server.domain import canaries as rules
from server.domain.canaries import CanaryVerdict, Known
from server.domain.equality import AGAINST, Answer, Equality, agreed, compare, verdict
from server.domain.jobs import FailureReason, Job, JobState, JobType
from server.domain.levels import Standing, tier
from server.domain.payouts import HOUR_MS

# How much the speeds of machines with the same GPU differ: the deviation of the logarithm.
SPEEDS_DIFFER = 0.2
# What a run writes at most, and what an honest one counts.
MAX_TOKENS, TOKENS = 128, 100


class Checks:
    """Asks the machines that are there, and judges what they answer."""

    def __init__(
        self,
        serving: Sequence[Sequence[Machine]],
        percent: int,
        draw: Random,
        judged: Callable[[Machine, int], None],
        *,
        each: bool,
    ) -> None:
        """``judged`` is called for a machine whose check has a result, with the time.

        ``each``: whether each question decides, or several do together.
        """
        self._each = each
        self._others, self._witnesses = (AGAINST, 2 * AGAINST) if each else (4, rules.WITNESSES)
        self._serving, self._percent, self._draw, self._judged = serving, percent, draw, judged
        self._newest: list[Question | None] = [None] * MODELS
        self.made = 0

    def hour(self, machine: Machine, now_ms: int) -> None:
        """Asks a machine as often as it is its turn in an hour."""
        for _ in range(rules.AT_FIRST):
            # The doubt is to be proved or to go; who is suspect already can wait.
            is_doubted = machine.doubt > 0 and machine.standing is not Standing.SUSPECT
            known = Known(machine.asked, bool(machine.checks), is_doubted, machine.jobs_of_day)
            due = rules.chance(known, self._percent, HOUR_MS)
            if self._draw.random() >= due:
                return
            model = self._draw.choice(machine.serves)
            question = self._question(model, machine, now_ms)
            self._ask(machine, question, now_ms)
            self._ask_witnesses(model, question, now_ms)
            if due < 1:
                return

    def _question(self, model: int, machine: Machine, now_ms: int) -> Question:
        """The newest that others were asked and this one was not, or another."""
        newest = self._newest[model]
        is_open = newest is not None and newest.asked_ms >= now_ms - rules.ASKED_AGAIN_MS
        if (
            newest is None
            or not is_open
            or len(newest.asked) > 2 * self._others
            or machine.id in newest.asked
        ):
            newest = self._newest[model] = Question(self._draw.randrange(2**40), now_ms)
        return newest

    def _ask_witnesses(self, model: int, question: Question, now_ms: int) -> None:
        if not question.waiting:
            return
        others = [each for each in self._serving[model] if each.id not in question.asked]
        able = [each for each in others if each.is_there(now_ms) and each.free_slots > 0]
        self._draw.shuffle(able)
        able.sort(key=lambda each: -tier(each.standing).level)
        for machine in islice(able, self._witnesses):
            if not question.waiting or len(question.asked) >= self._witnesses:
                return
            self._ask(machine, question, now_ms)

    def _ask(self, machine: Machine, question: Question, now_ms: int) -> None:
        self.made += 1
        machine.asked += 1
        question.asked.add(machine.id)
        work = machine.work(now_ms, self._draw)
        if machine.began_ms is not None and machine.caught_ms is None:
            machine.checks_until_caught += 1
        text = machine.answer(question, work, self._draw)
        cheated = work is Work.CHEATED
        counts = cheated and machine.kind is Kind.INFLATED_TOKENS
        machine.note(work in (Work.DONE, Work.CHEATED) and bool(text), impossible=counts)
        found = rules.by_end(_ended(work, text, inflated=counts), text)
        if found is None:
            slowly = machine.stretch if cheated and machine.kind in SLOW else 1.0
            question.answers[machine.id] = (machine, text, self._is_too_slow(slowly))
            question.waiting.append(machine.id)
            self._judge(question, now_ms)
        elif found.verdict is not CanaryVerdict.UNDECIDED:
            machine.note_check(found.verdict is CanaryVerdict.PASSED)
            self._judged(machine, now_ms)

    def _is_too_slow(self, stretch: float) -> bool:
        own, *others = (self._draw.lognormvariate(0, SPEEDS_DIFFER) for _ in range(6))
        return rules.is_too_slow(own / stretch, others)

    def _judge(self, question: Question, now_ms: int) -> None:
        """Judges all answers to a question that wait, newest first, as each may be what another needs."""
        for own in reversed(question.waiting[:]):
            machine, text, is_too_slow = question.answers[own]
            answer = Answer(text, rules.weight(machine.checks_passed))
            others = [
                Answer(other, rules.weight(each.checks_passed))
                for each, other, _ in question.answers.values()
                if each.owner.marks.isdisjoint(machine.owner.marks)
            ]
            found = (
                agreed(answer, others) if self._each else _several(machine, answer, others[-self._others :])
            )
            if found is None:
                continue
            question.waiting.remove(own)
            if found is not Equality.UNCLEAR:
                machine.note_check(found in (True, Equality.SAME) and not is_too_slow)
                self._judged(machine, now_ms)


def _several(machine: Machine, answer: Answer, others: Sequence[Answer]) -> Equality | None:
    """What the answers since the last clear one say together."""
    is_equal = bool(others) and all(other.text == answer.text for other in others)
    figure = 1.0 if is_equal else compare(answer, others)  # it would say the same, only later
    if figure is None:
        return None
    machine.figures.append(figure)
    return verdict(machine.figures)


_EMPTY = dict.fromkeys(Job.__dataclass_fields__) | {
    "job_type": JobType.LLM_INFERENCE,
    "spec": {"params": {"max_tokens": MAX_TOKENS}},
}


def _ended(work: Work, text: str, *, inflated: bool) -> Job:
    """The job of a check."""
    usage = {"completion_tokens": 8 * TOKENS if inflated else TOKENS}
    ends = {
        Work.ENGINE_FAILED: (JobState.FAILED, FailureReason.ENGINE_FAILED),
        Work.LOST: (JobState.FAILED, FailureReason.PROVIDER_LOST),
    }
    state, reason = ends.get(work, (JobState.COMPLETED, None))
    values = _EMPTY | {"state": state, "failure_reason": reason, "usage": usage, "output_bytes": len(text)}
    return Job(**values)  # type: ignore[arg-type]
