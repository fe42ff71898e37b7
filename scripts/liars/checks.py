"""The checks of the simulated market, by the real rules of when a machine is asked and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from scripts.liars.answers import Question
from scripts.liars.machines import MODELS, SLOW, Kind, Machine, Work
from server.domain import canaries as rules
from server.domain.canaries import CanaryVerdict
from server.domain.equality import Answer
from server.domain.jobs import FailureReason, Job, JobState, JobType
from server.domain.levels import tier
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
    ) -> None:
        """``judged`` is called for a machine whose check has a result, with the time."""
        self._serving, self._percent, self._draw, self._judged = serving, percent, draw, judged
        self._newest: list[Question | None] = [None] * MODELS
        self.made = 0

    def hour(self, machine: Machine, now_ms: int) -> None:
        """Asks a machine as often as it is its turn in an hour."""
        for _ in range(rules.AT_FIRST_IN_DOUBT):
            known = replace(machine.known, asked=machine.asked, jobs_a_day=machine.jobs_of_day)
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
        if (
            newest is None
            or newest.asked_ms < now_ms - rules.ASKED_AGAIN_MS
            or len(newest.asked) >= rules.MOST_ASKED
            or machine.id in newest.asked
        ):
            newest = self._newest[model] = Question(self._draw.randrange(2**40), now_ms)
        return newest

    def _ask_witnesses(self, model: int, question: Question, now_ms: int) -> None:
        """Asks others, twice as many each time, until the question is decided or nobody is left."""
        others = [each for each in self._serving[model] if each.id not in question.asked]
        able = [each for each in others if each.is_there(now_ms) and each.free_slots > 0]
        self._draw.shuffle(able)
        able.sort(key=lambda each: tier(each.standing).level)
        while question.waiting and able and (wanted := rules.to_ask(len(question.asked))):
            for _ in range(min(wanted, len(able))):
                self._ask(able.pop(), question, now_ms)
        if question.waiting:
            self._judge(question, now_ms, is_last=True)

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

    def _judge(self, question: Question, now_ms: int, *, is_last: bool = False) -> None:
        """Judges all answers to a question that wait, newest first, as each may be what another needs."""
        for own in reversed(question.waiting[:]):
            machine, text, is_too_slow = question.answers[own]
            answer = Answer(text, rules.weight(machine.checks_passed))
            others = rules.voices(
                machine.owner.marks,
                [
                    (Answer(other, rules.weight(each.checks_passed)), each.owner.marks)
                    for each, other, _ in question.answers.values()
                ],
            )
            found = rules.by_answers(answer, others, machine.figures, is_last=is_last)
            if found.verdict is CanaryVerdict.WAITING:
                continue
            question.waiting.remove(own)
            if found.verdict is CanaryVerdict.UNDECIDED and found.figure is not None:
                machine.figures.append(found.figure)
            else:
                machine.note_check(found.verdict is CanaryVerdict.PASSED and not is_too_slow)
                self._judged(machine, now_ms)


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
