"""What a model forgets when it learns something else, and what replay and EWC save of it: the table of docs/continual.md.

python -m labs.study.continual --out /tmp/continual
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.json_lines import lines_of
from keel.data.config import DataConfig
from keel.data.dataset import load
from keel.verbs.run import run_verb

NAMES = ("Ivo", "Dan", "Ada", "Mia", "Leo", "Zoe")
THINGS = ("lamps", "gloves", "cups", "ropes", "maps", "boots")
STEPS = {"A_seen": 60, "B": 40}
HELD_OUT = 0.2  # share of A that is only measured
WAYS = {"plain": "replay: 0}]", "replay": "replay: 0.5}]", "ewc": "replay: 0}], ewc: {weight: 1000}"}


def write(folder: Path) -> None:
    """A: letters about what is on its way. B: refusals of other questions about the same things, to the same people."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ask, say in (
        ("A", "Write to {n} about {t}.", "Dear {n}, the {t} are on their way."),
        ("B", "Tell {n} about {t}.", "No {t} today, {n}. Come back on Monday."),
    ):
        said = [(ask.format(n=n, t=t), say.format(n=n, t=t)) for n in NAMES for t in THINGS]
        rows = [{"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]} for q, a in said]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def without_measured(folder: Path, seed: int) -> None:
    """``A_seen.jsonl``: A without the letters that later trainings only measure, so that no training sees them."""
    _, held = load(DataConfig(path=str(folder / "A.jsonl")), seed).split_by_prompt(HELD_OUT, seed, "earlier letters")
    measured = {prompt.last_user_text for prompt in held.prompts()}
    lines = lines_of((folder / "A.jsonl").read_text(encoding="utf-8"))
    kept = [line for line in lines if json.loads(line)["prompt"][0]["content"] not in measured]
    (folder / "A_seen.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")


def train(folder: Path, name: str, model: str, data: str, seed: int, *more: str) -> dict[str, Any]:
    """The summary of one supervised fine-tuning; a finished one is not run again."""
    common = [
        f"model={model}",
        f"data={{path: {folder}/{data}.jsonl}}",
        f"run_dir={folder / name}",
        f"seed={seed}",
        f"loop={{steps: {STEPS[data]}, batch_size: 8, eval_every: 1000, probes: 0}}",
        "settings={checkpoint: {every: 1000}}",
        "model_options.precision=fp32",
        "optim={lr: 3e-3, schedule: constant}",
        "held_out=0",
        "render={}",
    ]
    return run_verb("sft", Path("recipes/tiny_sft.yaml"), [*common, *more])


def one_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Losses on letters that are only measured, before and after B, and on B at the end, by way."""
    write(folder)
    without_measured(folder, seed)
    train(folder, "first", f"tiny:llama?seed={seed + 1}", "A_seen", seed)
    found: dict[str, Any] = {"seed": seed}
    for way, setting in WAYS.items():
        earlier = f"continual={{earlier: [{{name: letters, data: {{path: {folder}/A.jsonl}}, held_out: {HELD_OUT}, {setting}}}"
        summary = train(folder, way, str(folder / "first" / "final"), "B", seed, earlier)
        before, after = summary["forgetting"]["parts"]["letters"]["nll"]
        found |= {"before": before, way: after, f"{way}_new": summary["last"]["nll"]}
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m labs.study.continual")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(words)
    rows = [one_seed(given.out / str(seed), seed) for seed in range(given.seeds)]
    print("| seed | A before B | after B | with replay of 0.5 | with EWC, weight 1,000 |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['seed']} | " + " | ".join(f"{row[k]:.3f}" for k in ("before", *WAYS)) + " |")
    for way in WAYS:
        print(f"loss on the last batch of B, {way}: " + ", ".join(f"{row[way + '_new']:.3f}" for row in rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
