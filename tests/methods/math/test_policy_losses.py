"""What must hold of every policy loss of the table, without its being listed here. What it computes is in a file of its name in
``policy_losses``: ``check`` with numbers by hand, and ``HELD_CONSTANT`` where a part of it has no gradient on purpose."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keel.methods.math.policy import POLICY_LOSSES, PolicyTokens

FILES = {path.stem: path for path in Path(__file__).with_name("policy_losses").glob("*.py")}
BRANCH = torch.tensor([0, 0, 0, 1, 3, 3, 3, 3])  # the third sequence has no token here
LENGTHS = torch.tensor([3.0, 3.0, 3.0, 1.0, 4.0, 4.0, 4.0, 4.0], dtype=torch.float64)


def draw(seed: int) -> Tensor:
    return 0.5 * torch.randn(len(BRANCH), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(new: Tensor, old: Tensor, advantages: Tensor, part: Tensor | slice = slice(None)) -> PolicyTokens:
    return PolicyTokens(new[part], old[part], advantages[part], BRANCH[part], 4, 0.2, 0.3)


def gradient(name: str, of: PolicyTokens, weights: Tensor) -> Tensor:
    return torch.autograd.grad((POLICY_LOSSES[name].terms(of).loss_S * weights).sum(), of.logprobs_S)[0]


def test_each_has_its_numbers_by_hand():
    assert set(FILES) == set(POLICY_LOSSES), "a row needs a file in policy_losses, a file a row"


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_at_a_ratio_of_one_it_is_the_policy_gradient(name: str):
    """By sequence: mean over its tokens of -A, whatever the loss does to a sequence as a whole."""
    new, advantages = draw(1).requires_grad_(), draw(2)[BRANCH]
    found = gradient(name, tokens(new, new.detach().clone(), advantages), 1.0 / LENGTHS)
    torch.testing.assert_close(found, -advantages / LENGTHS)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_finite_differences(name: str):
    old, advantages = draw(3), draw(4)
    held = runpy.run_path(str(FILES[name])).get("HELD_CONSTANT", False)
    values = draw(1).requires_grad_()
    agree = torch.autograd.gradcheck(
        lambda new: POLICY_LOSSES[name].terms(tokens(new, old, advantages)).loss_S, (values,), raise_exception=not held
    )
    assert agree is not held


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_sequences_do_not_touch_and_local_losses_may_be_cut_anywhere(name: str):
    row, new, old, advantages = POLICY_LOSSES[name], draw(1), draw(3), draw(4)
    whole = row.terms(tokens(new, old, advantages))
    parts = [torch.nonzero(r == BRANCH)[:, 0] for r in (0, 1, 3)]
    cuts = [parts, [torch.arange(i, i + 1) for i in range(len(BRANCH))]] if row.local else [parts]
    for cut in cuts:
        found = [row.terms(tokens(new, old, advantages, part)) for part in cut]
        torch.testing.assert_close(torch.cat([f.loss_S for f in found]), whole.loss_S)
        for side in ("low_S", "high_S"):
            assert torch.cat([getattr(f, side) for f in found]).tolist() == getattr(whole, side).tolist()
    assert not (row.local and row.by_sequence), "one loss a sequence needs its sequence"


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_the_clip_is_read_where_the_row_says_so(name: str):
    row, new, old, advantages = POLICY_LOSSES[name], draw(1), draw(3), draw(4)
    given = tokens(new, old, advantages)
    other = PolicyTokens(new, old, advantages, BRANCH, 4, 0.0, 0.0)
    assert torch.equal(row.terms(given).loss_S, row.terms(other).loss_S) is not row.clips


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_the_old_policy_is_read_where_the_row_says_so(name: str):
    row, new, advantages = POLICY_LOSSES[name], draw(1), draw(4)
    assert torch.equal(row.terms(tokens(new, new, advantages)).loss_S, row.terms(tokens(new, draw(3), advantages)).loss_S) is not row.ratio


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_token_out_of_all_bounds_costs_no_step(name: str):
    """A log-ratio of 800 either way is a finite loss with a finite gradient."""
    old = torch.tensor([-1.0, -801.0, -1.0, -801.0], dtype=torch.float32)
    new = torch.tensor([-801.0, -1.0, -801.0, -1.0]).requires_grad_()
    given = PolicyTokens(new, old, torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([0, 1, 2, 3]), 4, 0.2, 0.3)
    assert POLICY_LOSSES[name].terms(given).loss_S.isfinite().all()
    assert gradient(name, given, torch.ones(4)).isfinite().all()
