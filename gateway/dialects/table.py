"""The dialects by their paths, with what each is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.dialects import Form
from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.dialects.openai_embeddings import OpenAIEmbeddings
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.works import CHATS, EMBEDDINGS, Work


class Door(NamedTuple):
    """A path of `/v1` for a POST."""

    dialect: Form
    about: str
    work: Work = CHATS


DIALECTS: Mapping[str, Door] = {
    "/v1/chat/completions": Door(OpenAIChat(), "OpenAI's chat completions, whole or streamed, with tools"),
    "/v1/completions": Door(OpenAICompletions(), "OpenAI's older completions of one prompt"),
    "/v1/responses": Door(
        OpenAIResponses(), "OpenAI's responses, whole or streamed, with tools; nothing is kept"
    ),
    "/v1/messages": Door(AnthropicMessages(), "Anthropic's messages, whole or streamed, with tools"),
    "/v1/embeddings": Door(
        OpenAIEmbeddings(), "OpenAI's embeddings, as numbers or base64, up to 2,048 texts at once", EMBEDDINGS
    ),
}
