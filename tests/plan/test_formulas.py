"""Bytes by hand, and the table of 70B that counted too little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keel.plan import formulas as f
from keel.plan.memory import beside_the_gpu, frozen_model, memory
from keel.plan.shape import decoder
from keel.plan.size import Size
from keel.plan.work import Factors, Work

SIZE = Size(parameters=1000, body=600, head=200, ports=50, layers=2, hidden=8, intermediate=16, cache=4, vocab=100, bytes_per_token=4.0)


def test_weights_gradients_moments() -> None:
    assert f.trained_weights(1000) == 4000
    assert f.trained_weights(1000, ranks=4) == 1000
    assert f.frozen_weights(1000, 600, 2) == 2 * 600 + 4 * 400
    assert f.frozen_weights(1000, 600, 4) == 4000
    assert f.gradients(1000, ranks=2) == 2000
    assert f.moments(1000, "adamw") == 8000
    assert f.moments(1000, "adamw", ranks=8) == 1000
    assert f.moments(1000, "adamw_8bit") == 2000
    assert f.moments(1000, "adafactor", 70) == 280
    assert f.rounded_copies(600, 2) == 1200
    assert f.rounded_copies(600, 4) == 0


def test_passes() -> None:
    assert f.activations(10, 2, 8, 16, 4) == 4 * 10 * 2 * (80 + 64)
    assert f.activations(10, 2, 8, 16, 4, checkpointing=True) == 4 * 10 * 2 * 8 + 4 * 10 * 144
    assert f.forward(10, 8, 16, 2) == 10 * (2 * (32 + 48) + 4 * 8)
    assert f.sampled_logits(3, 100) == 4800


def test_head_tile() -> None:
    assert f.head_rows(5, 100, "cpu") == 5
    assert f.head_rows(1e6, 100, "cpu") == 1024  # never more
    assert f.head_rows(1e6, 1 << 18, "cpu") == 64  # never fewer
    assert f.head_rows(1e6, 1 << 15, "cpu") == 256  # 2^23 numbers over 2^15
    assert f.head_tile(5, 100, 8, 4, "cpu") == 5 * 100 * 8 + 4 * 100 * 8
    assert f.head_tile(5, 100, 8, 4, "cpu", trained=False) == 5 * 100 * 8
    assert f.head_tile(5, 100, 8, 2, "cuda") == 5 * 100 * 10 + 4 * 100 * 8 + 2 * 100 * 10


def test_sampling() -> None:
    assert f.cache(6, 10, 2, 7, layers=3, numbers=4, value=2) == 2 * 3 * 4 * (60 + 14)
    assert f.decode_copies(600, 200, rows=8, steps=16, device="cpu") == 2400
    assert f.decode_copies(600, 200, rows=8, steps=15, device="cpu") == 0
    assert f.decode_copies(600, 200, rows=8, steps=16, device="cuda") == 0
    assert f.decode_copies(2 << 20, (1 << 20) + 1, rows=25, steps=16, device="cpu") == 0  # large ones are packed for few rows
    assert f.decode_copies(2 << 20, (1 << 20) + 1, rows=24, steps=16, device="cpu") == 8 << 20


def test_images_ranks_and_files() -> None:
    assert f.pictures(2, 300, 50, 8) == 4 * (600 + 400)
    assert f.gathers(300, 400, 1, 2) == 0
    assert f.gathers(300, 400, 4, 2) == 2 * 1000 + 4 * 400
    assert f.saved_copies(1000, 600, adapters=True) == 8 * 600 + 4 * 400
    assert f.saved_copies(1000, 600, adapters=False) == 0
    assert f.read_again(1000, adapters=True) == 4000


def test_table_of_70b() -> None:
    """A well-known table says policy 280, reference 140, reward 140, value 280 GB: 840. 280 GB are 4 bytes a parameter, weights and
    gradients in bfloat16, and no optimizer. Trained weights in float32, their gradients and two moments are 16."""
    billions = 70e9
    trained = f.trained_weights(billions) + f.gradients(billions) + f.moments(billions, "adamw")
    read = f.frozen_weights(billions, billions, 2)
    assert (trained, read) == (1120e9, 140e9)
    assert 2 * 4 * billions + 2 * read == 840e9  # the table
    assert 2 * trained + 2 * read == 2520e9
    assert -(-2520 // 80) == 32  # GPUs of 80 GB, before activations, cache and sampler
    assert 2 * (trained + f.rounded_copies(billions, 2)) + 2 * read == 2800e9
    assert trained + read == 1260e9  # without critic and reward model


def test_70b_of_its_real_shape() -> None:
    """Hidden 8192, 80 layers: counted by hand. Together the roles are less than their sum: policy and critic are trained in turn."""
    size = decoder(hidden=8192, layers=80, vocab=128256, heads=64, kv_heads=8, intermediate=28672)
    layer = 8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 28672
    assert size.body == 80 * layer
    assert size.parameters == 80 * layer + 2 * 128256 * 8192 + 161 * 8192 == 70_553_706_496
    work = Work(size, 2, device="cuda", microbatch=0.0, reference=True, rewards=(size,), critic=True)
    plan = memory(work, Factors(process=0.0))
    parameters = size.parameters
    assert plan.of_role("critic") == 16 * parameters + 2 * size.body
    assert plan.of_role("reward") == frozen_model(size, 2) == 2 * size.body + 4 * (parameters - size.body)
    assert plan.of("critic") == 2 * 12 * parameters + 4 * parameters + 2 * size.body + 2 * frozen_model(size, 2)


def test_phases_of_ppo() -> None:
    work = Work(
        SIZE, 4, microbatch=10, scored=5, inference=20, rows=8, prompts=2, prompt=7, answer=20, eval_rows=4, reference=True, critic=True
    )
    factors = Factors(process=1.0, activations=1.0)
    plan = memory(work, factors)
    standing = 2 * (4000 + 8000) + 4000 + 1
    head = 5 * 100 * 8 + 4 * 100 * 8
    assert plan.of("loading") == 3 * 4000 + 1
    assert plan.of("training") == standing + 4000 + f.activations(10, 2, 8, 16, 4) + head
    assert plan.of("critic") == standing + 4000 + f.activations(10, 2, 8, 16, 4)
    assert plan.of("scoring") == standing + f.forward(20, 8, 16, 4) + 20 * 100 * 8
    drawn = f.cache(8, 20, 2, 7, 2, 4, 4) + 16 * 8 * 100 + 4 * (600 + 200)
    assert plan.of("sampling") == standing + drawn
    assert plan.of("saving") == standing
    assert plan.peak == max(plan.phases.values()) == plan.of(plan.worst)


def test_what_ranks_put_together_and_what_lies_beside_the_gpu() -> None:
    """SIZE on 4 GPUs: 4 of 16 bytes a parameter, shared out, lie elsewhere; autocast rounds whole matrices, gather=bf16 before."""
    bare = Factors(process=0.0)
    work = Work(SIZE, 2, ranks=4, device="cuda")
    plain, rounded = (memory(w, bare).of("training") for w in (work, replace(work, rounded=True)))
    assert plain - rounded == 2 * SIZE.matrices + 2 * (2 * SIZE.layer + SIZE.root)
    beside = replace(work, offload=True)
    assert beside_the_gpu(beside) == 16 * SIZE.parameters / 4
    assert plain - memory(beside, bare).of("training") == beside_the_gpu(beside)
    assert beside_the_gpu(replace(beside, device="cpu")) == beside_the_gpu(replace(beside, share=False)) == beside_the_gpu(work) == 0
    tower = replace(SIZE, tower=100)
    assert memory(replace(work, size=tower), bare).of("training") - plain == pytest.approx(8 * 100 - 4 * 2 * 100 / SIZE.layers)


def test_adapters_and_ranks() -> None:
    lora = memory(Work(SIZE, 2, rank=3, microbatch=10), Factors(process=0.0, activations=1.0))
    base = 2 * 600 + 4 * 400 + 4 * 150
    assert lora.of("training") == base + 8 * 150 + 4 * 150 + f.activations(10, 2, 8, 16, 2)
    assert lora.of("saving") == base + 8 * 150 + 8 * 600 + 4 * 400
    one = memory(Work(SIZE, 4), Factors(process=0.0)).of("training")
    four = memory(Work(SIZE, 4, ranks=4), Factors(process=0.0)).of("training")
    assert one == 16000
    assert four == pytest.approx(4000 + f.gathers(300, 400, 4, 4))
    assert memory(Work(SIZE, 4, ranks=4, share=False), Factors(process=0.0)).of("training") == one
