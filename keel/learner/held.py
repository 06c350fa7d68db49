"""What ranks hold, as others are handed it: a learner's weights, its tensors for a checkpoint, its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from keel.learner.host import wait_for
from keel.models.weights import ModelWeights
from keel.runs.pieces import Pieces, file_name
from keel.types import BranchTensors, Unit

if TYPE_CHECKING:
    from keel.learner.remote import RankLearner


class RankWeights:
    """``types.Weights`` of a learner on ranks: proven by the digest that the ranks take of their shares."""

    def __init__(self, learner: RankLearner) -> None:
        self._learner = learner

    def digest(self) -> str:
        """Over the trained parameters."""
        return self._learner.digest()

    def arrive(self) -> None:
        """Bring the driver's copy up to date."""
        self._learner.whole()

    def merged(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """The weights under the names of the saved model, adapters merged."""
        return ModelWeights(self._learner.whole().model).merged(names)

    def probe(self, tokens_T: Tensor) -> Tensor:
        """Log-probabilities of the tokens but the first: float32 [T - 1]."""
        return ModelWeights(self._learner.whole().model).probe(tokens_T)


@dataclass(frozen=True, slots=True)
class RankTensors:
    """``runs.pieces.Written``: each rank writes the rows that it has."""

    learner: RankLearner
    what: str  # learner or reference

    @property
    def size(self) -> int:
        """Bytes: weights, and two moments of each."""
        return self.learner.trained_bytes * (3 if self.what == "learner" else 1)

    def write(self, folder: Path, stem: str, metadata: Mapping[str, str]) -> None:
        """One file a rank. Raises FileNotFoundError where one that another machine wrote is not seen here."""
        self.learner.ask("write", self.what, folder, stem, dict(metadata))
        wait_for([folder / file_name(stem, rank, self.learner.ranks) for rank in range(self.learner.ranks)])


@dataclass(frozen=True, slots=True)
class RankReference:
    """A reference on the ranks, beside the learner that is kept near to it."""

    learner: RankLearner

    def logprobs(self, units: Sequence[Unit]) -> BranchTensors:
        """Its log-probabilities."""
        return self.learner.read("reference_logprobs", units)

    def follow(self, step: int) -> None:
        """As ``MovingReference``'s."""
        self.learner.ask("follow", step)

    def state(self) -> RankTensors:
        """For a checkpoint."""
        return RankTensors(self.learner, "reference")

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from ``state()``."""
        self.learner.ask("read", "reference", tensors.files if isinstance(tensors, Pieces) else dict(tensors), {})
