"""The stage that makes preferences, on a model that sees: what it writes is what the next stage trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keel.core.errors import ConfigError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.feedback import store
from keel.feedback.aggregate import aggregate
from keel.feedback.config import AggregateConfig
from keel.feedback.reliability.calibrate import fit, guarded
from keel.feedback.reliability.dawid_skene import dawid_skene
from keel.feedback.reliability.mace import mace
from keel.feedback.reliability.majority import vote_share
from keel.feedback.reliability.votes import from_comparisons
from keel.feedback.soft_pairs import reliability_weights
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.simulate import gold
from keel.types import Comparison, Pair
from keel.types.identity import item_of
from keel.verbs.run import run_verb
from keel.verbs.shared.session import renderer_of

RECIPE = """
model: tiny:llava?seed=1
model_options: {precision: fp32}
settings: {threads: 1}
data: {path: PATH}
preferences: {samples: 4, keep: 3, pairs: 2, temperatures: [1.0], annotators: {tie_threshold: 0.0}}
sampling: {max_tokens: 8}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (30, 30), (250, 0, 0)).save(folder / "red.png")
    return folder


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def run(folder: Path, out: Path, *overrides: str) -> dict[str, Any]:
    (folder / "recipe.yaml").write_text(RECIPE.replace("PATH", str(folder / "prompts.jsonl")))
    return run_verb("preferences", folder / "recipe.yaml", [*overrides, f"run_dir={out}"])


def test_prompts_of_every_kind_reach_the_next_stage(folder: Path, proofs: None, tmp_path: Path) -> None:
    seen = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}]
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    rows = (
        {"prompt": seen, "images": ["red.png"], "category": "colours"},
        {"prompt": "Say something nice.", "prompt_id": "nice"},
        {"prompt": [{"role": "user", "content": "2 + 2?"}], "tools": [tool], "ground_truth": "4"},
    )
    write(folder / "prompts.jsonl", *rows)
    loaded = load_model("tiny:llava?seed=1", ModelOptions(precision="fp32"))
    shows_tools = tmp_path / "tools.jinja"
    shows_tools.write_text("{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}" + loaded.processor.chat_template)
    summary = run(folder, tmp_path / "run", f"render.chat_template={shows_tools}")
    asked = {p.prompt_id: p for p in load_data(DataConfig(path=str(folder / "prompts.jsonl"))).prompts()}
    pairs = load_data(DataConfig(path=summary["file"])).of(Pair)
    assert {p.prompt.prompt_id: p.prompt for p in pairs} == asked
    assert asked["nice"].text == "Say something nice."
    votes = tmp_path / "run" / "comparisons.jsonl"
    assert load_data(DataConfig(path=str(votes))).of(Comparison) == store.read(votes)

    units, refused = renderer_of(loaded, RenderConfig(chat_template=str(shows_tools))).units(pairs)
    assert not refused
    with_image = [u for u, p in zip(units, pairs, strict=True) if p.prompt.prompt_id == next(iter(asked))]
    assert with_image
    assert all(len(u.prompt.media) == 1 for u in with_image)


def test_simulated_annotators_write_into_a_store_that_trains(folder: Path, proofs: None, tmp_path: Path) -> None:
    """A judgement's way: stage, store, snapshot, training run, and back from the run by its manifest."""
    from keel.feedback import lineage, snapshots
    from keel.feedback.db import Store

    url = f"sqlite:///{tmp_path}/f.db"
    write(folder / "prompts.jsonl", *({"prompt": f"Say something nice about {x}."} for x in ("tea", "rain", "maps", "bread")))
    settings = (f"preferences.store={url}", "preferences.campaign=sim", "model=tiny:llama?seed=1")
    made = run(folder, tmp_path / "runs" / "made", *settings)
    assert made["stored"] == made["comparisons"] > 0
    with Store(url) as store:
        assert {a.kind for a in store.annotators()} == {"simulated"}
        taken = snapshots.take(store, "sim")
        assert len(taken.events) == made["comparisons"]
        short = ["model=tiny:llama?seed=1", "loop={steps: 1, batch_size: 2}", "settings={threads: 1}", "model_options.precision=fp32"]
        root = Path(__file__).resolve().parents[2]
        data = [f"data={{path: 'store:{url}#{taken.id}', convert: {{to: pairs}}}}", f"run_dir={tmp_path / 'runs' / 'dpo'}"]
        run_verb("prefer", root / "recipes" / "tiny_dpo.yaml", [*short, *data])
        seen = lineage.affected(store, taken.events[:1], tmp_path / "runs")
        assert seen.runs == (str(tmp_path / "runs" / "dpo"),)
        _, read = lineage.events_behind(store, lineage.runs_below(tmp_path / "runs"), tmp_path / "runs" / "dpo")
        assert read == [taken]


