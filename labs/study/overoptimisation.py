"""Over-optimisation: the gold reward of policies that are optimised for a learned one, against their KL to the start (Gao et al. 2022,
arXiv:2210.10760), with ensembles beside single reward models (Coste et al. 2023, arXiv:2310.02743)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from keel.core.hashing import stable_hash
from keel.learner.inference import LocalInference
from keel.rewards.sources.ensemble import EnsembleSource, Expert, Members
from keel.rewards.sources.model import EnsembleConfig, Standardiser
from keel.types import Group, Unit
from labs.study.curves import best_of_n, best_of_n_kl
from labs.study.verdicts import Curve, ensembles_help, shape_of
from labs.study.ways import OFFLINE_STEPS, Looks, preferred, reinforced
from labs.study.world import Meter, Point, World, as_units, draw, ending, make_prompts

log = logging.getLogger("keel")
Key = tuple[str, float, int]  # of a model: shape, votes as in Proxy, number of the member
_RL_PROMPTS = 256
_ALGORITHM = {"name": "rloo", "kl": {"place": "none"}}  # nothing but the reward holds it


@dataclass(frozen=True, slots=True)
class Proxy:
    """A learned reward: the shape of its models, the votes that they see over those of the plan, how many there are and what
    becomes of them."""

    shape: str = "medium"
    votes: float = 1.0
    members: int = 1
    config: EnsembleConfig = field(default_factory=EnsembleConfig)
    rl: bool = True  # optimised by RL too, not by best of n alone

    @property
    def keys(self) -> list[Key]:
        return [(self.shape, self.votes, member) for member in range(self.members)]


MEMBERS, MORE = 5, 4.0
PROXIES: dict[str, Proxy] = {
    "small": Proxy("small"),
    "medium": Proxy(),
    "large": Proxy("large", rl=False),
    "medium, four times the votes": Proxy(votes=MORE),
    "ensemble, mean": Proxy(members=MEMBERS),
    "ensemble, lower bound": Proxy(members=MEMBERS, config=EnsembleConfig(aggregate="lower_bound", k=1.0)),
    "ensemble, least": Proxy(members=MEMBERS, config=EnsembleConfig(aggregate="min"), rl=False),
}
SINGLE = "medium"  # what the ensembles are compared with: one of their members


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done. The defaults are what the documentation shows."""

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    steps: int = 32  # of RL; DPO has steps for as many answers
    world: int = 0  # seed of gold reward and start
    voted: int = 8  # prompts that are voted on, four votes each
    noise: float = 1.0  # of a vote: a difference of so many deviations of the gold reward is right with 73%
    epochs: int = 20  # of a reward model over its votes
    pool_prompts: int = 16  # best of n: prompts, and answers drawn for each
    pool: int = 512
    held_out: int = 32  # prompts that RL and DPO are measured on, and answers to each
    samples: int = 8
    every: int = 3  # RL is measured after so many steps, DPO after as many answers
    betas: tuple[float, ...] = (0.03, 0.3)

    @property
    def looks(self) -> Looks:
        return Looks(self.steps, self.every)


def overoptimisation(plan: Plan) -> dict[str, Any]:
    """Run everything; the result as it goes into the file."""
    found: dict[tuple[str, str], list[list[Point]]] = {}
    with tempfile.TemporaryDirectory(prefix="keel-study-") as scratch:
        world = World(Path(scratch), plan.world)
        meter = Meter(world, plan.held_out, plan.samples)
        pool = draw(world.sampler, make_prompts(plan.pool_prompts, "pool", plan.world), plan.pool, plan.world)
        for seed in plan.seeds:
            for method, name, points in one_seed(world, meter, pool, plan, seed):
                found.setdefault((method, name), []).append(points)
                log.info("seed %d, %s, %s: KL %.1f, gold %s", seed, method, name, points[-1].kl, " ".join(f"{p.gold:.2f}" for p in points))
    curves = [Curve(method, name, _xs(method, plan), tuple(map(tuple, seeds))) for (method, name), seeds in found.items()]
    return report(curves, plan)


