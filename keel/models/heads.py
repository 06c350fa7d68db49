"""Heads on top of the body's hidden states: the score of a reward model, in all its forms, and the value of a critic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from keel.core.errors import ModelError
from keel.core.hashing import stable_hash
from keel.kernels import pooling
from keel.kernels.pooling import Spans
from keel.methods.math.reward import cumulative_link
from keel.models.config import Pooling
from keel.models.vision_value_head import LookingValueHead
from keel.types import HeadScores

HeadName = Literal["score", "value"]
ValueKind = Literal["linear", "image_attention"]
FILE = "keel_heads.safetensors"  # beside the model, for heads that the saved architecture has no place for
CONFIG_KEY = "keel_reward_head"  # in the model's config.json: the HeadSpec of its score head
Output = Literal["point", "gaussian", "ordinal", "distribution"]
FLOOR = 1e-4  # least variance of a Gaussian head, least distance of two cuts


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What a score head is made of. The plain one is a linear map of the last real token's state to one number."""

    trunk: Literal["linear", "mlp"] = "linear"
    width: int = 0  # of the MLP; 0 = the model's own
    pooling: Pooling = "last"
    norm: Literal["none", "layer"] = "none"  # of the pooled state
    bound: Literal["none", "tanh"] = "none"  # of the score
    output: Output = "point"
    dimensions: tuple[str, ...] = ("score",)
    weights: tuple[float, ...] = (1.0,)  # of the dimensions in the one score
    units: tuple[tuple[float, float], ...] = ()  # (mean, standard deviation) of each dimension's ratings, which its scores are in
    levels: tuple[float, ...] = ()  # of ratings, in these units: what ``ordinal`` and ``distribution`` choose from
    members: int = 1  # of an ensemble on one trunk
    ties: bool = False  # the head has learnt how likely a tie is
    tie_model: str = "davidson"  # or rao_kupper: what the weight of a tie means

    @property
    def plain(self) -> bool:
        """Whether transformers' sequence classifier with one label computes the same score."""
        parts = (self.trunk, self.pooling, self.norm, self.bound, self.output, len(self.dimensions), self.members)
        return parts == ("linear", "last", "none", "none", "point", 1, 1)

    @property
    def open_zero(self) -> bool:
        """Whether a constant added to all scores says nothing: preferences leave the zero open, scores of ratings have theirs."""
        return all(unit == (0.0, 1.0) for unit in self.units)

    def to_json(self) -> dict[str, Any]:
        """As it stands in config.json."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> HeadSpec:
        """Back from config.json. Raises ModelError for a head of another version of Keel."""
        fields: dict[str, Any] = {k: _tuples(v) for k, v in found.items()}
        try:
            return HeadSpec(**fields)
        except TypeError as error:
            raise ModelError(f"{CONFIG_KEY} in config.json is not one that this version knows: {error}") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


PLAIN = HeadSpec()


class _Member(nn.Module):
    """One member: pooled state -> D x P numbers."""

    def __init__(self, spec: HeadSpec, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        per = {"point": 1, "gaussian": 2, "ordinal": 1, "distribution": len(spec.levels)}[spec.output]
        width = hidden if spec.trunk == "linear" else spec.width or hidden
        self.shape = (len(spec.dimensions), per)
        self.out = nn.Linear(width, len(spec.dimensions) * per, bias=False)
        self.inner = nn.Linear(hidden, width) if spec.trunk == "mlp" else None
        with torch.no_grad():
            self.out.weight.copy_(torch.randn(self.out.weight.shape, generator=generator) / (width + 1) ** 0.5)
            if self.inner is not None:
                self.inner.weight.copy_(torch.randn(width, hidden, generator=generator) / hidden**0.5)
                self.inner.bias.zero_()

    def forward(self, pooled_RH: Tensor) -> Tensor:
        """float32 [R, D, P]."""
        inner = pooled_RH if self.inner is None else nn.functional.gelu(self.inner(pooled_RH))
        return self.out(inner).unflatten(1, self.shape)


class ScoreHead(nn.Module):
    """A score head as its spec says. Scores start at N(0, 1/(width + 1)) without bias (Stiennon et al. 2020,
    https://arxiv.org/abs/2009.01325, C.1); members start from seeds of their own."""

    def __init__(self, spec: HeadSpec, hidden: int, seed: int) -> None:
        super().__init__()
        self.spec = spec
        seeds = [seed] + [stable_hash("member", seed, m) & 0x7FFF_FFFF_FFFF_FFFF for m in range(1, spec.members)]
        self.members = nn.ModuleList(_Member(spec, hidden, torch.Generator().manual_seed(s)) for s in seeds)
        self.norm = nn.LayerNorm(hidden) if spec.norm == "layer" else None
        self.query = nn.Parameter(torch.zeros(hidden)) if spec.pooling == "attention" else None
        self.mix = nn.Parameter(torch.zeros(())) if spec.pooling == "last_mean" else None
        self.tie = nn.Parameter(torch.zeros(spec.members)) if spec.ties else None
        self.register_buffer("weights", torch.tensor(spec.weights), persistent=False)
        self.register_buffer("levels", torch.tensor(spec.levels), persistent=False)
        cuts = max(1, len(spec.levels)) - 1
        start = torch.linspace(-2.0, 2.0, cuts) if cuts > 1 else torch.zeros(cuts)
        shape = (spec.members, len(spec.dimensions), 1)
        self.first_cut = nn.Parameter(start[:1].expand(shape).clone()) if spec.output == "ordinal" else None
        steps = torch.log(torch.expm1(start[1:] - start[:-1] - FLOOR))  # softplus of it is the distance of two cuts
        self.cut_steps = nn.Parameter(steps.expand(*shape[:2], -1).clone()) if spec.output == "ordinal" and cuts > 1 else None

    @property
    def weight(self) -> Tensor:
        """The weight [1, H] of a plain head, as a sequence classifier has it."""
        assert self.spec.plain
        return self.members[0].out.weight  # type: ignore[union-attr,return-value]

    def forward(self, hidden_NH: Tensor, found: Spans) -> HeadScores:
        """Judge the sequences that stand at ``found`` in the hidden states [N, H]."""
        pooled_RH = self._pool(hidden_NH, found)
        if self.norm is not None:
            pooled_RH = self.norm(pooled_RH)
        raw_RMDP = torch.stack([member(pooled_RH) for member in self.members], 1)
        scores, variance, levels = self._read(raw_RMDP)
        if self.spec.bound == "tanh":
            scores = torch.tanh(scores)
        return HeadScores(scores, self.weights, variance, levels, self.tie)  # type: ignore[arg-type]

    def _pool(self, hidden_NH: Tensor, found: Spans) -> Tensor:
        last_RH = hidden_NH[found.last_R].float()
        if self.spec.pooling == "last":
            return last_RH
        states_PH = hidden_NH[found.at_P].float()
        if self.query is not None:
            return pooling.attend(states_PH, states_PH @ self.query / states_PH.shape[1] ** 0.5, found)
        mean_RH = pooling.mean(states_PH, found)
        return mean_RH if self.mix is None else torch.lerp(mean_RH, last_RH, torch.sigmoid(self.mix))

    def _read(self, raw_RMDP: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(scores, variances, log-probabilities of levels) of the raw outputs."""
        match self.spec.output:
            case "point":
                return raw_RMDP[..., 0], None, None
            case "gaussian":
                return raw_RMDP[..., 0], softplus(raw_RMDP[..., 1]) + FLOOR, None
            case "distribution":
                levels = torch.log_softmax(raw_RMDP, -1)
                return *self._moments(levels), levels
            case "ordinal":
                levels = cumulative_link(raw_RMDP[..., 0], self._cuts())
                return raw_RMDP[..., 0], self._moments(levels)[1], levels

    def _moments(self, levels_RMDK: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a level."""
        chance, at = levels_RMDK.exp(), self.levels
        mean = chance @ at  # type: ignore[operator]
        return mean, (chance * torch.square(at - mean[..., None])).sum(-1)  # type: ignore[operator]

    def _cuts(self) -> Tensor:
        """Rising cuts [M, D, K - 1] between the levels."""
        assert self.first_cut is not None
        if self.cut_steps is None:
            return self.first_cut
        return torch.cat([self.first_cut, self.first_cut + (softplus(self.cut_steps) + FLOOR).cumsum(-1)], -1)


def make_head(name: HeadName, hidden: int, seed: int, spec: HeadSpec = PLAIN, value: ValueKind = "linear") -> nn.Module:
    """A float32 head. The value starts at 0, so that the first advantages are the returns."""
    if name == "score":
        return ScoreHead(spec, hidden, seed)
    head = LookingValueHead(hidden, seed) if value == "image_attention" else nn.Linear(hidden, 1)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    return head


# ------------------------------------------------------------------------------------------------------------------------- files


def stored_spec(folder: Path) -> HeadSpec | None:
    """The score head that a model's config.json speaks of; None when it is silent (a sequence classifier has a plain one)."""
    file = folder / "config.json"
    found = json.loads(file.read_text(encoding="utf-8")).get(CONFIG_KEY) if file.is_file() else None
    return HeadSpec.from_json(found) if found else None


def stored_value(folder: Path) -> ValueKind | None:
    """Which value head lies in a folder; None where there is none."""
    if _find(folder, ["value_head.gate"]) is not None:
        return "image_attention"
    return "linear" if _find(folder, ["value_head.weight"]) is not None else None


def save_heads(folder: Path, heads: Mapping[str, nn.Module]) -> None:
    """Write heads as ``<name>_head.<parameter>`` beside a model."""
    tensors = {
        f"{name}_head.{k}": v.detach().float().cpu().contiguous() for name, head in heads.items() for k, v in head.state_dict().items()
    }
    if tensors:
        save_file(tensors, folder / FILE, metadata={"format": "pt"})


def load_heads(folder: Path, heads: Mapping[str, nn.Module]) -> list[str]:
    """Fill heads from a folder: from the heads file, or a plain score from a sequence classifier's ``score.weight``. A value head
    that looks at images takes over a linear one; what it looks with is then new. Returns those found."""
    found: list[str] = []
    for name, head in heads.items():
        if isinstance(head, LookingValueHead) and stored_value(folder) == "linear":
            linear = nn.Linear(head.in_features, 1)
            if load_heads(folder, {name: linear}):
                head.load_state_dict(linear.state_dict(), strict=False)
                found.append(name)
            continue
        tensors = {k: _find(folder, _names(name, k, head)) for k in head.state_dict()}
        present = {k: v for k, v in tensors.items() if v is not None and v.shape == head.state_dict()[k].shape}
        if len(present) == len(tensors):
            head.load_state_dict(present)
            found.append(name)
    return found


def _names(name: str, key: str, head: nn.Module) -> list[str]:
    plain = isinstance(head, ScoreHead) and head.spec.plain and key == "members.0.out.weight"
    return [f"{name}_head.{key}"] + ([f"{name}_head.weight", "score.weight"] if plain else [])


def _find(folder: Path, names: Iterable[str]) -> Tensor | None:
    wanted = list(names)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in wanted:
                if name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    return file.get_tensor(name)
    return None
