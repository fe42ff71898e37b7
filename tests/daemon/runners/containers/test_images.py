"""Names of images: how they are parsed, and which of them a provider's patterns cover."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.images import ImageNameError, is_allowed, is_local_host, parse

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


LOCAL = [
    *("127.0.0.1", "127.0.0.1:5000", "10.0.0.7:80", "192.168.1.1", "169.254.169.254", "8.8.8.8", "127.1"),
    *("2130706433:5000", "0x7f000001:80", "0x7f.1:80", "0177.0.0.1", "1.2.3.4.:80"),
    *("localhost", "localhost:5000", "LOCALHOST", "registry:5000", "nas:80", "Router:80", "metadata:80"),
    *("registry.local", "nas.lan:5000", "metadata.google.internal", "a.localhost", "x.corp:1", "y.home.arpa"),
    *("NAS.Local", "registry.internal."),
]


@pytest.mark.parametrize("registry", LOCAL)
def test_registry_on_the_providers_network_needs_a_pattern_that_names_its_host(registry: str) -> None:
    image = parse(f"{registry}/team/tool:1")
    assert image.registry == registry.partition(":")[0].lower()
    host = registry.partition(":")[0].lower()
    for pattern in ("*", "*/*", "*:*/*", "*/team/tool", "*:5000/team/tool", "team/*", "?*/team/tool"):
        assert not is_allowed(image, [pattern]), pattern
    assert is_allowed(image, ["*", f"{registry}/team/tool"])
    assert is_allowed(image, [f"{registry}/*"])
    assert not is_allowed(image, ["*", f"x{host}/*"])


@pytest.mark.parametrize(
    "host", ["docker.io", "ghcr.io", "registry.example.com", "nvcr.io", "5.registry.org", "r.0x7f.org"]
)
def test_public_registry_needs_no_pattern_of_its_own(host: str) -> None:
    assert not is_local_host(host)
    assert is_allowed(parse(f"{host}/team/tool:1"), ["*"])


@given(st.text(max_size=600))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        image = parse(text)
    except ImageNameError:
        return
    assert parse(str(image)) == image
