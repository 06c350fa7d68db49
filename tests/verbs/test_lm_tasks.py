"""Tasks of lm-evaluation-harness on Keel's ids: offline tasks from YAML and local rows. Without the harness its absence is told."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import DataError, UserError
from keel.evaluate.parts import LmEvalConfig
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rollout.config import SamplerConfig
from keel.types import Message, Prompt
from keel.verbs.evaluate.lm_tasks import run_tasks
from keel.verbs.shared.session import renderer_of

THERE = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not THERE, reason="lm-evaluation-harness is not installed (pip install keel-align[lm-eval])")

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
fewshot_split: test
output_type: {kind}
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
{more}
metadata: {{version: 1.0}}
"""
CHOICE = 'doc_to_target: "{{best}}"\ndoc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}, {metric: acc_norm}]'
WRITE = (
    'doc_to_target: "{{choices[best]}}"\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}\n'
    "metric_list: [{metric: exact_match}]"
)


def tasks(folder: Path) -> Path:
    rows = [{"question": f"What is {i} + {i}?", "choices": [str(2 * i), "blue", "a boat"], "best": 0} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for name, kind, more in (("own_choice", "multiple_choice", CHOICE), ("own_write", "generate_until", WRITE)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, rows=folder / "rows.jsonl", more=more))
    return folder


def opened(seed: int = 1) -> tuple[Loaded, Renderer]:
    loaded = load_model(f"tiny:llama?seed={seed}&std=0.2", ModelOptions(precision="fp32"))
    loaded.model.freeze()
    return loaded, renderer_of(loaded, RenderConfig())


def test_without_the_harness_it_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    loaded, renderer = opened()
    found = run_tasks(LmEvalConfig(tasks=["hellaswag"]), loaded, renderer, SamplerConfig())
    assert list(found) == ["skipped"]
    assert "pip install keel-align[lm-eval]" in found["skipped"]


@needs_lm_eval
def test_the_harness_and_keel_send_the_same_ids(proofs: None) -> None:
    from keel.verbs.evaluate.lm_model import KeelLM

    loaded, renderer = opened()
    lm = KeelLM(loaded, renderer, SamplerConfig())
    turns = [("system", "Be brief."), ("user", "Which tent?"), ("assistant", "The green one."), ("user", "它防水吗？\n请回答。")]
    messages = tuple(Message(role, text) for role, text in turns)
    text = lm.apply_chat_template([{"role": role, "content": content} for role, content in turns])
    prompt = Prompt("p", messages)
    encoded, (branch,) = renderer.branches(prompt, [(Message("assistant", "Yes, it is."),)])
    before, after = lm.pair(text, "Yes, it is.")
    assert before == renderer.prompt(prompt).tokens_T.tolist() == encoded.tokens_T.tolist() == lm.context(text)
    assert after == branch.tokens_T.tolist()[: len(after)]
    assert len(branch) == len(after) + 1  # the end of the answer, which a task does not ask for
    raw = Prompt("r", text="Question: one\nAnswer:")
    assert lm.context("Question: one\nAnswer:") == raw_renderer(loaded).prompt(raw).tokens_T.tolist()
    with pytest.raises(DataError, match="begins the model's answer"):
        lm.apply_chat_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], add_generation_prompt=False)


def raw_renderer(loaded: Loaded) -> Renderer:
    return renderer_of(loaded, RenderConfig(as_chat=False))


@needs_lm_eval
@pytest.mark.parametrize("chat", [False, True])
def test_a_task_gives_what_keel_computes(tmp_path: Path, proofs: None, chat: bool) -> None:
    """Accuracy by hand from Keel's own log-probabilities of the same ids, with and without the chat template."""
    from keel.verbs.evaluate.lm_model import KeelLM

    loaded, renderer = opened()
    config = LmEvalConfig(tasks=["own_choice"], include_path=str(tasks(tmp_path)), chat_template=chat, limit=5, shots=0)
    found = run_tasks(config, loaded, renderer, SamplerConfig())
    lm = KeelLM(loaded, renderer, SamplerConfig())
    right = 0
    for i in range(5):
        text = f"Question: What is {i} + {i}?\nAnswer:"
        context = lm.apply_chat_template([{"role": "user", "content": text}]) if chat else text
        values = []
        for choice in (str(2 * i), "blue", "a boat"):
            before, after = lm.pair(context, choice if chat else f" {choice}")
            row = torch.tensor([[*before, *after]])
            logits = loaded.model.logits(loaded.model.run_plain(row, torch.ones_like(row))[0]).log_softmax(-1)
            values.append(sum(float(logits[len(before) - 1 + k, t]) for k, t in enumerate(after)))
        right += values.index(max(values)) == 0
    row = found["results"]["own_choice"]["acc"]
    assert row["mean"] == pytest.approx(right / 5)
    assert row["n"] == 5
    assert row["high"] - row["mean"] == pytest.approx(1.959964 * math.sqrt(right / 5 * (1 - right / 5) / 4), abs=1e-5)
    record: dict[str, Any] = found["record"]
    assert record["limit"] == 5
    assert record["shots"] == {"own_choice": 0}
    assert record["chat_template"] == {"used": chat, "sha256": renderer.template_hash if chat else ""}
    assert record["bos"] == list(renderer.codec.bos)
    assert record["lm_eval"]
    assert record["cut_at_context"] == 0


@needs_lm_eval
def test_two_models_share_no_answers(tmp_path: Path, proofs: None) -> None:
    config = LmEvalConfig(tasks=["own_write", "own_choice"], include_path=str(tasks(tmp_path)))
    found = [run_tasks(config, *opened(seed), SamplerConfig()) for seed in (1, 2, 1)]
    assert found[0]["record"]["ids_sha256"] == found[1]["record"]["ids_sha256"] == found[2]["record"]["ids_sha256"]
    assert found[0]["results"] == found[2]["results"]
    first, second = (opened(seed) for seed in (1, 2))
    from lm_eval.api.instance import Instance

    from keel.verbs.evaluate.lm_model import KeelLM

    asked = [Instance("loglikelihood", {}, ("Question: a\nAnswer:", " b"), 0)]
    values = [KeelLM(*opened_one, SamplerConfig()).loglikelihood(asked)[0][0] for opened_one in (first, second)]
    assert values[0] != pytest.approx(values[1])


@needs_lm_eval
def test_greedy_is_what_greedy_decoding_writes(proofs: None) -> None:
    from lm_eval.api.instance import Instance

    from keel.verbs.evaluate.lm_model import KeelLM

    loaded, renderer = opened()
    lm = KeelLM(loaded, renderer, SamplerConfig())
    context = lm.context("Question: a\nAnswer:")
    row = torch.tensor([context])
    best = int(loaded.model.logits(loaded.model.run_plain(row, torch.ones_like(row))[0])[-1].argmax())
    units = [lm._unit(i, context, [token]) for i, token in enumerate((best, (best + 1) % 100))]
    assert [bool((r[0] > math.log(0.5)).all()) for r in lm.cold.logprobs(units)] == [True, False]
    rolled = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("Rivers slow down.",), 0)])
    assert rolled[0] < 0


@needs_lm_eval
def test_a_task_that_is_not_there_is_named(tmp_path: Path, proofs: None) -> None:
    loaded, renderer = opened()
    with pytest.raises(UserError, match="has no task 'own_chess'"):
        run_tasks(LmEvalConfig(tasks=["own_chess"], include_path=str(tasks(tmp_path))), loaded, renderer, SamplerConfig())
