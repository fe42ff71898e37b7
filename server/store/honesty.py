"""Verdicts on providers and the UUIDs of their GPUs, as rows. Runs inside its caller's transaction."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence

from server.domain.honesty import Verdict, VerdictReason
from server.store.models import Provider, ProviderGpu
from server.store.prepared import PreparedQuery, arg, bound

MAX_SHARING = 20


_uuids = PreparedQuery(
    lambda: ProviderGpu.select(ProviderGpu.uuid).where(ProviderGpu.provider_id == arg("id"))
)
_delete_uuids = PreparedQuery(lambda: ProviderGpu.delete().where(ProviderGpu.provider_id == arg("id")))
_insert_uuid = PreparedQuery(
    lambda: ProviderGpu.insert({ProviderGpu.provider_id: arg("id"), ProviderGpu.uuid: arg("uuid")})
)
_set_verdict = PreparedQuery(
    lambda: Provider.update(bound(Provider, "verdict", "verdict_reasons", "verdict_ms")).where(
        Provider.id == arg("id")
    )
)


def uuids(provider_id: int) -> frozenset[str]:
    """The GPUs that a provider last reported."""
    return frozenset(uuid for (uuid,) in _uuids.all(id=provider_id))


def replace_uuids(provider_id: int, uuids: Collection[str], changed_ms: int | None) -> None:
    """The provider has these GPUs now; ``changed_ms``: since when, where it had others before."""
    _delete_uuids.run(id=provider_id)
    for uuid in sorted(set(uuids)):
        _insert_uuid.run(id=provider_id, uuid=uuid)
    if changed_ms is not None:
        Provider.update(gpus_changed_ms=changed_ms).where(Provider.id == provider_id).execute()


def sharing(provider_id: int, uuids: Collection[str], since_ms: int) -> list[int]:
    """Other providers with a heartbeat after ``since_ms`` that report one of these GPUs, by id.

    Some of them, where many do: each was judged when it reported them.
    """
    if not uuids:
        return []
    values = {f"uuid{number}": uuid for number, uuid in enumerate(uuids)}
    rows = _sharing(len(uuids)).all(id=provider_id, since_ms=since_ms, **values)
    return sorted({int(other) for (other,) in rows})


@functools.lru_cache(maxsize=64)
def _sharing(uuids: int) -> PreparedQuery:
    return PreparedQuery(
        lambda: (
            ProviderGpu.select(ProviderGpu.provider_id)
            .join(Provider, on=(Provider.id == ProviderGpu.provider_id))
            .where(
                ProviderGpu.uuid.in_([arg(f"uuid{number}") for number in range(uuids)]),
                ProviderGpu.provider_id != arg("id"),
                Provider.last_heartbeat_ms > arg("since_ms"),
            )
            .limit(MAX_SHARING)
        )
    )


def set_verdict(provider_id: int, verdict: Verdict, reasons: Sequence[VerdictReason], now_ms: int) -> None:
    """The verdict from now on."""
    _set_verdict.run(
        id=provider_id, verdict=verdict.value, verdict_reasons=" ".join(reasons), verdict_ms=now_ms
    )
