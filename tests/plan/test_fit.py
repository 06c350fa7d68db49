"""What helps, and the fewest changes that are enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keel.core.errors import ConfigError
from keel.plan.fit import MARGIN, fit
from keel.plan.measured import corrected, factors_of
from keel.plan.memory import memory
from keel.plan.probe import Probed
from keel.plan.run import bytes_of
from keel.plan.seconds import MEASURED, Amount, Rates, seconds
from keel.plan.shape import decoder, read_shape
from keel.plan.work import Factors, Work

SIZE = decoder(hidden=1024, layers=8, vocab=32000, heads=8)
WORK = Work(
    SIZE,
    4,
    microbatch=4096.0,
    smallest=512.0,
    scored=2048.0,
    inference=8192.0,
    rows=64,
    prompts=8,
    prompt=100.0,
    answer=400.0,
    reference=True,
)


def test_what_fits_needs_nothing() -> None:
    peak = memory(WORK).peak
    found = fit(WORK, Factors(), peak / MARGIN + 1)
    assert (found.fits, found.enough, found.peak) == (True, (), peak)
    assert not fit(WORK, Factors(), peak / MARGIN - 1e6).fits


def test_every_effect_is_what_the_formulas_say() -> None:
    changes = {c.name: c for c in fit(WORK, Factors(), 1e9).changes}
    now = memory(WORK).peak
    assert changes["checkpointing"].peak == memory(replace(WORK, checkpointing=True)).peak
    assert changes["bf16"].peak == memory(replace(WORK, value=2)).peak
    assert changes["lora"].peak == memory(replace(WORK, rank=16, reference=False)).peak
    assert changes["microbatch"].peak == memory(replace(WORK, microbatch=1024.0, scored=512.0)).peak
    assert all(c.saves == now - c.peak for c in changes.values())
    assert "adamw_8bit" not in changes  # that one needs a GPU
    assert "adamw_8bit" in {c.name for c in fit(replace(WORK, device="cuda"), Factors(), 1e9).changes}


def test_the_fewest_changes_are_enough_and_none_is_idle() -> None:
    now = memory(WORK).peak
    for share in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        found = fit(WORK, Factors(), share * now / MARGIN)
        if found.enough is None:
            assert found.peak > found.limit
            continue
        assert found.peak <= found.limit
        singles = [c for c in found.changes if c.peak <= found.limit]
        assert len(found.enough) == 1 if singles else len(found.enough) > 1
        if singles:
            assert found.enough[0] == singles[0]  # the gentlest


def test_over_ranks_weights_may_be_rounded_or_lie_elsewhere() -> None:
    def names(work: Work) -> set[str]:
        return {c.name for c in fit(work, Factors(), 1e9).changes} & {"gather", "offload"}

    over = replace(WORK, value=2, ranks=4, device="cuda")
    assert names(over) == {"gather", "offload"}
    assert names(replace(over, rounded=True, offload=True)) == names(replace(over, share=False)) == names(WORK) == set()
    assert names(replace(over, device="cpu")) == {"gather"}
    changes = {c.name: c for c in fit(over, Factors(), 1e9).changes}
    assert changes["gather"].peak == memory(replace(over, rounded=True)).peak < memory(over).peak
    assert changes["offload"].peak == memory(replace(over, offload=True)).peak < memory(over).peak


def test_ranks_are_offered_where_the_recipe_knows_them() -> None:
    """So many as one rank fits with; the sampler's whole copy, which no rank shares, is counted."""
    now = memory(WORK).peak
    assert "ranks" not in {c.name for c in fit(WORK, Factors(), now / 2).changes}
    read = replace(WORK, shareable=True, rows=0, reference=False)
    peak = memory(read).peak
    found = {c.name: c for c in fit(read, Factors(), 0.7 * peak / MARGIN).changes}["ranks"]
    ranks = int(found.value)
    assert found.peak == memory(replace(read, ranks=ranks)).peak <= 0.7 * peak < memory(replace(read, ranks=ranks // 2)).peak
    assert found.settings == (f"cluster.ranks={ranks}", "cluster.shard=full")


def test_nothing_fits_a_process_that_is_larger_alone() -> None:
    found = fit(WORK, Factors(process=2e9), 1e9)
    assert found.enough is None
    assert found.peak > 2e9


def test_named_reference_stays_beside_adapters() -> None:
    found = {c.name: c.peak for c in fit(replace(WORK, named=True), Factors(), 1e9).changes}
    assert found["lora"] > {c.name: c.peak for c in fit(WORK, Factors(), 1e9).changes}["lora"]


@pytest.mark.parametrize("rows", [0, 64])
def test_factors_give_back_what_was_measured(rows: int) -> None:
    """Take a plan with known factors for a measurement: the same factors must come out."""
    work = replace(WORK, rows=rows)
    known = Factors(process=3e8, activations=1.7, forward=0.8, sampling=1.3 if rows else 1.0, loading=5e7, measured=True)
    few = replace(work, answer=16.0)
    plan, drawn = memory(work, known), memory(few, known)
    moments = 8 * SIZE.parameters
    probed = Probed(
        loading=round(plan.of("loading")),
        standing=round(plan.of("loading") - 5e7),
        sampling=round(drawn.of("sampling") - moments) if rows else 0,
        scoring=round(plan.of("scoring") - moments),
        training=round(plan.of("training")),
        trained=SIZE.parameters,
        microbatch=4096,
        scored=2048,
        inference=8192,
        rows=rows,
        prompt=100,
        answer=16 if rows else 0,
    )
    true = corrected(work, probed)
    found = factors_of(true, probed)
    for name in ("process", "activations", "forward", "sampling", "loading"):
        assert getattr(found, name) == pytest.approx(getattr(known, name), rel=1e-6)
    assert memory(true, found).of("training") == pytest.approx(probed.training)


def test_time() -> None:
    amount = Amount(steps=10, trained=(100.0, 200.0), sampled=(50.0, 80.0), passes=2.0, critic=True, once=300.0)
    rates = Rates(train=100.0, infer=400.0, sample=10.0, update=0.5, measured=True)
    low = 10 * (2 * (1.0 + 0.5) + 2 * 0.25 + 5.0) + 0.75
    high = 10 * (2 * (2.0 + 0.5) + 2 * 0.5 + 8.0) + 0.75
    assert seconds(amount, rates) == pytest.approx((MEASURED[0] * low, MEASURED[1] * high))


@pytest.mark.parametrize(("text", "size"), [("24GB", 24e9), ("80GiB", 80 * 2**30), ("512mb", 512e6), ("1.5", 1.5e9), (" 2 TB ", 2e12)])
def test_sizes(text: str, size: float) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["much", "0GB", "-3GB", "24G B", "12 EB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="--memory"):
        bytes_of(text)


def test_shapes() -> None:
    size = read_shape("hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, vocab=320, tied=1")
    assert size.parameters == 2 * (64 * (128 + 64) + 3 * 64 * 128) + 320 * 64 + 64 * 5
    assert (size.cache, size.head, size.layers) == (64, 320 * 64, 2)


@pytest.mark.parametrize(
    ("text", "what"), [("hidden=64", "layers, vocab are missing"), ("hidden=64,layers=2,vocab=x", "vocab=x"), ("hiden=1", "hiden=1")]
)
def test_no_shapes(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read_shape(text)
