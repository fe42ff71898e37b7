"""Canaries: the market's own jobs, with which it checks providers, and what their answers say.

They are submitted as any renter's job is, by renters that belong to the market, so that neither the offer nor
anything else that a daemon sees is different. What they cost is in the ledger.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.clock import Clock, ms
from server.domain import canaries as rules
from server.domain import chats, prompts
from server.domain import ledger as accounts
from server.domain.canaries import Canary, CanaryFault, CanaryKind, CanaryVerdict, Finding, Known, Measured
from server.domain.equality import MOST_QUESTIONS, Answer, likeness
from server.domain.errors import DomainError
from server.domain.holds import reserve
from server.domain.jobs import LOST_AFTER_SECONDS, NEED_IMAGE, Job, JobRequest, JobState, JobType
from server.domain.levels import tier
from server.domain.placement import allows
from server.domain.prompts import LONG_WORDS, Prompt, Shape
from server.services import outputs
from server.services.chats import LOST_AFTER_MS
from server.services.fleet import Fleet, Presence
from server.services.job_prices import price_of
from server.services.jobs import Jobs
from server.store import canaries, jobs, leases, ledger, providers, renters, standing
from server.store.canaries import Sample, WaitingQuestion
from server.store.database import Database

log = logging.getLogger(__name__)

# The renters of the market. Each provider meets all of them, as it meets those that come again.
RENTERS = 8
# Providers whose past is read in one transaction, and for how long it is believed.
BATCH, KNOWN_MS = 100, 3600 * 1000
# How soon a provider is asked again that takes no canary now.
PUT_OFF_MS = 60 * 1000
# Canaries that are judged, submitted, and looked at as they wait, in one tick: no tick takes long.
JUDGED, SUBMITTED, LOOKED_AT = 100, 50, 50
# Sessions with a model of which the witnesses are drawn, the most.
SERVING = 1000
# The newest jobs of a provider, whose sizes are imitated, and its newest canaries.
SAMPLES, PAST = 50, 2 * MOST_QUESTIONS
# How long a canary may run: as long as other jobs, but not too short for a slow machine.
ANSWER_MS, LEAST_ANSWER_MS, COMPUTATION_MS = 10 * 60_000, 3 * 60_000, 5 * 60_000
# Of the canaries of a provider that serves models and runs containers.
SHARE_OF_ANSWERS = 0.8
# Small, and with a shell; for providers to which no renter brought an image yet.
IMAGE = "docker.io/library/busybox:latest"
# The newest results by which a provider is doubted.
JUDGED_BY = 60
# Questions that are remembered because their answers decide nothing yet.
DECIDED = 10_000
_NAMES = (
    "Amal",
    "Basma",
    "Carlos",
    "Dina",
    "Ehab",
    "Fatima",
    "George",
    "Huda",
    "Imran",
    "Jana",
    "Karim",
    "Lina",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A canary that is to be submitted."""

    kind: CanaryKind
    subject: str
    question: str
    request: JobRequest


@dataclass(slots=True)
class _Past:
    known: Known
    read_ms: int


