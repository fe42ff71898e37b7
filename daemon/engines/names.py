"""Owns under which public names the models of an attached server are offered, and why others are not.

Pure. What a server lists may be a name, a pattern, or the path of a file on the provider's machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath, PureWindowsPath

from daemon.runners import MAX_MODELS

MAX_NAME_CHARACTERS = 300
_PATTERN = re.compile(r"[*?]")
_PATH = re.compile(r"[/~.\\]|[A-Za-z]:[\\/]|file:")
_MODEL_FILE = re.compile(r".*[\\/].*\.(gguf|safetensors|bin|pt|onnx)", re.IGNORECASE | re.DOTALL)
_REMEDY = "name it in DCP_ALIASES"


@dataclass(frozen=True)
class Catalogue:
    """What is offered of a server's models, and what is not."""

    served: Mapping[str, str] = field(default_factory=dict)
    """Public name to the server's own."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """The server's own name to why it is not offered, and the remedy."""


def catalogue(listed: Collection[str], aliases: Mapping[str, str]) -> Catalogue:
    """The offer of a server that lists these models; aliases come first, then the list in its order."""
    patterns = [name for name in listed if _PATTERN.search(name)]
    served: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for public, name in aliases.items():
        if name in listed or any(fnmatchcase(name, pattern) for pattern in patterns):
            served[public] = name
        else:
            left_out[name] = f"DCP_ALIASES names it as {public}, and the server does not list it"
    with_alias = set(served.values())
    for name in listed:
        if name in with_alias:
            continue
        public = _base_name(name) if _is_path(name) else name
        if why := _unfit(public) or _taken(public, served):
            left_out[name] = why
        else:
            served[public] = name
    for public in list(served)[MAX_MODELS:]:
        left_out[served.pop(public)] = f"at most {MAX_MODELS} are offered, those of DCP_ALIASES first"
    return Catalogue(served, left_out)


def _is_path(name: str) -> bool:
    """Whether it says where a file lies on the provider's machine, which is nobody else's business."""
    return bool(_PATH.match(name) or _MODEL_FILE.fullmatch(name))


def _base_name(path: str) -> str:
    kind = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name


def _unfit(public: str) -> str:
    if not public:
        return f"its path has no file name: {_REMEDY}"
    if len(public) > MAX_NAME_CHARACTERS:
        return f"its name has more than {MAX_NAME_CHARACTERS} characters: {_REMEDY}"
    if _PATTERN.search(public):
        return "it is a pattern: name the models that it stands for in DCP_ALIASES"
    if any(character.isspace() or not character.isprintable() for character in public):
        return f"its name has spaces or invisible characters: {_REMEDY}"
    return ""


def _taken(public: str, served: Mapping[str, str]) -> str:
    return f"another model has the name {public}: {_REMEDY}" if public in served else ""
