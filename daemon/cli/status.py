"""`dcp-daemon status`: the running daemon and the server's view of it, live in a terminal or as JSON.

It must not change anything, and holds no key longer than a question takes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

from dcp.v1 import providers_pb2
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.interrupts import interrupts
from daemon import link
from daemon.cli import control
from daemon.config import identity
from daemon.config.config import Config
from daemon.service import unit

REFRESH_SECONDS = 1.0
# The server's figures change with each job that ends, not with each second.
ASK_SERVER_SECONDS = 15.0
SERVER_PATIENCE_SECONDS = 5.0
MAX_NOT_OFFERED = 10


def run(config: Config, *, once: bool, as_json: bool, console: Console | None = None) -> int:
    """Shows the status, until Ctrl-C unless `once`; the exit status is 1 when no daemon runs."""
    console = console or Console()
    views = _views(config)
    view = next(views)
    if as_json:
        console.print_json(json.dumps(view))
    elif once or not console.is_terminal or console.is_dumb_terminal:
        console.print(render(view))
    else:
        with interrupts(signal.SIGINT) as stopped, Live(console=console, auto_refresh=False) as live:
            live.update(render(view), refresh=True)
            while not stopped(REFRESH_SECONDS):
                view = next(views)
                live.update(render(view), refresh=True)
    return 0 if view["daemon"] is not None else 1


def _views(config: Config) -> Iterator[dict[str, Any]]:
    server: dict[str, Any] = {}
    asked_at = float("-inf")
    while True:
        if time.monotonic() - asked_at >= ASK_SERVER_SECONDS:
            server, asked_at = _ask_server(config), time.monotonic()
        yield {**_ask_daemon(config), "server": server}


def _ask_daemon(config: Config) -> dict[str, Any]:
    try:
        return {"daemon": control.ask(config.state_dir, "status"), "problem": ""}
    except control.NotRunningError as error:
        return {
            "daemon": None,
            "problem": f"the daemon is not running: {error}; start it with {unit.start_command()}",
        }
    except PermissionError:
        text = f"{config.state_dir} belongs to another user: ask as that user, or with sudo"
        return {"daemon": None, "problem": text}


def _ask_server(config: Config) -> dict[str, Any]:
    try:
        key = config.provider_key or identity.load(config.state_dir).api_key
        server = link.ServerAddress(config.server, config.tls_ca)
        answer = asyncio.run(link.own_provider(server, key, SERVER_PATIENCE_SECONDS))
    except (identity.IdentityError, link.KeyRefusedError, link.LinkBrokenError) as error:
        return {"address": config.server, "problem": str(error)}
    return {"address": config.server, "problem": ""} | provider_view(answer)


def provider_view(answer: providers_pb2.GetOwnProviderResponse) -> dict[str, Any]:
    """What the server says of the provider; today is UTC's."""
    own = answer.provider
    return {
        "provider_id": own.id,
        "name": own.name,
        "status": providers_pb2.ProviderStatus.Name(own.status).removeprefix("PROVIDER_STATUS_").lower(),
        "connected": own.connected,
        "total_jobs": own.total_jobs,
        "today_halala": own.earnings.today_halala,
        "total_halala": own.earnings.total_halala,
        "claimable_halala": own.earnings.claimable_halala,
        "maturing_halala": own.earnings.maturing_halala,
    }


# --- drawing ---


def render(view: dict[str, Any]) -> RenderableType:
    """The view for a terminal."""
    daemon = view["daemon"]
    parts: list[RenderableType] = []
    if daemon is None:
        parts.append(Text(view["problem"], style="bold red"))
    else:
        parts += [_session(daemon), _jobs(daemon["jobs"]), _gpus(daemon["gpus"])]
    parts.append(_earnings(view["server"]))
    return Group(*parts)


def _session(daemon: dict[str, Any]) -> Table:
    session = daemon["session"]
    table = Table.grid(padding=(0, 2))
    table.add_row("daemon", f"{daemon['version']}, process {daemon['pid']}")
    since = session["connected_seconds"]
    state = f"{session['state']} for {span(since)}" if since is not None else session["state"]
    table.add_row("session", f"{state} with {session['server']}, epoch {session['session_epoch']}")
    if session["draining"]:
        table.add_row("drain", "finishes what runs, then ends")
    if daemon["takes_no_jobs"]:
        table.add_row("no jobs", Text(daemon["takes_no_jobs"], style="yellow"))
    for index in daemon["empty_mig_gpus"]:
        table.add_row("GPU", Text(f"{index} is in MIG mode without MIG devices: not offered", style="yellow"))
    if daemon["update"]["available"]:
        table.add_row("update", Text(f"{daemon['update']['newest']}: dcp-daemon update", style="yellow"))
    for name, text in troubles(daemon):
        table.add_row(name, Text(printable(text), style="yellow"))
    table.add_row("models", Text(", ".join(map(_model, daemon["models"]))))
    return table


