"""Who is at fault by the public texts of model servers, in each of the forms in which they come."""

from __future__ import annotations

from typing import Any

import pytest
from dcp.v1 import jobs_pb2

from daemon.engines.refusals import ServerError, error_of_body, error_of_event, refusal

PROMPT_TOO_LONG = jobs_pb2.FAILURE_REASON_PROMPT_TOO_LONG
BAD_PARAMS = jobs_pb2.FAILURE_REASON_BAD_PARAMS
ENGINE_FAILED = jobs_pb2.FAILURE_REASON_ENGINE_FAILED

TOO_LONG = [
    pytest.param(
        400,
        b'{"object":"error","message":"This model\'s maximum context length is 4096 tokens. However, you '
        b"requested 4472 tokens. Please reduce the length of the "
        b'messages.","type":"BadRequestError","code":400}',
        id="vLLM to 0.10, SGLang's form",
    ),
    pytest.param(
        400,
        b'{"error":{"message":"The decoder prompt (length 5000) is longer than the maximum '
        b'model length of 4096",'
        b'"type":"BadRequestError","param":null,"code":400}}',
        id="vLLM",
    ),
    pytest.param(
        400,
        b'{"object":"error","message":"The input (61709 tokens) is longer than the model\'s context length '
        b'(40960 tokens).","type":"BadRequestError","param":null,"code":400}',
        id="SGLang",
    ),
    pytest.param(
        400,
        b'{"object":"error","message":"Input length (160062 tokens) exceeds the maximum allowed length '
        b'(59862 tokens).","code":400}',
        id="SGLang with little memory",
    ),
    pytest.param(
        400,
        b'{"error":"The number of tokens to keep from the initial prompt is greater than the context length '
        b'(n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length."}',
        id="LM Studio",
    ),
    pytest.param(
        400,
        b'{"error":"Trying to keep the first 4500 tokens when context the overflows. However, the model is '
        b'loaded with context length of only 4096 tokens, which is not enough."}',
        id="LM Studio, older",
    ),
    pytest.param(
        400,
        b'{"error":{"code":400,"message":"request (3004 tokens) exceeds the available context size (2048 '
        b"tokens), try increasing "
        b'it","type":"exceed_context_size_error","n_prompt_tokens":3004,"n_ctx":2048}}',
        id="llama.cpp",
    ),
    pytest.param(
        500, b'{"error":{"code":500,"message":"Context size has been exceeded."}}', id="llama.cpp, older"
    ),
    pytest.param(
        400,
        b'{"error":{"message":"Requested tokens (5000) exceed context window of 512","type":'
        b'"invalid_request_error","param":"messages","code":"context_length_exceeded"}}',
        id="llama-cpp-python",
    ),
    pytest.param(
        400,
        b'{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: the request is '
        b'refused","type":null,"param":null,"code":"400"}}',
        id="litellm",
    ),
    pytest.param(
        422,
        b'{"error":"Input validation error: `inputs` must have less than 1024 tokens. Given: 3005",'
        b'"error_type":"validation"}',
        id="text-generation-inference",
    ),
    pytest.param(400, b"This model's maximum context length is 8 tokens", id="plain text"),
    pytest.param(400, b'{"detail":"prompt is too long: 9 tokens > 8 maximum"}', id="detail"),
    pytest.param(413, b'{"errors":[{"msg":"context length exceeded"}]}', id="a list of errors"),
]


@pytest.mark.parametrize(("status", "body"), TOO_LONG)
def test_prompt_that_is_too_long_is_recognized(status: int, body: bytes) -> None:
    error = refusal(error_of_body(status, body), 4096)
    assert error.reason == PROMPT_TOO_LONG
    assert "4096 tokens" in error.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(
            400,
            b'{"object":"error","message":"As of transformers v4.44, default chat template is no longer '
            b"allowed, so you must provide a chat template if the tokenizer does not define "
            b'one.","code":400}',
            id="vLLM without a chat template",
        ),
        pytest.param(
            400,
            b'{"error":{"message":"\\"nomic-embed-text\\" does not support chat","type":"api_error"}}',
            id="Ollama's embedding model",
        ),
        pytest.param(400, b'{"error":"No models loaded. Please load a model first."}', id="LM Studio"),
        pytest.param(
            400, b'{"error":{"message":"The model `x` does not exist.","code":"model_not_found"}}', id="gone"
        ),
        pytest.param(400, b'{"error":{"message":"Invalid model name passed in model=x"}}', id="litellm"),
        pytest.param(
            400,
            b'{"error":{"message":"Unsupported parameter: \'max_tokens\' is not supported here."}}',
            id="a parameter of every request",
        ),
        pytest.param(401, b'{"error":"invalid key"}', id="the provider's key"),
        pytest.param(404, b"<html>", id="the provider's address"),
        pytest.param(500, b"[]", id="broken"),
        pytest.param(502, b"<html>Bad Gateway</html>", id="a proxy"),
    ],
)
def test_providers_own_faults_are_not_the_renters(status: int, body: bytes) -> None:
    assert refusal(error_of_body(status, body), 0).reason == ENGINE_FAILED


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"temperature must be at most 1"}}',
        b'{"object":"error","message":"temperature must be non-negative","code":400}',
        b'{"detail":[{"msg":"too small","input":{"messages":"chat template; maximum context length"}}]}',
        b"",
        b"[" * 60_000,
    ],
)
def test_other_refusals_are_about_the_jobs_parameters(body: bytes) -> None:
    assert refusal(error_of_body(400, body), 0).reason == BAD_PARAMS


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"error": {"code": 400, "message": "maximum context length"}}, PROMPT_TOO_LONG),
        ({"error": {"code": "context_length_exceeded", "message": "too long"}}, PROMPT_TOO_LONG),
        ({"error": {"code": "400", "message": "maximum context length"}}, PROMPT_TOO_LONG),
        ({"object": "error", "message": "maximum context length", "code": 400}, PROMPT_TOO_LONG),
        ({"error": "The prompt is longer than the context length"}, PROMPT_TOO_LONG),
        ({"error": {"message": "temperature", "code": "400"}}, BAD_PARAMS),
        ({"error": {"message": "temperature", "type": "BadRequestError"}}, BAD_PARAMS),
        ({"error": {"message": "temperature"}, "code": 400}, BAD_PARAMS),
        ({"error": {"message": "out of memory", "code": True}}, ENGINE_FAILED),
        ({"error": {"message": "out of memory", "code": 500}}, ENGINE_FAILED),
        ({"error": ["out of memory"]}, ENGINE_FAILED),
    ],
)
def test_error_in_a_stream_is_read_in_each_form(
    event: dict[str, Any], reason: jobs_pb2.FailureReason.ValueType
) -> None:
    error = error_of_event(event)
    assert error is not None
    assert refusal(error, 0).reason == reason


@pytest.mark.parametrize("nothing", [None, "", {}, [], False])
def test_empty_error_in_an_event_is_none(nothing: object) -> None:
    assert error_of_event({"error": nothing, "choices": []}) is None


def test_long_text_of_a_server_is_read_in_bounded_time() -> None:
    body = b'{"error": "' + b"model " * 10_000 + b'"}'
    error = error_of_body(400, body)
    assert isinstance(error, ServerError)
    assert len(error.text) <= 4096
    assert refusal(error, 0).reason == BAD_PARAMS
