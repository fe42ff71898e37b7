"""Owns names of container images: how they are read, and which of them the provider allows.

Pure. A name without a registry is Docker Hub's, and one without a tag or digest
has the tag `latest`, as for Docker itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

_DOMAIN = r"[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_HUB = "docker.io"


class ImageNameError(ValueError):
    """The text is not the name of an image."""


@dataclass(frozen=True)
class Image:
    """An image as it was named, in full."""

    repository: str
    """With its registry: `docker.io/library/python`."""
    tag: str
    """Empty: named only by its digest."""
    digest: str
    """`sha256:...`; empty: named only by its tag."""

    @property
    def exact(self) -> str:
        """How an engine is asked for it: a digest says which content, and a tag beside it is for people."""
        return f"{self.repository}@{self.digest}" if self.digest else str(self)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Image:
    """The image that a renter names. Raises ImageNameError."""
    found = _NAME.fullmatch(text)
    if found is None or len(text) > 500:
        raise ImageNameError(text)
    domain, path = found["domain"], found["path"]
    if domain is not None and not _is_registry(domain):
        domain, path = None, f"{domain}/{path}"
    digest = found["digest"] or ""
    tag = found["tag"] or ("" if digest else "latest")
    return Image(_in_full(domain, path), tag, digest)


def is_allowed(image: Image, patterns: Sequence[str]) -> bool:
    """Whether one of the provider's patterns covers the image; without patterns, none is.

    `*` matches anything. A pattern without a tag or a digest covers all of a
    repository; one with a digest covers that very content.
    """
    return any(_covers(pattern, image) for pattern in patterns)


def _covers(pattern: str, image: Image) -> bool:
    if pattern == "*":
        return True
    name, _, digest = pattern.partition("@")
    repository, tag = _split_tag(name)
    if not fnmatchcase(image.repository, _pattern_in_full(repository)):
        return False
    if digest:
        return bool(image.digest) and fnmatchcase(image.digest, digest)
    # An image named only by its digest has no tag to compare.
    return not tag or tag == "*" or (bool(image.tag) and fnmatchcase(image.tag, tag))


def _split_tag(name: str) -> tuple[str, str]:
    """The repository and the tag; a colon before the last slash is a registry's port."""
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", tag


def _pattern_in_full(repository: str) -> str:
    first, slash, rest = repository.partition("/")
    if slash and (_is_registry(first) or "*" in first):
        return f"{first}/{rest}"
    return _in_full(None, repository)


def _in_full(domain: str | None, path: str) -> str:
    if domain in (None, _HUB, "index.docker.io"):
        return f"{_HUB}/{path}" if "/" in path else f"{_HUB}/library/{path}"
    return f"{domain}/{path}"


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first.lower() != first
