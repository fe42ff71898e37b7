"""What the doctor says about an attached model server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.cli import doctor
from daemon.config.config import Config, from_env
from tests.support.openai_server import Raw, Script, openai_server


def findings(script: Script, folder: Path) -> list[str]:
    with openai_server(script) as url:
        config = from_env(
            {
                "DCP_ATTACHED_URL": url,
                "DCP_ALIASES": "public/claude=Claude 4 (new)",
                "DCP_STATE_DIR": str(folder),
                "DCP_SERVER": "127.0.0.1:1",
            }
        )
        return asyncio.run(_about_attached(config))


async def _about_attached(config: Config) -> list[str]:
    return [str(finding) async for finding in doctor.findings(config) if "attached" in finding.text]


def test_models_that_are_not_offered_are_named_with_the_remedy(tmp_path: Path) -> None:
    ids = ["Claude 4 (new)", "GPT 5 (old)", "smol*"]
    offered, left_out = findings(Script(models=[{"id": name} for name in ids]), tmp_path)
    assert offered.startswith("ok")
    assert offered.endswith(": public/claude")
    assert left_out.startswith("warn")
    assert "'GPT 5 (old)' (its name has spaces or invisible characters: name it in DCP_ALIASES)" in left_out
    assert "'smol*' (it is a pattern" in left_out
    assert "Claude" not in left_out


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"<html>", "it is HTML, not JSON"),
        (b"[" * 200_000, "its JSON is nested too deeply"),
        (b'{"data": null}', 'its "data" is null'),
        (b'{"data": []}', "it lists no model that can be offered"),
    ],
)
def test_list_that_cannot_be_used_has_its_own_sentence(tmp_path: Path, body: bytes, sentence: str) -> None:
    finding, *_ = findings(Script(list_answer=Raw(body)), tmp_path)
    assert finding.startswith("fail")
    assert sentence in finding
