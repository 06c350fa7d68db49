"""From what a probe took to the factors that a config does not tell, to the true shapes, and to rates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from keel.core.config import dump
from keel.core.errors import UserError
from keel.core.json_lines import lines_of
from keel.plan import formulas as f
from keel.plan.memory import memory, standing
from keel.plan.probe import Probed
from keel.plan.seconds import Rates
from keel.plan.work import Factors, Work
from keel.verbs.shared.recipes import TrainRecipe

LEAST = 0.05  # a factor below it would say that a formula counts what is not there


def run_probe(verb: str, recipe: TrainRecipe) -> Probed:
    """Measure in a process of its own, so that nothing of this one is in it. Raises UserError with what the probe says of the recipe, or
    with how it died: of a micro-batch that does not fit it is killed."""
    with tempfile.TemporaryDirectory(prefix="keel-plan-") as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(yaml.safe_dump(dump(recipe), sort_keys=False, allow_unicode=True))
        command = [sys.executable, "-m", "keel.plan.probe", verb, str(file), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = lines_of(done.stdout.strip())
    try:
        said = json.loads(lines[-1]) if lines else {}
    except json.JSONDecodeError:
        said = {}
    if "error" in said:
        raise UserError(f"--measure: {said['error']}", said.get("hint", ""))
    if done.returncode or not said:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        how = "was killed, as a process is that takes more memory than there is" if done.returncode < 0 else f"ended with {done.returncode}"
        raise UserError(f"--measure: the process that measures {how}: {last}", "lower batch.microbatch_tokens, or leave --measure out")
    return Probed(**said)


def corrected(work: Work, probed: Probed) -> Work:
    """``work`` with the shapes that the run really has."""
    sampled = probed.rows > 0
    return replace(
        work,
        counted=float(probed.trained),
        microbatch=float(probed.microbatch),
        scored=float(probed.scored if work.scored else 0),
        inference=float(probed.inference if sampled else max(probed.inference, work.inference)) if work.inference else 0.0,
        prompt=float(probed.prompt) if sampled else work.prompt,
        smallest=min(work.smallest, float(probed.microbatch)),
    )


def factors_of(work: Work, probed: Probed) -> Factors:
    """Each factor such that the formulas give what was measured; ``work`` is ``corrected``."""
    nothing = memory(replace(work, inference=float(probed.inference)), Factors(0.0, 0.0, 0.0, 0.0))
    moments = f.moments(work.trained, work.optimizer, float(work.size.sides)) * (2 if work.critic else 1)
    process = max(0.0, probed.standing - standing(work))
    size = work.size
    kept = f.activations(work.microbatch, size.layers, size.hidden, size.intermediate, work.value, work.checkpointing)
    passed = f.forward(probed.inference, size.hidden, size.intermediate, work.value)
    without = standing(work) + f.head_tile(probed.inference, size.vocab, size.hidden, work.value, work.device, trained=False)
    return Factors(
        process=process,
        activations=_factor(probed.training - process - nothing.of("training"), kept),
        forward=_factor(probed.scoring - process - without, passed),
        sampling=_sampling(work, probed, process, moments),
        loading=max(0.0, float(probed.loading - probed.standing)),
        measured=True,
    )


def _sampling(work: Work, probed: Probed, process: float, moments: float) -> float:
    """The probe draws a few tokens of each row, before there are moments."""
    if not probed.rows:
        return 1.0
    few = replace(work, answer=float(probed.answer), rows=min(work.rows, probed.rows))
    with_, without = (memory(few, Factors(0.0, 1.0, 1.0, factor)).of("sampling") for factor in (1.0, 0.0))
    return _factor(probed.sampling - process - (without - moments), with_ - without)


def _factor(measured: float, formula: float) -> float:
    return max(LEAST, measured / formula) if formula else 1.0


def rates_of(probed: Probed) -> Rates:
    """Tokens a second of what was timed."""
    sampled = probed.rows * probed.answer
    return Rates(
        train=probed.microbatch / max(1e-9, probed.train_s),
        infer=probed.inference / max(1e-9, probed.infer_s),
        sample=sampled / max(1e-9, probed.sample_s) if sampled else 1.0,
        update=probed.update_s,
        measured=True,
    )
