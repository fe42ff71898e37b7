"""Owns the command line of `dcp-daemon`: which commands and flags there are, and their help."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from daemon.config.config import VARIABLES
from daemon.service import unit
from daemon.service.version import daemon_version

_WHICH_GPU = "which, as dcp-daemon status shows it"
_START = """start here:
  dcp-daemon register --name 'My node' --email me@example.com
  dcp-daemon setup
  dcp-daemon run
"""
_SETUP_EXAMPLES = """examples:
  dcp-daemon setup                    # asks for what is missing
  dcp-daemon setup --dry-run          # shows the settings, changes nothing
  dcp-daemon setup --model llama3.2   # the Ollama that runs here downloads it

One file, several, and for scripts; repeated, a download goes on where it was:
  dcp-daemon setup --model acme/small --sha256 DIGEST \\
      --from https://models.example.com/small-q4.gguf
  dcp-daemon setup --model acme/big --from https://models.example.com/big.json
  dcp-daemon setup --yes --server market.example.com:50051 --key-file key.txt

A manifest is {"files": [{"name": "big-1.gguf", "url": "big-1.gguf",
"size": 123, "sha256": "..."}]}; url is relative to the manifest, and url, size
and sha256 may be left out.
"""
_Commands = argparse._SubParsersAction  # argparse has no public name for it


def parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    command_line = argparse.ArgumentParser(
        prog="dcp-daemon",
        description="Offers this machine to the marketplace: holds a session with the server and runs jobs.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_line.add_argument("--version", action="version", version=daemon_version())
    command_line.add_argument("--config", metavar="FILE", help="file of settings, instead of DCP_CONFIG")
    commands = command_line.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_setup(commands)
    _add_register(commands)
    run = _added(
        commands,
        "run",
        "hold the session and run jobs; SIGTERM drains, SIGHUP reads settings again",
        "dcp-daemon run",
        "dcp-daemon --config /etc/dcp-daemon/config.toml run",
    )
    _add_process_runner(run)
    _add_doctor(commands)
    _add_status(commands)
    health = _added(
        commands,
        "health",
        "exit with 0 if the running daemon has a session, else with 1",
        "dcp-daemon health --wait 30",
    )
    health.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="how long it may take; default: 0"
    )
    drain = _added(
        commands,
        "drain",
        "keep one GPU from new jobs, also after a restart; its jobs finish",
        "dcp-daemon drain --gpu 0",
        "dcp-daemon resume --gpu 0        # ends it",
    )
    drain.add_argument("--gpu", required=True, metavar="INDEX|UUID", help=_WHICH_GPU)
    _add_account(commands)
    _add_update(commands)
    _add_unit(commands)
    return command_line


def _added(
    commands: _Commands[argparse.ArgumentParser], name: str, meaning: str, *examples: str
) -> argparse.ArgumentParser:
    """A command whose help says what it does and teaches by examples."""
    return commands.add_parser(
        name,
        help=meaning,
        description=textwrap.fill(f"{meaning[0].upper()}{meaning[1:]}.", 78),
        epilog="\n  ".join(("example:" if len(examples) == 1 else "examples:", *examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_setup(commands: _Commands[argparse.ArgumentParser]) -> None:
    setup = commands.add_parser(
        "setup",
        help="find what this machine has, download a model, write the settings",
        description="Finds GPUs, model servers and a container engine, asks only for what it cannot\n"
        "see, and writes the file of settings; what is set there stays.",
        epilog=_SETUP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    setup.add_argument("--server", metavar="ADDRESS", help="the server, as host:port")
    setup.add_argument("--tls-ca", metavar="FILE", help="authorities that the server is checked with")
    setup.add_argument("--insecure", action="store_true", help="send the key in plain to another machine")
    setup.add_argument("--key-file", metavar="FILE", help="file of the provider key, if there is one already")
    setup.add_argument("--images", metavar="NAMES", help='images that jobs may run; "" for none')
    setup.add_argument("--model", metavar="NAME", help="download this model, under its public name")
    setup.add_argument(
        "--from",
        dest="source",
        metavar="URL|FILE",
        help="where it is: a GGUF file, or a manifest (.json) that names files",
    )
    setup.add_argument("--sha256", metavar="DIGEST", help="what the file, or the manifest, must have")
    setup.add_argument(
        "--folder", type=Path, metavar="DIR", help="where models go; default: DCP_STATE_DIR/models"
    )
    setup.add_argument("--anyway", action="store_true", help="take a model that does not fit the memory")
    setup.add_argument(
        "--no-attach",
        dest="attach",
        action="store_false",
        help="do not offer the model server that runs here",
    )
    setup.add_argument("--yes", action="store_true", help="ask nothing, and take what is usual")
    setup.add_argument("--dry-run", action="store_true", help="show what it would write; change nothing")
    setup.set_defaults(json=False, allow_process_runner=False)


def _add_register(commands: _Commands[argparse.ArgumentParser]) -> None:
    register = _added(
        commands,
        "register",
        "register this machine as a provider, once",
        "dcp-daemon register --name 'My node' --email me@example.com",
        "dcp-daemon register --server market.example.com:50051 --tls-ca authority.pem",
    )
    register.add_argument("--name", help="the name that renters see")
    register.add_argument("--email", help="where the provider can be reached")
    register.add_argument("--phone", help="telephone in international form")
    register.add_argument(
        "--gpu-model", metavar="MODEL", help="the GPU, such as 'RTX 4090'; found by itself where there is one"
    )
    register.add_argument("--server", metavar="ADDRESS", help="the server, as host:port")
    register.add_argument("--tls-ca", metavar="FILE", help="authorities that the server is checked with")
    register.add_argument("--insecure", action="store_true", help="send the key in plain to another machine")
    register.add_argument(
        "--model", action="append", metavar="NAME=FILE", help="a model to serve; repeat for more"
    )
    register.add_argument("--force", action="store_true", help="replace this machine's identity and settings")


def _add_doctor(commands: _Commands[argparse.ArgumentParser]) -> None:
    doctor = _added(
        commands,
        "doctor",
        "check this machine and say what to mend",
        "dcp-daemon doctor",
        "dcp-daemon doctor --json | jq '.[] | select(.level == \"fail\")'",
    )
    doctor.add_argument("--json", action="store_true", help="for programs: one list of findings")
    _add_process_runner(doctor)


def _add_process_runner(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-process-runner",
        action="store_true",
        help="NOT ISOLATED: run jobs' commands as plain processes where no images are allowed; "
        "jobs can read this machine's files and use its network",
    )


def _add_status(commands: _Commands[argparse.ArgumentParser]) -> None:
    status = _added(
        commands,
        "status",
        "session, jobs, GPUs and earnings, live",
        "dcp-daemon status",
        "dcp-daemon status --json | jq .session",
    )
    status.add_argument("--once", action="store_true", help="print it once and end")
    status.add_argument("--json", action="store_true", help="for programs; once")


def _add_account(commands: _Commands[argparse.ArgumentParser]) -> None:
    """What asks the server with the key of this machine."""
    pause = _added(commands, "pause", "take no new jobs until resume; what runs finishes", "dcp-daemon pause")
    resume = _added(
        commands,
        "resume",
        "end the pause; with --gpu, give one drained GPU jobs again",
        "dcp-daemon resume",
        "dcp-daemon resume --gpu 0",
    )
    resume.add_argument("--gpu", metavar="INDEX|UUID", help=_WHICH_GPU)
    earnings = _added(
        commands,
        "earnings",
        "what was earned, day by day, and what can be withdrawn",
        "dcp-daemon earnings --days 30",
    )
    earnings.add_argument(
        "--days", type=int, default=14, metavar="DAYS", help="how many days, up to today; default: 14"
    )
    rates = _added(
        commands,
        "rates",
        "list your rates and the market's, or set one for new jobs",
        "dcp-daemon rates",
        "dcp-daemon rates training 1.20",
        "dcp-daemon rates training --platform",
    )
    rates.add_argument("job_type", nargs="?", metavar="JOB_TYPE", help="the one to set, such as training")
    rates.add_argument("per_minute", nargs="?", metavar="PER_MINUTE", help="SAR per minute, such as 1.20")
    rates.add_argument("--platform", action="store_true", help="the market's rate instead of your own")
    withdraw = _added(
        commands,
        "withdraw",
        "ask for a withdrawal of earnings to a bank account",
        "dcp-daemon withdraw 250 --iban SA0380000000608010167519",
    )
    withdraw.add_argument("amount", metavar="AMOUNT", help="in SAR; the least is 10")
    withdraw.add_argument("--iban", required=True, metavar="IBAN", help="IBAN of a Saudi bank account")
    for command in (pause, resume, earnings, rates, withdraw):
        command.add_argument("--json", action="store_true", help="for programs")


def _add_update(commands: _Commands[argparse.ArgumentParser]) -> None:
    update = _added(
        commands,
        "update",
        "install the newest signed release; go back if it does not get ready",
        "dcp-daemon update --check",
        "dcp-daemon update",
    )
    update.add_argument(
        "--from", dest="source", metavar="URL|FILE", help="the release.json, instead of DCP_UPDATE_URL"
    )
    update.add_argument(
        "--check", action="store_true", help="say whether there is a newer one; change nothing"
    )
    update.add_argument("--allow-downgrade", action="store_true", help="take an older release, too")
    update.add_argument(
        "--ready-seconds",
        type=float,
        default=90.0,
        metavar="SECONDS",
        help="how long the new one may take to be ready; default: 90",
    )
    update.add_argument(
        "--root", type=Path, metavar="FOLDER", help="folder of the installation; found by itself"
    )


def _add_unit(commands: _Commands[argparse.ArgumentParser]) -> None:
    command_line = _added(
        commands,
        "unit",
        "print the systemd unit",
        "dcp-daemon unit --docker > /etc/systemd/system/dcp-daemon.service",
    )
    command_line.add_argument("--user", default="dcp", help="whom the daemon runs as; default: dcp")
    command_line.add_argument(
        "--root",
        type=Path,
        default=unit.ROOT,
        metavar="FOLDER",
        help=f"folder of the installation; default: {unit.ROOT}",
    )
    command_line.add_argument(
        "--docker", action="store_true", help="let it reach the Docker Engine, which is to be root"
    )


def _epilog() -> str:
    width = 2 + max(len(variable.name) for variable in VARIABLES)
    lines = [
        f"  {variable.name:<{width}}{variable.meaning} Default: {variable.default or 'none'}"
        for variable in VARIABLES
    ]
    return "\n".join([_START, "environment, or small letters without DCP_ in the file of settings:", *lines])
