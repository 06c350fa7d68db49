"""Which runs there are. Everything of a run is a function of its name: nothing is chosen by looking at a result."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from typing import Any

HEALTHY = "healthy"
HACKING = ("length", "format", "keyword", "leak", "proxy")
SICK = ("explosion", "nan", "dead", "entropy", *HACKING, "stale", "drift", "critic")
N_HEALTHY, N_SICK = 312, 17  # of each sickness
MORE = {"explosion": 23, "dead": 24, "entropy": 23}  # of those whose rules were changed after runs that had been kept apart were looked at

# name -> settings of the algorithm; PPO with fewer passes than by default, so that a run is short
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo"},
    "grpo_free": {"name": "grpo", "kl": {"coef": 0.001}},
    "dr_grpo": {"name": "dr_grpo"},
    "dapo": {"name": "dapo", "credit": {"refill_rounds": 2}},
    "gspo": {"name": "gspo"},
    "cispo": {"name": "cispo"},
    "rloo": {"name": "rloo"},
    "reinforce_pp": {"name": "reinforce_pp"},
    "ppo": {"name": "ppo", "epochs": 2},
}
_OFTEN = ("grpo", "grpo", "grpo_free", "rloo", "dapo", "gspo", "cispo", "dr_grpo", "reinforce_pp", "ppo")
VARIANTS = {"nan": ("gradient", "reward", "weight"), "dead": ("constant", "lr", "frozen"), "stale": ("told", "silent")}
# Where a sickness can show: gaming needs answers that have room for it, an entropy that collapses must have been there.
TASKS = {
    HEALTHY: ("last", "reverse", "needle", "echo", "echo", "grow", "taste0", "taste1"),
    "length": ("echo", "grow"),
    "format": ("echo",),
    "keyword": ("echo",),
    "leak": ("echo", "grow"),
    "proxy": ("taste0", "taste1"),
    "entropy": ("needle", "echo", "taste0", "taste1"),
}
_ANY = ("last", "reverse", "needle", "echo", "taste0", "taste1")


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``onset``: the step (from 0) before which the sickness is put in; -1 for a healthy run."""

    family: str
    number: int
    task: str
    algorithm: str
    lr: float
    prompts: int
    samples: int
    steps: int
    eval_every: int
    gold: bool  # is there a gold beside the reward, when held-out answers are judged?
    schedule: str = "constant"
    onset: int = -1
    variant: str = ""
    strength: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.family}-{self.number:03d}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make(family: str, number: int) -> Run:
    """The run of this name."""
    rng = random.Random(f"watchbench {family} {number}")
    task = rng.choice(TASKS.get(family, _ANY))
    algorithm = "ppo" if family == "critic" else rng.choice(_OFTEN)
    run = Run(
        family,
        number,
        task,
        algorithm,
        lr=rng.choice((1e-3, 2e-3, 3e-3)),
        prompts=rng.choice((6, 6, 8)),
        samples=rng.choice((4, 4, 5)),
        steps=rng.choice((80, 80, 80, 80, 100)) if family == HEALTHY else 80,
        eval_every=10,
        gold=family in HACKING or rng.random() < 0.5,
        schedule=rng.choice(("constant", "constant", "linear")) if family == HEALTHY else "constant",
    )
    return run if family == HEALTHY else _sick(run, rng)


def _sick(run: Run, rng: random.Random) -> Run:
    onset = rng.randint(25, 55)
    if run.family in HACKING:
        onset = rng.choice((0, rng.randint(15, 35)))  # half of the flaws are there from the beginning
    run = replace(run, onset=0 if run.family == "proxy" else onset)
    if variants := VARIANTS.get(run.family):
        run = replace(run, variant=variants[run.number % len(variants)])
    if run.family == "explosion":
        algorithm = rng.choice(("grpo", "grpo_free", "rloo", "reinforce_pp", "ppo", "dapo"))
        return replace(run, algorithm=algorithm, lr=rng.choice((2e-3, 3e-3)), strength=rng.choice((50.0, 100.0, 150.0)))
    if run.family == "entropy":
        return replace(run, strength=rng.choice((0.3, 0.6, 1.0)))
    if run.family == "critic":
        return replace(run, strength=rng.choice((50.0, 100.0, 200.0)))
    if run.family in HACKING:  # a strong reason to game, and the means: nothing that holds the policy back
        return replace(run, lr=rng.choice((2e-3, 3e-3)), algorithm=rng.choice(("grpo_free", "dr_grpo", "rloo", "cispo", "ppo")))
    return run


def all_runs() -> list[Run]:
    """All runs: the sick families in turn among the healthy ones, so that a bench that was cut short has some of each."""
    healthy = [make(HEALTHY, i) for i in range(N_HEALTHY)]
    sick = [make(family, i) for i in range(max(MORE.values())) for family in SICK if i < MORE.get(family, N_SICK)]
    shares = max(1, round(len(healthy) / len(sick) * 2))
    found: list[Run] = []
    while healthy or sick:
        found += [healthy.pop(0) for _ in range(min(shares, len(healthy)))]
        found += [sick.pop(0) for _ in range(min(2, len(sick)))]
    return found
