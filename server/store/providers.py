"""Providers and the models that they serve, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import peewee as pw

from server.domain.gpu_models import asked, bounds_mib, canonical, squeezed
from server.domain.gpus import GpuReport, from_plain
from server.domain.hindrances import SelfTest
from server.domain.honesty import Verdict, VerdictReason
from server.domain.jobs import OF_MODELS, JobType
from server.domain.levels import Standing
from server.domain.placement import Model
from server.domain.providers import AccountState
from server.store import states
from server.store.mailboxes import insert_account
from server.store.models import Provider, ProviderModel, ProviderStanding, ProviderTerms, tuples
from server.store.prepared import PreparedQuery, PreparedRows, arg, bound, locking, squeezed_column


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider as stored."""

    id: int
    name: str
    email: str
    gpu_model: str
    gpu_vram_mib: int | None
    os: str
    phone: str
    state: AccountState
    session_epoch: int
    connected: bool
    draining: bool
    models_reported: bool
    job_types: frozenset[JobType]
    last_heartbeat_ms: int | None
    report: GpuReport
    created_ms: int
    claimed_gpu: str
    """The GPU model that the provider named when it registered."""
    verdict: Verdict
    verdict_reasons: tuple[VerdictReason, ...]
    verdict_ms: int | None
    """When the verdict last changed."""
    gpus_changed_ms: int | None
    """When its set of GPUs last changed."""
    self_tests: tuple[SelfTest, ...]
    architecture: str
    image_patterns: tuple[str, ...] | None
    """Of the images that its owner allows; None if its daemon does not report them."""
    email_verified_ms: int | None
    server_id: int | None
    """The server that has its session."""
    boot_id: str
    """Of the process that has its newest session."""
    slots: int
    runs_plain_processes: bool
    capacity_no: int
    """Changes with each session, and with what its daemon can run."""


@dataclass(frozen=True, slots=True)
class ServedNow:
    """A model that live providers serve."""

    name: str
    context_tokens: int
    """The longest of theirs; 0 if none reports it."""
    since_ms: int
    """When the first of them registered."""
    kinds: tuple[JobType, ...]
    """The types of job that it is served for, of those that were asked for, in their order."""
    providers: int
    """How many serve it for the type that most serve it for."""

    def also(self, other: ServedNow) -> ServedNow:
        """The same model with what it is served for besides."""
        return ServedNow(
            self.name,
            max(self.context_tokens, other.context_tokens),
            min(self.since_ms, other.since_ms),
            self.kinds + other.kinds,
            max(self.providers, other.providers),
        )


_MODEL = (ProviderModel.name, ProviderModel.context_tokens, ProviderModel.warm, ProviderModel.job_types)
_get = PreparedRows(Provider, lambda rows: rows.where(Provider.id == arg("id")))
_inactive_connected = PreparedQuery(
    lambda: Provider.select(Provider.id, Provider.state).where(
        Provider.connected, states.is_not(Provider.state, AccountState.ACTIVE)
    )
)
_models_of_one = PreparedQuery(
    lambda: (
        ProviderModel.select(*_MODEL)
        .where(ProviderModel.provider_id == arg("id"))
        .order_by(ProviderModel.name)
    )
)
_delete_models = PreparedQuery(lambda: ProviderModel.delete().where(ProviderModel.provider_id == arg("id")))
_insert_model = PreparedQuery(
    lambda: ProviderModel.insert(
        {
            ProviderModel.provider_id: arg("id"),
            **bound(ProviderModel, "name", "context_tokens", "warm", "job_types"),
        }
    )
)
_note_models = PreparedQuery(
    lambda: Provider.update({Provider.models_reported: True}).where(Provider.id == arg("id"))
)
_lock = PreparedQuery(
    lambda: locking(
        Provider.select(Provider.session_epoch).where(
            Provider.id == arg("provider_id"),
            states.is_in(Provider.state, AccountState.ACTIVE),
            ~Provider.draining,
        ),
        "FOR NO KEY UPDATE",
    )
)


def create(
    *,
    name: str,
    email: str,
    mailbox: str | None,
    gpu_model: str,
    os: str,
    phone: str,
    now_ms: int,
    network: str | None = None,
    state: AccountState = AccountState.ACTIVE,
) -> int:
    """Inserts a provider and returns its id. Raises EMAIL_TAKEN."""
    return insert_account(
        Provider,
        state=states.stored(state),
        name=name,
        email=email,
        mailbox=mailbox,
        gpu_model=canonical(gpu_model),
        claimed_gpu=gpu_model,
        os=os,
        phone=phone,
        network=network,
        created_ms=now_ms,
    )


