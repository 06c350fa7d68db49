"""`keel new`: every combination writes a project that can be run; nothing is overwritten; own data are recognised."""

from __future__ import annotations

import argparse
import itertools
import json
import string
from pathlib import Path

import pytest
import yaml

from keel.cli import main
from keel.core.errors import UserError
from keel.new.ask import LABELS, LANGUAGES, Given, answered
from keel.new.cli import add_arguments
from keel.new.recipe import MODELS, commented
from keel.new.words import example_rows, template, words

STAGES = {
    "demonstrations": ["sft", "evaluate"],
    "pairs": ["prefer", "evaluate"],
    "ratings": ["prefer", "evaluate"],
    "verifiable": ["rl", "evaluate"],
    "reward": ["rl", "evaluate"],
    "none": ["collect"],
}
SHORT = ["settings={threads: 1}", "model_options.precision=fp32"]


def make(folder: Path, *flags: str) -> int:
    return main(["new", str(folder), "--machine", "cpu", *flags])


def short(stage: str, prefix: str = "stages.") -> list[str]:
    """Overrides that leave one step and short answers."""
    at = f"{prefix}{stage}."
    if stage == "collect":
        return [f"{at}sampling.max_tokens=6"]
    if stage == "evaluate":
        return [f"{at}evaluate.max_tokens=6", f"{at}evaluate.samples=1"]
    return [f"{at}loop={{steps: 1, batch_size: 4, probes: 0, eval_at_start: false}}"] + (
        [f"{at}sampling.max_tokens=6", f"{at}samples=2"] if stage == "rl" else []
    )


