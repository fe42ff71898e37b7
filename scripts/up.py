"""Runs a whole marketplace on this machine: server and gateway in one program, and a daemon, until Ctrl-C.

The data stays in .dcp/ (database, operator's token, provider's identity), so the next run continues with it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
from pathlib import Path

from common.interrupts import interrupts
from scripts.market import Market, NotReadyError

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Starts all programs, prints their addresses, waits for Ctrl-C or SIGTERM, and drains them."""
    options = _options()
    os.umask(0o077)  # for the logs too, in a folder that was there before
    folder = Path(options.data)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with (
            interrupts(signal.SIGINT, signal.SIGTERM) as stopped,
            Market(
                folder,
                admin_token=_secret(folder / "admin-token"),
                settings={"DCP_SANDBOX_TOPUP": "true"},
                gateway_settings={"DCP_INSECURE": "true" if options.insecure else "false"},
                http_listen=options.http,
                grpc_listen=options.grpc,
            ) as market,
        ):
            _add_own_daemon(market, folder)
            _show_addresses(market, folder)
            while not stopped(1.0):
                if ended := [p for p in market.programs if p.process.poll() is not None]:
                    raise NotReadyError(f"{ended[0].name} ended:\n{ended[0].last_words()}")
            print("\nstopping", flush=True)
    except NotReadyError as error:
        print(f"up: {error}", file=sys.stderr)
        return 1
    return 0


def _add_own_daemon(market: Market, folder: Path) -> None:
    """Registers the local provider on the first run, and starts its daemon."""
    identity = folder / "provider.json"
    if not identity.exists():
        provider_id, key = market.register_provider("Local provider", "local-provider@example.com")
        _write_private(identity, json.dumps({"provider_id": provider_id, "api_key": key}))
    market.add_daemon(json.loads(identity.read_text(encoding="utf-8"))["api_key"], folder / "daemon")


def _show_addresses(market: Market, folder: Path) -> None:
    print(f"Pages     {market.url} and {market.url}/docs")
    print(f"API       {market.url}/api")
    print(f"OpenAPI   {market.url}/openapi.json")
    print(f"gRPC      {market.grpc_address}")
    print(f"data      {folder} (operator's token in {folder / 'admin-token'})")
    print("Renters can top up their own wallets here: POST /api/renters/topup")
    print("Ctrl-C stops all programs.", flush=True)


def _secret(path: Path) -> str:
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="utf-8").strip()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--http", default="127.0.0.1:8080", help="where the gateway listens (default: %(default)s)"
    )
    parser.add_argument(
        "--grpc", default="127.0.0.1:50051", help="where the server listens (default: %(default)s)"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="keys may travel in plain HTTP to other machines, if --http is not a loopback address",
    )
    parser.add_argument("--data", default=str(ROOT / ".dcp"), help="folder for the data (default: .dcp)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
