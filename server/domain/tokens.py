"""How many tokens a run can have, by what its job asks for and by what the server relayed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.domain.pricing import Counts

# The answer of a job that asks for no number of tokens, at least as daemons have it.
DEFAULT_MAX_TOKENS = 256
# What a chat template may add to a prompt, in tokens: around the conversation, and around each message. A
# report is believed up to these.
TEMPLATE_TOKENS = 1024
MESSAGE_TOKENS = 32
# Of that, what a renter pays for; so what the first is is known before the job runs.
PAID_TEMPLATE_TOKENS = 64
PAID_MESSAGE_TOKENS = 16
# What a model may read a picture, a sound or a film as: believed, and paid for.
MEDIUM_TOKENS, PAID_MEDIUM_TOKENS = 16_384, 4096
# Where no count was reported of a run that is charged, a token stands for so many bytes of its output.
BYTES_A_TOKEN = 4


def max_tokens(spec: Mapping[str, Any]) -> int:
    """The most tokens of the answer, in all of its choices."""
    return int(_params(spec).get("max_tokens", DEFAULT_MAX_TOKENS)) * choices(spec)


def choices(spec: Mapping[str, Any]) -> int:
    """How many answers are wanted; 0 where texts are embedded: the model writes nothing."""
    return int((carried(spec) or {}).get("choices", 1))


def carried(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a job carries in the form of another API: a conversation, or texts to embed; None for others."""
    found: Mapping[str, Any] | None = spec.get("chat") or spec.get("embeddings")
    return found


def is_too_long(spec: Mapping[str, Any], context_tokens: int) -> bool:
    """Whether a text, or a prompt and its answer, may not fit into a context of so many tokens."""
    if (texts := spec.get("embeddings")) is not None:
        return int(texts["longest_bytes"]) + MESSAGE_TOKENS > context_tokens
    return most_prompt(spec) + max_tokens(spec) > context_tokens


def most_prompt(spec: Mapping[str, Any]) -> int:
    """The most tokens that a prompt can have: no token is shorter than a byte."""
    return _prompt(spec, TEMPLATE_TOKENS, MESSAGE_TOKENS, MEDIUM_TOKENS)


def paid(spec: Mapping[str, Any]) -> Counts:
    """The most tokens that a renter pays for."""
    prompt = _prompt(spec, PAID_TEMPLATE_TOKENS, PAID_MESSAGE_TOKENS, PAID_MEDIUM_TOKENS)
    return Counts(prompt, max_tokens(spec))


def billed(spec: Mapping[str, Any], usage: Mapping[str, Any] | None, written: int) -> Counts:
    """The tokens of a run that are paid for; without a report, by what it wrote: bytes, or vectors."""
    most = paid(spec)
    if (texts := spec.get("embeddings")) is not None:
        share = int(texts["likely_tokens"]) * min(written, int(texts["turns"])) // int(texts["turns"])
        counted = usage or {}
        prompt = min(most.prompt, int(counted.get("prompt_tokens", 0)) or share)
        return Counts(prompt, 0, min(prompt, int(counted.get("cached_tokens", 0))))
    if usage is None or not usage.get("completion_tokens"):
        return Counts(0, min(most.completion, -(-written // BYTES_A_TOKEN)))
    prompt = min(most.prompt, int(usage.get("prompt_tokens", 0)))
    cached = min(prompt, int(usage.get("cached_tokens", 0)))
    return Counts(prompt, min(most.completion, int(usage["completion_tokens"])), cached)


def with_max_tokens(spec: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The same request for an answer of at most so many tokens, in all of its choices."""
    return {**spec, "params": {**_params(spec), "max_tokens": most // choices(spec)}}


def _prompt(spec: Mapping[str, Any], template: int, each: int, medium: int) -> int:
    if (given := carried(spec)) is not None:
        return int(given["text_bytes"]) + template + each * int(given["turns"]) + medium * int(given["media"])
    params = _params(spec)
    messages = params.get("messages", [])
    texts = [params.get("prompt", ""), *(message.get("content", "") for message in messages)]
    return sum(len(text.encode()) for text in texts) + template + each * len(messages)


def _params(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    params: Mapping[str, Any] = spec.get("params", {})
    return params