def get(provider_id: int) -> ProviderRow | None:
    """One provider, by id."""
    row = _get.one(id=provider_id)
    return _row(row) if row is not None else None


def by_ids(provider_ids: Sequence[int]) -> list[ProviderRow]:
    """Providers, by id."""
    query = Provider.select().where(Provider.id.in_(list(provider_ids)))
    return [_row(row) for row in query.order_by(Provider.id)]


def is_served(kind: JobType, model: str | None, since_ms: int) -> bool:
    """Whether an admitted provider with a heartbeat after ``since_ms`` serves the model and job type."""
    query = Provider.select(Provider.job_types).where(*_admitted_since(since_ms))
    if model is not None:
        query = query.join(ProviderModel, on=ProviderModel.provider_id == Provider.id)
        query = query.where(ProviderModel.name == model, _served_for(kind))
    return any(kind.value in text.split() for (text,) in tuples(query.distinct()))


def served_now(kinds: Iterable[JobType], since_ms: int, limit: int) -> list[ServedNow]:
    """The models that active providers with a heartbeat after ``since_ms`` serve for jobs of these types.

    The most served come first.
    """
    found: dict[str, ServedNow] = {}
    for kind in kinds:
        for served in _served_now(kind, since_ms, limit):
            before = found.get(served.name)
            found[served.name] = served if before is None else before.also(served)
    return sorted(found.values(), key=lambda each: (-each.providers, each.name))[:limit]


def _served_now(kind: JobType, since_ms: int, limit: int) -> list[ServedNow]:
    count = pw.fn.COUNT(Provider.id)
    query = (
        ProviderModel.select(
            ProviderModel.name,
            pw.fn.MAX(ProviderModel.context_tokens),
            pw.fn.MIN(Provider.created_ms),
            count,
        )
        .join(Provider, on=(Provider.id == ProviderModel.provider_id))
        .where(*_live(since_ms), ~Provider.draining, _runs(kind), _served_for(kind))
        .group_by(ProviderModel.name)
        .order_by(count.desc(), ProviderModel.name)
        .limit(limit)
    )
    return [
        ServedNow(str(name), int(tokens), int(ms), (kind,), int(providers))
        for name, tokens, ms, providers in tuples(query)
    ]


def seen_since(since_ms: int, limit: int) -> list[ProviderRow]:
    """The admitted providers with a heartbeat after ``since_ms``, those with the newest first."""
    query = Provider.select().where(*_admitted_since(since_ms)).order_by(Provider.last_heartbeat_ms.desc())
    return [_row(row) for row in query.limit(limit)]


def _live(since_ms: int) -> tuple[Any, ...]:
    return Provider.last_heartbeat_ms > since_ms, states.is_in(Provider.state, AccountState.ACTIVE)


def _runs(kind: JobType) -> Any:
    return _lists(Provider.job_types, kind)


def _served_for(kind: JobType) -> Any:
    """Whether a model of a provider is one for jobs of this type."""
    return _lists(ProviderModel.job_types, kind) if kind in OF_MODELS else pw.SQL("1 = 1")


def _lists(job_types: Any, kind: JobType) -> Any:
    """Whether a column lists the job type: they are stored with a space between them."""
    return (" " + job_types + " ").contains(f" {kind.value} ")


def _admitted_since(since_ms: int) -> tuple[Any, ...]:
    admitted = states.is_in(Provider.state, AccountState.ACTIVE, AccountState.PAUSED)
    return Provider.last_heartbeat_ms > since_ms, admitted


def lately_seen(limit: int) -> list[int]:
    """The ids of the providers with the newest heartbeats."""
    query = Provider.select(Provider.id).where(Provider.last_heartbeat_ms.is_null(False))
    newest = query.order_by(Provider.last_heartbeat_ms.desc(), Provider.id).limit(limit)
    return [int(provider_id) for (provider_id,) in tuples(newest)]


@dataclass(frozen=True, slots=True)
class Filters:
    """What rows of providers can be filtered by."""

    gpu_model: str | None = None
    min_vram_mib: int | None = None
    """Of the memory that is available to jobs."""
    model: str | None = None
    verified: bool = False
    min_standing: Standing | None = None
    architecture: str | None = None
    kind: JobType | None = None


class Compared(NamedTuple):
    """What of a provider's row its price and its memory for jobs depend on."""

    id: int
    gpu_model: str
    gpu_vram_mib: int | None
    is_verified: bool
    job_types: frozenset[JobType]


