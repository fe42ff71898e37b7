"""The newest proof of each provider's GPUs, as rows. Every function runs inside its caller's transaction."""

from __future__ import annotations

import json

from server.domain.gpu_proofs import GpuProof, ProofOutcome
from server.store import models as db
from server.store.models import tuples
from server.store.prepared import PreparedQuery, arg

# The newest speeds that another is compared with.
SPEEDS = 100

_find = PreparedQuery(
    lambda: db.GpuProof.select(
        db.GpuProof.outcome,
        db.GpuProof.uuids,
        db.GpuProof.gpu_model,
        db.GpuProof.mib,
        db.GpuProof.kib_per_second,
        db.GpuProof.decided_ms,
    ).where(db.GpuProof.provider_id == arg("id"))
)


def newest(provider_id: int) -> GpuProof | None:
    """The newest proof of a provider, whatever it showed."""
    row = _find.one(id=provider_id)
    if row is None:
        return None
    outcome, uuids, gpu_model, mib, kib_per_second, decided_ms = row
    return GpuProof(
        ProofOutcome(outcome),
        frozenset(json.loads(uuids)),
        str(gpu_model),
        int(mib),
        int(kib_per_second) / 1024,
        int(decided_ms),
    )


def replace(provider_id: int, proof: GpuProof) -> None:
    """Stores the newest proof of a provider."""
    db.GpuProof.delete().where(db.GpuProof.provider_id == provider_id).execute()
    db.GpuProof.insert(
        provider_id=provider_id,
        outcome=proof.outcome.value,
        uuids=json.dumps(sorted(proof.uuids)),
        gpu_model=proof.gpu_model,
        mib=proof.mib,
        kib_per_second=round(proof.mib_per_second * 1024),
        decided_ms=proof.decided_ms,
    ).execute()


def speeds(gpu_model: str, but_provider_id: int, since_ms: int) -> list[float]:
    """How fast the GPUs of other providers with a model were filled, in MiB a second, the newest."""
    query = (
        db.GpuProof.select(db.GpuProof.kib_per_second)
        .where(
            db.GpuProof.gpu_model == gpu_model,
            db.GpuProof.decided_ms >= since_ms,
            db.GpuProof.outcome == ProofOutcome.PASSED.value,
            db.GpuProof.provider_id != but_provider_id,
        )
        .order_by(db.GpuProof.decided_ms.desc())
        .limit(SPEEDS)
    )
    return [int(speed) / 1024 for (speed,) in tuples(query)]
