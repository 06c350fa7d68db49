"""Vision-language models over ranks, against one process: passes with and without images side by side, what travels, and that a rank which
does not look is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rank_cases import Case
from rank_compare import CPU, bad_host, compare, go_on
from rank_pictures import pictured_cases

from keel.core.errors import ConfigError, RankError
from keel.learner.config import ClusterConfig
from keel.learner.host import Host
from keel.learner.hosts import host_of
from keel.learner.shown import Shown
from keel.models.media import MediaStore, media_bytes
from keel.runs.checkpoints import Checkpoints
from keel.selftest import _one_of_each
from keel.types import Encoded, MediaRef, Unit


def by_name(name: str) -> Case:
    return next(case for case in pictured_cases() if case.name == f"images: {name}")


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "shard"), [(2, "full"), (3, "full"), (2, 1)])
def test_gradients_are_those_of_one_process(ranks: int, shard) -> None:
    host = host_of(ClusterConfig(ranks=ranks, shard=shard), CPU)
    for case in pictured_cases():
        compare(case, host)
    host.close()


@pytest.mark.stages
@pytest.mark.parametrize("name", ["one image", "projector alone"])
def test_gradients_over_two_ranks(name: str, pair: Host) -> None:
    compare(by_name(name), pair, steps=1)


@pytest.mark.stages
def test_what_is_read_is_the_same(pair: Host) -> None:
    """Log-probabilities, in as many calls as the room for images asks for, and those of the start behind trained parts."""
    case = by_name("lora and projector")
    alone, many = case.alone(), case.over(pair)
    expected = alone.logprobs(case.given)
    many.whole().model.media.max_bytes = 1  # no two units' images have room together
    for one, other in zip(expected, many.logprobs(case.given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    reference = many.refer(None, None, whole=False)
    go_on(many, case, 1)
    for one, other in zip(expected, reference.logprobs(case.given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="whole distributions"):
        many.refer(None, None, whole=True)


@pytest.mark.slow
def test_a_rank_that_does_not_look_is_an_error() -> None:
    """The field's bug: the tower's collective waits for a rank whose micro-batch has no image. It gives up by the timeout, or the gradient
    is wrong and the self-test sees it."""
    case = by_name("one image")
    host = bad_host("no look")
    try:
        with pytest.raises((RankError, AssertionError)):
            compare(case, host, steps=1)
    finally:
        host.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "lora and projector"])
def test_a_run_goes_on_bit_for_bit(name: str, tmp_path) -> None:
    case, host = by_name(name), host_of(ClusterConfig(ranks=2), CPU)
    first = case.over(host)
    go_on(first, case)
    tensors, state = first.state()
    Checkpoints(tmp_path / "c").save(2, {"policy": tensors}, {"learner": state})
    norms, end = go_on(first, case), first.digest()
    stored = Checkpoints(tmp_path / "c").load(2)
    again, alone = case.over(host), case.alone()
    for learner in (again, alone):
        learner.load_state(stored.tensors["policy"], stored.state["learner"])
    assert go_on(again, case) == norms
    assert again.digest() == end
    assert go_on(alone, case) == pytest.approx(norms, rel=1e-4)
    host.close()


class Calls:
    """Ranks that note what they are told."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.told: list[tuple[str, list[str]]] = []

    def __call__(self, command: str, what) -> None:
        self.told.append((command, list(what)))
        if command == "show":
            self.held |= {digest: media_bytes(pixels) for digest, pixels in what.items()}
        for digest in what if command == "forget" else ():
            del self.held[digest]


def looking(*digests: str) -> Unit:
    return Unit("u", Encoded(torch.tensor([1]), tuple(MediaRef(d, 1) for d in digests)), ())


def store(room: int | None = None, *digests: str) -> MediaStore:
    """Images of 4 bytes each."""
    media = MediaStore(room)
    for digest in digests:
        media.put(digest, {"pixel_values": torch.zeros(1)}, lambda: {"pixel_values": torch.zeros(1)})
    return media


def test_images_travel_once_and_go_when_there_is_no_room() -> None:
    ranks = Calls()
    pictures, media = Shown(ranks), store(8, "a", "b", "c")
    pictures.bring([looking("a"), looking("b", "a")], media)
    pictures.bring([looking("a")], media)
    assert ranks.told == [("show", ["a", "b"])]
    pictures.bring([looking("c")], media)  # b was asked for the longest ago
    assert ranks.told[1:] == [("forget", ["b"]), ("show", ["c"])]
    media.drop("a")
    pictures.bring([looking("c")], media)
    assert ranks.told[3:] == [("forget", ["a"])]
    assert ranks.held == dict(pictures.held) == {"c": 4}


def test_units_come_in_parts_whose_images_have_room() -> None:
    ranks = Calls()
    pictures, media = Shown(ranks), store(8, *"abcd")
    given = [looking("a"), looking("b"), looking("b"), looking(), looking("a", "c"), looking("d")]
    found: list[int] = []
    for part in pictures.parts(given, media):
        found.append(len(part))
        assert {ref.digest for u in part for ref in u.prompt.media} <= set(ranks.held)
        assert sum(ranks.held.values()) <= 8
    assert found == [4, 1, 1]
    pictures.bring(given, media)
    assert set(ranks.held) == set("abcd"), "what one pass needs is there, room or not"
    assert [list(part) for part in pictures.parts([], media)] == [[]]
    assert [len(part) for part in pictures.parts([looking()] * 3, media)] == [3]


def test_the_self_test_has_one_of_each() -> None:
    words, image = looking(), looking("a")
    assert _one_of_each([words, image, words]) == [words, image]
    assert _one_of_each([words, words]) == [words, words]
    assert _one_of_each([image]) == [image]


def test_a_contrast_brings_its_own_image() -> None:
    ranks = Calls()
    Shown(ranks).bring([replace(looking("a"), contrast=looking("b"))], store(None, "a", "b"))
    assert ranks.told == [("show", ["a", "b"])]