@pytest.mark.parametrize("method", ["votes", "majority", "weighted", "dawid_skene", "mace"])
def test_the_method_decides_the_labels_in_the_file(method: str, folder: Path, proofs: None, tmp_path: Path) -> None:
    write(folder / "prompts.jsonl", *({"prompt": f"Say something nice about {x}."} for x in ("tea", "rain", "maps", "bread", "cats")))
    summary = run(folder, tmp_path / "run", f"preferences.aggregate.method={method}", "preferences.annotators.noise=0.5")
    cast = store.read(tmp_path / "run" / "comparisons.jsonl")
    pairs = load_data(DataConfig(path=summary["file"])).of(Pair)
    votes = from_comparisons(cast)
    share = vote_share(votes)
    soft = {
        "votes": lambda: share,
        "majority": lambda: share,
        "weighted": lambda: vote_share(votes, weight_A=reliability_weights(votes)),
        "dawid_skene": lambda: guarded(dawid_skene(votes).posterior_TK, share),
        "mace": lambda: guarded(mace(votes).posterior_TK, share),
    }[method]()
    first = soft[:, 0] + soft[:, 2] / 2
    decided = first[abs(first - 0.5) > 1e-9]
    expected = [1.0] * len(decided) if method == "majority" else np.maximum(decided, 1 - decided).tolist()
    assert [p.label for p in pairs] == pytest.approx(expected)
    assert len(cast) > len(pairs) > 0
    labels = np.array([p.label for p in pairs])
    counts = {"near_half": (labels < 0.6).sum(), "sure": (labels >= 0.95).sum(), "gold": 0}
    assert summary["labels"] == counts | {"mean": pytest.approx(labels.mean())}


def test_gold_says_how_sure_labels_are_and_an_attempt_that_was_killed_leaves_nothing_twice(
    folder: Path, proofs: None, tmp_path: Path
) -> None:
    write(folder / "prompts.jsonl", *({"prompt": f"Say something nice about {x}."} for x in "abcdefghijklmnop"))
    settings = ("preferences.aggregate.method=dawid_skene", "preferences.gold=0.9", "preferences.annotators.noise=0.5")
    summary = run(folder, tmp_path / "run", *settings)
    cast = store.read(tmp_path / "run" / "comparisons.jsonl")
    truth = {}
    for number, item in enumerate(dict.fromkeys(map(item_of, cast))):
        c = next(c for c in cast if item_of(c) == item)
        worth = {x.candidate_id: sum(gold.worth(c.prompt, x.text).values()) for x in c.candidates}
        if (gap := worth[item[1][0]] - worth[item[2][0]]) != 0:
            truth[number] = 0 if gap > 0 else 1
    assert 20 <= summary["labels"]["gold"] <= len(truth), "about nine tenths of those with a better answer"
    votes = from_comparisons(cast)
    posterior, share = dawid_skene(votes).posterior_TK, vote_share(votes)
    assert summary["labels"]["gold"] < len(votes.tasks)
    pairs = load_data(DataConfig(path=summary["file"])).of(Pair)
    possible = [fit(posterior, share, truth).apply(posterior, share), share]  # fitted on all of it: the grid has no finer steps
    labels = [np.maximum(s[:, 0] + s[:, 2] / 2, s[:, 1] + s[:, 2] / 2) for s in possible]
    own = sorted(p.label for p in pairs)
    assert any(np.allclose(own, sorted(x[abs(x - 0.5) > 1e-9])) for x in labels)
    plain = aggregate(cast, AggregateConfig(method="dawid_skene"))
    assert not np.allclose(own, sorted(p.label for p in plain)[: len(own)]), "without gold they are others"

    kept = (tmp_path / "run" / "samples" / "training.jsonl").read_text()
    (tmp_path / "run" / "summary.json").unlink()
    assert run(folder, tmp_path / "run", *settings)["labels"] == summary["labels"]
    assert (tmp_path / "run" / "samples" / "training.jsonl").read_text() == kept


def test_gold_that_nothing_reads_is_refused(folder: Path, tmp_path: Path) -> None:
    write(folder / "prompts.jsonl", {"prompt": "Say something."})
    with pytest.raises(ConfigError, match=r"gold would have no effect: aggregate\.method is votes"):
        run(folder, tmp_path / "run", "preferences.gold=0.1")
