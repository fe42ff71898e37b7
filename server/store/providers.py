"""Providers, renters and their keys, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import peewee as pw

from server.domain.errors import DomainError, Reason
from server.domain.hindrances import SelfTest
from server.domain.honesty import Verdict, VerdictReason
from server.domain.jobs import JobType
from server.domain.keys import Scope
from server.domain.placement import Model
from server.domain.providers import AccountState
from server.store.models import ApiKey, Provider, ProviderModel, ProviderTerms, Renter, tuples
from server.store.statements import Rows, Statement, arg, locking


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider as stored."""

    id: int
    name: str
    email: str
    gpu_model: str
    gpu_vram_mib: int
    os: str
    phone: str
    state: AccountState
    session_epoch: int
    connected: bool
    draining: bool
    models_reported: bool
    job_types: frozenset[JobType]
    last_heartbeat_ms: int | None
    gpu_status: dict[str, Any]
    created_ms: int
    claimed_gpu: str
    """The GPU model of its registration."""
    verdict: Verdict
    verdict_reasons: tuple[VerdictReason, ...]
    verdict_ms: int | None
    """When the verdict last changed."""
    gpus_changed_ms: int | None
    """When its set of GPUs became another."""
    self_tests: tuple[SelfTest, ...]


@dataclass(frozen=True, slots=True)
class RenterRow:
    """A renter as stored."""

    id: int
    name: str
    email: str
    organization: str
    phone: str
    state: AccountState
    created_ms: int


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose a key is, and what it may be used for until when; None: for everything, and for ever."""

    role: str
    owner_id: int
    key_id: int
    scopes: frozenset[Scope] | None = None
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """Heartbeats to write down: the last of all, the last on a stream (which alone renews leases), and
    what the machine said last; None where there was none."""

    provider_id: int
    at_ms: int
    gpu_status: dict[str, Any] | None
    renewed_ms: int | None = None


_get_provider = Rows(Provider, lambda rows: rows.where(Provider.id == arg("id")))
_get_renter = Rows(Renter, lambda rows: rows.where(Renter.id == arg("id")))
# NO KEY: what refers to the renter is stored in the same transaction, and must not wait for itself.
_lock_renter = Rows(Renter, lambda rows: locking(rows.where(Renter.id == arg("id")), "FOR NO KEY UPDATE"))
_models_of_one = Statement(
    lambda: (
        ProviderModel.select(ProviderModel.name, ProviderModel.context_tokens, ProviderModel.warm)
        .where(ProviderModel.provider_id == arg("id"))
        .order_by(ProviderModel.name)
    )
)
_beat = Statement(
    lambda: Provider.update(
        {
            Provider.last_heartbeat_ms: arg("at_ms"),
            Provider.renewed_ms: pw.fn.COALESCE(arg("renewed_ms"), Provider.renewed_ms),
        }
    ).where(
        Provider.id == arg("id"),
        Provider.last_heartbeat_ms.is_null() | (Provider.last_heartbeat_ms <= arg("at_ms")),
    )
)
_find_key = Statement(
    lambda: ApiKey.select(ApiKey.role, ApiKey.owner_id, ApiKey.id, ApiKey.scopes, ApiKey.expires_ms).where(
        ApiKey.sha256 == arg("sha256"), ApiKey.revoked_ms.is_null()
    )
)


def create_provider(
    *,
    name: str,
    email: str,
    email_key: str,
    gpu_model: str,
    os: str,
    phone: str,
    now_ms: int,
    state: AccountState = AccountState.ACTIVE,
) -> int:
    """A new provider's id. Raises EMAIL_TAKEN."""
    return _create(
        Provider,
        state=state.value,
        name=name,
        email=email,
        email_key=email_key,
        gpu_model=gpu_model,
        claimed_gpu=gpu_model,
        os=os,
        phone=phone,
        created_ms=now_ms,
    )


