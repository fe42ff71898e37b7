"""Owns the code that shows how the paths of other APIs at `/v1` are called, by their own clients and without.

These paths have no schema of ours, so the code of their clients is written here; what is plain HTTP is drawn.
It knows the paths only as examples: `gateway.doors` serves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway.web.samples import DIRECT_ORIGIN, Call, Sample, Variable, curl, javascript, openai_client

MODEL = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
EMBEDDER = "nomic-ai/nomic-embed-text-v1.5"
LINES = "requests.jsonl"
"""The file of a batch that the samples send."""

_KEY = Variable("DCP_RENTER_KEY", "Renter key")
_MESSAGES = [{"role": "user", "content": "What is a GPU?"}]
_FORMS = {
    "/v1/chat/completions": {"model": MODEL, "messages": _MESSAGES, "max_tokens": 64},
    "/v1/responses": {"model": MODEL, "input": "What is a GPU?", "max_output_tokens": 64},
    "/v1/messages": {"model": MODEL, "messages": _MESSAGES, "max_tokens": 64},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": _MESSAGES},
    "/v1/completions": {"model": MODEL, "prompt": "A GPU is", "max_tokens": 64},
    "/v1/embeddings": {"model": EMBEDDER, "input": ["a cat", "a kitten"]},
}
_ANTHROPIC = f"""\
import os

from anthropic import Anthropic

client = Anthropic(base_url="{DIRECT_ORIGIN}", api_key=os.environ["DCP_RENTER_KEY"])
"""
_CLIENTS = {
    "/v1/chat/completions": f"""\
pieces = client.chat.completions.create(
    model="{MODEL}",
    messages=[{{"role": "user", "content": "What is a GPU?"}}],
    max_tokens=64,
    stream=True,
)
for piece in pieces:
    for choice in piece.choices:
        print(choice.delta.content or "", end="", flush=True)""",
    "/v1/responses": f"""\
answer = client.responses.create(
    model="{MODEL}",
    input="What is a GPU?",
    max_output_tokens=64,
)
print(answer.output_text)""",
    "/v1/messages": f"""\
answer = client.messages.create(
    model="{MODEL}",
    messages=[{{"role": "user", "content": "What is a GPU?"}}],
    max_tokens=64,
)
print(answer.content[0].text)""",
    "/v1/messages/count_tokens": f"""\
answer = client.messages.count_tokens(
    model="{MODEL}",
    messages=[{{"role": "user", "content": "What is a GPU?"}}],
)
print(answer.input_tokens)""",
    "/v1/completions": f"""\
answer = client.completions.create(
    model="{MODEL}",
    prompt="A GPU is",
    max_tokens=64,
)
print(answer.choices[0].text)""",
    "/v1/embeddings": f"""\
answer = client.embeddings.create(
    model="{EMBEDDER}",
    input=["a cat", "a kitten"],
)
for found in answer.data:
    print(len(found.embedding))""",
    "/v1/files": f"""\
with open("{LINES}", "rb") as lines:
    print(client.files.create(file=lines, purpose="batch"))""",
    "/v1/batches": """\
batch = client.batches.create(
    input_file_id=os.environ["FILE_ID"],
    endpoint="/v1/chat/completions",
    completion_window="24h",
)
print(batch.id, batch.status)""",
    "/v1/files/{file_id}/content": """\
print(client.files.content(os.environ["FILE_ID"]).text)""",
}
_CHAT_BY_OURS = f"""\
import os

from dcp_client import Client

with Client("{DIRECT_ORIGIN}", os.environ["DCP_RENTER_KEY"]) as client:
    pieces = client.chat.stream(
        "{MODEL}",
        [{{"role": "user", "content": "What is a GPU?"}}],
        max_tokens=64,
    )
    for piece in pieces:
        print(piece, end="", flush=True)"""
_DCP = f"""\
export DCP_API_URL={DIRECT_ORIGIN}
export DCP_API_KEY="$DCP_RENTER_KEY"
"""
_UPLOAD_BY_CURL = f"""\
curl -sS \\
  "{DIRECT_ORIGIN}/v1/files" \\
  -H "x-renter-key: $DCP_RENTER_KEY" \\
  -F purpose=batch \\
  -F file=@{LINES}"""
_UPLOAD_BY_JAVASCRIPT = f"""\
import {{ openAsBlob }} from "node:fs";

const form = new FormData();
form.set("purpose", "batch");
form.set("file", await openAsBlob("{LINES}"), "{LINES}");
const answer = await fetch("{DIRECT_ORIGIN}/v1/files", {{
  method: "POST",
  headers: {{ "x-renter-key": process.env.DCP_RENTER_KEY }},
  body: form,
}});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.json());"""


@dataclass(frozen=True)
class Door:
    """A path with its samples."""

    method: str
    path: str
    samples: tuple[Sample, ...]
    variables: tuple[Variable, ...] = (_KEY,)
    """What the samples read from the environment."""
    file: str = ""
    """The file that they send; empty: none."""

    @property
    def slug(self) -> str:
        """Its place on the page."""
        place = self.path.removeprefix("/v1/").translate(str.maketrans("/_", "--", "{}"))
        return f"v1-{'create-batch' if self.path == '/v1/batches' else place}"


def doors() -> Iterator[Door]:
    """The paths in the order of the page: chats first, batches last."""
    for path, body in _FORMS.items():
        ours = _of_chats() if path == "/v1/chat/completions" else ()
        yield Door("POST", path, (_by_client(path), *ours, *_by_http("POST", path, body)))
    upload = (
        Sample("curl", "curl", _UPLOAD_BY_CURL),
        Sample("javascript", "JavaScript", _UPLOAD_BY_JAVASCRIPT),
    )
    yield Door("POST", "/v1/files", (_by_client("/v1/files"), *upload), file=LINES)
    with_file = (_KEY, Variable("FILE_ID", "The file's id."))
    yield Door("POST", "/v1/batches", tuple(_of_batches()), with_file, LINES)
    content = "/v1/files/{file_id}/content"
    yield Door("GET", content, (_by_client(content), *_by_http("GET", content)), with_file)


def _by_client(path: str) -> Sample:
    if path.startswith("/v1/messages"):
        return Sample("python", "Anthropic", _ANTHROPIC + _CLIENTS[path])
    return Sample("python", "OpenAI", openai_client() + _CLIENTS[path])


def _by_http(method: str, path: str, body: Any = None) -> Iterator[Sample]:
    kind = "application/json" if method == "POST" else "text/plain"
    call = Call("", method, path, ("renter",), body=body, kind=kind)
    yield Sample("curl", "curl", curl(call))
    yield Sample("javascript", "JavaScript", javascript(call))


def _of_chats() -> Iterator[Sample]:
    yield Sample("python", "Python", _CHAT_BY_OURS)
    yield Sample("dcp", "dcp", f'{_DCP}dcp ask --model {MODEL} "What is a GPU?"')


def _of_batches() -> Iterator[Sample]:
    yield _by_client("/v1/batches")
    yield Sample("dcp", "dcp", f"{_DCP}dcp batch {LINES} --detach")
    # The id is a part of the body here, which each language must put there in its own way.
    body = {"input_file_id": "FILE", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    by_curl, by_javascript = _by_http("POST", "/v1/batches", body)
    yield Sample("curl", "curl", by_curl.code.replace('"FILE"', '"\'"$FILE_ID"\'"'))
    yield Sample("javascript", "JavaScript", by_javascript.code.replace('"FILE"', "process.env.FILE_ID"))
