"""Compares versions in the order of PEP 440. It must not know what has the version, or what to do about it.

`packaging` is the only library in the domain: it does no input or output.
"""

from __future__ import annotations

import re

from packaging.version import Version

_LEADING_NUMBERS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")


def parse(text: str) -> Version | None:
    """The version in a text; None if the text does not begin with a number.

    Versions of drivers and toolkits need not follow PEP 440: if it does not accept a text, such as
    `550.54.15-open`, the leading numbers are used.
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
