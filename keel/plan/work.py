"""What a run asks of memory, in numbers alone: model, precision, what is trained, the worst shapes of its passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from keel.plan import formulas as f
from keel.plan.size import Size

Mode = Literal["full", "lora"]


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens are those of the worst shape: ``microbatch`` of a pass with gradients (``scored`` of them have a log-probability),
    ``inference`` of one without, ``prompt`` and ``answer`` of a row that is sampled (``rows`` side by side, of ``prompts`` different ones;
    0 rows: nothing is sampled)."""

    size: Size
    value: int  # bytes of compute precision
    rank: int = 0  # of adapters; 0 trains all weights
    optimizer: f.Optimizer = "adamw"
    checkpointing: bool = False
    device: str = "cpu"
    microbatch: float = 0.0
    smallest: float = 0.0  # tokens that a micro-batch cannot go below: the longest unit, or of a group the longest branch
    scored: float = 0.0
    inference: float = 0.0
    rows: int = 0
    prompts: int = 0
    prompt: float = 0.0
    answer: float = 0.0
    evaluated: float = 0.0  # tokens of a pass that evaluates
    eval_rows: int = 0
    images: int = 0  # of a micro-batch
    reference: bool = False  # a model of its own
    named: bool = False  # it is another model, or follows: adapters do not stand in for it
    rewards: tuple[Size, ...] = ()
    critic: bool = False
    ranks: int = 1
    share: bool = True  # what is trained is shared out among the ranks; False: every rank has all of it
    rounded: bool = False  # weights that are shared out are rounded before they are put together
    offload: bool = False  # and lie beside the GPU, with gradients and moments
    sampler: str = "sampler"  # where the recipe has the sampler's settings
    shareable: bool = False  # the recipe has settings of ranks
    counted: float = 0.0  # parameters that are trained, where they were counted

    @property
    def trained(self) -> float:
        """Parameters that are trained: counted, or all, or ``r`` times the inputs and outputs of the adapted matrices."""
        return self.counted or float(self.rank * self.size.ports or self.size.parameters)

    @property
    def shards(self) -> int:
        """Ranks among which weights, gradients and moments are shared out."""
        return self.ranks if self.share else 1

    @property
    def gathered(self) -> int:
        """Bytes of a value of weights that are put together for a pass."""
        return 2 if self.rounded and self.shards > 1 else f.FP32

    @property
    def offloaded(self) -> bool:
        """Does what is trained lie beside the GPU?"""
        return self.offload and self.shards > 1 and self.device == "cuda"


@dataclass(frozen=True, slots=True)
class Factors:
    """What is measured and not told by a config. The defaults were measured on a CPU (docs/plan.md); `--measure` takes the model's own."""

    process: float = 0.5e9  # interpreter and libraries
    activations: float = 1.25  # of a training pass over the formula
    forward: float = 1.0  # of a pass without gradients over the formula
    sampling: float = 1.0  # of keys, values and logits over the formula
    loading: float = 0.0  # bytes that building the run takes beside what it leaves standing and the formula knows
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in the plan."""
        return {
            "process_gb": round(self.process / 1e9, 3),
            "loading_gb": round(self.loading / 1e9, 3),
            **{k: round(getattr(self, k), 3) for k in ("activations", "forward", "sampling")},
            "measured": self.measured,
        }
