"""What a model makes of an image, and putting it in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from keel.core.errors import ModelError
from keel.models.media import ImageFeatures, image_features, in_place
from keel.models.prove_images import as_batch, image_units
from keel.types import MediaRef

ROWS = torch.arange(8.0).view(1, 4, 2)


class Body(nn.Module):
    """Two tiles of two tokens, in a list or in one tensor; its layers in lists or not."""

    def __init__(self, listed: bool, nested: bool = True) -> None:
        super().__init__()
        self.listed, self.nested = listed, nested

    def get_image_features(self, pixel_values: torch.Tensor, return_dict: bool) -> BaseModelOutputWithPooling:
        rows = ROWS.view(2, 2, 2)
        out = BaseModelOutputWithPooling(pooler_output=[rows] if self.listed else rows)
        out.deepstack_features = [[rows + 10] if self.nested else ROWS[0] + 10]
        return out


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_an_image_is_rows(listed: bool, nested: bool) -> None:
    found = image_features(Body(listed, nested), {"pixel_values": torch.zeros(1)}, MediaRef("x", 4))
    assert found.rows_NH.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found.layers[0].tolist() == [[10, 11], [12, 13], [14, 15], [16, 17]]
    both = ImageFeatures.join([found, found])
    assert both.rows_NH.shape == (8, 2)
    assert both.layers[0].shape == (8, 2)
    assert (both.listed, both.nested, both.block) == (listed, nested, 0 if listed else 2)
    again = ImageFeatures.of(both.tensors())
    assert (again.listed, again.nested, again.block, len(again.layers)) == (listed, nested, both.block, 1)
    assert torch.equal(again.rows_NH, both.rows_NH)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_rows_go_back_in_the_form_that_they_came_in(listed: bool, nested: bool) -> None:
    body = Body(listed, nested)
    found = image_features(body, {"pixel_values": torch.zeros(1)}, MediaRef("x", 4))
    with in_place(body, ImageFeatures.join([found, found])):
        out = body.get_image_features(torch.zeros(1), True)
    rows, layer = out.pooler_output, out.deepstack_features[0]  # type: ignore[attr-defined]
    assert isinstance(rows, list) == listed
    assert isinstance(layer, list) == nested
    assert listed or rows.shape == (4, 2, 2), "blocks of two tokens"  # type: ignore[union-attr]


def test_blocks_of_two_sizes_are_one_row_of_tokens() -> None:
    a, b = ImageFeatures(ROWS[0], block=2), ImageFeatures(ROWS[0], block=4)
    assert ImageFeatures.join([a, b]).rows.shape == (8, 2)  # type: ignore[union-attr]


def test_rows_that_are_not_the_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="stands for 3 tokens in the prompt and the model makes 4 rows"):
        image_features(Body(False), {"pixel_values": torch.zeros(1)}, MediaRef("x", 3))


def test_features_are_in_place_for_one_call_only() -> None:
    body = Body(True)
    with in_place(body, ImageFeatures(ROWS[0], (ROWS[0],), True, True)) as inputs:
        assert inputs["pixel_values"].shape[0] == 1, "a model may skip images of which there are none"
        out = body.get_image_features(1, anything=2)  # type: ignore[call-arg]
        assert out.pooler_output is not None
        assert torch.equal(out.pooler_output[0], ROWS[0])
        assert torch.equal(out.deepstack_features[0][0], ROWS[0])
    assert "get_image_features" not in body.__dict__


def test_a_call_that_fails_leaves_nothing_behind() -> None:
    body = Body(True)

    def call() -> None:
        with in_place(body, ImageFeatures(ROWS[0])):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="memory"):
        call()
    assert "get_image_features" not in body.__dict__


def test_images_of_another_processor_are_refused(load) -> None:
    """A reward model at another resolution than the policy would judge what it never learnt to see."""
    model = load("llava").model
    samples = model.pictured()
    unit = image_units(model, samples)[0]
    with model.showing(samples):
        model.hidden(as_batch([unit]))
        model.processor_key = "another"
        with pytest.raises(ModelError, match="made by another processor than that of this 'llava' model"):
            model.hidden(as_batch([unit]))
    with pytest.raises(ModelError, match="'llama' reads text only"):
        load("llama").model.hidden(as_batch([unit]))
