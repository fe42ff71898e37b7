"""How much the answers of a real model have in common with those of itself, of worse copies, and of others.

    python -m scripts.calibrate --questions 16

It asks the model of the daemon's default configuration, and copies of it with fewer layers or bits, the same
questions as the market asks, and prints the figures of server.domain.equality as a table for docs/figures.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from daemon.config.config import from_env
from scripts.calibration import gguf
from server.domain import prompts
from server.domain.equality import AGREE, MIDDLE, MOST_DIFFERENCE, Answer, difference, likeness
from server.domain.jobs import MAX_LOGPROBS

MAX_TOKENS = 80
SYSTEM = "You are a friendly assistant of a shop. Keep it short."
FILLER = "I would be happy to help you with that. Please tell me a little more about what you need. " * 4


@dataclass(frozen=True, slots=True)
class Variant:
    """A model and how it runs; ``is_same``: it is the model itself, which must pass."""

    name: str
    is_same: bool
    copy: str = "model"
    settings: Mapping[str, object] = field(default_factory=dict)
    system: str | None = None


VARIANTS = (
    Variant("two threads", True, settings={"threads": 2}),
    Variant("three questions at once", True, settings={"at_once": 3}),
    Variant("cache of 32 bits", True, settings={"cache": "F32"}),
    Variant("cache of 8 bits", True, settings={"cache": "Q8_0"}),
    Variant("other kernels of attention", True, settings={"other_kernels": True}),
    Variant("weights of 3.6 bits instead of 4", False, "twelve levels"),
    Variant("weights of 3 bits instead of 4", False, "eight levels"),
    Variant("29 of 30 layers", False, "fewer layers"),
    Variant("other instructions", False, system=SYSTEM),
)


def main() -> int:
    """Prints the table. Returns 1 if a variant is on the wrong side of the middle."""
    options = _options()
    if not (models := from_env({}).models):
        print("calibrate: no model is installed; run scripts/setup", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        copies = _copies(models[0].path, Path(folder))
        questions = [prompts.draw(f"calibration {number}") for number in range(options.questions)]
        reference = _answers(copies["model"], questions, Variant("reference", True))
        rows = [Row(each, _answers(copies[each.copy], questions, each), reference) for each in VARIANTS]
        rows.append(Row(Variant("always the same text", False), [Answer(FILLER)] * len(questions), reference))
    for line in _table(rows):
        print(line)
    return int(any(row.is_wrong for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares a model's answers with those of worse copies.")
    parser.add_argument("--questions", type=int, default=16, help="how many questions (default: 16)")
    return parser.parse_args()


def _copies(path: Path, folder: Path) -> dict[str, Path]:
    model = gguf.read(path)
    return {
        "model": path,
        "fewer layers": model.with_layers(model.layers() - 1).write(folder / "layers.gguf"),
        "twelve levels": model.with_levels(12).write(folder / "twelve.gguf"),
        "eight levels": model.with_levels(8).write(folder / "eight.gguf"),
    }


def _answers(path: Path, questions: Sequence[prompts.Prompt], variant: Variant) -> list[Answer]:
    print(f"calibrate: {variant.name}", file=sys.stderr)
    conversations = [
        [
            {"role": role, "content": text}
            for role, text in (("system", variant.system or each.system), ("user", each.text))
            if text is not None
        ]
        for each in questions
    ]
    settings = {"path": str(path), "max_tokens": MAX_TOKENS, "conversations": conversations}
    child = subprocess.run(
        [sys.executable, "-m", "scripts.calibration.answers"],
        input=json.dumps(settings | dict(variant.settings)) + "\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        check=True,
    )
    return [
        Answer(text, logprobs=tuple((token, logprob) for token, logprob in tokens[:MAX_LOGPROBS]))
        for text, tokens in json.loads(child.stdout)
    ]


class Row:
    """What the answers of a variant have in common with those of the reference."""

    def __init__(self, variant: Variant, answers: Sequence[Answer], reference: Sequence[Answer]) -> None:
        self.variant = variant
        pairs = list(zip(answers, reference, strict=True))
        found = [likeness(answer.text, other.text) for answer, other in pairs]
        self.figures = [each.figure for each in found if each is not None]
        differences = [difference(answer.logprobs, other.logprobs) for answer, other in pairs]
        self.differences = [each for each in differences if each is not None]

    @property
    def passes(self) -> bool:
        """Whether its texts are the model's."""
        return fmean(self.figures) >= MIDDLE

    @property
    def is_wrong(self) -> bool:
        """Whether the model is taken for another, or another for it."""
        is_parted = any(each > MOST_DIFFERENCE for each in self.differences)
        return self.passes is not self.variant.is_same or (self.variant.is_same and is_parted)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| compared with one thread, the model as it is | is | mean | least | most | agree | passes "
        "| probabilities differ by, mean | most | too much |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |"
    for row in rows:
        figures, differences = row.figures, row.differences
        agree = sum(figure >= AGREE for figure in figures)
        parted = sum(each > MOST_DIFFERENCE for each in differences)
        known = (
            f"{fmean(differences):.3f} | {max(differences):.3f} | {parted} of {len(differences)}"
            if differences
            else "- | - | -"
        )
        yield (
            f"| {row.variant.name} | {'the same' if row.variant.is_same else 'another'} "
            f"| {fmean(figures):.2f} | {min(figures):.2f} | {max(figures):.2f} "
            f"| {agree} of {len(figures)} | {'yes' if row.passes else 'no'} | {known} |"
        )


if __name__ == "__main__":
    sys.exit(main())
