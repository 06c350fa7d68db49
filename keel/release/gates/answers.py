"""Gates over answers: refusals and length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keel.evaluate.refusals import read
from keel.evaluate.statistics import mean_interval, wilson
from keel.loops.gathering import sample_groups
from keel.release.candidate import Candidate, prompts_of
from keel.release.config import AnswersGate, LengthGate, RefusalGate
from keel.release.gates.verdict import Verdict, decide
from keel.rollout.local import LocalSampler
from keel.types import Rollout, SampleRequest, SamplingParams

_SHOWN = 3
_MOST_CUT = 0.05  # share of answers that may be cut off where their length has an upper limit


def answers(gate: AnswersGate, candidate: Candidate) -> tuple[dict[str, tuple[str, Rollout]], dict[str, Any]]:
    """One answer of the released model to each prompt, (question, rollout) by prompt id; and the facts of it."""
    reader = candidate.open(candidate.spec)
    prompts, refused = prompts_of(reader, gate.prompts, gate.limit, gate.max_tokens)
    renderer = reader.renderer
    params = SamplingParams(
        max_tokens=gate.max_tokens,
        temperature=gate.temperature,
        stop_tokens=renderer.stop_tokens,
        banned_tokens=renderer.banned_tokens,
    )
    requests = [SampleRequest(i, encoded, 1, params, 0, 0) for i, (_, encoded) in prompts.items()]
    groups = sample_groups(LocalSampler(reader.loaded.model, renderer.decode), requests, {i: p for i, (p, _) in prompts.items()})
    found = {g.prompt.prompt_id: (g.prompt.last_user_text, g.rollouts[0]) for g in groups if g.rollouts and not g.rollouts[0].error}
    facts: dict[str, Any] = {"prompts": len(prompts)}
    if refused:
        facts["prompts_left_out"] = len(refused)
    if len(found) < len(prompts):
        facts["without_answer"] = len(prompts) - len(found)
    return found, facts


def refusal(gate: RefusalGate, candidate: Candidate) -> Verdict:
    """Share of prompts that are turned down (Wilson's interval), by the wording of the answer: wholly, or with ``gate.counts_partial`` also
    in part. An empty answer is no refusal and no help: it is in no share, and counted."""
    found, facts = answers(gate, candidate)
    said = {i: (question, rollout.text) for i, (question, rollout) in found.items() if rollout.text.strip()}
    read_as = {i: read(text).refusal for i, (_, text) in said.items()}
    counted = {"full", "partial"} if gate.counts_partial else {"full"}
    turned = [said[i] for i, label in read_as.items() if label in counted]
    facts |= {name: sum(label == name for label in read_as.values()) for name in ("full", "partial")}
    facts |= {"refused": len(turned), "empty": len(found) - len(said)}
    facts |= {"examples": [{"prompt": q, "answer": a} for q, a in turned[:_SHOWN]]} if turned else {}
    share = wilson(len(turned), len(said)) if said else None
    why = ("by_wording", "partial_counts" if gate.counts_partial else "partial_counts_not", *["empty"][: facts["empty"]])
    return decide(share, at_least=gate.at_least, at_most=gate.at_most, fewest=gate.fewest, unit="prompts", why=why, facts=facts)


def length(gate: LengthGate, candidate: Candidate) -> Verdict:
    """Mean number of tokens of an answer, with the end token; interval over prompts."""
    found, facts = answers(gate, candidate)
    lengths = {i: [float(len(rollout))] for i, (_, rollout) in found.items()}
    facts["cut_off"] = sum(rollout.finish_reason == "length" for _, rollout in found.values())
    mean = mean_interval(lengths) if lengths else None
    why = ("cut_off",) if facts["cut_off"] else ()
    said = decide(mean, at_least=gate.at_least, at_most=gate.at_most, fewest=gate.fewest, unit="prompts", why=why, facts=facts)
    hidden = gate.at_most is not None and facts["cut_off"] > _MOST_CUT * len(lengths)
    return replace(said, state="cannot_tell") if hidden and said.state == "pass" else said