def create_renter(
    *, name: str, email: str, email_key: str, organization: str, phone: str, now_ms: int
) -> int:
    """A new renter's id. Raises EMAIL_TAKEN."""
    return _create(
        Renter,
        name=name,
        email=email,
        email_key=email_key,
        organization=organization,
        phone=phone,
        created_ms=now_ms,
    )


def _create(model: type[pw.Model], **values: Any) -> int:
    try:
        return int(model.insert(**values).execute())
    except pw.IntegrityError:
        raise DomainError(
            Reason.EMAIL_TAKEN,
            "email: an account with this address exists; use its key, or register another address",
            field="email",
        ) from None


def add_key(
    role: str,
    owner_id: int,
    sha256: bytes,
    last4: str,
    now_ms: int,
    *,
    name: str = "",
    scopes: frozenset[Scope] | None = None,
    expires_ms: int | None = None,
) -> None:
    """Keeps what is needed to recognize a key again; without scopes it is a main key."""
    ApiKey.insert(
        role=role,
        owner_id=owner_id,
        sha256=sha256,
        last4=last4,
        name=name,
        scopes=None if scopes is None else " ".join(sorted(scopes)),
        expires_ms=expires_ms,
        created_ms=now_ms,
    ).execute()


def find_key(sha256: bytes) -> KeyOwner | None:
    """The owner of a key that was not revoked. It may have expired."""
    row = _find_key.one(sha256=sha256)
    if row is None:
        return None
    role, owner_id, key_id, scopes, expires_ms = row
    granted = None if scopes is None else frozenset(Scope(name) for name in scopes.split())
    return KeyOwner(role, owner_id, key_id, granted, expires_ms)


def admitted_providers(key_ids: Sequence[int], now_ms: int) -> dict[int, AccountState]:
    """The state of the provider behind each of these keys; one that is over is left out."""
    query = (
        ApiKey.select(ApiKey.id, Provider.state)
        .join(Provider, on=ApiKey.owner_id == Provider.id)
        .where(
            ApiKey.id.in_(list(key_ids)),
            ApiKey.role == "provider",
            ApiKey.revoked_ms.is_null(),
            ApiKey.expires_ms.is_null() | (ApiKey.expires_ms > now_ms),
        )
    )
    return {int(key_id): AccountState(state) for key_id, state in tuples(query)}


def provider(provider_id: int) -> ProviderRow | None:
    """One provider, by id."""
    row = _get_provider.one(id=provider_id)
    return _provider_row(row) if row is not None else None


def providers(provider_ids: Sequence[int]) -> list[ProviderRow]:
    """Providers, by id."""
    query = Provider.select().where(Provider.id.in_(list(provider_ids)))
    return [_provider_row(row) for row in query.order_by(Provider.id)]


def lately_seen(limit: int) -> list[int]:
    """The providers whose last heartbeat is the newest."""
    query = Provider.select(Provider.id).where(Provider.last_heartbeat_ms.is_null(False))
    newest = query.order_by(Provider.last_heartbeat_ms.desc(), Provider.id).limit(limit)
    return [int(provider_id) for (provider_id,) in tuples(newest)]


def live_providers(
    *,
    since_ms: int,
    gpu_model: str | None,
    min_vram_mib: int | None,
    model: str | None,
    offset: int,
    limit: int,
    verified: bool = False,
) -> tuple[list[ProviderRow], int]:
    """Active providers with a heartbeat after ``since_ms`` that pass the filters: a page, and the count."""
    query = Provider.select().where(
        Provider.last_heartbeat_ms > since_ms, Provider.state == AccountState.ACTIVE.value
    )
    if gpu_model:
        query = query.where(Provider.gpu_model.contains(gpu_model))
    if min_vram_mib:
        # What its owner keeps is not for jobs; without terms it keeps nothing.
        kept = ProviderTerms.select(ProviderTerms.vram_reserve_mib).where(
            ProviderTerms.provider_id == Provider.id
        )
        query = query.where(Provider.gpu_vram_mib - pw.fn.COALESCE(kept, 0) >= min_vram_mib)
    if model:
        serving = ProviderModel.select(ProviderModel.provider_id).where(ProviderModel.name == model)
        query = query.where(Provider.id.in_(serving))
    if verified:
        query = query.where(Provider.verdict == Verdict.VERIFIED.value)
    page = query.order_by(Provider.id).offset(offset).limit(limit)
    return [_provider_row(row) for row in page], query.count()


