"""Providers: the models that they serve, and the public list."""

from __future__ import annotations

from functools import partial

import pytest

from server.domain.gpus import GpuReport
from server.domain.placement import Model
from server.store import providers, sessions
from server.store.database import Database
from server.store.models import Provider
from server.store.providers import Filters
from server.store.sessions import Beat
from tests.server.store.rows import NOW_MS, Rows


async def test_models_are_replaced_as_a_whole(database: Database, rows: Rows) -> None:
    provider_id = await rows.provider()
    row = await database.read(lambda: providers.get(provider_id))
    assert row is not None
    assert not row.models_reported
    histories: list[list[Model]] = [[Model("a"), Model("b"), Model("b", 7)], [Model("c", 10, True)], []]
    for models in histories:
        await database.run(partial(providers.replace_models, provider_id, models))
    row = await database.read(lambda: providers.get(provider_id))
    assert row is not None
    assert row.models_reported
    assert await database.read(lambda: providers.models_of([provider_id])) == {provider_id: []}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [1, 2]),
        ({"gpu_model": "rtx"}, []),
        ({"gpu_model": "rtx4090"}, [1]),
        ({"gpu_model": "GeForce RTX 4090"}, [1]),
        ({"gpu_model": "H100 80GB"}, [2]),
        ({"gpu_model": "H100 94GB"}, []),
        ({"gpu_model": "%"}, []),
        ({"gpu_model": "_"}, []),
        ({"min_vram_mib": 24577}, [2]),
        ({"model": "a"}, [1]),
        ({"model": "A"}, []),
        ({"offset": 1}, [2]),
        ({"after_id": 1}, [2]),
        ({"limit": 1}, [1]),
    ],
)
async def test_public_list_is_filtered(
    database: Database, rows: Rows, filters: dict[str, int | str], found: list[int]
) -> None:
    ids = [await rows.provider() for _ in range(4)]
    gpus = [("NVIDIA RTX 4090", 24576), ("NVIDIA H100", 81920), ("NVIDIA RTX 3090", 24576), ("RTX 1", 1)]
    beats = [
        Beat(provider_id, NOW_MS if n < 3 else NOW_MS - 30_000, GpuReport(gpu_name=name, gpu_vram_mib=vram))
        for n, (provider_id, (name, vram)) in enumerate(zip(ids, gpus, strict=True))
    ]
    await database.run(lambda: sessions.write_beats(beats))
    await database.run(lambda: providers.replace_models(ids[0], [Model("a")]))
    await database.run(lambda: Provider.update(state="suspended").where(Provider.id == ids[2]).execute())
    view = {name: filters[name] for name in {"after_id", "offset", "limit"} & set(filters)}
    of_rows = Filters(**{name: value for name, value in filters.items() if name not in view})  # type: ignore[arg-type]
    listed, total = await database.read(
        lambda: providers.live(of_rows, since_ms=NOW_MS - 30_000, **({"limit": 10} | view))  # type: ignore[arg-type]
    )
    assert [ids.index(row.id) + 1 for row in listed] == found
    assert total == (2 if {"after_id", "offset", "limit"} & set(filters) else len(found))
