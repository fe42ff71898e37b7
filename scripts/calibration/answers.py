"""A process of its own that asks a model and writes its answers: one engine in each process.

The settings come as one line of JSON on standard input, and the answers go as JSON to standard output: each
its text, and its tokens with the logarithms of their probabilities.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CONTEXT_TOKENS = 2048


def main() -> None:
    """Answers all conversations of the settings."""
    settings = json.loads(sys.stdin.readline())
    server = _server(settings)

    def answer(messages: list[dict[str, str]]) -> tuple[str, list[tuple[str, float]]]:
        request = {"messages": messages, "temperature": 0, "max_tokens": settings["max_tokens"]}
        request |= {"cache_prompt": False, "logprobs": True, "top_logprobs": 1}
        choice = server.handle_chat_completions(request)["choices"][0]
        tokens = [(each["token"], each["logprob"]) for each in choice["logprobs"]["content"]]
        return str(choice["message"]["content"]), tokens

    with ThreadPoolExecutor(settings.get("at_once", 1)) as threads:
        answers = list(threads.map(answer, settings["conversations"]))
    sys.stdout.write(json.dumps(answers))
    sys.stdout.flush()
    os._exit(0)  # the engine's own threads would hold up the end


def _server(settings: dict[str, Any]) -> Any:
    os.putenv("GOMP_SPINCOUNT", "2000")  # as in daemon.engines.llamacpp_child
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.n_parallel = settings.get("at_once", 1)
    params.n_ctx = CONTEXT_TOKENS * params.n_parallel
    params.kv_unified = False
    params.ctx_shift = False
    params.n_batch = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.get("threads", 1)
    params.cache_ram_mib = 0
    params.cache_prompt = False
    params.verbosity = 0
    if settings.get("other_kernels"):
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if kind := settings.get("cache"):
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{kind}"]
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
