"""Owns the command line of `dcp-daemon`: which commands and flags there are, and their help."""

from __future__ import annotations

import argparse
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
  dcp-daemon setup                                  # asks for what is missing
  dcp-daemon setup --dry-run                        # shows the settings, changes nothing
  dcp-daemon setup --model llama3.2                 # the Ollama that runs here downloads it
  dcp-daemon setup --model Qwen/Qwen2.5-7B-Instruct --from https://models.example.com/qwen2.5-7b-q4.gguf \\
      --sha256 DIGEST                               # the same command goes on after a break
  dcp-daemon setup --model acme/big --from https://models.example.com/big.json   # several files
  dcp-daemon setup --yes --server market.example.com:50051 --key-file key.txt    # for scripts

A manifest is {"files": [{"name": "big-1.gguf", "url": "big-1.gguf", "size": 123, "sha256": "..."}]};
url, beside the manifest, size and sha256 may be left out.
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
    run = commands.add_parser(
        "run", help="hold the session and run jobs; SIGTERM drains, SIGHUP reads settings again"
    )
    _add_process_runner(run)
    _add_doctor(commands)
    _add_status(commands)
    health = commands.add_parser(
        "health", help="exit with 0 if the running daemon has a session, else with 1"
    )
    health.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="how long it may take (default: 0)"
    )
    _add_gpu(commands, "drain", "keep one GPU from new jobs, also after a restart; its jobs finish")
    _add_account(commands)
    _add_update(commands)
    _add_unit(commands)
    return command_line


def _add_setup(commands: _Commands[argparse.ArgumentParser]) -> None:
    setup = commands.add_parser(
        "setup",
        help="find what this machine has, download a model, write the settings",
        description="Finds GPUs, model servers and a container engine, asks only for what it cannot see, and "
        "writes the file of settings; what is set there stays.",
        epilog=_SETUP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    setup.add_argument("--server", help="the server, as host:port")
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
    register = commands.add_parser("register", help="register this machine as a provider, once")
    register.add_argument("--name", help="what renters see")
    register.add_argument("--email", help="where the provider can be reached")
    register.add_argument("--phone", help="telephone in international form")
    register.add_argument("--gpu-model", help="the GPU; found by itself where there is one")
    register.add_argument("--server", help="the server, as host:port")
    register.add_argument("--tls-ca", metavar="FILE", help="authorities that the server is checked with")
    register.add_argument("--insecure", action="store_true", help="send the key in plain to another machine")
    register.add_argument(
        "--model", action="append", metavar="NAME=FILE", help="a model to serve; repeat for more"
    )
    register.add_argument("--force", action="store_true", help="replace this machine's identity and settings")


def _add_doctor(commands: _Commands[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser("doctor", help="check this machine and say what to mend")
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
    status = commands.add_parser("status", help="session, jobs, GPUs and earnings, live")
    status.add_argument("--once", action="store_true", help="print it once and end")
    status.add_argument("--json", action="store_true", help="for programs; once")


def _add_gpu(commands: _Commands[argparse.ArgumentParser], name: str, meaning: str) -> None:
    command = commands.add_parser(name, help=meaning)
    command.add_argument("--gpu", required=True, metavar="INDEX|UUID", help=_WHICH_GPU)


def _add_account(commands: _Commands[argparse.ArgumentParser]) -> None:
    """What asks the server with the key of this machine."""
    pause = commands.add_parser("pause", help="take no new jobs until resume; what runs finishes")
    resume = commands.add_parser("resume", help="end the pause; with --gpu, give one drained GPU jobs again")
    resume.add_argument("--gpu", metavar="INDEX|UUID", help=_WHICH_GPU)
    earnings = commands.add_parser("earnings", help="what was earned, day by day, and what can be withdrawn")
    earnings.add_argument("--days", type=int, default=14, help="how many days (default: 14)")
    rates = commands.add_parser("rates", help="list your rates and the market's, or set one for new jobs")
    rates.add_argument("job_type", nargs="?", metavar="JOB_TYPE", help="the one to set, such as training")
    rates.add_argument("per_minute", nargs="?", metavar="PER_MINUTE", help="SAR per minute, such as 1.20")
    rates.add_argument("--platform", action="store_true", help="the market's rate instead of your own")
    withdraw = commands.add_parser("withdraw", help="ask for a withdrawal of earnings to a bank account")
    withdraw.add_argument("amount", metavar="AMOUNT", help="in SAR; the least is 10")
    withdraw.add_argument("--iban", required=True, help="of a Saudi bank account")
    for command in (pause, resume, earnings, rates, withdraw):
        command.add_argument("--json", action="store_true", help="for programs")


def _add_update(commands: _Commands[argparse.ArgumentParser]) -> None:
    update = commands.add_parser(
        "update", help="install the newest signed release; go back if it does not get ready"
    )
    update.add_argument(
        "--from", dest="source", metavar="URL|FILE", help="the release.json, instead of DCP_UPDATE_URL"
    )
    update.add_argument(
        "--check", action="store_true", help="say whether there is a newer one; change nothing"
    )
    update.add_argument("--allow-downgrade", action="store_true", help="take an older release, too")
    update.add_argument(
        "--ready-seconds", type=float, default=90.0, help="how long the new one may take to be ready"
    )
    update.add_argument("--root", type=Path, help="folder of the installation; found by itself")


def _add_unit(commands: _Commands[argparse.ArgumentParser]) -> None:
    command_line = commands.add_parser("unit", help="print the systemd unit")
    command_line.add_argument("--user", default="dcp", help="whom the daemon runs as")
    command_line.add_argument("--root", type=Path, default=unit.ROOT, help="folder of the installation")
    command_line.add_argument(
        "--docker", action="store_true", help="let it reach the Docker Engine, which is to be root"
    )


def _epilog() -> str:
    lines = [
        f"  {variable.name:<22}{variable.meaning} Default: {variable.default or 'none'}"
        for variable in VARIABLES
    ]
    return "\n".join([_START, "environment, or small letters without DCP_ in the file of settings:", *lines])