def _xs(method: str, plan: Plan) -> tuple[int, ...]:
    """What the points of a curve are: n, or steps."""
    if method == "best_of_n":
        return sizes(plan.pool)
    return tuple((plan.looks.times(OFFLINE_STEPS) if method == "dpo" else plan.looks).stops)


def sizes(pool: int) -> tuple[int, ...]:
    """The powers of two up to the pool's size."""
    return tuple(2**i for i in range(pool.bit_length()))


def report(curves: Sequence[Curve], plan: Plan) -> dict[str, Any]:
    """Curves with their peaks and falls, and what was found of the published shape."""
    singles = [name for name, p in PROXIES.items() if p.members == 1]
    verdicts = {
        "best_of_n": shape_of(curves, "best_of_n", singles),
        "rl": shape_of(curves, "rl", singles),
        "dpo": shape_of(curves, "dpo"),
        "ensembles": ensembles_help(curves, SINGLE, [name for name, p in PROXIES.items() if p.members > 1]),
    }
    missing = [name for name, verdict in verdicts.items() if not verdict["found"]]
    told = "all of the published shape was found" if not missing else f"not found: {', '.join(missing)}"
    return {
        "study": "overoptimisation",
        "plan": asdict(plan),
        "proxies": {name: asdict(p) | {"config": p.config.model_dump()} for name, p in PROXIES.items()},
        "curves": [c.to_json() for c in curves],
        "verdicts": verdicts,
        "verdict": {"found": not missing, "reasons": [told]},
    }


def one_seed(world: World, meter: Meter, pool: tuple[Group, ...], plan: Plan, seed: int) -> Iterator[tuple[str, str, list[Point]]]:
    """All curves of one seed, with their ways and names: its own votes, reward models and runs."""
    votes = world.votes(round(MORE * plan.voted), plan.noise, seed)
    experts = train_experts(world, votes, plan, seed)
    units, gold = as_units(pool), world.gold.score(pool)
    on_pool = {key: (_known(model.judgements(units)), scale) for key, (model, scale) in experts.items()}
    live = {key: (model.judgements, scale) for key, (model, scale) in experts.items()}
    asked = make_prompts(_RL_PROMPTS, "rl", seed)
    for name in PROXIES:
        yield "best_of_n", name, best(ensemble(name, on_pool).score(pool), gold)
    for name, proxy in PROXIES.items():
        if proxy.rl:
            yield "rl", name, reinforced(meter, ensemble(name, live), _ALGORITHM, asked, plan.looks, seed)
    for beta in plan.betas:
        objective, seen = {"name": "dpo", "beta": beta}, votes[: plan.voted]
        yield "dpo", f"beta {beta:g}", preferred(meter, seen, ensemble(SINGLE, live), objective, plan.looks, seed)


def train_experts(world: World, votes: tuple[Unit, ...], plan: Plan, seed: int) -> dict[Key, tuple[LocalInference, Standardiser]]:
    """Each model that some proxy asks, once."""
    wanted = dict.fromkeys(key for p in PROXIES.values() for key in p.keys)
    found: dict[Key, tuple[LocalInference, Standardiser]] = {}
    for shape, times, member in wanted:
        seen = votes[: round(times * plan.voted)]
        found[shape, times, member] = world.proxy(shape, seen, plan.epochs, stable_hash("proxy", seed, member) % 2**31)
    return found


def ensemble(name: str, experts: Mapping[Key, tuple[Members, Standardiser]]) -> EnsembleSource:
    """The reward of a proxy; one model is an ensemble of one."""
    return EnsembleSource(name, [Expert(*experts[key]) for key in PROXIES[name].keys], ending, PROXIES[name].config)


def _known(judged: Sequence[tuple[Tensor, Tensor]]) -> Members:
    return lambda units: judged


# ------------------------------------------------------------------------------------------------------------------- the three ways


def best(proxy: Sequence[Tensor], gold: Sequence[Tensor]) -> list[Point]:
    """Best of n by the proxy's scores [N] of each prompt's pool, for n = 1, 2, 4 ...: means over prompts."""
    points: list[Point] = []
    for n in sizes(len(proxy[0])):
        means = [fmean(best_of_n(p, values, n) for p, values in zip(proxy, of, strict=True)) for of in (gold, proxy)]
        points.append(Point(best_of_n_kl(n), *means))
    return points
