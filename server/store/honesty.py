"""Verdicts on providers and the UUIDs of their GPUs, as rows. Runs inside its caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from server.domain.honesty import Verdict, VerdictReason
from server.store.models import Provider, ProviderGpu, tuples

MAX_SHARING = 20


def uuids(provider_id: int) -> frozenset[str]:
    """The GPUs that a provider last reported."""
    query = ProviderGpu.select(ProviderGpu.uuid).where(ProviderGpu.provider_id == provider_id)
    return frozenset(uuid for (uuid,) in tuples(query))


def replace_uuids(provider_id: int, uuids: Collection[str], changed_ms: int | None) -> None:
    """The provider has these GPUs now; ``changed_ms``: since when, where it had others before."""
    ProviderGpu.delete().where(ProviderGpu.provider_id == provider_id).execute()
    rows = [{"provider_id": provider_id, "uuid": uuid} for uuid in sorted(set(uuids))]
    if rows:
        ProviderGpu.insert_many(rows).execute()
    if changed_ms is not None:
        Provider.update(gpus_changed_ms=changed_ms).where(Provider.id == provider_id).execute()


def sharing(provider_id: int, uuids: Collection[str], since_ms: int) -> list[int]:
    """Other providers with a heartbeat after ``since_ms`` that report one of these GPUs, by id.

    Some of them, where many do: each was judged when it reported them.
    """
    query = (
        ProviderGpu.select(ProviderGpu.provider_id)
        .join(Provider, on=(Provider.id == ProviderGpu.provider_id))
        .where(
            ProviderGpu.uuid.in_(list(uuids)),
            ProviderGpu.provider_id != provider_id,
            Provider.last_heartbeat_ms > since_ms,
        )
        .limit(MAX_SHARING)
    )
    return sorted({int(other) for (other,) in tuples(query)}) if uuids else []


def set_verdict(provider_id: int, verdict: Verdict, reasons: Sequence[VerdictReason], now_ms: int) -> None:
    """The verdict from now on."""
    Provider.update(verdict=verdict.value, verdict_reasons=" ".join(reasons), verdict_ms=now_ms).where(
        Provider.id == provider_id
    ).execute()
