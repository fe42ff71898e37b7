"""Which of a server's models are offered, under which names, and what the provider is told of the others."""

from __future__ import annotations

import pytest

from daemon.engines.names import catalogue
from daemon.runners import MAX_MODELS


@pytest.mark.parametrize("name", ["llama3.2:latest", "org/model-7B", "accounts/x/models/y", "نموذج"])
def test_plain_name_is_offered_as_it_is(name: str) -> None:
    assert catalogue([name], {}).served == {name: name}


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("/srv/sara/models/llama-7b.Q4.gguf", "llama-7b.Q4.gguf"),
        ("/models/llama-8b/", "llama-8b"),
        ("~/models/x.gguf", "x.gguf"),
        ("./x.gguf", "x.gguf"),
        ("models/7b/x.gguf", "x.gguf"),
        ("C:\\models\\sara\\x.gguf", "x.gguf"),
        ("C:/models/sara/x.gguf", "x.gguf"),
        ("file:///srv/sara/x", "x"),
    ],
)
def test_path_on_the_providers_machine_is_offered_by_its_base_name(path: str, public: str) -> None:
    assert catalogue([path], {}).served == {public: path}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Claude 4 Sonnet (new)", "spaces"),
        ("tab\tname", "spaces"),
        ("hidden\u200bname", "invisible"),
        ("half\ud800", "invisible"),
        ("*", "pattern"),
        ("smol*", "pattern"),
        ("/", "no file name"),
        ("x" * 301, "more than 300"),
    ],
)
def test_model_that_is_not_offered_has_a_reason_and_a_remedy(name: str, why: str) -> None:
    offer = catalogue([name], {})
    assert offer.served == {}
    assert why in offer.left_out[name]
    assert "DCP_ALIASES" in offer.left_out[name]


@pytest.mark.parametrize("name", ["Claude 4 Sonnet (new)", "/srv/sara/x.gguf", "x" * 301])
def test_alias_gives_any_listed_model_a_public_name(name: str) -> None:
    offer = catalogue([name], {"public/name": name})
    assert offer.served == {"public/name": name}
    assert offer.left_out == {}


def test_alias_names_a_model_behind_a_pattern() -> None:
    offer = catalogue(["smol*"], {"public/smol": "smol-135m", "public/other": "llama"})
    assert offer.served == {"public/smol": "smol-135m"}
    assert offer.left_out.keys() == {"llama", "smol*"}


def test_alias_of_a_model_that_is_not_listed_is_reported() -> None:
    assert "does not list it" in catalogue(["a"], {"public/b": "b"}).left_out["b"]


def test_alias_reaches_the_230th_model_and_comes_before_the_others() -> None:
    listed = [f"m{number}" for number in range(300)]
    offer = catalogue(listed, {"public/last": "m229"})
    assert offer.served["public/last"] == "m229"
    assert len(offer.served) == MAX_MODELS
    assert len(offer.left_out) == 300 - MAX_MODELS
    assert "m229" not in offer.left_out


def test_two_files_of_one_name_are_not_confused() -> None:
    offer = catalogue(["/a/x.gguf", "/b/x.gguf"], {})
    assert offer.served == {"x.gguf": "/a/x.gguf"}
    assert "another model" in offer.left_out["/b/x.gguf"]
