"""What the model reads: units of encoded prompts and branches, with what is wanted of them, and the packed batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor  # a worker that reads text alone starts without torch

    from keel.types.support import Support


@dataclass(frozen=True, slots=True)
class MediaRef:
    """One image of an encoded prompt. Pixels live in the MediaStore of ``models`` under ``digest``."""

    digest: str  # sha256 of the image's bytes (of a twin "." and its name), "-", the processor's mark: two processors make two images
    n_tokens: int  # placeholder tokens it stands for in ``tokens_T``
    kept: bool = True  # False: it is seen once, so nothing that is made of it is worth keeping

    @property
    def processor(self) -> str:
        """The mark of the processor that made the pixels; "" where it is not known."""
        return self.digest.partition("-")[2]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt, generation prompt included. ``media`` in the order of their placeholders."""

    tokens_T: Tensor  # int64 [T], cpu
    media: tuple[MediaRef, ...] = ()
    positions_PT: Tensor | None = None  # int64, P = 1 or 3 (time, height, width). None: 0, 1, 2 ... in one row
    spans: tuple[tuple[int, int], ...] = ()  # [first, end): the tokens of a span see each other both ways
    complexity: float = 0.0  # 0 to 1: how much there is to take in besides its words

    def __len__(self) -> int:
        return self.tokens_T.shape[0]

    @property
    def next_position(self) -> int:
        """Where a branch goes on."""
        return len(self) if self.positions_PT is None else int(self.positions_PT.max()) + 1

    def with_images_of(self, other: Encoded) -> Encoded | None:
        """This prompt's words with the other's images; None where those are the same or take other places: another number of tokens, or
        another shape where positions follow the shape."""
        if self.media == other.media or [m.n_tokens for m in self.media] != [m.n_tokens for m in other.media]:
            return None
        if self.positions_PT is None and other.positions_PT is None:
            return replace(self, media=other.media, complexity=other.complexity)
        return other if bool((self.tokens_T == other.tokens_T).all() if len(self) == len(other) else False) else None


Twin = Callable[[Encoded], Encoded | None]
"""A prompt -> the same prompt with something of it masked, as long and in the same places; None where there is nothing to mask."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One continuation of a unit's prompt.

    ``signals`` are per-token tensors [T] by name, made by earlier steps: ``old_logprobs``, ``ref_logprobs``, ``sampler_logprobs``,
    ``advantages``, ``returns``, ``values``. Asking for one that is missing raises KeyError.
    """

    tokens_T: Tensor  # int64 [T]
    trained_T: Tensor  # bool [T]: tokens that losses count (the end token included; template and tool output not)
    signals: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    support: Support | None = None  # of each token [T]: log-probabilities are over it. None: over the whole vocabulary

    def __len__(self) -> int:
        return self.tokens_T.shape[0]


@dataclass(frozen=True, slots=True)
class Edge:
    """``P(branch winner is better than branch loser) = label``."""

    winner: int
    loser: int
    label: float = 1.0
    margin: float = 0.0
    weight: float = 1.0
    tie: float = 0.0  # share of ties among the votes; ``label`` counts each of them half


@dataclass(frozen=True, slots=True)
class PairTarget:
    """Preferences between the branches of one unit: a plain pair is the one edge (0, 1), K-way answers have several."""

    edges: tuple[Edge, ...]

    @property
    def winners(self) -> tuple[int, ...]:
        """The branches that are preferred to some other, in order: those that a contrast holds."""
        return tuple(sorted({edge.winner for edge in self.edges}))


@dataclass(frozen=True, slots=True)
class RankingTarget:
    """Rank of each branch, 1 the best, equal ranks are ties."""

    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RatingTarget:
    """Scores of each branch by dimension."""

    scores: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True)
class UnpairedTarget:
    """Is each branch wanted, and how much does that count? One entry a branch; no weights are weights of 1."""

    desirable: tuple[bool, ...]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StepsTarget:
    """Index (into the branch) of the last token of each step, and whether the step is right. One entry a branch."""

    ends: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[bool, ...], ...]


Target = PairTarget | RankingTarget | RatingTarget | UnpairedTarget | StepsTarget | None


@dataclass(frozen=True, slots=True)
class Unit:
    """The one training record: a prompt and its continuations. A demonstration has 1 branch, a pair 2, a GRPO group G, a ranking K.

    It is the layout that shared-prefix attention computes: the prompt once, each branch after it.
    """

    unit_id: str
    prompt: Encoded  # at least one token, so that the first branch token has something to be predicted from
    branches: tuple[Branch, ...]
    target: Target = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])  # category, length bucket ... for batching and reports
    contrast: Unit | None = None  # some of the branches behind another prompt, after which they should be less likely

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the body when the prompt is shared, those of the contrast among them."""
        own = len(self.prompt) + sum(len(b) for b in self.branches)
        return own if self.contrast is None else own + self.contrast.n_tokens


@dataclass(frozen=True, slots=True)
class Layout:
    """How one unit lies in a packed row: its prompt, then its branches."""

    prompt: int  # length
    branches: tuple[int, ...] = ()  # lengths
    spans: tuple[tuple[int, int], ...] = ()  # of the prompt, as in ``Encoded``

    @property
    def lengths(self) -> tuple[int, ...]:
        return (self.prompt, *self.branches)


@dataclass(frozen=True, slots=True)
class Batch:
    """Units packed into one row, no padding: prompt, branch 1, branch 2 ..., next unit's prompt, ...

    ``source_S[i]`` is the packed position whose hidden state predicts the scored token ``target_S[i]``: for the first token of a branch
    that is the last token of its prompt. Only trained tokens are scored.
    """

    units: tuple[Unit, ...]
    tokens_N: Tensor  # int64 [N]
    positions_PN: Tensor  # int64, P = 1 or 3; restarting for each unit; every branch goes on from its prompt's ``next_position``
    groups: tuple[Layout, ...]  # per unit: the attention layout
    source_S: Tensor  # int64 [S]
    target_S: Tensor  # int64 [S]
    branch_S: Tensor  # int64 [S]: index into R
    unit_R: Tensor  # int64 [R]: index into U
    last_R: Tensor  # int64 [R]: packed position of the last real token of each branch
    signals: Mapping[str, Tensor]  # [S] each, gathered from the branches
    media: tuple[MediaRef, ...] = ()
    support: Support | None = None  # of target_S

    @property
    def n_scored(self) -> int:
        return self.target_S.shape[0]

    @property
    def n_branches(self) -> int:
        return self.unit_R.shape[0]