class Canaries:
    """Submits canaries, and judges them."""

    def __init__(
        self, database: Database, fleet: Fleet, submitting: Jobs, clock: Clock, percent: int
    ) -> None:
        """``percent``: of the jobs of a provider; 0: none at all."""
        self._database = database
        self._fleet = fleet
        self._jobs = submitting
        self._clock = clock
        self._percent = percent
        self._chance = random.Random(secrets.randbits(256))  # noqa: S311  nobody sees its numbers
        self._past: dict[int, _Past] = {}
        self._looked_ms: int | None = None
        self._skipped = 0
        """How many waiting canaries the next look leaves out, as the looks before have seen them."""
        self._decided: dict[str, int] = {}
        """The questions that nobody else could be asked, and how many had been."""

    async def tick(self) -> None:
        """Judges the canaries that ended, asks witnesses, and submits the canaries that are due."""
        if self._percent:
            await self._judge()
            await self._ask_witnesses(ms(self._clock))
            await self._submit_due()

    async def _submit_due(self) -> None:
        now_ms = ms(self._clock)
        elapsed_ms, self._looked_ms = now_ms - (self._looked_ms or now_ms), now_ms
        present = [each for each in self._fleet.all() if each.free_slots]
        await self._read_past([each.provider_id for each in present], now_ms)
        due = [each for each in present if self._is_due(each.provider_id, elapsed_ms)]
        if due:
            await self._submit_to(self._chance.sample(due, min(len(due), SUBMITTED)), now_ms)

    async def _submit_to(self, due: Sequence[Presence], now_ms: int) -> None:
        """Submits a canary to each that has no open one."""
        open_ = await self._database.read(lambda: canaries.open_of([each.provider_id for each in due]))
        for presence in due:
            if presence.provider_id not in open_:
                await self._submit(presence, now_ms)

    async def _ask_witnesses(self, now_ms: int) -> None:
        """Asks the questions that wait of others, and lets those decide that nobody else can be asked."""
        page, is_end = await self._database.read(lambda: canaries.waiting_questions(self._skipped, LOOKED_AT))
        self._skipped = 0 if is_end else self._skipped + LOOKED_AT
        left = SUBMITTED
        for question in page:
            if question.is_pending or left <= 0:
                continue
            wanted = rules.to_ask(len(question.asked))
            serving = self._fleet.serving(question.subject, SERVING) if wanted else []
            others = [each for each in serving if each.provider_id not in question.asked]
            if able := [each for each in others if each.free_slots]:
                self._chance.shuffle(able)
                able.sort(key=lambda each: -tier(each.standing).level)
                witnesses = able[: min(wanted, left)]
                left -= len(witnesses)
                for presence in witnesses:
                    await self._submit(presence, now_ms, (question.subject, question.question))
            elif not others or now_ms - question.since_ms >= rules.WITNESSES_WAIT_MS:
                await self._decide(question, now_ms)

    async def _decide(self, question: WaitingQuestion, now_ms: int) -> None:
        """Judges the answers to a question of which nobody else can be asked, once for as many answers."""
        if self._decided.get(question.question) == len(question.asked):
            return
        if len(self._decided) >= DECIDED:
            self._decided.clear()
        self._decided[question.question] = len(question.asked)
        for canary in await self._database.read(lambda: canaries.waiting([question.question])):
            await self._judge_one(canary, now_ms, is_last=True)

    def _is_due(self, provider_id: int, elapsed_ms: int) -> bool:
        past = self._past.get(provider_id)
        return past is not None and self._chance.random() < rules.chance(
            past.known, self._percent, elapsed_ms
        )

    async def _read_past(self, provider_ids: Sequence[int], now_ms: int) -> None:
        """Reads what is known of the providers of which nothing is known, or only something old."""
        self._past = {key: past for key in provider_ids if (past := self._past.get(key)) is not None}
        old = [key for key in provider_ids if self._is_old(key, now_ms)][:BATCH]
        if old:
            known = await self._database.read(lambda: _known(old, now_ms))
            self._past.update({key: _Past(facts, now_ms) for key, facts in known.items()})

    def _is_old(self, provider_id: int, now_ms: int) -> bool:
        past = self._past.get(provider_id)
        return past is None or now_ms - past.read_ms >= KNOWN_MS

    async def _submit(self, presence: Presence, now_ms: int, asked: tuple[str, str] | None = None) -> None:
        provider_id = presence.provider_id
        plan = await self._database.read(lambda: self._plan(presence, now_ms, asked))
        if plan is None:
            self._put_off(provider_id, now_ms)
            return
        try:
            renter_id = await self._database.run(lambda: self._funded(plan.request, now_ms))
            job = await self._jobs.submit(renter_id, plan.request)
        except DomainError as error:
            log.debug("no canary provider_id=%d reason=%s", provider_id, error.reason)
            self._put_off(provider_id, now_ms)
            return
        await self._database.run(
            lambda: canaries.insert(
                provider_id=provider_id,
                job_id=job.job_id,
                kind=plan.kind,
                subject=plan.subject,
                question=plan.question,
                now_ms=now_ms,
            )
        )
        self._past.pop(provider_id, None)

    def _put_off(self, provider_id: int, now_ms: int) -> None:
        """Leaves a provider alone for a while that takes no canary now."""
        if past := self._past.get(provider_id):
            past.known = replace(past.known, is_settled=True)
            past.read_ms = now_ms - KNOWN_MS + PUT_OFF_MS

    def _plan(self, presence: Presence, now_ms: int, asked: tuple[str, str] | None) -> Plan | None:
        """What to ask a provider; None if it runs nothing whose result can be judged.

        ``asked``: the model and the question that others were asked.
        """
        samples = canaries.jobs_of_renters(presence.provider_id, SAMPLES)
        if asked is not None:
            return self._asked(presence.provider_id, *asked, samples)
        models = [
            model.name
            for model in presence.models
            if JobType.LLM_INFERENCE in presence.job_types and model.serves(JobType.LLM_INFERENCE)
        ]
        types, image = sorted(presence.job_types & NEED_IMAGE), _image(presence, samples)
        if models and not (types and image and self._chance.random() > SHARE_OF_ANSWERS):
            return self._question(presence.provider_id, self._chance.choice(models), samples, now_ms)
        if types and image:
            return _computation(presence.provider_id, self._chance.choice(types), image)
        return None

    def _question(self, provider_id: int, model: str, samples: Sequence[Sample], now_ms: int) -> Plan:
        since_ms = now_ms - rules.ASKED_AGAIN_MS
        question = canaries.question_of_others(model, provider_id, since_ms, rules.MOST_ASKED)
        if question is None:
            shapes = _shapes(samples) or [
                Shape(most, self._chance.random() < 0.3, self._chance.random() < 0.5)
                for most in prompts.MAX_TOKENS
            ]
            question = prompts.question(secrets.token_hex(16), self._chance.choice(shapes))
        return self._asked(provider_id, model, question, samples)

    def _asked(self, provider_id: int, model: str, question: str, samples: Sequence[Sample]) -> Plan:
        prompt = prompts.of_question(question)
        durations = [
            each.duration_ms
            for each in samples
            if each.job_type is JobType.LLM_INFERENCE and each.duration_ms >= LEAST_ANSWER_MS
        ]
        request = JobRequest(
            JobType.LLM_INFERENCE,
            self._chance.choice(durations or [ANSWER_MS]),
            provider_id=provider_id,
            model=model,
            spec=_spec(model, prompt),
            lost_after_ms=LOST_AFTER_MS if prompt.is_chat else LOST_AFTER_SECONDS * 1000,
        )
        return Plan(CanaryKind.ANSWER, model, question, request)

    def _funded(self, request: JobRequest, now_ms: int) -> int:
        """One of the market's renters, with the money for the job in its wallet. Inside a transaction."""
        own = renters.of_market()
        if len(own) < RENTERS:
            own.append(self._new_renter(now_ms))
        renter_id = self._chance.choice(own)
        hold = reserve(price_of(request), request).hold_micros
        missing = hold - ledger.balance(accounts.renter(renter_id))
        if missing > 0:
            ledger.apply([accounts.funding(renter_id, missing)], now_ms)
        return renter_id

    def _new_renter(self, now_ms: int) -> int:
        """A renter without a key, at an address to which nobody can write."""
        email = f"{secrets.token_hex(8)}@market.invalid"
        name = self._chance.choice(_NAMES)
        renter_id = renters.create(
            name=name, email=email, mailbox=email, organization="", phone="", now_ms=now_ms
        )
        renters.give_to_market(renter_id)
        return renter_id

    async def _judge(self) -> None:
        now_ms = ms(self._clock)
        ended = await self._database.read(lambda: canaries.ended(JUDGED))
        if ended:  # the speeds first, as they are compared
            await self._database.run(lambda: _note_measured(ended))
        for canary in ended:
            await self._judge_one(canary, now_ms)
        questions = {canary.question for canary in ended if canary.kind is CanaryKind.ANSWER}
        if questions:
            for canary in await self._database.read(lambda: canaries.waiting(questions)):
                await self._judge_one(canary, now_ms)
        before_ms = now_ms - rules.WAITS_MS
        if await self._database.read(lambda: canaries.any_expired(before_ms)):
            await self._database.run(lambda: canaries.expire(before_ms, now_ms, JUDGED))

    async def _judge_one(self, canary: Canary, now_ms: int, *, is_last: bool = False) -> None:
        finding = await self._database.read(lambda: _find(canary, now_ms, is_last=is_last))
        if (finding.verdict, canary.verdict) == (CanaryVerdict.WAITING, CanaryVerdict.WAITING):
            return
        if not await self._database.run(lambda: canaries.decide(canary.id, finding, now_ms)):
            return
        facts = (canary.provider_id, canary.job_id, finding.verdict, finding.fault or "none")
        log.info("judged a canary provider_id=%d job_id=%s verdict=%s fault=%s", *facts)
        self._past.pop(canary.provider_id, None)
        self._fleet.to_assess.add(canary.provider_id)
        if finding.verdict is CanaryVerdict.PASSED and (judged := self._fleet.judged.get(canary.provider_id)):
            judged.again_ms = min(judged.again_ms, now_ms)  # it may be verified now


