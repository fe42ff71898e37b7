"""Owns how a path finds its route: by its segments, in a few look-ups, however many routes there are.

It does not know what a route does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Found(NamedTuple, Generic[T]):
    """A route, and the fields that its path holds."""

    route: T
    fields: Mapping[str, str]


class Table(Generic[T]):
    """Routes by pattern, such as `/api/jobs/{job_id}`.

    A field is one segment and never empty; a last field with `:path` is the rest of the path. A fixed segment
    comes before a field, and a field before a rest.
    """

    def __init__(self, routes: Mapping[str, T]) -> None:
        self.patterns: Sequence[str] = tuple(routes)
        self._fixed = {pattern: Found(route, {}) for pattern, route in routes.items() if "{" not in pattern}
        self._root: _Node[T] = _Node()
        for pattern, route in routes.items():
            self._add(pattern, route)

    def find(self, path: str) -> Found[T] | None:
        """The route of a path, or None."""
        if (fixed := self._fixed.get(path)) is not None:
            return fixed
        return self._root.find(path.split("/"), 0, ())

    def _add(self, pattern: str, route: T) -> None:
        node, names = self._root, []
        for segment in pattern.split("/"):
            if not segment.startswith("{"):
                node = node.fixed.setdefault(segment, _Node())
                continue
            name, _, kind = segment.strip("{}").partition(":")
            names.append(name)
            if kind:
                node.rest = node.rest or _Node()
                node = node.rest
            else:
                node.field = node.field or _Node()
                node = node.field
        node.route, node.names = route, tuple(names)


class _Node(Generic[T]):
    """A place in the tree of segments."""

    def __init__(self) -> None:
        self.fixed: dict[str, _Node[T]] = {}
        self.field: _Node[T] | None = None
        self.rest: _Node[T] | None = None
        self.route: T | None = None
        self.names: tuple[str, ...] = ()

    def find(self, segments: Sequence[str], depth: int, values: tuple[str, ...]) -> Found[T] | None:
        """The most specific route below this place that fits the segments from ``depth`` on, or None."""
        if depth == len(segments):
            return self._found(values)
        segment = segments[depth]
        found = None
        if (fixed := self.fixed.get(segment)) is not None:
            found = fixed.find(segments, depth + 1, values)
        if found is None and self.field is not None and segment:
            found = self.field.find(segments, depth + 1, (*values, segment))
        if found is None and self.rest is not None:
            found = self.rest.find((), 0, (*values, "/".join(segments[depth:])))
        return found

    def _found(self, values: tuple[str, ...]) -> Found[T] | None:
        return None if self.route is None else Found(self.route, dict(zip(self.names, values, strict=True)))