def _model(model: dict[str, Any]) -> str:
    # A daemon of an earlier version does not say what its models are for.
    notes = [note for note, is_so in (("embeddings", model.get("embeds")), ("warm", model["warm"])) if is_so]
    name: str = model["name"]
    return f"{name} ({', '.join(notes)})" if notes else name


def troubles(daemon: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The server's last refusal and what is not offered, as a running daemon says it: a word, a text."""
    if refusal := daemon.get("last_refusal"):
        yield "refused", f"{span(refusal['seconds_ago'])} ago the server ended the session: {refusal['text']}"
        if (seconds := refusal["key_refused_seconds"]) is not None:
            text = f"the server has not known the key for {span(seconds)}; it is tried again for a day"
            yield "key", f"{text}: check that the server is as it should be"
    not_offered = daemon.get("not_offered", [])
    for entry in not_offered[:MAX_NOT_OFFERED]:
        what = entry["model"] or entry["engine"]
        yield "not offered", f"{what}: {entry['reason']}"
    if len(not_offered) > MAX_NOT_OFFERED:
        yield "not offered", f"and {len(not_offered) - MAX_NOT_OFFERED} more"


def _jobs(jobs: list[dict[str, Any]]) -> RenderableType:
    if not jobs:
        return Text("no job runs", style="dim")
    table = Table("job", "type", "model", "attempt", "phase", "ran", "limit")
    for job in jobs:
        # Names come from renters: as text, none of them is markup or a control sequence.
        table.add_row(
            *(Text(printable(job[key])) for key in ("job_id", "job_type", "model")),
            str(job["attempt"]),
            job["phase"],
            span(job["run_seconds"]),
            span(job["limit_seconds"]),
        )
    return table


def _gpus(gpus: list[dict[str, Any]]) -> RenderableType:
    if not gpus:
        return Text("no GPU that can be read", style="dim")
    table = Table("gpu", "name", "state", "load", "memory", "temperature", "power")
    for gpu in gpus:
        table.add_row(
            str(gpu["index"]),
            Text(printable(gpu["name"])),
            Text(gpu["state"], style="" if gpu["state"] == "works" else "yellow"),
            _figure(gpu["gpu_util_pct"], "%"),
            _memory(gpu),
            _figure(gpu["temp_c"], " °C"),
            _figure(gpu["power_w"], " W"),
        )
    return table


def _memory(gpu: dict[str, Any]) -> str:
    shared = ", shared with the machine" if gpu["vram_is_shared"] else ""
    return f"{_figure(gpu['memory_used_mb'], '')} of {_figure(gpu['gpu_vram_mib'], ' MiB')}{shared}"


def _earnings(server: dict[str, Any]) -> RenderableType:
    if server["problem"]:
        return Text(f"server {server['address']}: {server['problem']}", style="yellow")
    table = Table.grid(padding=(0, 2))
    text = f"sees {printable(server['name'])} (provider {server['provider_id']}) as {server['status']}"
    text += ", connected" if server["connected"] else ", not connected"
    table.add_row("server", Text(text))
    table.add_row(
        "earned",
        f"today {sar(server['today_halala'])}, in all {sar(server['total_halala'])} "
        f"with {server['total_jobs']} jobs; to withdraw {sar(server['claimable_halala'])}, "
        f"maturing {sar(server['maturing_halala'])}",
    )
    return table


def _figure(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f}{unit}"


def sar(halala: int) -> str:
    """A sum for people: `1.41 SAR`."""
    return f"{halala // 100}.{halala % 100:02d} SAR"


def span(seconds: float) -> str:
    """How long, for people: `1 h 02 min`, `3 min 05 s`, `7 s`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def printable(text: str) -> str:
    """The text without what moves a terminal's cursor or colours it."""
    return "".join(character if character.isprintable() else "?" for character in text)