def live(
    filters: Filters, *, since_ms: int, after_id: int = 0, offset: int = 0, limit: int
) -> tuple[list[ProviderRow], int]:
    """Active providers with a heartbeat after ``since_ms`` that match the filters: a page, and the total."""
    query = _matching(Provider.select(), filters, since_ms)
    page = query.where(Provider.id > after_id).order_by(Provider.id).offset(offset).limit(limit)
    return [_row(row) for row in page], query.count()


def compared(filters: Filters, *, since_ms: int, limit: int) -> list[Compared]:
    """The first of those that match the filters, by id, with little of each."""
    columns = (
        Provider.id,
        Provider.gpu_model,
        Provider.gpu_vram_mib,
        Provider.verdict,
        Provider.job_types,
    )
    query = _matching(Provider.select(*columns), filters, since_ms).order_by(Provider.id).limit(limit)
    types: dict[str, frozenset[JobType]] = {}
    found = []
    for provider_id, gpu_model, vram_mib, verdict, kinds in tuples(query):
        if kinds not in types:
            types[kinds] = frozenset(JobType(name) for name in kinds.split())
        is_verified = verdict == Verdict.VERIFIED.value
        found.append(Compared(int(provider_id), gpu_model, vram_mib or None, is_verified, types[kinds]))
    return found


def _matching(query: Any, filters: Filters, since_ms: int) -> Any:
    query = query.where(*_live(since_ms))
    if filters.gpu_model:
        wanted = asked(filters.gpu_model)
        query = query.where(squeezed_column(Provider.gpu_model) == squeezed(wanted.name))
        if wanted.memory_gib is not None:
            query = query.where(Provider.gpu_vram_mib.between(*bounds_mib(wanted.memory_gib)))
    if filters.min_vram_mib:
        # Memory reserved for the owner is not available to jobs; without terms, none is reserved.
        reserved = ProviderTerms.select(ProviderTerms.vram_reserve_mib).where(
            ProviderTerms.provider_id == Provider.id
        )
        query = query.where(Provider.gpu_vram_mib - pw.fn.COALESCE(reserved, 0) >= filters.min_vram_mib)
    if filters.model:
        serving = ProviderModel.select(ProviderModel.provider_id).where(ProviderModel.name == filters.model)
        if filters.kind is not None:
            serving = serving.where(_served_for(filters.kind))
        query = query.where(Provider.id.in_(serving))
    if filters.min_standing is not None:
        enough = [one.value for one in Standing if one.reaches(filters.min_standing)]
        granted = ProviderStanding.select(ProviderStanding.provider_id).where(
            ProviderStanding.standing.in_(enough)
        )
        query = query.where(Provider.id.in_(granted))
    if filters.architecture:
        query = query.where(Provider.architecture == filters.architecture)
    if filters.verified:
        query = query.where(Provider.verdict == Verdict.VERIFIED.value)
    if filters.kind is not None:
        query = query.where(_runs(filters.kind))
    return query


def has_gpu(gpu_model: str) -> bool:
    """Whether any provider has a GPU of this name, live or not."""
    query = Provider.select(Provider.id).where(squeezed_column(Provider.gpu_model) == squeezed(gpu_model))
    return query.limit(1).scalar() is not None


def served_models() -> set[str]:
    """The names of all models that providers have reported, live or not."""
    return {name for (name,) in tuples(ProviderModel.select(ProviderModel.name).distinct())}


def existing_ids(provider_ids: Sequence[int]) -> list[int]:
    """Those of these ids that providers have."""
    query = Provider.select(Provider.id).where(Provider.id.in_(list(provider_ids)))
    return [int(provider_id) for (provider_id,) in tuples(query)] if provider_ids else []


def rename_gpus() -> None:
    """Brings stored names into the catalogue's form: the catalogue may have grown since they were written."""
    for (name,) in list(tuples(Provider.select(Provider.gpu_model).distinct())):
        if (known := canonical(name)) != name:
            Provider.update(gpu_model=known).where(Provider.gpu_model == name).execute()


def lock(provider_id: int) -> int | None:
    """Locks a provider that may get jobs and returns its session epoch, or None.

    No other transaction can lease a job to it until this one ends.
    """
    epoch = _lock.value(provider_id=provider_id)
    return int(epoch) if epoch is not None else None