def run(folder: Path, images: bool, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    recipe = yaml.safe_load(Path("recipe.yaml").read_text(encoding="utf-8"))
    over = [*SHORT, *(o for stage in recipe["stages"] for o in short(stage))]
    model = "tiny:llava?seed=1" if images else "tiny:llama?seed=1"
    assert main(["run", "recipe.yaml", f"model={model}", "run_dir=runs/try", *over]) == 0
    return json.loads(Path("runs/try/summary.json").read_text(encoding="utf-8"))


def test_a_project_of_pairs_stands_and_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert make(folder, "--labels", "pairs", "--images", "no", "--yes", "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["labels"], said["layout"], said["rows"], said["stages"]) == ("pairs", "preference", 12, ["prefer", "evaluate"])
    assert sorted(p.name for p in folder.iterdir()) == [".gitignore", "README.md", "data", "recipe.yaml"]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["stages"]["prefer"]["data"]["path"] == "data/train.jsonl"
    assert recipe["stages"]["evaluate"]["baseline"] == "@model"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(command in text for command in said["next"][1:])
    assert not list(tmp_path.glob(".keel-new-*"))


def test_the_method_is_that_of_the_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same rows and a model that is here, both write the same stage."""
    assert make(tmp_path / "mine", "--labels", "pairs", "--yes", "--model", "tiny:llama?seed=1") == 0
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["advise", "data/train.jsonl", "--model", "tiny:llama?seed=1", "--json", "../advice.json", "model_options.device=cpu"]) == 0
    best = json.loads((tmp_path / "advice.json").read_text(encoding="utf-8"))["ranking"][0]["recipe"]
    stage = yaml.safe_load(Path("recipe.yaml").read_text(encoding="utf-8"))["stages"]["prefer"]
    assert stage == {**best, "model": "@model"}


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_overwritten(tmp_path: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine"
    if there == "file":
        target.write_text("x")
    elif there == "folder":
        target.mkdir()
        (target / "a").write_text("x")
    else:
        target.symlink_to(tmp_path / "nowhere")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    assert make(target, "--labels", "pairs", "--yes") == 2
    assert "hint: give" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert make(tmp_path / "mine", "--labels", "none", "--yes") == 0


@pytest.mark.parametrize(
    ("rows", "labels", "stages"),
    [
        ([{"prompt": f"{i}?", "chosen": "4 is it", "rejected": "5 is it"} for i in range(4)], "pairs", ["prefer"]),
        ([{"instruction": f"Add {i}.", "input": "", "output": "4"} for i in range(4)], "demonstrations", ["sft"]),
        ([{"prompt": f"{i}?", "completion": "4", "label": i % 2 == 0} for i in range(4)], "ratings", ["prefer"]),
        ([{"prompt": f"{i} + 1?", "ground_truth": str(i + 1)} for i in range(4)], "verifiable", ["rl"]),
        ([{"prompt": f"{i}?"} for i in range(4)], "none", ["collect"]),
    ],
)
def test_own_data_are_recognised_and_stay_where_they_are(tmp_path, rows, labels, stages, capsys) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"nothing": 1}]), encoding="utf-8")
    assert make(tmp_path / "mine", "--data", str(file), "--json") == 0
    said = json.loads((out := capsys.readouterr().out).splitlines()[-1])
    assert (said["labels"], said["stages"], said["rows"], said["bad_rows"]) == (labels, stages, 5, 1)
    assert f"{file}: 5 rows, layout {said['layout']}" in out
    assert "1 rows could not be read" in out
    recipe = yaml.safe_load((tmp_path / "mine" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["stages"][stages[0]]["data"]["path"] == str(file)
    assert not (tmp_path / "mine" / "data").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "rows.jsonl", "--labels", "pairs"], "rows.jsonl holds no pairs: 1 of kind demonstration"),
        (["--data", "rows.jsonl", "--labels", "verifiable"], "no column says what is right"),
        (["--data", "rows.jsonl", "--images", "yes"], "has no pictures"),
        (["--data", "nowhere.jsonl"], "no such file"),
        (["--labels", "pairs", "--model", "tiny:nothing", "--yes"], "nothing"),
        ([], "--labels is not given"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing(tmp_path, flags, message, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "2 + 2?", "completion": "4"}\n')
    assert make(Path("mine"), *flags) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


def test_questions_are_asked_and_answered() -> None:
    said = iter(["", "7", "ratings", "2", "gpu"])
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return next(said)

    wanted = answered(Given(), ask)
    assert (wanted.language, wanted.labels, wanted.images, wanted.machine) == ("en", "ratings", True, "gpu")
    assert "Please answer with a number from 1 to 6" in asked[2], "7 is none of the six"
    assert answered(Given(language="zh"), lambda text: "").labels == "pairs", "Enter takes the usual answer"


def test_who_never_answers_is_told_the_flag() -> None:
    with pytest.raises(UserError, match=r"--language en\|zh"):
        answered(Given(), lambda text: "what?")


def test_own_data_are_not_asked_about() -> None:
    asked: list[str] = []
    answered(Given(data="x", language="en"), lambda text: asked.append(text) or "")
    assert len(asked) == 1
    assert "Where will it be trained?" in asked[0]


def test_languages_say_the_same_things() -> None:
    en, zh = words("en"), words("zh")
    assert en.keys() == zh.keys()
    assert [len(example_rows(language)) for language in LANGUAGES] == [16, 16]
    for key in en:
        fields = [{part[1] for part in string.Formatter().parse(text) if part[1]} for text in (en[key], zh[key])]
        assert fields[0] == fields[1], key
    assert set(MODELS) == set(itertools.product(("cpu", "gpu"), LANGUAGES, (False, True)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_longer_answer_wins_in_half_of_the_examples(language: str) -> None:
    """Examples that taught length alone would set the method by an accident of theirs."""
    longer = sum(len(row["good"]) > len(row["poor"]) for row in example_rows(language))
    assert 6 <= longer <= 10


def test_comments_stand_above_their_keys_once() -> None:
    recipe = {"model": "m", "stages": {"sft": {"model": "@model", "optim": {"lr": 1}}, "evaluate": {"optim": {"lr": 2}}}}
    text = commented(recipe, ["head"], {"recipe.model": "M", "recipe.optim": "O", "recipe.stages.sft": "S"})
    assert text.splitlines() == [
        "# head",
        "# M",
        "model: m",
        "stages:",
        "  # S",
        "  sft:",
        "    model: '@model'",
        "    # O",
        "    optim: {lr: 1}",
        "  evaluate:",
        "    optim: {lr: 2}",
    ]
    assert yaml.safe_load(text) == recipe


def test_the_reward_of_the_template_is_what_it_says() -> None:
    space: dict = {}
    exec(compile(template("rewards.py"), "rewards.py", "exec"), space)
    assert [space["reward"](None, text) for text in ("", "one two", "one two three four five", "word " * 120)] == [0.0, 0.4, 1.0, 0.5]
    assert space["reward"](None, "今天天气好。") == 1.0


def test_the_flags_are_those_of_the_questions() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["d", "--labels", "pairs", "--images", "no", "--machine", "cpu", "--yes"]).yes


@pytest.mark.stages
@pytest.mark.parametrize("images", ["no", "yes"])
@pytest.mark.parametrize("labels", LABELS)
def test_every_project_runs(tmp_path, labels, images, proofs, monkeypatch) -> None:
    language = "zh" if (LABELS.index(labels) + (images == "yes")) % 2 else "en"
    assert make(tmp_path / "mine", "--labels", labels, "--images", images, "--language", language, "--yes") == 0
    summary = run(tmp_path / "mine", images == "yes", monkeypatch)
    assert summary["stages"] == STAGES[labels]
    if labels == "none":
        assert (tmp_path / "mine/runs/try/stages/collect/tasks.jsonl").stat().st_size > 0


@pytest.mark.stages
@pytest.mark.parametrize(("machine", "language"), itertools.product(("cpu", "gpu"), LANGUAGES))
def test_every_other_combination_is_a_recipe_that_holds(tmp_path, machine, language, monkeypatch) -> None:
    for labels, images in itertools.product(LABELS, ("no", "yes")):
        folder = tmp_path / f"{labels}-{images}"
        flags = ["--labels", labels, "--images", images, "--machine", machine, "--language", language, "--yes"]
        assert main(["new", str(folder), *flags]) == 0
        monkeypatch.chdir(folder)
        assert main(["run", "recipe.yaml", "--dry-run"]) == 0


def test_one_project_runs(tmp_path: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickest of the stages' combinations, in every run of the tests."""
    assert make(tmp_path / "mine", "--labels", "none", "--yes") == 0
    assert run(tmp_path / "mine", False, monkeypatch)["stages"] == ["collect"]


def test_own_columns_are_named_by_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hint of the message is what the command takes, and the recipe reads the rows in the same way."""
    rows = tmp_path / "rows.csv"
    rows.write_text("问题,好的回答,差的回答\n" + "".join(f"问{i},好{i},差{i}\n" for i in range(20)), encoding="utf-8")
    assert make(tmp_path / "a", "--data", str(rows), "--yes") == 2
    keys = "data.keys={prompt: 问题, chosen: 好的回答, rejected: 差的回答}"
    assert keys in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert make(tmp_path / "a", "--data", str(rows), "--yes", keys) == 0
    recipe = yaml.safe_load((tmp_path / "a" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["stages"]["prefer"]["data"] == {
        "path": str(rows),
        "keys": {"prompt": "问题", "chosen": "好的回答", "rejected": "差的回答"},
    }
    assert make(tmp_path / "b", "--data", str(rows), "--yes", "optim.lr=1") == 2
    assert "settings of data alone" in capsys.readouterr().err
    assert make(tmp_path / "b", "--labels", "pairs", "--yes", keys) == 2
    assert "--data FILE" in capsys.readouterr().err
