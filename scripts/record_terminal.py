"""Writes docs/terminal.md: a session of the command `dcp` on a real terminal, against a real market.

It starts a market with a daemon that runs containers on a private Docker Engine, as the tests do; so it needs
root and Docker (`scripts/setup --engine`). What is drawn over, such as the line with the cost, is shown as it
stood at one moment, and then as it stood at the end.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from scripts.market import Market
from tests.support.private_engine import IMAGE, missing, running_engine
from tests.support.scene import SCRIPTED
from tests.support.scripted_daemon import MODEL, script
from tests.support.terminal_window import Window, screen

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "terminal.md"
COLUMNS = 100
PLACES = ("wadi", "oasis", "dune", "reef", "palm", "souk")
ADMIN_TOKEN = "operator-token-of-the-recording-only"
TRAIN = """\
for epoch in 1 2 3 4; do echo "epoch $epoch: loss 0.$((90 / epoch))"; sleep 1; done
mkdir /output/model
echo "weights" > /output/model/checkpoint.txt
"""
_INTRODUCTION = """\
# The command `dcp` in a terminal

Written by `python -m scripts.record_terminal` from a terminal of 100 columns. [For renters](renters.md)
explains the command. This market's providers have no GPU: one runs containers, one plays scripts as a model.
"""


class Recorder:
    """Runs commands as a user in a folder, and keeps what a person sees."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "DCP_API_URL": url,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }
        self.parts: list[str] = [_INTRODUCTION]

    def show(self, title: str, *words: str, moment: str = "", display: str = "") -> None:
        """Records a command. ``moment``: also what stands there when this text is shown."""
        window = Window(["dcp", *words], self._environ, self._folder, COLUMNS)
        frames = []
        if moment:
            window.until(moment)
            frames.append(screen(window.raw).strip("\n"))
        code = window.end()
        frames.append(screen(window.raw).strip("\n"))
        if code:
            raise SystemExit(f"dcp {' '.join(words)} ended with {code}:\n{frames[-1]}")
        self.parts.append(f"## {title}\n")
        command = f"$ dcp {display or ' '.join(words)}"
        for number, frame in enumerate(frames):
            if moment:
                self.parts.append("While it runs:\n" if number == 0 else "When it has ended:\n")
            self.parts.append(f"```\n{command}\n{frame}\n```\n")

    def quiet(self, *words: str) -> None:
        """Runs a command that is not recorded."""
        if Window(["dcp", *words], self._environ, self._folder, COLUMNS).end():
            raise SystemExit(f"dcp {' '.join(words)} failed")


def main() -> int:
    """Records the session. The exit status is 2 without a container engine."""
    if why := missing("docker"):
        print(f"record_terminal: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as data, running_engine("docker") as engine:
        folder = Path(data)
        settings = {"DCP_SANDBOX_TOPUP": "true"}
        with Market(folder, admin_token=ADMIN_TOKEN, settings=settings) as market:
            container = {
                "DCP_CONTAINER_SOCKET": str(engine.socket),
                "DCP_CONTAINER_IMAGES": "busybox",
                "DCP_CONTAINER_MEMORY_MB": "64",
                "DCP_CONTAINER_CPUS": "1",
                "DCP_MODELS": "",
            }
            runner = market.register_provider("Riyadh Node", "riyadh@example.com")
            market.add_daemon(runner[1], folder / "runner", settings=container)
            talker = market.register_provider("Jeddah Node", "jeddah@example.com")
            market.add_daemon(talker[1], folder / "talker", command=SCRIPTED)
            _record(market, folder / "home")
    return 0


def _record(market: Market, home: Path) -> None:
    home.mkdir()
    (home / "train.sh").write_text(TRAIN, encoding="utf-8")
    (home / "data").mkdir()
    (home / "data" / "set.bin").write_bytes(bytes(range(256)) * (64 << 10))
    prompts = "".join(f"{script(word, 12, 0.2)}\n" for word in PLACES)
    (home / "prompts.txt").write_text(prompts, encoding="utf-8")
    recorder = Recorder(home, market.url)
    recorder.quiet("register", "--name", "Acme AI", "--email", "acme@example.com")
    recorder.quiet("topup", "50")
    run = (
        "run",
        "--image",
        IMAGE,
        "--minutes",
        "5",
        "--cap",
        "2",
        "--input",
        "data",
        "--output",
        "out",
        "train.sh",
    )
    recorder.show("Who is there", "market")
    recorder.show("What would it cost", "quote", "--image", IMAGE, "--minutes", "5")
    recorder.show("Run a script", *run, moment="epoch 3")
    recorder.show("Ask a model", "ask", "--model", MODEL, script("wadi", 6, 0.1))
    batch = ("batch", "--model", MODEL, "--max-cost", "5", "--output", "answers.jsonl", "prompts.txt")
    recorder.show("Answer a file of questions", *batch, moment="of 6 done")
    recorder.show("What is kept for later jobs", "inputs", "list")
    recorder.show("What happened", "jobs")
    recorder.show("What is left", "wallet")
    text = "\n".join(recorder.parts)
    address = re.escape(market.url)
    PAGE.write_text(re.sub(address, "https://market.example", text), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
