"""Owns which path a caller probably meant by one that does not exist; `common.nearest` is the same for names.

It costs little whatever is asked, and shows only what is known: never what the caller sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100
_LIKE = 0.75


def nearest_path(path: str, templates: Iterable[str]) -> str:
    """The template of the path that is closest to the path; empty if none is close.

    Only fixed parts are compared, since a field such as `{job_id}` can have any value.
    """
    if len(path) > 3 * _LONGEST:
        return ""
    parts = path.strip("/").split("/")
    tries = (parts, ["api", *parts])
    scores = {
        template: max(_likeness(part, template.strip("/").split("/")) for part in tries)
        for template in templates
    }
    best = max(scores, key=lambda template: scores[template], default="")
    return best if scores.get(best, 0) >= _LIKE else ""


def _likeness(parts: list[str], template: list[str]) -> float:
    if len(parts) != len(template):
        return 0
    fixed = [(part, known) for part, known in zip(parts, template, strict=True) if not known.startswith("{")]
    given, known = ("/".join(side) for side in zip(*fixed, strict=True)) if fixed else ("", "")
    match = difflib.SequenceMatcher(None, given, known)
    if match.real_quick_ratio() < _LIKE or match.quick_ratio() < _LIKE:
        return 0
    return match.ratio()
