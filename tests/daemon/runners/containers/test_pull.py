"""Pulling images from a registry: once, by tag or digest, with the digest recorded and the size limited."""

from __future__ import annotations

import os

import pytest

from daemon.runners.containers.settings import MIB
from tests.daemon.runners.bench import Bench, both_engines, offer
from tests.support.fake_registry import running_registry

pytestmark = pytest.mark.engine


@both_engines
@pytest.mark.parametrize("is_by_digest", [False, True])
async def test_image_is_pulled_once_and_its_digest_recorded(bench: Bench, is_by_digest: bool) -> None:
    with running_registry(os.urandom(100)) as registry:
        name = registry.by_digest if is_by_digest else registry.name
        outcome = await bench.run(offer("echo", "hello", image=name))
        assert (outcome.reason, outcome.output) == ("", b"hello\n")
        assert outcome.log.startswith(f"[dcp] image {name} {registry.digest}\n".encode())
        registry.asked.clear()
        assert (await bench.run(offer("true", image=name))).reason == ""
        assert registry.asked == []


async def test_digest_that_the_registry_does_not_have_cannot_be_pulled(bench: Bench) -> None:
    with running_registry() as registry:
        name = f"{registry.name.rpartition(':')[0]}@sha256:{'1' * 64}"
        outcome = await bench.run(offer("true", image=name))
        assert outcome.reason == "IMAGE_PULL_FAILED"
        assert "its registry has no such image" in str(outcome.error)


@both_engines
async def test_image_that_is_too_large_is_not_pulled(bench: Bench) -> None:
    bench.restrict(image_bytes=4 * MIB)
    with running_registry(os.urandom(8 * MIB)) as registry:
        outcome = await bench.run(offer("true", image=registry.name))
        assert outcome.reason == "IMAGE_PULL_FAILED"
        assert "larger than this provider's 4 MiB compressed" in str(outcome.error)
        assert registry.name not in bench.engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}")
