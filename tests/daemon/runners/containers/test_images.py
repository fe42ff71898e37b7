"""Names of images: how they are parsed, and which of them a provider's patterns cover."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runners.containers.images import ImageNameError, is_allowed, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "in_full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("acme/trainer", "docker.io/acme/trainer:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("ghcr.io/acme/team/trainer:v1", "ghcr.io/acme/team/trainer:v1"),
        ("localhost/x", "localhost/x:latest"),
        ("127.0.0.1:5000/x:y", "127.0.0.1:5000/x:y"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
    ],
)
def test_image_name_is_completed(text: str, in_full: str) -> None:
    assert str(parse(text)) == in_full
    assert parse(in_full) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-v", "Busybox", "a//b", "a/../b", "../x", "/x", "x/", "a:", "a@sha256:1", "a b", "a\n"),
        *("http://x/y", "a:b:c", "x" * 501, "é", f"x@{DIGEST}@{DIGEST}", "a" * 400 + "!"),
    ],
)
def test_malformed_image_name_is_refused(text: str) -> None:
    with pytest.raises(ImageNameError):
        parse(text)


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("*", "anything/at:all"),
        ("busybox", "busybox:1"),
        ("busybox", f"busybox@{DIGEST}"),
        ("busybox:1.*", "busybox:1.36"),
        ("docker.io/library/busybox", "busybox"),
        ("acme/*", "acme/trainer:v2"),
        ("ghcr.io/acme/*", "ghcr.io/acme/team/trainer"),
        ("*.example.com/*", "r.example.com/x:1"),
        (f"busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox@{DIGEST}", f"busybox:1@{DIGEST}"),
    ],
)
def test_pattern_covers_an_image(pattern: str, image: str) -> None:
    assert is_allowed(parse(image), ["nothing/of/this", pattern])


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("busybox", "busybox-evil"),
        ("busybox", "evil/busybox"),
        ("busybox", "ghcr.io/library/busybox"),
        ("busybox:1.36", "busybox:1.37"),
        ("busybox:1.36", "busybox"),
        ("busybox:1.36", f"busybox@{DIGEST}"),
        (f"busybox@{DIGEST}", "busybox"),
        (f"busybox@{DIGEST}", "busybox@sha256:" + "b" * 64),
        ("acme/*", "acme-evil/trainer"),
        ("ghcr.io/acme/*", "ghcr.io.evil.com/acme/x"),
        ("ghcr.io/acme/*", "evil.com/ghcr.io/acme/x"),
        ("acme/*", "ghcr.io/acme/x"),
    ],
)
def test_pattern_does_not_cover_other_images(pattern: str, image: str) -> None:
    assert not is_allowed(parse(image), [pattern])


def test_without_patterns_no_image_is_allowed() -> None:
    assert not is_allowed(parse("busybox"), [])


@given(st.text(max_size=600))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        image = parse(text)
    except ImageNameError:
        return
    assert parse(str(image)) == image
