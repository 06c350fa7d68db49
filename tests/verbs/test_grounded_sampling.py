"""Grounded decoding in verbs: what was seen, messages, and who draws with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError, UserError
from keel.models.tiny import make_tokenizer
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.words import COLOURS, SHAPES
from keel.simulate.scenes.write import write_scenes
from keel.types import Prompt
from keel.verbs.run import run_verb
from keel.verbs.shared.grounded_decoding import GroundedDecodingConfig, biases

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def config(tmp_path: Path) -> GroundedDecodingConfig:
    (tmp_path / "objects.txt").write_text("dog, puppy\ncat\n", encoding="utf-8")
    return GroundedDecodingConfig(objects=str(tmp_path / "objects.txt"))


def prompt(**meta: Any) -> Prompt:
    return Prompt("p", text="?", source_id="rows.jsonl:3", meta=meta)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(512, [])


def test_each_prompt_has_its_own_bias(config: GroundedDecodingConfig, tokenizer: Any) -> None:
    found = biases(config, {"a": prompt(objects=["puppy"]), "b": prompt(objects=[])}, tokenizer)

    def cost(name: str, bias: Any) -> int:
        ids = tokenizer.encode(f"x {name}", add_special_tokens=False)
        head = len(tokenizer.encode("x", add_special_tokens=False))
        return sum(ids[i] in bias.lowered(ids[:i]) for i in range(head, len(ids)))

    assert [cost(name, found["a"]) for name in ("dog", "puppy", "cat")] == [0, 0, 1]
    assert [cost(name, found["b"]) for name in ("dog", "puppy", "cat")] == [1, 1, 1]
    assert biases(None, {"a": prompt()}, tokenizer) == {}


def test_rows_that_do_not_say_what_is_there_are_told_by_their_place(config: GroundedDecodingConfig, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:3: field 'objects': no such field"):
        biases(config, {"p": prompt()}, tokenizer)
    with pytest.raises(DataError, match="it holds"):
        biases(config, {"p": prompt(objects=[1])}, tokenizer)
    (tmp_path / "mine.py").write_text("def broken(prompt):\n    return prompt.meta['gone']\n")
    mine = config.model_copy(update={"detector": f"{tmp_path}/mine.py:broken"})
    with pytest.raises(UserError, match=r"mine\.py:broken failed at rows\.jsonl:3: KeyError"):
        biases(mine, {"p": prompt()}, tokenizer)


def test_every_look_of_scenes_is_in_the_list() -> None:
    lines = [line.split(", ") for line in (RECIPES / "vlm/looks.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    expected = [[s, z] for s, z in SHAPES.items()]
    expected += [[f"{c} {s}", f"{cz}{z}", f"{cz}的{z}"] for c, cz in COLOURS.items() for s, z in SHAPES.items()]
    assert lines == expected


EVAL = """
model: tiny:llava?seed=1
model_options: {{precision: fp32}}
settings: {{threads: 1}}
baseline: tiny:llava?seed=1
evaluate: {{prompts: [{rows}], samples: 3, max_tokens: 8, draws: 100, languages: [], kl_prompts: 2}}
run_dir: {run}
"""


def answers(tmp_path: Path, name: str, more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(EVAL.format(rows=tmp_path / "scenes/prompts.jsonl", run=tmp_path / name) + more)
    summary = run_verb("eval", recipe, [])
    return [json.loads(line) for line in (tmp_path / name / "samples/evaluation.jsonl").read_text().splitlines()], summary


def test_an_evaluation_draws_the_model_grounded_and_its_baseline_not(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 2, 0, SceneConfig(pixels=56), chinese=0)
    plain, _ = answers(tmp_path, "plain", "")
    assert all(row["before"] == row["after"] for row in plain)  # the same model twice
    said = " ".join(a["text"] for row in plain for a in row["after"]).split()
    word = next(w for w in said if w.isascii() and w.isalpha() and len(w) > 2)
    (tmp_path / "objects.txt").write_text(f"{word}\n")
    (tmp_path / "seen.py").write_text("def nothing(prompt):\n    return []\n")
    more = f"grounded_decoding: {{objects: {tmp_path}/objects.txt, detector: '{tmp_path}/seen.py:nothing', amount: 100}}\n"
    grounded, summary = answers(tmp_path, "grounded", more)
    assert [row["before"] for row in grounded] == [row["before"] for row in plain]
    assert word in " ".join(a["text"] for row in grounded for a in row["before"]).split()
    assert word not in " ".join(a["text"] for row in grounded for a in row["after"]).split()
    assert summary["kl"]["mean"] == pytest.approx(0.0, abs=1e-4)  # of the models, not of the decoding


def test_reinforcement_learning_has_no_such_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="grounded_decoding"):
        run_verb("rl", RECIPES / "tiny_vlm_grpo.yaml", ["grounded_decoding.objects=recipes/vlm/looks.txt", f"run_dir={tmp_path}/rl"])