def models_of(provider_ids: Sequence[int]) -> dict[int, list[Model]]:
    """The models that each provider serves, by name."""
    if len(provider_ids) == 1:
        rows = _models_of_one.all(id=provider_ids[0])
        return {provider_ids[0]: [Model(name, tokens, bool(warm)) for name, tokens, warm in rows]}
    found: dict[int, list[Model]] = {provider_id: [] for provider_id in provider_ids}
    query = (
        ProviderModel.select()
        .where(ProviderModel.provider_id.in_(list(provider_ids)))
        .order_by(ProviderModel.name)
    )
    for row in query:
        found[row.provider_id].append(Model(row.name, row.context_tokens, row.warm))
    return found


def set_provider_state(provider_id: int, before: AccountState, after: AccountState) -> bool:
    """Moves a provider on; False when it is not in the state that it was read in."""
    query = Provider.update(state=after.value)
    return bool(query.where(Provider.id == provider_id, Provider.state == before.value).execute())


def set_renter_state(renter_id: int, before: AccountState, after: AccountState) -> bool:
    """Moves a renter on; False when it is not in the state that it was read in."""
    query = Renter.update(state=after.value)
    return bool(query.where(Renter.id == renter_id, Renter.state == before.value).execute())


def kept_back() -> dict[int, AccountState]:
    """The connected providers that are not active, with what they are."""
    query = Provider.select(Provider.id, Provider.state).where(
        Provider.connected, Provider.state != AccountState.ACTIVE.value
    )
    return {int(provider_id): AccountState(state) for provider_id, state in tuples(query)}


def replace_models(provider_id: int, models: Iterable[Model]) -> None:
    """From now on the provider serves these."""
    ProviderModel.delete().where(ProviderModel.provider_id == provider_id).execute()
    rows = {
        m.name: {
            "provider_id": provider_id,
            "name": m.name,
            "context_tokens": m.context_tokens,
            "warm": m.warm,
        }
        for m in models
    }
    if rows:
        ProviderModel.insert_many(list(rows.values())).execute()
    Provider.update(models_reported=True).where(Provider.id == provider_id).execute()


def open_session(provider_id: int, job_types: Iterable[JobType], now_ms: int) -> int:
    """Counts a new session and returns its epoch; the older one's writes match no row from here on.

    It renews the leases that it keeps in the same transaction: nobody may judge them lost in between.
    """
    Provider.update(
        session_epoch=Provider.session_epoch + 1,
        connected=True,
        draining=False,
        renewed_ms=now_ms,
        job_types=" ".join(sorted(job_types)),
    ).where(Provider.id == provider_id).execute()
    return int(Provider.select(Provider.session_epoch).where(Provider.id == provider_id).scalar())


def set_job_types(provider_id: int, session_epoch: int, job_types: Iterable[JobType]) -> None:
    """The daemon of this session runs these kinds of job from now on."""
    Provider.update(job_types=" ".join(sorted(job_types))).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def set_self_tests(provider_id: int, session_epoch: int, tests: Iterable[SelfTest]) -> None:
    """The newest self-tests of the daemon of this session."""
    told = json.dumps([_self_test_data(test) for test in tests])
    Provider.update(self_tests=told).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def _self_test_data(test: SelfTest) -> dict[str, Any]:
    return {**asdict(test), "job_types": sorted(test.job_types)}


