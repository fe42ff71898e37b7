"""Demonstrates the main job: a renter's prompt, a real model on a provider's daemon, and an exact bill."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

from scripts.market import Market, NotReadyError
from server.domain import money

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPT = "What is a GPU?"
CREDIT_HALALA = 5000
JOB_SECONDS = 180.0
POLL_SECONDS = 0.1


def main() -> int:
    """Runs the demo. The exit status is 0 if the prompt was answered and billed and the ledger balances."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="dcp-demo-"))
    market = Market(folder, admin_token=secrets.token_urlsafe(24))
    keep = False
    try:
        market.start()
        ok = _run(market, options.prompt, options.max_tokens)
        keep = options.keep
        if keep:
            _show_addresses(market, folder)
        return 0 if ok else 1
    except (NotReadyError, RuntimeError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not keep:
            market.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _run(market: Market, prompt: str, max_tokens: int) -> bool:
    _say(f"server    gRPC on {market.grpc_address}")
    _say(f"gateway   {market.url}")
    provider_id, provider_key = market.register_provider("Riyadh RTX Node", "provider@example.com")
    market.add_daemon(provider_key)
    _say(f"provider  {provider_id} registered; its daemon holds a session")
    renter_id, renter_key = market.register_renter("Acme AI", "renter@example.com")
    market.credit(renter_id, CREDIT_HALALA)
    _say(f"renter    {renter_id} registered and credited {_sar(CREDIT_HALALA)}")
    market.keys = {"provider": provider_key, "renter": renter_key}
    job = market.post(
        "/api/jobs/submit",
        {
            "provider_id": provider_id,
            "job_type": "llm-inference",
            "duration_minutes": 3,
            "container_spec": {"image_type": "vllm-serve"},
            "params": {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens},
        },
        **{"x-renter-key": renter_key},
    )["job"]
    _say(f"job       {job['job_id']} submitted; {job['cost_halala']} halala are held")
    output = _wait(market, job["job_id"], renter_key)
    _show_answer(prompt, output)
    _show_bill(output["billing"])
    _show_earnings(market, provider_key)
    return _show_proof(market)


def _wait(market: Market, job_id: str, renter_key: str) -> dict[str, Any]:
    """Polls the job's output until it is available, and prints each change of the job's state."""
    seen = ""
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        response = market.http.get(f"/api/jobs/{job_id}/output", headers={"x-renter-key": renter_key})
        if response.status_code != 202:
            break
        status = str(response.json()["status"])
        if status != seen:
            _say(f"          {status} ...")
            seen = status
        time.sleep(POLL_SECONDS)
    if response.status_code != 200:
        raise RuntimeError(f"the job ended without an answer: {response.status_code} {response.text}")
    _say("          completed")
    answer: dict[str, Any] = response.json()
    return answer


def _show_answer(prompt: str, output: dict[str, Any]) -> None:
    width = min(shutil.get_terminal_size().columns, 96) - 4
    print(f"\nprompt: {prompt}\nanswer, by {MODEL} (135 million parameters: a real model, but a weak one):\n")
    for line in str(output["response"]).strip().splitlines():
        print(textwrap.fill(line, width, initial_indent="  | ", subsequent_indent="  | ") or "  |")
    usage = output["usage"]
    print(
        f"\n{usage['completion_tokens']} tokens at {usage['tokens_per_second']:.1f} tokens/s, "
        f"the first after {usage['first_token_ms']} ms"
    )


def _show_bill(bill: dict[str, Any]) -> None:
    rows = [
        ("hold", f"{bill['hold_halala']} halala"),
        ("ran", f"{bill['billed_seconds']:.3f} s at {bill['rate_halala_per_minute']} halala/min"),
        ("charge", f"{bill['actual_cost_halala']} halala"),
        ("refund", f"{bill['refund_halala']} halala"),
        ("provider", f"{money.text(bill['provider_micro_halala'])} halala"),
        ("platform", f"{money.text(bill['platform_micro_halala'])} halala"),
    ]
    print("\nbill")
    for name, value in rows:
        print(f"  {name:<9} {value}")


def _show_earnings(market: Market, provider_key: str) -> None:
    me = market.get("/api/providers/me", **{"x-provider-key": provider_key})
    earned = me["provider"]["earnings"]
    maturing, claimable = (money.text(earned[f"{name}_micro_halala"]) for name in ("maturing", "claimable"))
    print(
        f"\nearnings  {maturing} halala mature for {earned['maturing_hours']} hours, "
        f"then the provider can withdraw them; {claimable} can be withdrawn now"
    )


def _show_proof(market: Market) -> bool:
    proof = market.prove_ledger()
    print(
        f"\nledger    {'balances' if proof['balanced'] else 'DOES NOT BALANCE'}: "
        f"{proof['transfers']} transfers, postings sum to {proof['postings_sum_halala']}, "
        f"{proof['open_holds']} holds open"
    )
    return bool(proof["balanced"])


def _show_addresses(market: Market, folder: Path) -> None:
    pids = " ".join(str(program.process.pid) for program in reversed(market.programs))
    print(f"\nall programs keep running (data and logs in {folder})")
    print(f"  API           {market.url}/api       reference {market.url}/docs")
    print(f"  gRPC          {market.grpc_address}")
    print(f"  renter key    {market.keys['renter']}")
    print(f"  provider key  {market.keys['provider']}")
    print(f"  admin token   {market.admin_token}")
    print(f"  stop it with  kill {pids}")


def _say(text: str) -> None:
    print(text, flush=True)


def _sar(halala: int) -> str:
    return f"{halala // 100}.{halala % 100:02d} SAR"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--prompt", default=PROMPT, help="the prompt of the job (default: %(default)s)")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=96,
        help="the greatest number of tokens in the answer (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep all programs running, and print their URLs and keys"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
