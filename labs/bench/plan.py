"""A plan beside the run that it is made for: memory by phase, predicted (`keel plan --measure`, and by formula alone) and measured.

    python -m labs.bench.plan [--shapes NAME ...] [--json FILE]

Models are made on the fly. Each shape takes two processes: one for the probe, one for the run itself (two steps, from the data to
`final/`), in which the most resident memory is read around each phase. What else the machine does changes none of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keel.core.json_lines import lines_of

_REWARD = "def reward(prompt, completion):\n    return completion.count('e') / max(1, len(completion))\n"
_WORDS = [
    "the",
    "answer",
    "to",
    "this",
    "is",
    "that",
    "we",
    "will",
    "send",
    "the",
    "parcel",
    "on",
    "monday",
    "and",
    "that",
    "you",
    "get",
    "your",
    "money",
    "back",
    "within",
    "five",
    "days",
]


@dataclass(frozen=True, slots=True)
class Shape:
    """A run to plan: its verb, and what its recipe has beside data, seed and two steps."""

    verb: str
    what: str
    recipe: Mapping[str, Any]


def _model(hidden: int, layers: int = 4) -> str:
    return f"tiny:llama?seed=1&hidden={hidden}&layers={layers}"


def _options(**more: Any) -> dict[str, Any]:
    return {"model_options": {"precision": "fp32", **more}}


def _rl(algorithm: str, hidden: int, tokens: int, **more: Any) -> dict[str, Any]:
    """Four prompts a step, eight answers each, all of ``tokens`` tokens."""
    sampling = {"max_tokens": tokens, "min_tokens": tokens}
    return {"model": _model(hidden), **_options(), "algorithm": {"name": algorithm}, "samples": 8, "sampling": sampling, **more}


SHAPES: Mapping[str, Shape] = {
    "sft-2M": Shape("sft", "2.6M, all weights", {"model": _model(256), **_options()}),
    "sft-58M-checkpointing": Shape("sft", "58M, checkpointing", {"model": _model(1024, 6), **_options(gradient_checkpointing=True)}),
    "grpo-39M": Shape("rl", "39M, 32 x 16 tokens", _rl("grpo", 1024, 16)),
    "grpo-2M-long": Shape("rl", "2.6M, 32 x 256 tokens", _rl("grpo", 256, 256)),
    "grpo-39M-lora": Shape("rl", "39M, LoRA r = 8, 32 x 32 tokens", _rl("grpo", 1024, 32, lora={"r": 8})),
    "ppo-10M-critic": Shape("rl", "10M, critic, 32 x 32 tokens", _rl("ppo", 512, 32)),
    "dpo-39M-bf16": Shape("prefer", "39M, bfloat16", {"model": _model(1024), **_options(precision="bf16")}),
    "reward-39M": Shape("reward", "39M, pairs", {"model": _model(1024), **_options()}),
}


def _text(n: int, start: int) -> str:
    return " ".join(_WORDS[(start + i) % len(_WORDS)] for i in range(n))


def write_data(folder: Path) -> None:
    """24 rows of each kind, of prompts and answers of different lengths, and a reward."""
    rows: dict[str, list[dict[str, Any]]] = {"sft": [], "prefer": [], "rl": []}
    for i in range(24):
        prompt = {"role": "user", "content": f"{i} " + _text(6 + i % 7, i)}
        good, bad = ({"role": "assistant", "content": _text(n, i)} for n in (30 + 3 * i, 20 + 2 * i))
        rows["sft"].append({"messages": [prompt, good]})
        rows["prefer"].append({"prompt": [prompt], "chosen": [good], "rejected": [bad]})
        rows["rl"].append({"prompt": [prompt]})
    rows["reward"] = rows["prefer"]
    for verb, of_verb in rows.items():
        (folder / f"{verb}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in of_verb))
    (folder / "reward.py").write_text(_REWARD)


def recipe_of(shape: Shape, folder: Path) -> Path:
    """The shape's recipe as a file."""
    recipe: dict[str, Any] = {
        "data": {"path": str(folder / f"{shape.verb}.jsonl")},
        "held_out": 0.2,
        "seed": 1,
        "loop": {"steps": 2, "batch_size": 4, "eval_at_start": False, "probes": 0 if shape.verb == "reward" else 2},
        "settings": {"threads": 1},
        **shape.recipe,
    }
    if shape.verb == "rl":
        recipe["rewards"] = [{"type": "python", "name": "e", "function": f"{folder / 'reward.py'}:reward"}]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def planned(shape: Shape, path: Path) -> dict[str, Any]:
    """Predicted bytes: of the training phase and of the whole, measured on a micro-batch and by formula alone."""
    from keel.plan.measured import corrected, factors_of, run_probe
    from keel.plan.memory import memory
    from keel.plan.read import read, work_of

    asked = read(path, (), shape.verb, None)
    work, by_formula = work_of(asked), {}
    for name, plan in (("formula", memory(work)),):
        by_formula = {f"{name}_training": plan.of("training"), f"{name}_whole": plan.peak}
    probed = run_probe(shape.verb, asked.recipe)
    work = corrected(work, probed)
    factors = factors_of(work, probed)
    plan = memory(work, factors)
    training = max(plan.of("training"), plan.of("critic"))
    return {
        "training": training,
        "whole": plan.peak,
        "worst": plan.worst,
        "phases": plan.phases,
        "factors": factors.to_json(),
        **by_formula,
    }