def _known(provider_ids: Sequence[int], now_ms: int) -> dict[int, Known]:
    """What is known of providers. Inside a transaction."""
    jobs_a_day = canaries.jobs_since(provider_ids, now_ms - rules.DAY_MS)
    newest = canaries.newest(provider_ids, JUDGED_BY)
    asked = canaries.asked(provider_ids)
    return {key: rules.known(asked.get(key, 0), newest[key], jobs_a_day.get(key, 0)) for key in provider_ids}


def _spec(model: str, prompt: Prompt) -> dict[str, object]:
    """What a daemon gets of a prompt, in the form in which renters send theirs."""
    params: dict[str, object] = {"model": model, "max_tokens": prompt.max_tokens}
    spec: dict[str, object] = {"container_spec": {}, "params": params}
    if prompt.is_chat:
        return spec | {"chat": chats.of_prompt(prompt.system, prompt.text, temperature=0).spec}
    params["temperature"] = 0.0
    if prompt.system is None:
        params["prompt"] = prompt.text
    else:
        texts = {"system": prompt.system, "user": prompt.text}
        params["messages"] = [{"role": role, "content": text} for role, text in texts.items()]
    return spec


def _shapes(samples: Sequence[Sample]) -> list[Shape]:
    """The sizes of what renters asked models."""
    shapes = []
    for sample in samples:
        params, chat = sample.spec.get("params", {}), sample.spec.get("chat")
        messages = chat["request"]["messages"] if chat is not None else params.get("messages", [])
        texts = [str(params.get("prompt", "")), *(str(message.get("content", "")) for message in messages)]
        if sample.job_type is JobType.LLM_INFERENCE and "max_tokens" in params:
            is_long = sum(len(text.split()) for text in texts) > LONG_WORDS
            shapes.append(Shape(int(params["max_tokens"]), is_long, chat is not None))
    return shapes


