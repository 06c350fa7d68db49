"""The records that flow through Keel, and the seams between its rooms.

`records` is what people write, `units` what the model reads, `outputs` what comes of a pass, `sampling` what is sampled, `seams` the
protocols. All records are frozen: a stage returns new ones, nobody changes a record upstream. Import them from here; ``Support`` (which
tokens could have been drawn) comes from ``keel.types.support``, as it alone needs torch.

Letters in tensor names are dimensions: ``B`` rows, ``L`` padded length, ``N`` packed tokens, ``S`` scored tokens, ``T`` tokens of one
sequence, ``G`` samples of one prompt, ``R`` branches (sequences) in a batch, ``U`` units in a batch, ``H`` hidden, ``V`` vocabulary.
"""

from keel.types.outputs import Counts, Divergence, Judgement, LossOutput, Need, Outputs, StepReport
from keel.types.records import (
    Candidate,
    Comparison,
    Demonstration,
    ImagePart,
    Message,
    Pair,
    Prompt,
    Ranking,
    Rating,
    Record,
    Steps,
    TextPart,
    Unpaired,
)
from keel.types.sampling import FinishReason, Group, PolicyVersion, Rollout, SampleRequest, SamplingParams, empty_group
from keel.types.seams import (
    BranchTensors,
    Comparing,
    GradientReport,
    Guard,
    Inference,
    Learner,
    Objective,
    RewardSource,
    Sampler,
    UpdatePlan,
    Verdict,
    Weights,
)
from keel.types.units import (
    Batch,
    Branch,
    Edge,
    Encoded,
    MediaRef,
    PairTarget,
    RankingTarget,
    RatingTarget,
    StepsTarget,
    Target,
    Unit,
    UnpairedTarget,
)

__all__ = [
    "Batch",
    "Branch",
    "BranchTensors",
    "Candidate",
    "Comparing",
    "Comparison",
    "Counts",
    "Demonstration",
    "Divergence",
    "Edge",
    "Encoded",
    "FinishReason",
    "GradientReport",
    "Group",
    "Guard",
    "ImagePart",
    "Inference",
    "Judgement",
    "Learner",
    "LossOutput",
    "MediaRef",
    "Message",
    "Need",
    "Objective",
    "Outputs",
    "Pair",
    "PairTarget",
    "PolicyVersion",
    "Prompt",
    "Ranking",
    "RankingTarget",
    "Rating",
    "RatingTarget",
    "Record",
    "RewardSource",
    "Rollout",
    "SampleRequest",
    "Sampler",
    "SamplingParams",
    "StepReport",
    "Steps",
    "StepsTarget",
    "Target",
    "TextPart",
    "Unit",
    "Unpaired",
    "UnpairedTarget",
    "UpdatePlan",
    "Verdict",
    "Weights",
    "empty_group",
]
