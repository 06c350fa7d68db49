"""How weights lie that are shared out: rounded before they are put together, or beside the GPU. Near to one process, and the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rank_cases import CASES, Case, rounded
from rank_compare import CPU, compare, go_on
from rank_pictures import pictured_cases

from keel.learner.config import ClusterConfig
from keel.learner.hosts import host_of
from keel.runs.checkpoints import Checkpoints

BY_NAME = {case.name: case for case in CASES}


def cases() -> list[Case]:
    return [BY_NAME["grpo per token"], BY_NAME["tied"], next(c for c in pictured_cases() if c.name == "images: sft")]


@pytest.mark.slow
def test_weights_beside_the_gpu_are_the_same_weights() -> None:
    """Without a GPU there is nothing to bring: the very gradients."""
    host = host_of(ClusterConfig(ranks=2, offload=True), CPU)
    for case in cases():
        compare(case, host)
    host.close()


@pytest.mark.slow
def test_rounded_weights_are_near() -> None:
    """A gradient is off by some hundredths, as autocast's own is from float32's (docs/scale.md); the self-test allows 0.15."""
    host = host_of(ClusterConfig(ranks=2, gather="bf16"), CPU)
    for case in map(rounded, cases()):
        many = case.over(host)
        gap = many.apart(case.given, case.objective)
        assert gap.rounded
        assert 1e-4 * gap.norm_alone < gap.apart < 0.06 * gap.norm_alone
        assert gap.norm == pytest.approx(gap.norm_alone, rel=0.02)
    host.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"gather": "bf16"}, {"offload": True}])
def test_a_run_goes_on_bit_for_bit(how: dict[str, Any], tmp_path: Path) -> None:
    """And what it left is read where weights lie as usual: it is float32 all the same."""
    case = rounded(BY_NAME["grpo per token"])
    host, plain = host_of(ClusterConfig(ranks=2, **how), CPU), host_of(ClusterConfig(ranks=2), CPU)
    first = case.over(host)
    go_on(first, case)
    tensors, state = first.state()
    Checkpoints(tmp_path / "c").save(2, {"policy": tensors}, {"learner": state})
    written, norms, end = first.digest(), go_on(first, case), first.digest()
    stored = Checkpoints(tmp_path / "c").load(2)
    again, other = case.over(host), case.over(plain)
    for learner in (again, other):
        learner.load_state(stored.tensors["policy"], stored.state["learner"])
        assert learner.digest() == written
    assert go_on(again, case) == norms
    assert again.digest() == end
    assert go_on(other, case) == pytest.approx(norms, rel=0.1)
    host.close()
    plain.close()