def _image(presence: Presence, samples: Sequence[Sample]) -> str | None:
    """An image that the provider surely can run; None if none is known."""
    images = [each.subject for each in samples if each.job_type in NEED_IMAGE and each.subject]
    return next((image for image in (*images, IMAGE) if allows(presence.image_patterns, image)), None)


def _computation(provider_id: int, job_type: JobType, image: str) -> Plan:
    seed = secrets.token_hex(16)
    spec = {"container_spec": {"image": image, "command": rules.command(seed)}, "params": {}}
    request = JobRequest(job_type, COMPUTATION_MS, provider_id=provider_id, image=image, spec=spec)
    return Plan(CanaryKind.COMPUTATION, image, seed, request)


def _note_measured(ended: Sequence[Canary]) -> None:
    """Stores how fast answers came. Inside a transaction."""
    for canary in ended:
        job = jobs.get(canary.job_id)
        if job is not None and canary.kind is CanaryKind.ANSWER and (speed := rules.speed(job)) is not None:
            lease = leases.get(job.job_id, job.lease_epoch)
            canaries.note_measured(canary.id, Measured(speed, lease.first_token_ms if lease else None))


def _find(canary: Canary, now_ms: int, *, is_last: bool) -> Finding:
    """What a canary says whose job has ended. Inside a transaction."""
    job = jobs.get(canary.job_id)
    assert job is not None, "a canary has a job"
    text = _text(job)
    if (by_end := rules.by_end(job, text)) is not None:
        return by_end
    if canary.kind is CanaryKind.COMPUTATION:
        is_right = text.strip() == rules.computed(canary.question)
        return rules.PASSED if is_right else rules.failed(CanaryFault.ANSWER_DIFFERS)
    return _find_answer(canary, job, text, now_ms, is_last=is_last)