def _self_test(data: dict[str, Any]) -> SelfTest:
    kinds = frozenset(JobType(kind) for kind in data["job_types"])
    told = data["name"], data["passed"], data["reason"], tuple(data["models"]), kinds
    return SelfTest(*told, is_pending=data["is_pending"])


def close_session(provider_id: int, session_epoch: int) -> None:
    """The session ended; nothing happens when a newer one exists."""
    Provider.update(connected=False, draining=False).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def set_draining(provider_id: int, session_epoch: int) -> None:
    """The daemon of this session takes no more jobs."""
    Provider.update(draining=True).where(
        Provider.id == provider_id, Provider.session_epoch == session_epoch
    ).execute()


def close_all_sessions() -> None:
    """At server start no daemon is connected."""
    Provider.update(connected=False, draining=False).where(Provider.connected | Provider.draining).execute()


def write_beats(beats: Iterable[Beat]) -> None:
    """Writes heartbeats down; an older one than the stored changes nothing."""
    for beat in sorted(beats, key=lambda beat: beat.provider_id):  # one order: no two batches deadlock
        newest = _beat.run(id=beat.provider_id, at_ms=beat.at_ms, renewed_ms=beat.renewed_ms)
        if newest and beat.gpu_status:
            _write_gpu_status(beat.provider_id, beat.gpu_status)


def _write_gpu_status(provider_id: int, status: dict[str, Any]) -> None:
    values = {"gpu_status": json.dumps(status)}
    reported = {"gpu_model": status.get("gpu_name"), "gpu_vram_mib": status.get("gpu_vram_mib")}
    values.update({name: value for name, value in reported.items() if value})
    Provider.update(**values).where(Provider.id == provider_id).execute()


def renter(renter_id: int, *, lock: bool = False) -> RenterRow | None:
    """One renter, by id; with ``lock`` nobody else submits for it until the transaction ends."""
    row = (_lock_renter if lock else _get_renter).one(id=renter_id)
    return _renter_row(row) if row is not None else None


def renters(renter_ids: Sequence[int]) -> list[RenterRow]:
    """Renters, by id."""
    query = Renter.select().where(Renter.id.in_(list(renter_ids)))
    return [_renter_row(row) for row in query.order_by(Renter.id)]


def count_providers(since_ms: int) -> tuple[int, int]:
    """All providers, and those with a heartbeat after ``since_ms``."""
    live = Provider.select().where(Provider.last_heartbeat_ms > since_ms).count()
    return Provider.select().count(), live


def count_renters() -> int:
    """All renters."""
    return int(Renter.select().count())


def _renter_row(row: Any) -> RenterRow:
    return RenterRow(
        row.id,
        row.name,
        row.email,
        row.organization,
        row.phone,
        AccountState(row.state),
        row.created_ms,
    )


def _provider_row(row: Any) -> ProviderRow:
    return ProviderRow(
        id=row.id,
        name=row.name,
        email=row.email,
        gpu_model=row.gpu_model,
        gpu_vram_mib=row.gpu_vram_mib,
        os=row.os,
        phone=row.phone,
        state=AccountState(row.state),
        session_epoch=row.session_epoch,
        connected=bool(row.connected),
        draining=bool(row.draining),
        models_reported=bool(row.models_reported),
        job_types=frozenset(JobType(name) for name in row.job_types.split()),
        last_heartbeat_ms=row.last_heartbeat_ms,
        gpu_status=json.loads(row.gpu_status),
        created_ms=row.created_ms,
        claimed_gpu=row.claimed_gpu,
        verdict=Verdict(row.verdict),
        verdict_reasons=tuple(VerdictReason(name) for name in row.verdict_reasons.split()),
        verdict_ms=row.verdict_ms,
        gpus_changed_ms=row.gpus_changed_ms,
        self_tests=tuple(_self_test(data) for data in json.loads(row.self_tests)),
    )
