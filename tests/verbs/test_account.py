"""What stages leave out of their data: every row is named, of both sides, and counted in the summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.render.renderer import Refusal
from keel.verbs.run import run_verb
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.units import datasets

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
LONG = "word " * 60
ONE_STEP = (
    "loop={steps: 1, batch_size: 2, eval_every: 0, probes: 0}",
    "settings={threads: 1}",
    "render={max_prompt: 60, max_completion: 24}",
)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def both_sides(tmp_path: Path, row: Callable[[str], dict[str, Any]], broken: dict[str, Any]) -> tuple[str, ...]:
    """A training file and a held-out one, each with a bad row and a prompt that is too long; they share a prompt."""
    train = write(tmp_path / "train.jsonl", row("Sky?"), row("Two and two?"), row("Grass"), broken, row(LONG))
    held = write(tmp_path / "held.jsonl", row("grass?"), broken, row(LONG + "now"))
    return f"data.path={train}", f"held_out={{path: {held}}}"


def check(run: Path, summary: dict[str, Any], rows: Rows, n_train: int) -> None:
    bad, refused = rows(run / "bad_rows.jsonl"), rows(run / "refused.jsonl")
    assert [(b["side"], Path(b["file"]).name, b["line"]) for b in bad] == [("train", "train.jsonl", 4), ("held_out", "held.jsonl", 2)]
    assert all(b["source"] and b["reason"] and b["row"] for b in bad)
    assert [(r["side"], Path(r["source_id"]).name) for r in refused] == [("train", "train.jsonl:5"), ("held_out", "held.jsonl:3")]
    assert "max_prompt" in refused[0]["reason"]
    train, held = summary["data"]["train"], summary["data"]["held_out"]
    assert {k: train[k] for k in ("rows", "bad", "records", "in_held_out", "refused")} == {
        "rows": 5,
        "bad": 1,
        "records": n_train,
        "in_held_out": 1,
        "refused": 1,
    }
    assert {k: held[k] for k in ("rows", "bad", "records", "refused")} == {"rows": 3, "bad": 1, "records": 2, "refused": 1}
    assert summary["data"] == json.loads((run / "summary.json").read_text())["data"]


def test_pairs(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    good = {"chosen": [{"role": "assistant", "content": "Yes."}], "rejected": [{"role": "assistant", "content": "No."}]}
    data = both_sides(tmp_path, lambda text: {"prompt": user(text), **good}, {"prompt": user("x"), **good, "chosen": ""})
    summary = stage("dpo", tmp_path / "run", *data, *ONE_STEP)
    check(tmp_path / "run", summary, rows, 3)
    assert (summary["pairs"], summary["units"]) == (2, 2), "pairs are counted, not answers"


def test_prompts_of_rl(stage: Stage, rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = both_sides(tmp_path, lambda text: {"prompt": user(text)}, {"prompt": []})
    with caplog.at_level(logging.WARNING, logger="keel"):
        summary = stage("grpo", tmp_path / "run", *data, *ONE_STEP)
    check(tmp_path / "run", summary, rows, 3)
    for side in ("train", "held_out"):
        assert f"{side} data: 1 bad rows set aside" in caplog.text
        assert f"{side} data: 1 records refused (first: " in caplog.text


def test_rl_leaves_room_for_the_answer(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """tiny models have a context of 4096."""
    prompts = write(tmp_path / "p.jsonl", {"prompt": user("Sky?")}, {"prompt": user("e" * 4080)})
    summary = stage("grpo", tmp_path / "run", f"data.path={prompts}", "held_out=0", *ONE_STEP[:2], "sampling.max_tokens=64", "samples=2")
    (refused,) = rows(tmp_path / "run" / "refused.jsonl")
    assert "the model's context is 4096, 64 of them for the answer" in refused["reason"]
    assert (summary["prompts"], summary["data"]["train"]["refused"]) == (1, 1)


def test_preferences_and_evaluation(rows: Rows, proofs: None, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", {"prompt": user("Sky?")}, {"prompt": user("Grass?")}, {"prompt": []}, {"prompt": user(LONG)})
    shared = "model: tiny:llama?seed=1\nsettings: {threads: 1}\nrender: {max_prompt: 60}\n"
    (tmp_path / "preferences.yaml").write_text(
        f"{shared}data: {{path: {prompts}}}\npreferences: {{samples: 3, keep: 2, temperatures: [1.0]}}\nsampling: {{max_tokens: 6}}\n"
    )
    (tmp_path / "eval.yaml").write_text(
        f"{shared}baseline: tiny:llama?seed=2\nevaluate: {{prompts: [{prompts}], samples: 1, max_tokens: 6, kl_prompts: 0, draws: 100}}\n"
    )
    for verb, sides in (("preferences", ["prompts"]), ("eval", ["baseline", "model"])):
        run = tmp_path / verb
        summary = run_verb(verb, tmp_path / f"{verb}.yaml", [f"run_dir={run}"])
        assert [(b["side"], b["line"]) for b in rows(run / "bad_rows.jsonl")] == [("prompts", 3)]
        assert [(r["side"], Path(r["source_id"]).name) for r in rows(run / "refused.jsonl")] == [(s, "p.jsonl:4") for s in sides]
        assert (summary["data"]["prompts"]["rows"], summary["data"]["prompts"]["bad"]) == (4, 1)
        assert all(summary["data"][side]["refused"] == 1 for side in sides)


def test_a_side_that_is_refused_whole_says_why_and_leaves_the_list(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", *({"prompt": user(t), "completion": LONG} for t in ("Sky?", "Grass?")))
    with pytest.raises(DataError, match=r"none of 1 train records.*a\.jsonl:.*max_completion is 24"):
        stage("sft", tmp_path / "run", f"data.path={data}", "held_out=0.5", *ONE_STEP)
    assert len(rows(tmp_path / "run" / "refused.jsonl")) == 1


def test_answers_are_counted_once_and_old_files_go(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "bad_rows.jsonl").write_text("old\n")
    (tmp_path / "refused.jsonl").write_text("old\n")
    data = load_data(DataConfig(path=write(tmp_path / "a.jsonl", {"prompt": "q", "completion": "a"})))
    account = Account(tmp_path, train=data, held_out=None)
    assert not (tmp_path / "bad_rows.jsonl").exists()
    assert not (tmp_path / "refused.jsonl").exists()
    account.refuse(
        "train", [Refusal("1", "a:1", "too long", ("x",)), Refusal("2", "a:2", "too long", ("x",)), Refusal("3", "a:3", "image")]
    )
    account.refuse("train", [])
    assert account.summary()["train"] == {
        "rows": 1,
        "bad": 0,
        "records": 1,
        "duplicates": 0,
        "contradictions": 0,
        "refused": 3,
        "refused_answers": 1,
    }
    assert [r.get("answers") for r in rows(tmp_path / "refused.jsonl")] == [["x"], ["x"], None]


def test_duplicates_and_contradictions_are_counted_by_side(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def pair(text: str, chosen: str, rejected: str) -> dict[str, Any]:
        return {"prompt": user(text), "chosen": [{"role": "assistant", "content": chosen}], "rejected": rejected}

    train = write(tmp_path / "t.jsonl", pair("Sky?", "a", "b"), pair("Sky?", "b", "a"), pair("Sky?", "a", "b"), pair("Sun?", "a", "b"))
    held = write(tmp_path / "h.jsonl", pair("Moon?", "a", "b"), pair("Moon?", "a", "b"))
    with caplog.at_level(logging.WARNING, logger="keel"):
        summary = stage("dpo", tmp_path / "run", f"data.path={train}", f"held_out={{path: {held}}}", *ONE_STEP)
    counts = {side: (found["duplicates"], found["contradictions"]) for side, found in summary["data"].items()}
    assert counts == {"train": (1, 1), "held_out": (1, 0)}
    assert summary["pairs"] == 4, "nothing is dropped"
    assert "t.jsonl:2 contradicts" in caplog.text


def test_a_split_keeps_equal_questions_together(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"prompt": f"Q {i // 2}{'?' * (i % 2)}", "completion": "a", "prompt_id": i} for i in range(20)))
    splits = datasets(SFTRecipe(model="tiny:llama", data=DataConfig(path=path), held_out=0.3, seed=1))
    asked = {name: {p.text.rstrip("?") for p in side.prompts() if p.text} for name, side in splits.sides.items()}
    assert (len(asked["train"]), len(asked["held_out"]), asked["train"] & asked["held_out"]) == (7, 3, set())


def test_no_prompt_is_on_two_of_three_sides(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"prompt": f"Q {i}?", "completion": "a"} for i in range(20)))
    recipe = {"model": "tiny:llama", "data": {"path": path}, "held_out": 0.25, "test": 0.2}
    splits = datasets(SFTRecipe.model_validate(recipe))
    asked = [{p.text for p in side.prompts()} for side in splits.sides.values()]
    assert list(map(len, asked)) == [12, 4, 4]
    assert len(set.union(*asked)) == 20
    test = write(tmp_path / "t.jsonl", *({"prompt": f"Q {i}?", "completion": "b"} for i in range(5)))
    held = write(tmp_path / "h.jsonl", *({"prompt": f"Q {i}?", "completion": "b"} for i in range(3, 9)))
    apart = datasets(SFTRecipe.model_validate(recipe | {"held_out": {"path": held}, "test": {"path": test}}))
    asked = [{p.text for p in side.prompts()} for side in apart.sides.values()]
    assert list(map(len, asked)) == [11, 4, 5], "test keeps all of its prompts"
    assert len(set.union(*asked)) == 20


def test_images_and_questions_without_theirs_are_counted_by_side(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", *({"image": f"{i}.png", "phrase": "a tail", "box": [i, 0, 1, 1]} for i in range(6)))
    held = write(tmp_path / "b.jsonl", {"image": "9.png", "caption": "A cat."})
    section = DataConfig.model_validate({"path": data, "without_image": {"share": 0.5}})
    splits = Account(tmp_path, train=load_data(section), held_out=load_data(DataConfig(path=held))).summary()
    assert {k: splits["train"].get(k) for k in ("rows", "records", "images", "without_image")} == {
        "rows": 6,
        "records": 9,
        "images": 6,
        "without_image": 3,
    }
    assert (splits["held_out"]["images"], "without_image" in splits["held_out"]) == (1, False)


def test_bad_rows_with_images_inside_are_written_without_them(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    row = {"image": {"bytes": b"\x89PNG" * 1000, "path": "a.png"}, "question": "Who?", "chosen": "A cat.", "rejected": "A dog."}
    parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "question": " "}]), tmp_path / "a.parquet")
    Account(tmp_path, train=load_data(DataConfig(path=str(tmp_path / "a.parquet"))))
    (bad,) = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert (bad["line"], bad["field"], bad["row"]["chosen"]) == (2, "question", "A cat.")
    assert bad["row"]["image"]["bytes"] == "(4000 bytes)"


@pytest.mark.parametrize(("refused", "share", "stops"), [(3, 0.2, True), (2, 0.2, False), (1, 0.0, False), (3, 0.3, False), (2, 0.1, True)])
def test_too_many_rows_refused_for_one_reason_stop_a_run(tmp_path: Path, refused: int, share: float, stops: bool) -> None:
    """Of ten rows; numbers and names in a reason do not make it another one, and another reason is counted by itself."""
    account = Account(tmp_path, share)
    account.refuse("train", [Refusal(str(i), f"a:{i}", f"image 'x{i}.png' has {i} pixels") for i in range(refused)])
    account.refuse("train", [Refusal("9", "a:9", "another reason")])
    if not stops:
        return account.check_refused("train", 10)
    with pytest.raises(DataError, match=rf"(?s){refused} of 10 records refused for one reason: image 'x0\.png' has 0 pixels.*max_refused"):
        account.check_refused("train", 10)
