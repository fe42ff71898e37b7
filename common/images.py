"""Owns names of container images: how they are read, and which of them a provider's patterns allow.

Pure. A name without a registry is Docker Hub's, and one without a tag or digest
has the tag `latest`, as for Docker itself. A registry on the provider's own machine or network is
allowed only by a pattern that names its host.
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
# The most patterns that a provider can have, and the most characters of one.
MAX_PATTERNS = 200
MAX_PATTERN_CHARACTERS = 500
# Names that no public registry can have: they are reserved, or used inside networks.
_LOCAL_SUFFIXES = (
    *(".localhost", ".local", ".localdomain", ".internal", ".intranet", ".private", ".lan", ".home"),
    *(".corp", ".arpa", ".test", ".invalid", ".example", ".onion"),
)
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)")


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
    def registry(self) -> str:
        """The host of its registry, in lower case and without a port."""
        return _host(self.repository.partition("/")[0])

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
    repository; one with a digest covers that very content. An image whose registry is an
    address or a host of a private network needs a pattern that names that host.
    """
    is_local = is_local_host(image.registry)
    return any(
        _covers(pattern, image) and (not is_local or _names(pattern, image.registry)) for pattern in patterns
    )


def is_local_host(host: str) -> bool:
    """Whether a host is an address, or a name that only the provider's machine or network knows.

    Every address counts, in each way of writing that a resolver reads: no public registry is named by one.
    """
    name = host.lower().rstrip(".")
    last = name.rpartition(".")[2]
    return "." not in name or _NUMBER.fullmatch(last) is not None or name.endswith(_LOCAL_SUFFIXES)


def _names(pattern: str, host: str) -> bool:
    """Whether a pattern names the host of a registry: `*` alone, which matches any host, does not."""
    first, slash, _ = pattern.partition("/")
    named = _host(first)
    return bool(slash) and named.strip("*?.") != "" and fnmatchcase(host, named)


def _host(registry: str) -> str:
    return registry.partition(":")[0].lower()


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
