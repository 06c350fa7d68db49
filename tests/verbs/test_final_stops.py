"""What a run leaves stops in plain transformers where its training ended the answers, whatever the base model's own end was."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import LogitsProcessor

from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.verbs.merge import run_merge
from keel.verbs.shared.session import renderer_of

FP32 = ModelOptions(precision="fp32")
END, TURN = "<|endoftext|>", "<|im_end|>"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model: texts end with another token than the turns of its chat template."""
    folder = tmp_path_factory.mktemp("base")
    loaded = load_model("tiny:qwen2?seed=1", FP32)
    module, tokenizer = loaded.model.module, loaded.tokenizer
    tokenizer.eos_token = END
    end = tokenizer.convert_tokens_to_ids(END)
    assert end != tokenizer.convert_tokens_to_ids(TURN)
    module.config.eos_token_id = module.generation_config.eos_token_id = end
    module.config.pad_token_id = module.generation_config.pad_token_id = None
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Says(LogitsProcessor):
    """The third token is ``token``, the others never are."""

    def __init__(self, token, start):
        self.token, self.start = token, start

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.token] = 1e4 if input_ids.shape[1] == self.start + 2 else -1e4
        return scores


def n_written(folder, word, adapter_of=None):
    """Tokens of a plain greedy ``generate`` in which ``word`` comes third; of 8 at most."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(adapter_of or folder, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    n = asked["input_ids"].shape[1]
    config = transformers.GenerationConfig.from_pretrained(folder)
    more = {} if adapter_of is None else {"generation_config": config}
    out = model.generate(
        **asked, max_new_tokens=8, do_sample=False, logits_processor=[Says(tokenizer.convert_tokens_to_ids(word), n)], **more
    )
    return out.shape[1] - n


def test_the_base_does_not_stop_at_the_end_of_a_turn(base):
    assert (n_written(base, TURN), n_written(base, END)) == (8, 3)


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_what_is_saved_stops_at_every_end(base, tmp_path, lora):
    loaded = load_model(str(base), FP32, lora)
    renderer = renderer_of(loaded, RenderConfig())
    loaded.model.save(tmp_path / "final", loaded.tokenizer)
    assert (n_written(tmp_path / "final", TURN), n_written(tmp_path / "final", END)) == (3, 3)
    config = json.loads((tmp_path / "final" / "generation_config.json").read_text())
    assert tuple(config["eos_token_id"]) == renderer.stop_tokens
    assert config["pad_token_id"] is not None, "batches of prompts can be filled up"
    again = load_model(str(tmp_path / "final"), FP32)
    assert renderer_of(again, RenderConfig()).stop_tokens == renderer.stop_tokens
    if lora is not None:
        loaded.model.save_adapter(tmp_path / "adapter", loaded.tokenizer)
        assert n_written(tmp_path / "adapter", TURN, adapter_of=base) == 3


def test_merged_models_stop_too(base, tmp_path):
    run_merge([str(base), str(base)], str(tmp_path / "merged"))
    assert n_written(tmp_path / "merged", TURN) == 3


def test_the_chat_template_of_the_training_is_saved(base, tmp_path):
    template = "{% for m in messages %}[{{ m.content }}]<|im_end|>{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    (tmp_path / "t.jinja").write_text(template)
    loaded = load_model(str(base), FP32)
    renderer_of(loaded, RenderConfig(chat_template=str(tmp_path / "t.jinja")))
    loaded.model.save(tmp_path / "final", loaded.tokenizer)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "final")
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True) == "[Hi]<|im_end|>>"
    )
    assert n_written(tmp_path / "final", TURN) == 3


def test_a_reward_model_has_nothing_to_generate(base, tmp_path):
    loaded = load_model(str(base), FP32, heads=frozenset({"score"}), new_heads=True)
    renderer_of(loaded, RenderConfig())
    loaded.model.save(tmp_path / "reward", loaded.tokenizer)
    found = tmp_path / "reward" / "generation_config.json"
    assert not found.exists() or isinstance(json.loads(found.read_text()).get("eos_token_id"), int | None)


def test_stop_tokens_of_the_model_are_kept(base, tmp_path):
    loaded = load_model(str(base), FP32)
    loaded.model.module.generation_config.eos_token_id = [7, 9]
    renderer = renderer_of(loaded, RenderConfig())
    assert {7, 9} < set(renderer.stop_tokens)
    replace_tokens = replace(loaded.model, stop_tokens=())  # saved without a renderer: the tokenizer's own end at least
    replace_tokens.save(tmp_path / "plain", loaded.tokenizer)
    assert set(json.loads((tmp_path / "plain" / "generation_config.json").read_text())["eos_token_id"]) == {
        7,
        9,
        loaded.tokenizer.eos_token_id,
    }