class Watched:
    """The most memory of each phase, and of all; a stretch that lies in another one counts for both."""

    def __init__(self) -> None:
        import torch

        from keel.plan.meter import Meter

        self.meter, self.phases, self.open = Meter(torch.device("cpu")), {}, list[str]()
        self.meter.start()

    def note(self) -> None:
        """What the stretch that ends here took."""
        peak = self.meter.peak()
        for name in {"whole", *self.open}:
            self.phases[name] = max(self.phases.get(name, 0), peak)
        self.meter.start()

    def around(self, owner: Any, name: str, phase: str) -> None:
        """From now on ``owner.name`` is that phase."""
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            self.note()
            self.open.append(phase)
            try:
                return inner(*args, **kwargs)
            finally:
                self.note()
                self.open.pop()

        setattr(owner, name, outer)


def run_watched(verb: str, path: Path, folder: Path) -> dict[str, int]:
    """The run itself, in this process: bytes at the peak of its phases."""
    from keel.core.config import load
    from keel.learner.local import LocalLearner
    from keel.models import loading
    from keel.rollout.local import LocalSampler
    from keel.verbs.run import RECIPES, STAGE_FUNCTIONS
    from keel.verbs.shared import parts, sampled_parts, session

    watched = Watched()
    watched.around(LocalLearner, "forward_backward", "training")
    watched.around(LocalLearner, "step", "training")
    watched.around(LocalLearner, "logprobs", "scoring")
    watched.around(LocalSampler, "_sample", "sampling")
    for module in (parts, sampled_parts):
        watched.around(module, "save_final", "saving")
    watched.around(session, "load_model", "loading")
    assert loading.load_model is not None
    STAGE_FUNCTIONS[verb](load(RECIPES[verb], path), folder / "run", "")
    watched.note()
    return watched.phases


def compare(names: Sequence[str]) -> list[dict[str, Any]]:
    """Plan and run each shape; rows with both."""
    rows: list[dict[str, Any]] = []
    for name in names:
        shape = SHAPES[name]
        with tempfile.TemporaryDirectory(prefix="keel-bench-plan-") as temporary:
            folder = Path(temporary)
            write_data(folder)
            path = recipe_of(shape, folder)
            predicted = planned(shape, path)
            command = [sys.executable, "-m", "labs.bench.plan", "--child", shape.verb, str(path), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: the run failed\n{done.stderr}")
            measured = json.loads(lines_of(done.stdout.strip())[-1])
        rows.append({"shape": name, "verb": shape.verb, "what": shape.what, "predicted": predicted, "measured": measured})
        print(line(rows[-1]), flush=True)
    return rows


HEAD = (
    "| run | training MB: planned | measured | error | whole MB: planned | measured | error | formula alone: training | whole |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    p, m = row["predicted"], row["measured"]
    cells = [f"`{row['verb']}` {row['what']}"]
    for phase in ("training", "whole"):
        cells += [f"{p[phase] / 1e6:,.0f}", f"{m[phase] / 1e6:,.0f}", f"{p[phase] / m[phase] - 1:+.0%}"]
    cells += [f"{p[f'formula_{phase}'] / m[phase] - 1:+.0%}" for phase in ("training", "whole")]
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES), metavar="NAME", help=", ".join(SHAPES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, by phase")
    parser.add_argument("--child", nargs=3, metavar=("VERB", "RECIPE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        verb, path, folder = args.child
        print(json.dumps(run_watched(verb, Path(path), Path(folder))))
        return
    print(HEAD, flush=True)
    rows = compare(args.shapes)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
