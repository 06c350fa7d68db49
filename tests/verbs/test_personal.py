"""An adapter for each user on one base: each learns its own, nobody else's moves, data may grow, a run that was cut off goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from keel.core.config import load
from keel.core.errors import ConfigError, DataError, ModelError, RunError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.owned import tell_base
from keel.verbs.run import RECIPES, run_verb

Rows = Callable[[Path], list[dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path("recipes/tiny_personal.yaml")
QUICK = ("loop.epochs=1", "loop.eval_every=0", "loop.probes=0", "held_out=0.1")


def train(run: Path, rows: Sequence[dict[str, Any]], *overrides: str) -> dict[str, Any]:
    """The tiny recipe over these rows."""
    data = run.with_suffix(".jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_verb("prefer", RECIPE, [*QUICK, f"data.path={data}", f"run_dir={run}", *overrides])


@pytest.fixture
def personal(proofs: None, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``personal(folder, rows, "key=value", ...)``: as ``train``, below the test's folder."""
    return lambda name, rows, *overrides: train(tmp_path / name, rows, *overrides)


@pytest.fixture(scope="module")
def both(proofs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, undisturbed run of two users with 16 rows each."""
    run = tmp_path_factory.mktemp("personal") / "both"
    train(run, pairs(16), "settings.checkpoint.every=2")
    return run


def pairs(n: int, users: Sequence[str] = ("ann", "ben")) -> list[dict[str, Any]]:
    """The first n rows of each user: ann likes long answers, ben short ones."""
    found = [json.loads(line) for line in (ROOT / "recipes/tiny/personal.jsonl").read_text().splitlines()]
    return [row for user in users for row in [r for r in found if r["user"] == user][:n]]


def adapter(run: Path, owner: str) -> dict[str, Tensor]:
    return load_file(run / "final" / owner / "adapter_model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_each_gets_its_own_where_one_adapter_for_all_cannot(personal: Any, rows: Rows, tmp_path: Path) -> None:
    """Opposite wishes about the same prompts: half of the judgements are against any one model, whatever it does."""
    both, epochs = pairs(32), "loop.epochs=2"
    personal("own", both, epochs, "held_out=0.2")
    personal("one", both, epochs, "held_out=0.2", "personal=null")
    own, one = (rows(tmp_path / name / "metrics.jsonl")[-1] for name in ("own", "one"))
    assert [own[f"eval/{user}/rewards/accuracies"] for user in ("ann", "ben")] == [1.0, 1.0]
    assert own["eval/rewards/accuracies"] == 1.0
    assert one["eval/rewards/accuracies"] <= 0.8
    assert own["eval/rewards/margins"] > one["eval/rewards/margins"] + 0.3


def test_an_adapter_beside_others_is_the_one_of_a_run_alone(both: Path, personal: Any, tmp_path: Path) -> None:
    personal("alone", pairs(16, ["ann"]))
    beside, alone = adapter(both, "ann"), adapter(tmp_path / "alone", "ann")
    assert beside.keys() == alone.keys()
    moved = max(float(t.abs().max()) for name, t in alone.items() if "lora_B" in name)  # which begins at 0
    apart = max(float((beside[name] - t).abs().max()) for name, t in alone.items())
    assert moved > 1e-3
    assert apart < 1e-5  # the reference's passes were cut otherwise: rounding


def test_more_data_move_their_owners_adapter_and_no_other_by_a_bit(personal: Any, rows: Rows, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = personal("run", pairs(10))
    before = {owner: adapter(run, owner) for owner in ("ann", "ben")}
    assert personal("run", pairs(10)) == {"schema": 1, **first}  # nothing is new: the summary stands
    grown = [*pairs(10), *pairs(14, ["ann"])[10:], {**pairs(1)[0], "user": "cid"}]
    second = personal("run", grown)
    assert second["personal"] == {"by": "user", "adapters": 3, "rounds": 2, "last_round": ["ann", "cid"]}
    assert same(adapter(run, "ben"), before["ben"])
    assert not same(adapter(run, "ann"), before["ann"])
    index = json.loads((run / "final/adapters.json").read_text())
    assert {owner: told["rounds"] for owner, told in index["adapters"].items()} == {"ann": 2, "ben": 1, "cid": 1}
    steps = [row["step"] for row in rows(run / "metrics.jsonl") if "loss" in row]
    assert steps == sorted(set(steps))
    assert steps[-1] == second["steps"] > first["steps"]


def test_a_run_that_was_left_goes_on_to_the_same_adapters(both: Path, personal: Any, tmp_path: Path) -> None:
    """Also when more rows have come meanwhile: they wait until its round is done."""
    run = tmp_path / "cut"
    personal("cut", pairs(16), "settings.checkpoint.every=2", "loop.pause_at=3")
    assert not (run / "final").exists()
    summary = personal("cut", [{**pairs(1)[0], "user": "cid"}, *pairs(16)], "settings.checkpoint.every=2")
    assert summary["personal"]["last_round"] == ["cid"]
    assert all(same(adapter(both, owner), adapter(run, owner)) for owner in ("ann", "ben"))


def test_rows_of_a_round_under_way_must_be_there(personal: Any) -> None:
    personal("run", pairs(16), "loop.pause_at=3")
    with pytest.raises(RunError, match="rows of 'ben' that this run is learning from are gone"):
        personal("run", pairs(16)[:-3])


@torch.no_grad()
def test_a_saved_adapter_is_read_as_a_model(both: Path) -> None:
    options = ModelOptions(precision="fp32")
    specs = ("tiny:llama?seed=1", str(both / "final/ann"), str(both / "final/ben"))
    tokens_BL = torch.arange(5, 15)[None]
    hidden = [load_model(spec, options).model.run_plain(tokens_BL, torch.ones_like(tokens_BL)) for spec in specs]
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in ((hidden[0], hidden[1]), (hidden[1], hidden[2])))


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    tell_base(tmp_path, str(base), "ann")
    (base / "config.json").write_text('{"other": 1}')
    with pytest.raises(ModelError, match="not the same any more"):
        load_model(str(tmp_path), ModelOptions())


REWARD = """
def wanted(prompt, completion):
    letter = {"ann": "e", "ben": "o"}[prompt.meta["user"]]
    return completion.count(letter) / len(completion) if completion else 0.0
"""


def test_rl_rewards_each_for_its_own(proofs: None, rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "reward.py").write_text(REWARD)
    asked = [json.loads(line) for line in (ROOT / "recipes/tiny/prompts.jsonl").read_text().splitlines()][:12]
    data = [{**row, "user": user} for user in ("ann", "ben") for row in asked]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    reward = f'rewards=[{{type: python, name: wanted, function: "{tmp_path / "reward.py"}:wanted", worker: {{processes: 1}}}}]'
    settings = ["personal={by: user}", "lora={r: 8}", "optim={lr: 3e-3, schedule: constant, warmup_steps: 0}", "settings={threads: 1}"]
    loop = "loop={steps: 8, batch_size: 4, eval_every: 0, probes: 0}"
    files = [f"data.path={tmp_path / 'data.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    small = ["samples=6", "sampling.max_tokens=8", "model_options.precision=fp32", *files]
    summary = run_verb("rl", Path("recipes/tiny_grpo.yaml"), [reward, loop, *small, *settings])
    assert summary["steps"] == 16
    first, last = (row for row in rows(tmp_path / "run/metrics.jsonl") if "eval/reward" in row)
    for user in ("ann", "ben"):
        assert last[f"eval/{user}/reward"] > first[f"eval/{user}/reward"] + 0.02, user
        assert (tmp_path / "run/final" / user / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("lora=null", "lora: personal"),
        ("optim.schedule=cosine", "optim.schedule: personal"),
        ("optim.warmup_steps=null", "optim.warmup_steps: personal"),
        ("test=0.1", "test: personal"),
        ("loop.best={metric: eval/loss}", "loop.best: personal"),
        ("cluster.ranks=2", "cluster.ranks: personal"),
    ],
)
def test_what_owners_cannot_have_is_refused(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load(RECIPES["prefer"], ROOT / RECIPE, [setting])


def test_a_row_of_nobody_is_refused(personal: Any) -> None:
    with pytest.raises(DataError, match="names no 'user'"):
        personal("run", [*pairs(4), {k: v for k, v in pairs(1)[0].items() if k != "user"}])


@pytest.mark.parametrize("verb", ["sft", "rl"])
def test_every_verb_refuses_what_is_its_own(verb: str) -> None:
    own = {"sft": ("tiny_sft", "augment={crop: 0.8}", "augment"), "rl": ("tiny_ppo", "seed=1", "algorithm.name")}[verb]
    shape = ["personal={by: user}", "lora={r: 8}", "optim.schedule=constant", "optim.warmup_steps=0"]
    with pytest.raises(ConfigError, match=f"{own[2]}: personal"):
        load(RECIPES[verb], ROOT / f"recipes/{own[0]}.yaml", [*shape, own[1]])
