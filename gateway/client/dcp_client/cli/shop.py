"""Owns the commands that look before they buy: providers, models and quotes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Optional

import typer
from dcp_client import objects
from dcp_client.cli.context import first, here, usage, without_none
from dcp_client.cli.show import moment, sar
from dcp_client.cli.texts import say
from dcp_client.reading import MalformedError, loads
from rich.live import Live
from rich.text import Text

app = typer.Typer()

_LEAST_WATCH_SECONDS = 2.0


@app.command()
def market(
    ctx: typer.Context,
    gpu: Optional[str] = typer.Option(None, help="Only this GPU model, such as 'RTX 4090'."),
    model: Optional[str] = typer.Option(None, help="Only providers that serve this model."),
    vram: Optional[float] = typer.Option(None, help="Least memory of a GPU, in GB."),
    job_type: Optional[str] = typer.Option(None, "--type", help="Only providers that run this job type."),
    max_price: Optional[str] = typer.Option(None, help="Most that an hour may cost, in SAR."),
    min_speed: Optional[float] = typer.Option(None, help="Least measured tokens per second; needs --model."),
    min_reliability: Optional[float] = typer.Option(None, help="Least reliability, from 0 to 1."),
    standing: Optional[str] = typer.Option(None, help="Least standing: new, proven or trusted."),
    verified: bool = typer.Option(False, "--verified", help="Only verified providers."),
    sort: Optional[str] = typer.Option(
        None, help="id, price, first_token, tokens_per_second, reliability or vram. Default: id."
    ),
    limit: int = typer.Option(50, help="How many to show; 0: all."),
    watch: Optional[float] = typer.Option(
        None, help="Show it again after so many seconds, at least 2, until Ctrl-C."
    ),
) -> None:
    """List the providers that are live now, with what they have and cost.

    \b
    Examples:
      dcp market
      dcp market --gpu 'RTX 4090' --sort price --limit 5
      dcp market --model Qwen/Qwen3-8B --min-speed 20 --watch 10
      dcp market --json | jq '.[].name'
    """
    at = here(ctx)
    filters = without_none(
        gpu_model=gpu,
        model=model,
        min_vram_gb=vram,
        job_type=job_type,
        max_sar_per_hour=max_price,
        min_tokens_per_second=min_speed,
        min_reliability=min_reliability,
        min_standing=standing,
        verified=verified or None,
        sort=sort,
    )
    head = (
        *(say("Id"), say("Name"), "GPU", say("Memory"), say("SAR/hour"), say("Standing")),
        *(say("Reliability"), say("Takes jobs"), say("Models")),
    )
    empty = say("No provider is live that has all of this.")
    with at.client() as client:

        def found() -> list[objects.AvailableProvider]:
            return first(client.market(**filters), limit)

        def show(providers: list[objects.AvailableProvider]) -> None:
            rows = [_row(each) for each in providers]
            at.screen.answer([dict(x.raw) for x in providers], lambda: at.screen.table(head, rows, empty))

        if watch is None:
            show(found())
            return
        pause = max(_LEAST_WATCH_SECONDS, watch)
        if not at.screen.out.is_terminal or at.screen.as_json:
            while True:
                show(found())
                time.sleep(pause)
        with Live(console=at.screen.out, auto_refresh=False) as live:
            while True:
                texts = [[str(cell) for cell in _row(each)] for each in found()]
                live.update(at.screen.drawn(head, texts) if texts else Text(empty), refresh=True)
                time.sleep(pause)


def _row(each: objects.AvailableProvider) -> tuple[object, ...]:
    memory = f"{each.gpu_vram_mib / 1024:.0f} GiB" if each.gpu_vram_mib else ""
    gpu = f"{each.gpu_count} × {each.gpu_model}" if (each.gpu_count or 0) > 1 else each.gpu_model
    return (
        each.id,
        each.name,
        gpu,
        memory,
        _price(each),
        each.standing.standing if each.standing else "",
        f"{each.reliability_lower:.2f}" if each.reliability_attempts else "",
        say("yes") if each.accepting_jobs else (moment(each.opens_at) or say("no")),
        ", ".join(each.models[:2]) + (" …" if len(each.models) > 2 else ""),
    )


def _price(each: objects.AvailableProvider) -> str:
    """The lowest price of an hour, or the price of a million tokens of the model that was asked for."""
    by_tokens = [p.price.sar_per_million_output_tokens for p in each.prices if p.price and p.model]
    if by_tokens and (dearest := by_tokens[0]) is not None:
        return say("{amount} per million", amount=f"{dearest:f}")
    hours = [p.price.sar_per_hour for p in each.prices if p.price and p.price.sar_per_hour is not None]
    return f"{min(hours):f}" if hours else ""


@app.command()
def models(ctx: typer.Context) -> None:
    """List the models that are served now, those first that most providers serve.

    \b
    Example:
      dcp models
    """
    at = here(ctx)
    with at.client() as client:
        found = client.models()
        prices = {each.model: each.price for each in client.prices() if each.model and each.price}
    rows = []
    for each in found:
        price = prices.get(each.id) or objects.Price()
        rows.append(
            (
                each.id,
                each.context_length,
                price.sar_per_million_input_tokens,
                price.sar_per_million_output_tokens,
                ", ".join(each.output_modalities),
            )
        )
    head = (say("Model"), say("Context"), say("SAR/million in"), say("SAR/million out"), say("Writes"))
    empty = say("No model is served now.")
    at.screen.answer([dict(x.raw) for x in found], lambda: at.screen.table(head, rows, empty))


@app.command()
def quote(
    ctx: typer.Context,
    model: Optional[str] = typer.Option(None, help="Model that answers the prompt."),
    prompt: Optional[str] = typer.Option(None, help="The prompt; - is standard input."),
    max_tokens: Optional[int] = typer.Option(None, help="Most tokens of the answer."),
    image: Optional[str] = typer.Option(None, help="Container image, instead of a model."),
    gpu: Optional[str] = typer.Option(None, help="GPU model."),
    minutes: Optional[float] = typer.Option(
        None,
        help="Longest time that it may run, in minutes. Default: the market's, 10 or 60 for a container.",
    ),
    provider: Optional[int] = typer.Option(None, help="Id of the provider. Without it the market chooses."),
    body: Optional[Path] = typer.Option(
        None, help="File with the JSON body of a submit; - is standard input."
    ),
) -> None:
    """Show what a job would cost. Nothing is held or sent to anybody.

    \b
    Examples:
      dcp quote --model Qwen/Qwen3-8B --prompt "What is a GPU?" --max-tokens 200
      dcp quote --image python:3.12 --gpu 'RTX 4090' --minutes 30
      dcp quote --body job.json --json
    """
    at = here(ctx)
    if body is not None:
        job = _read_body(body)
    elif image:
        job = without_none(
            job_type="custom_container",
            container_spec=without_none(image=image, gpu_count=1 if gpu else 0),
            gpu_requirements={"gpu_model": gpu} if gpu else None,
            duration_minutes=minutes,
            provider_id=provider,
        )
    elif model and prompt:
        text = sys.stdin.read() if prompt == "-" else prompt
        job = without_none(
            job_type="llm-inference",
            params=without_none(model=model, prompt=text, max_tokens=max_tokens),
            duration_minutes=minutes,
            provider_id=provider,
        )
    else:
        raise usage(say("give --model and --prompt, or --image, or --body"))
    with at.client("renter") as client:
        answer = client.quote(job)

    def show() -> None:
        at.screen.facts(
            [
                (say("Price"), price_text(answer.price)),
                (say("Held at most"), sar(answer.hold_halala, answer.hold_micro_halala)),
                (say("Likely"), _likely(answer)),
                (say("Providers that could run it"), answer.able),
                (say("Binding until"), moment(answer.expires_at)),
            ]
        )
        rows = [
            (
                each.provider_id,
                each.gpu_model,
                price_text(each.price),
                sar(each.hold_halala, each.hold_micro_halala),
                f"{each.tokens_per_second:.0f}" if each.tokens_per_second else "",
                each.free_slots,
            )
            for each in answer.providers
        ]
        head = (say("Id"), "GPU", say("Price"), say("Hold"), say("Tokens/s"), say("Free"))
        at.screen.table(head, rows, say("Nobody could run it now."))

    at.screen.answer(dict(answer.raw), show)


def _likely(answer: objects.QuoteJobResponse) -> str:
    likely = answer.likely_halala
    return "" if likely is None else sar(likely, answer.likely_micro_halala or 0)


def price_text(price: Optional[objects.Price]) -> str:
    """A price in words."""
    if price is None:
        return ""
    if price.sar_per_hour is not None:
        return say("{amount} SAR per hour", amount=f"{price.sar_per_hour:f}")
    if price.sar_per_million_output_tokens is not None:
        return say("{amount} SAR per million tokens", amount=f"{price.sar_per_million_output_tokens:f}")
    return ""


def _read_body(file: Path) -> Any:
    text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        return loads(text)
    except MalformedError as error:
        raise usage(say("--body: {file} is not JSON", file=str(file))) from error
