"""Compares versions as PEP 440 orders them. It must not know whose they are, nor what follows.

`packaging` is the one library in the domain: it is as pure as the standard library.
"""

from __future__ import annotations

import re

from packaging.version import Version

_LEADING_NUMBERS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")


def parse(text: str) -> Version | None:
    """The version that a text is; None for one that does not begin with a number.

    Drivers and toolkits need not follow PEP 440: of a text that it does not accept, such as
    `550.54.15-open`, the leading numbers count.
    """
    numbers = _LEADING_NUMBERS.match(text)
    if numbers is None:
        return None
    try:
        return Version(text)
    except ValueError:
        return Version(numbers[0])


def is_older(version: str, other: str) -> bool:
    """Whether a version comes before another; False if either is not a version."""
    first, second = parse(version), parse(other)
    return first is not None and second is not None and first < second