def _find_answer(canary: Canary, job: Job, text: str, now_ms: int, *, is_last: bool) -> Finding:
    past = [each for each in canaries.of_provider(canary.provider_id, PAST) if each.id < canary.id]
    if _is_filler(canary, text, past):
        return rules.failed(CanaryFault.ANSWER_DIFFERS)
    own, others = _answers(canary, job, text)
    finding = rules.by_answers(own, others, _unclear(past), is_last=is_last)
    if finding is rules.WAITING and now_ms - canary.created_ms >= rules.WAITS_MS:
        return rules.UNDECIDED
    is_passed = finding.verdict is CanaryVerdict.PASSED
    if is_passed and rules.counts_too_many(own, others):
        return rules.failed(CanaryFault.TOKENS_IMPOSSIBLE, finding.figure)
    if is_passed and rules.is_too_slow(rules.speed(job), _speeds_of_others(canary, now_ms)):
        return rules.failed(CanaryFault.TOO_SLOW, finding.figure)
    return finding


def _answers(canary: Canary, job: Job, text: str) -> tuple[Answer, list[Answer]]:
    """An answer, and those of other owners to the same question."""
    asked = canaries.same_question(canary.question, canary.provider_id, rules.MOST_ASKED)
    ids = [canary.provider_id, *(each.provider_id for each in asked)]
    owners, passed = standing.owners(ids), canaries.passed(ids)
    others = [
        (replace(answer, weight=rules.weight(passed[each.provider_id])), owners[each.provider_id].marks)
        for each in asked
        if (answer := _answer(each)).text
    ]
    own = replace(_answer_of(job, text), weight=rules.weight(passed[canary.provider_id]))
    return own, rules.voices(owners[canary.provider_id].marks, others)


def _unclear(past: Sequence[Canary]) -> list[float]:
    """The figures of the unclear answers since the last clear one, oldest first."""
    figures: list[float] = []
    for canary in past:
        if canary.verdict in (CanaryVerdict.PASSED, CanaryVerdict.FAILED):
            break
        if canary.verdict is CanaryVerdict.UNDECIDED and canary.figure is not None:
            figures.insert(0, canary.figure)
    return figures


def _is_filler(canary: Canary, text: str, past: Sequence[Canary]) -> bool:
    """Whether the provider gave this answer to another question."""
    for each in past:
        if each.kind is CanaryKind.ANSWER and each.question != canary.question:
            found = likeness(text, _answer(each).text)
            if found is not None and found.aligned >= rules.FILLER:
                return True
    return False


def _answer(canary: Canary) -> Answer:
    """The answer of a canary; empty if its job did not complete, or its text is no longer kept."""
    job = jobs.get(canary.job_id)
    is_whole = job is not None and job.state is JobState.COMPLETED
    return _answer_of(job, _text(job)) if job is not None and is_whole else Answer("")


def _answer_of(job: Job, text: str) -> Answer:
    return Answer(text, logprobs=job.logprobs, tokens=job.completion_tokens)


def _text(job: Job) -> str:
    if not job.output_bytes:
        return ""
    return outputs.text(job).decode("utf-8", "replace")


def _speeds_of_others(canary: Canary, now_ms: int) -> list[float]:
    provider = providers.get(canary.provider_id)
    if provider is None or not provider.gpu_model:
        return []
    since_ms = now_ms - 7 * rules.DAY_MS
    return canaries.speeds(canary.subject, provider.gpu_model, canary.provider_id, since_ms)
