"""The gate of reward models: what fewer bits cost in accuracy."""

from __future__ import annotations

from keel.evaluate.reward_bits import accuracy_loss
from keel.release.candidate import Candidate
from keel.release.config import RewardGate
from keel.release.gates.verdict import Verdict, cannot_tell, decide


def reward_quantisation(gate: RewardGate, candidate: Candidate) -> Verdict:
    """Accuracy with all bits less accuracy with few, over the same pairs; interval over prompts."""
    reader = candidate.open(str(candidate.source))
    if reader.loaded.model.score_head is None:
        return cannot_tell("no_reward_model")
    before = candidate.judge(reader, gate.pairs, gate.limit)
    after = candidate.judge(candidate.kept(gate.way, reader), gate.pairs, gate.limit)
    loss = accuracy_loss(before, after)
    if loss is None:
        return cannot_tell("nothing_measured")
    return decide(loss.interval, at_most=gate.at_most, fewest=gate.fewest, unit="prompts", facts=loss.to_json() | {"way": gate.way})
