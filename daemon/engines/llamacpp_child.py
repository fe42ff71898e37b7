"""The model server's own process: llama.cpp's OpenAI server through xllamacpp.

It must not know the daemon that started it, beyond its pipes: settings come as
one JSON line on stdin, the address goes as one line to stdout, and when stdin
ends the daemon is gone and so is this process. The API key comes with the
settings, never on the command line, which every user can read.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import Any

from common import documents

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves one model until the daemon closes stdin."""
    _die_with_parent()
    line = sys.stdin.readline()
    if not line:
        return
    # Loading a model takes a while: the watch must stand before it.
    threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    server = _serve(documents.parse_object(line))
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    threading.Event().wait()


def _die_with_parent() -> None:
    # Stdin already ends when the daemon dies; the kernel's signal also reaches
    # a process that is stuck in native code.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_at_end_of_stdin() -> None:
    while sys.stdin.read(4096):
        pass
    os._exit(0)


def _serve(settings: dict[str, Any]) -> Any:
    # How often a thread looks whether the others are done before it sleeps, read when the library is loaded.
    # By default so often that, where others work on the machine, a model is 20 times slower than it need be.
    os.putenv("GOMP_SPINCOUNT", "2000")
    if (gpus := settings.get("visible_gpus")) is not None:
        os.putenv("CUDA_VISIBLE_DEVICES", ",".join(gpus))
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model_path"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.n_parallel = settings["slots"]
    # The context is divided among the slots.
    params.n_ctx = settings["context_tokens"] * settings["slots"]
    params.kv_unified = False
    # Without shifting, an answer ends where the context does instead of
    # silently forgetting the beginning of the conversation.
    params.ctx_shift = False
    if settings.get("embeds"):
        params.embedding = True
        # A text is embedded in one piece.
        params.n_batch = params.n_ubatch = settings["context_tokens"]
        if settings.get("pools_mean"):
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    else:
        # A cancelled prompt stops between two batches.
        params.n_batch = 512
    params.cpuparams.n_threads = settings["threads"]
    params.ui = False
    # Prompts of one renter must not stay behind in memory for the next.
    params.cache_ram_mib = 0
    params.cache_prompt = False
    params.endpoint_props = False
    params.endpoint_slots = bool(settings.get("endpoint_slots"))
    params.verbosity = 1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
