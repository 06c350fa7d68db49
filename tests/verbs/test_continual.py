"""Train A, then B: with replay, or with weights held, less of A is forgotten; nothing measured is trained on; counts by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.data.identity import side_key
from keel.verbs.run import RECIPES, run_verb
from keel.verbs.shared.continual import datasets_after_earlier

NAMES, THINGS = ("Ivo", "Dan", "Ada", "Mia", "Leo", "Zoe"), ("lamps", "gloves", "cups", "ropes", "maps", "boots")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    monkeypatch.chdir(ROOT)


def written(folder: Path) -> None:
    """A: letters about what is on its way. B: refusals of other questions about the same things, to the same people."""
    for name, ask, say in (
        ("A", "Write to {n} about {t}.", "Dear {n}, the {t} are on their way."),
        ("B", "Tell {n} about {t}.", "No {t} today, {n}. Come back on Monday."),
    ):
        said = [(ask.format(n=n, t=t), say.format(n=n, t=t)) for n in NAMES for t in THINGS]
        rows = [{"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]} for q, a in said]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def trained(folder: Path, name: str, model: str, data: str, steps: int, seed: int, *more: str) -> dict[str, Any]:
    common = [
        f"model={model}",
        f"data={{path: {folder}/{data}.jsonl}}",
        f"run_dir={folder / name}",
        f"seed={seed}",
        f"loop={{steps: {steps}, batch_size: 8, eval_every: 1000, probes: 0}}",
        "settings={threads: 1, checkpoint: {every: 1000}}",
        "model_options.precision=fp32",
        "optim={lr: 3e-3, schedule: constant}",
        "held_out=0",
        "render={}",
    ]
    return run_verb("sft", Path("recipes/tiny_sft.yaml"), [*common, *more])


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_less_is_forgotten_with_replay_and_with_ewc(tmp_path: Path, seed: int) -> None:
    written(tmp_path)
    trained(tmp_path, "first", f"tiny:llama?seed={seed + 1}", "A", 50, seed)
    ways = {"plain": "replay: 0}]", "replay": "replay: 0.5}]", "ewc": "replay: 0}], ewc: {weight: 1000}"}
    found: dict[str, Any] = {}
    for way, setting in ways.items():
        earlier = f"continual={{earlier: [{{name: letters, data: {{path: {tmp_path}/A.jsonl}}, {setting}}}"
        found[way] = trained(tmp_path, way, f"{tmp_path}/first/final", "B", 30, seed, earlier)
    lost = {way: s["forgetting"]["parts"]["letters"]["loss"] for way, s in found.items()}
    assert found["plain"]["forgetting"]["forgotten"] == ["letters"]
    assert lost["replay"]["high"] < lost["plain"]["low"]
    assert lost["ewc"]["mean"] < lost["plain"]["mean"]
    assert found["replay"]["continual"]["letters"]["replayed"] == 18  # half of 36 new records
    assert found["ewc"]["continual"]["letters"]["fisher_records"] > 0
    metrics = [json.loads(line) for line in (tmp_path / "ewc" / "metrics.jsonl").read_text().splitlines()]
    assert any("ewc" in json.dumps(row) for row in metrics)


def test_what_is_measured_is_not_trained_on_and_replay_has_a_name(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "B.jsonl").write_text((tmp_path / "B.jsonl").read_text() + (tmp_path / "A.jsonl").read_text())  # new data with old prompts
    earlier = f"continual={{earlier: [{{name: letters, data: {{path: {tmp_path}/A.jsonl}}, replay: 0.25, held_out: 0.3}}]}}"
    recipe: Any = load(RECIPES["sft"], None, ["model=tiny:llama", f"data={{path: {tmp_path}/B.jsonl}}", earlier])
    splits = datasets_after_earlier(recipe)
    (kept,) = splits.earlier
    measured = {side_key(r) for r in kept.held.records}
    assert len(measured) == round(0.3 * 36)
    assert not measured & {side_key(r) for r in splits.train.records}
    assert splits.held_out is not None
    assert not {side_key(r) for r in splits.held_out.records} & {side_key(r) for r in splits.train.records}
    replayed = [r for r in splits.train.records if not isinstance(r, str) and r.prompt.meta.get("earlier") == "letters"]  # type: ignore[union-attr]
    assert len(replayed) == kept.replayed == splits.train.counts["replayed"]
    assert len({r.record_id for r in splits.train.records}) == len(splits.train.records)  # type: ignore[union-attr]
    assert datasets_after_earlier(recipe).train.records == splits.train.records


def pairs_of(folder: Path) -> None:
    """A and B as pairs: what was said there, before what was said in the other."""
    for name, other in ("AB", "BA"):
        rows, others = ([json.loads(line) for line in (folder / f"{n}.jsonl").read_text().split("\n") if line] for n in (name, other))
        paired = [
            {"prompt": r["prompt"], "chosen": r["completion"], "rejected": o["completion"]} for r, o in zip(rows, others, strict=True)
        ]
        (folder / f"{name}_pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in paired))


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [
        row for line in (run / "metrics.jsonl").read_text().split("\n") if line and (row := json.loads(line)).get("kind", "step") == "step"
    ]


def test_preferences_replay_earlier_pairs_and_hold_weights(tmp_path: Path) -> None:
    """The penalty is in the loss that is trained: it is 0 at the start, grows as the weights leave, and keeps them nearer."""
    written(tmp_path)
    pairs_of(tmp_path)
    common = [f"data={{path: {tmp_path}/B_pairs.jsonl}}", "loop={steps: 4, batch_size: 8, eval_every: 1000, probes: 0}", "held_out=0"]
    common += ["settings={threads: 1}", "model_options.precision=fp32", "optim={lr: 3e-3, schedule: constant}", "render={}"]
    earlier = f"earlier: [{{name: letters, data: {{path: {tmp_path}/A_pairs.jsonl}}, replay: 0.5}}]"
    found, penalties = {}, {}
    for weight in (1e-9, 1e4):
        run = tmp_path / str(weight)
        settings = [*common, f"continual={{{earlier}, ewc: {{weight: {weight}}}}}", f"run_dir={run}"]
        found[weight] = run_verb("prefer", Path("recipes/tiny_dpo.yaml"), settings)
        penalties[weight] = [row["ewc"] / weight for row in steps_of(run) if "ewc" in row]
    told = found[1e4]["continual"]["letters"]
    assert (told["replayed"], told["fisher_records"] > 0) == (18, True)
    assert "letters" in found[1e4]["forgetting"]["parts"]
    free, held = penalties[1e-9], penalties[1e4]
    assert free[0] == held[0] == 0.0
    assert 0 < held[-1] < free[-1], "held weights are nearer to where they were"


def test_rl_replays_earlier_prompts_and_refuses_to_hold_weights_by_them(stage: Any, tmp_path: Path) -> None:
    """Replayed prompts are asked and answered with the new ones; prompts alone have no answers to take Fisher information of."""
    asked = [{"prompt": f"Earlier question {i}?"} for i in range(20)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    earlier = f"earlier: [{{name: asked, data: {{path: {tmp_path}/asked.jsonl}}, replay: 1.0}}]"
    summary = stage("grpo", tmp_path / "run", f"continual={{{earlier}}}", "settings.tracking.rollouts.every=1")
    told = summary["continual"]["asked"]
    assert told["replayed"] == told["of"] > 0
    kept = "".join(file.read_text() for file in (tmp_path / "run" / "rollouts").glob("train-*.jsonl"))
    assert '"prompt_id": "asked/' in kept
    with pytest.raises(ConfigError, match="holds no answers to take the Fisher information of"):
        stage("grpo", tmp_path / "no", f"continual={{{earlier}, ewc: {{weight: 10}}}}")


def test_two_of_the_same_name_are_refused() -> None:
    twice = "continual={earlier: [{name: a, data: {path: x}}, {name: a, data: {path: y}}]}"
    with pytest.raises(ConfigError, match="two earlier data sets are called 'a'"):
        load(RECIPES["sft"], None, ["model=tiny:llama", "data={path: z}", twice])
    online = "online={rewards: [{type: finished, name: f}]}"
    with pytest.raises(ConfigError, match="online makes its own"):
        load(RECIPES["prefer"], None, ["model=tiny:llama", "data={path: z}", online, "continual={earlier: [{name: a, data: {path: x}}]}"])
