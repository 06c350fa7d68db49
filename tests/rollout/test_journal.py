"""Rollouts kept as they arrive: what was drawn before a kill is found again, and only the rest is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.rollout.journal import Journal, key_of
from keel.rollout.journaled import journaled
from keel.rollout.server.protocol import missing
from keel.types import Encoded, PolicyVersion, Rollout, SampleRequest, SamplingParams
from keel.types.support import Support

PARAMS = SamplingParams(max_tokens=4)


def request(prompt: str = "p", n: int = 3, attempt: int = 0, first: int = 0) -> SampleRequest:
    return SampleRequest(prompt, Encoded(torch.tensor([1, 2])), n, PARAMS, 5, attempt, first)


def rollout(prompt: str, sample: int, attempt: int = 0, draw: int = 0) -> Rollout:
    """The ``draw``-th drawing of it, which is another each time."""
    tokens_T = torch.tensor([sample, draw])
    support = Support(torch.tensor([3, 4, 5]), torch.tensor([0, 2, 3]), 9) if sample else None
    true_T = torch.ones(2, dtype=torch.bool)
    return Rollout(prompt, attempt, sample, tokens_T, true_T, -tokens_T.float(), torch.tensor([0, 1]), "stop", f"é{draw}", "", support)


class Other:
    """A sampler that never draws the same twice, and dies after so many rollouts."""

    def __init__(self, draw: int, lives: int = 99) -> None:
        self.draw, self.lives, self.asked = draw, lives, list[SampleRequest]()

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        self.asked += requests

    def collect(self) -> Iterator[Rollout]:
        for r in self.asked:
            for sample in range(r.first_sample, r.first_sample + r.n):
                if not self.lives:
                    raise KeyboardInterrupt
                self.lives -= 1
                yield rollout(r.prompt_id, sample, r.attempt, self.draw)

    def load(self, version: PolicyVersion, weights: Any) -> None:
        """None are needed."""


class Beside(Other):
    """The same, which draws beside the training."""

    in_flight = True

    def begin(self, requests: Sequence[SampleRequest], arrived: Any = None) -> Any:
        self.asked, self.found, self.died = list(requests), [], False
        try:
            for r in self.collect():
                arrived([r])
                self.found.append(r)
        except KeyboardInterrupt:
            self.died = True
        return self

    def rollouts(self) -> list[Rollout]:
        if self.died:
            raise KeyboardInterrupt
        return self.found


def drawn(sampler: Any, requests: Sequence[SampleRequest], weights: str = "w") -> dict[tuple[str, int], Rollout]:
    sampler.load(PolicyVersion(0, weights), None)
    if isinstance(getattr(sampler, "in_flight", None), bool):
        found = sampler.begin(requests).rollouts()
    else:
        sampler.submit(requests)
        found = list(sampler.collect())
    return {(r.prompt_id, r.sample): r for r in found}


@pytest.mark.parametrize("kind", [Other, Beside])
def test_what_was_drawn_before_a_kill_is_not_drawn_again(kind: Any, tmp_path: Path) -> None:
    asked = [request("p"), request("q")]
    first = journaled(kind(0, lives=4), Journal(tmp_path / "journal"))
    with pytest.raises(KeyboardInterrupt):
        drawn(first, asked)
    inner = kind(1)
    found = drawn(journaled(inner, Journal(tmp_path / "journal")), asked)
    assert [(r.prompt_id, r.first_sample, r.n) for r in inner.asked] == [("q", 1, 2)]
    assert {key: int(r.tokens_T[1]) for key, r in found.items()} == {
        ("p", 0): 0, ("p", 1): 0, ("p", 2): 0, ("q", 0): 0, ("q", 1): 1, ("q", 2): 1,
    }  # fmt: skip
    kept, made = found["p", 2], rollout("p", 2)
    assert (kept.text, kept.finish_reason) == (made.text, made.finish_reason)
    assert all(torch.equal(getattr(kept, name), getattr(made, name)) for name in ("tokens_T", "logprobs_T", "version_T", "sampled_T"))
    assert kept.support is not None
    assert torch.equal(kept.support.words_W, torch.tensor([3, 4, 5]))
    again = drawn(journaled(kind(2, lives=0), Journal(tmp_path / "journal")), asked)
    assert {key: int(r.tokens_T[1]) for key, r in again.items()} == {key: int(r.tokens_T[1]) for key, r in found.items()}


def test_a_torn_tail_costs_what_it_held_and_nothing_else(tmp_path: Path) -> None:
    """Cut at every byte of the last entry, or one of its bytes changed: the entries before it are there."""
    journal = Journal(tmp_path / "whole")
    for sample in (0, 1):
        journal.append([f"k{sample}"], [rollout("p", sample)])
    (path,) = (tmp_path / "whole").iterdir()
    raw, first = path.read_bytes(), 12 + int.from_bytes(path.read_bytes()[:8], "little")
    spoiled = bytearray(raw)
    spoiled[-3] ^= 1
    for k, content in enumerate([raw[:n] for n in range(first, len(raw), 7)] + [bytes(spoiled)]):
        folder = tmp_path / f"torn{k}"
        folder.mkdir()
        (folder / path.name).write_bytes(content)
        read = Journal(folder)
        assert read.take("k0") is not None
        assert read.take("k1") is None
        read.append(["k1"], [rollout("p", 1, draw=7)])  # not behind the torn tail
        assert Journal(folder).take("k1") is not None


def test_other_weights_requests_and_samples_are_other_rollouts() -> None:
    r = request()
    others = [request("q"), request(attempt=1), replace(r, seed=6), replace(r, params=replace(PARAMS, temperature=0.5))]
    others += [replace(r, prompt=Encoded(torch.tensor([1, 3])))]
    keys = {key_of("w", r, 0), key_of("w", r, 1), key_of("v", r, 0), *(key_of("w", other, 0) for other in others)}
    assert len(keys) == 8
    assert key_of("w", request(n=1, first=2), 2) == key_of("w", request(n=3), 2), "however samples are cut into requests"


def test_other_weights_are_not_given_what_these_drew(tmp_path: Path) -> None:
    drawn(journaled(Other(0), Journal(tmp_path)), [request()])
    found = drawn(journaled(Other(1), Journal(tmp_path)), [request()], weights="others")
    assert {int(r.tokens_T[1]) for r in found.values()} == {1}


def test_files_of_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(0, 12, 3):
        journal.behind(step)
        journal.append([f"k{step}"], [rollout("p", 0)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000006-0000.rollouts", "00000009-0000.rollouts"]
    again = Journal(tmp_path)
    assert [again.take(f"k{step}") is not None for step in range(0, 12, 3)] == [False, False, True, True]
    again.append(["new"], [rollout("p", 0)])
    assert (tmp_path / "00000009-0001.rollouts").is_file()
    again.behind(12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000009-0000.rollouts", "00000009-0001.rollouts"]


@pytest.mark.parametrize(
    ("have", "left"),
    [((), [(0, 5)]), ((0, 1, 2, 3, 4), []), ((2,), [(0, 2), (3, 2)]), ((0, 4), [(1, 3)]), ((0, 2, 4), [(1, 1), (3, 1)])],
)
def test_what_is_missing_is_asked_for_in_runs(have: tuple[int, ...], left: list[tuple[int, int]]) -> None:
    found = missing([request(n=5)], {("p", 0, s) for s in have} | {("p", 1, 3), ("q", 0, 3)})
    assert [(r.first_sample, r.n) for r in found] == left
