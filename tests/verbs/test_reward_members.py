"""`keel reward` with ``ensemble``: several models from one recipe, in one folder that loads, scores, serves and rewards as one."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, DivergedError, ModelError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models import heads
from keel.models.config import ModelOptions
from keel.models.ensemble import read_manifest
from keel.models.loading import AUTO_PRECISION, load_model
from keel.render.renderer import Renderer
from keel.serve.config import ServeRewardConfig
from keel.types import Message, Prompt, Rating, Unit
from keel.verbs.eval_reward.run import run_eval_reward
from keel.verbs.reward import members as reward_members
from keel.verbs.run import run_verb
from keel.verbs.score.run import run_score
from keel.verbs.serve_reward import make_server

Run = Callable[..., dict[str, Any]]
LORA = "lora={r: 4, alpha: 8}"
OPTIONS = ModelOptions(precision="fp32")


@pytest.fixture
def run(tmp_path: Path, proofs: None) -> Run:
    """``run(folder, "key=value")``: a short run with three members."""
    rows = [{"prompt": f"Question {i}?", "chosen": "great", "rejected": "bad" if i % 4 else "fair"} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "reward.yaml"
    recipe.write_text(
        f"model: tiny:llama?layers=1\ndata: {{path: {tmp_path / 'pairs.jsonl'}}}\nheld_out: 0.25\noptim: {{lr: 3e-3}}\n"
        "loop: {steps: 5, batch_size: 8, eval_at_start: false}\nsettings: {threads: 1}\nmodel_options: {precision: fp32}\n"
        "ensemble: {members: 3}\n"
    )
    return lambda folder, *overrides: run_verb("reward", recipe, [*overrides, f"run_dir={tmp_path / folder}"])


def loaded(folder: Path):
    return load_model(str(folder), OPTIONS, heads=frozenset({"score"}))


def unit(tokenizer: Any) -> Unit:
    made = Renderer(tokenizer).unit(Rating("r", Prompt("p", text="Question 3?"), (Message("assistant", "great"),), {"x": 0.0}))
    assert isinstance(made, Unit)
    return made


def test_adapters_share_one_base_and_score_as_peft_does(run: Run, tmp_path: Path) -> None:
    summary = run("run", LORA)
    assert [m["steps"] for m in summary["members"]] == [5, 5, 5]
    assert summary["reward_model"]["n"] > 0
    final = tmp_path / "run" / "final"
    assert not list(final.rglob("model*.safetensors")), "the base is named, not copied"
    found = loaded(final)
    assert len({id(m.module) for m in found.model.members}) == 1
    one = unit(found.tokenizer)
    ((together_GM, _),) = LocalInference(found.model, BatchConfig()).judgements([one])
    assert float(together_GM.std()) > 0
    manifest = read_manifest(final)
    assert manifest is not None
    for k, part in enumerate(manifest.members):
        base = load_model("tiny:llama?layers=1&seed=0", OPTIONS, heads=frozenset({"score"}), new_heads=True)
        peft.PeftModel.from_pretrained(base.model.module, str(final / part.folder))
        assert heads.load_heads(final / part.folder, base.model.heads) == ["score"]
        (alone_G,) = LocalInference(base.model, BatchConfig()).scores([one])
        assert float(together_GM[0, k]) == pytest.approx(float(alone_G) - part.mean, abs=1e-5)


@pytest.mark.slow
def test_whole_models_are_scored_weighed_and_asked_only_in_doubt(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTO_PRECISION, "fp32")  # what is compared was computed in it
    summary = run("run")
    final = tmp_path / "run" / "final"
    found = loaded(final)
    assert len({id(m.module) for m in found.model.members}) == 3
    measures = run_eval_reward(str(final), str(tmp_path / "pairs.jsonl"), overrides=["model_options.precision=fp32"])
    assert measures["data"]["data"]["ensemble"]["std"] > 0
    assert measures["cost"]["parameters"] == 3 * sum(p.numel() for p in found.model.module.parameters())
    asked = tmp_path / "rows.jsonl"
    asked.write_text(json.dumps({"prompt": "Question 3?", "completion": "great"}) + "\n")
    scores = {}
    for way in ("aggregate=mean", "aggregate=weighted", "early_exit={first: 2, below: 1.0e-9}", "early_exit={first: 2, below: 100.0}"):
        run_score(str(asked), f"model:{final}", str(tmp_path / "out.jsonl"), [f"ensemble.{way}"])
        scores[way.partition(",")[2] or way] = json.loads((tmp_path / "out.jsonl").read_text())["score"]
    mean, weighted, doubtful, sure = scores.values()
    assert mean == pytest.approx(doubtful, abs=1e-6), "members that are never sure are all asked"
    assert mean != pytest.approx(sure, abs=1e-6), "two that are sure are enough"
    constants = summary["scale"]
    ((members_GM, _),) = LocalInference(found.model, BatchConfig()).judgements([unit(found.tokenizer)])
    assert mean == pytest.approx((float(members_GM.mean()) - constants["mean"]) / constants["std"], abs=1e-4)
    manifest = read_manifest(final)
    assert manifest is not None
    powers = [2.718281828459045 ** ((m.accuracy or 0.0) / 0.05) for m in manifest.members]
    expected = sum(p * float(s) for p, s in zip(powers, members_GM[0], strict=True)) / sum(powers)
    assert weighted == pytest.approx((expected - constants["mean"]) / constants["std"], abs=1e-4)


def test_members_differ_and_the_measured_prompts_are_the_same(run: Run, tmp_path: Path) -> None:
    run("run", "ensemble.bootstrap=false", "loop.steps=1")
    members = [tmp_path / "run" / "members" / str(k) for k in range(3)]
    data = [json.loads((m / "manifest.json").read_text())["data"] for m in members]
    assert data[0] == data[1] == data[2]
    losses = {json.loads((m / "metrics.jsonl").read_text().splitlines()[0])["loss"] for m in members}
    assert len(losses) == 3, "members start from seeds of their own and see the rows in an order of their own"


def test_a_cut_off_ensemble_goes_on_where_it_was(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reward_members, "scale", cut)  # of the whole: the last thing that is done
        with pytest.raises(KeyboardInterrupt):
            run("run", LORA)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "members").rglob("metrics.jsonl")}
    assert len(before) == 3
    assert len(run("run", LORA)["members"]) == 3
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_one_member_alone_is_the_one_of_the_whole(run: Run, tmp_path: Path) -> None:
    run("whole", LORA)
    run("alone", LORA, "ensemble.member=1")
    files = [tmp_path / "whole" / "final" / "member1", tmp_path / "alone" / "adapter"]
    first, second = ((f / "adapter_model.safetensors").read_bytes() for f in files)
    assert first == second


def test_an_ensemble_is_not_trained_on_and_its_base_must_be_there(run: Run, tmp_path: Path) -> None:
    run("run", LORA, "loop.steps=1")
    final = tmp_path / "run" / "final"
    with pytest.raises(ModelError, match="ensemble of 3 reward models"):
        run("more", f"model={final}", "ensemble=null")
    manifest = json.loads((final / "keel_ensemble.json").read_text())
    (final / "keel_ensemble.json").write_text(json.dumps({**manifest, "base_fingerprint": "0"}))
    with pytest.raises(ModelError, match="not the same any more"):
        loaded(final)
    (final / "keel_ensemble.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(ModelError, match="not an ensemble that this version knows"):
        loaded(final)


@pytest.mark.parametrize(
    ("override", "match"),
    [("head.members=2", "two kinds of ensemble"), ("ensemble.member=3", "from 0"), ("ensemble.members=1", "2")],
)
def test_settings_that_cannot_be(override: str, match: str, run: Run) -> None:
    with pytest.raises(ConfigError, match=match):
        run("never", override)


@pytest.mark.parametrize("settings", [pytest.param((LORA,), id="adapters", marks=pytest.mark.slow), pytest.param((), id="models")])
def test_every_command_takes_the_folder_of_an_ensemble(settings: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    run("run", *settings)
    final = str(tmp_path / "run" / "final")
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"prompt": "Question 3?", "completion": c}) + "\n" for c in ("great", "bad", "好的")))

    def scored(*overrides: str) -> list[dict[str, Any]]:
        run_score(str(answers), f"model:{final}", str(tmp_path / "out.jsonl"), overrides)
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    mean, careful = scored(), scored("ensemble={aggregate: lower_bound, k: 2}")
    apart = [float(row["reason"].removeprefix("members differ by ")) for row in mean]
    assert min(apart) > 0
    assert [row["score"] for row in careful] == [pytest.approx(m["score"] - 2 * std, rel=1e-3) for m, std in zip(mean, apart, strict=True)]
    limit = sorted(apart)[1]
    refused = scored(f"ensemble.refuse_above={limit * 0.999}")
    assert [row["score"] is None for row in refused] == [std >= limit for std in apart]
    assert all(("members differ: by" in row["error"]) == (row["score"] is None) for row in refused)

    server = make_server(load(ServeRewardConfig, None, [f"model={final}", "port=0"]))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        body = json.dumps({"items": [{"prompt": "Question 3?", "completion": c} for c in ("great", "bad", "好的")]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_address[1]}/score", body)
        said = json.loads(urllib.request.urlopen(request, timeout=60).read())
    finally:
        server.close()
    assert said["scores"] == [pytest.approx(row["score"], abs=1e-4) for row in mean]
    assert said["std"] == [pytest.approx(std, rel=1e-3) for std in apart]

    (tmp_path / "rl.yaml").write_text(
        f"model: tiny:llama?layers=1\ndata: {{path: {tmp_path / 'pairs.jsonl'}}}\nalgorithm: {{name: grpo}}\nsamples: 4\n"
        f"rewards: [{{type: model, name: liked, path: {final}, ensemble: {{aggregate: lower_bound, refuse_above: 100}}}}]\n"
        "sampling: {max_tokens: 8}\nloop: {steps: 1, batch_size: 4, probes: 0}\nsettings: {threads: 1}\n"
    )
    summary = run_verb("rl", tmp_path / "rl.yaml", [f"run_dir={tmp_path / 'rl'}"])
    told = summary["not_rewarded"]["liked"]
    assert told["refused"] == 0 < told["scored"]
    assert summary["last"]["rewards/liked/epistemic/mean"] > 0
    with pytest.raises(DivergedError, match="members differ by more than 1e-06"):
        run_verb("rl", tmp_path / "rl.yaml", [f"run_dir={tmp_path / 'none'}", "rewards.0.ensemble.refuse_above=1e-6"])