def models_of(provider_ids: Sequence[int]) -> dict[int, list[Model]]:
    """The models that each provider serves, by name."""
    if len(provider_ids) == 1:
        rows = _models_of_one.all(id=provider_ids[0])
        return {provider_ids[0]: [_model(*row) for row in rows]}
    found: dict[int, list[Model]] = {provider_id: [] for provider_id in provider_ids}
    query = (
        ProviderModel.select(ProviderModel.provider_id, *_MODEL)
        .where(ProviderModel.provider_id.in_(list(provider_ids)))
        .order_by(ProviderModel.name)
    )
    for provider_id, *row in tuples(query):
        found[provider_id].append(_model(*row))
    return found


def _model(name: str, context_tokens: int, warm: bool, job_types: str) -> Model:
    return Model(name, context_tokens, bool(warm), _kinds(job_types))


# Few lists of types are many models'.
@lru_cache(maxsize=256)
def _kinds(job_types: str) -> frozenset[JobType]:
    return frozenset(JobType(name) for name in job_types.split())


def set_state(provider_id: int, before: AccountState, after: AccountState) -> bool:
    """Changes a provider's state; False if it is not in the state ``before``."""
    query = Provider.update(state=states.stored(after))
    return bool(query.where(Provider.id == provider_id, states.is_in(Provider.state, before)).execute())


def inactive_connected() -> dict[int, AccountState]:
    """The connected providers that are not active, with their states."""
    return {int(provider_id): AccountState(state) for provider_id, state in _inactive_connected.all()}


def replace_models(provider_id: int, models: Iterable[Model]) -> None:
    """Replaces the models that a provider serves."""
    _delete_models.run(id=provider_id)
    for model in {model.name: model for model in models}.values():
        values = {**asdict(model), "job_types": " ".join(sorted(model.job_types))}
        _insert_model.run(id=provider_id, **values)
    _note_models.run(id=provider_id)


def set_job_types(provider_id: int, session_epoch: int, job_types: Iterable[JobType]) -> None:
    """Sets the job types that the daemon of this session runs."""
    Provider.update(job_types=" ".join(sorted(job_types))).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def set_self_tests(provider_id: int, session_epoch: int, tests: Iterable[SelfTest]) -> None:
    """Sets the newest self-tests of the daemon of this session."""
    self_tests = json.dumps([_self_test_data(test) for test in tests])
    Provider.update(self_tests=self_tests).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def set_image_patterns(provider_id: int, session_epoch: int, patterns: Sequence[str] | None) -> None:
    """Sets the patterns of the images that the daemon of this session allows."""
    image_patterns = None if patterns is None else json.dumps(list(patterns), ensure_ascii=False)
    Provider.update(image_patterns=image_patterns).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def _self_test_data(test: SelfTest) -> dict[str, Any]:
    return {**asdict(test), "job_types": sorted(test.job_types)}


def _self_test(data: dict[str, Any]) -> SelfTest:
    kinds = frozenset(JobType(kind) for kind in data["job_types"])
    return SelfTest(
        data["name"],
        data["passed"],
        data["reason"],
        tuple(data["models"]),
        kinds,
        is_pending=data["is_pending"],
    )


def count(since_ms: int) -> tuple[int, int]:
    """The number of all providers, and of those with a heartbeat after ``since_ms``."""
    live = Provider.select().where(Provider.last_heartbeat_ms > since_ms).count()
    return Provider.select().count(), live


def _row(row: Any) -> ProviderRow:
    return ProviderRow(
        id=row.id,
        name=row.name,
        email=row.email,
        gpu_model=row.gpu_model,
        gpu_vram_mib=row.gpu_vram_mib or None,
        os=row.os,
        phone=row.phone,
        state=AccountState(row.state),
        session_epoch=row.session_epoch,
        connected=bool(row.connected),
        draining=bool(row.draining),
        models_reported=bool(row.models_reported),
        job_types=frozenset(JobType(name) for name in row.job_types.split()),
        last_heartbeat_ms=row.last_heartbeat_ms,
        report=from_plain(json.loads(row.gpu_status)),
        created_ms=row.created_ms,
        claimed_gpu=row.claimed_gpu,
        verdict=Verdict(row.verdict),
        verdict_reasons=tuple(VerdictReason(name) for name in row.verdict_reasons.split()),
        verdict_ms=row.verdict_ms,
        gpus_changed_ms=row.gpus_changed_ms,
        self_tests=tuple(_self_test(data) for data in json.loads(row.self_tests)),
        architecture=row.architecture,
        image_patterns=None if row.image_patterns is None else tuple(json.loads(row.image_patterns)),
        email_verified_ms=row.email_verified_ms,
        server_id=row.server_id,
        boot_id=row.boot_id,
        slots=row.slots,
        runs_plain_processes=bool(row.runs_plain_processes),
        capacity_no=row.capacity_no,
    )
