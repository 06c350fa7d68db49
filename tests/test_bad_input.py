"""Mistakes that people make: each one ends with exit code 2 and one message that says what, where and how to mend it. No tracebacks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.commands import STAGES
from keel.models.config import ModelOptions
from keel.models.loading import load_model

GOOD = {"prompt": [{"role": "user", "content": "Say hello."}], "completion": [{"role": "assistant", "content": "Hello."}]}
PAIR = {
    "prompt": [{"role": "user", "content": "Say hello."}],
    "chosen": [{"role": "assistant", "content": "Hello."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
RECIPES = {verb: f"recipes/tiny_{name}.yaml" for verb, name in (("sft", "sft"), ("reward", "reward"), ("prefer", "dpo"), ("rl", "grpo"))}
QUICK = ("loop={steps: 1, batch_size: 2, probes: 0}", "held_out=0", "render.system=null")

Refused = Callable[..., str]
Rows = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def in_the_repository(root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """``refused("sft", "key=value", ...)``: the command is refused; its message."""

    def run(verb: str, *overrides: str, recipe: str = "", run_dir: bool = True) -> str:
        where = [f"run_dir={tmp_path / 'run'}"] if run_dir else []
        code = main([verb, recipe or RECIPES[verb], *overrides, *where])
        error = capfd.readouterr().err
        assert code == 2, error
        assert "Traceback" not in error
        assert error.count("error: ") == 1, error
        return error[error.index("error: ") :]

    return run


def rows_file(path: Path, *rows: Any) -> Path:
    """Rows as JSON lines; strings and bytes as they are."""
    lines = [row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# ------------------------------------------------------------------------------------------------------------------------- files


def test_missing_file(refused: Refused) -> None:
    assert "nowhere/rows.jsonl" in refused("sft", "data.path=nowhere/rows.jsonl")


def test_empty_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"")
    message = refused("sft", f"data.path={tmp_path / 'rows.jsonl'}")
    assert "rows.jsonl" in message
    assert "empty" in message


def test_broken_json_names_the_line(refused: Refused, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", GOOD, GOOD, '{"prompt": "a", ')
    message = refused("sft", f"data.path={file}", "data.strict=true")
    assert "rows.jsonl:3" in message
    assert "broken JSON" in message


def test_a_broken_json_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"prompt": "a",\n "completion": }]')
    message = refused("sft", f"data.path={tmp_path / 'rows.json'}")
    assert "rows.json:2" in message


def test_not_utf8_names_the_line(refused: Refused, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", GOOD, '{"prompt": "Gr\u00fc\u00dfe", "completion": "b"}'.encode("latin-1"))
    message = refused("sft", f"data.path={file}", "data.strict=true")
    assert "rows.jsonl:2" in message
    assert "UTF-8" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(refused: Refused, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", GOOD)
    file.chmod(0)
    assert "permission" in refused("sft", f"data.path={file}")


# --------------------------------------------------------------------------------------------------------------------------- rows


def test_a_wrong_column_names_the_columns(refused: Refused, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", {"question": "a", "reply": "b"})
    message = refused("sft", f"data.path={file}")
    assert "rows.jsonl" in message
    assert "question" in message
    assert "reply" in message


def test_mixed_layouts_name_a_line_of_each(refused: Refused, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", GOOD, GOOD, PAIR)
    message = refused("sft", f"data.path={file}")
    assert "rows.jsonl" in message
    assert "3" in message


BAD_ROWS = {
    "empty answer": ("sft", GOOD | {"completion": [{"role": "assistant", "content": ""}]}, ("completion", "empty")),
    "unknown role": ("sft", GOOD | {"prompt": [{"role": "wizard", "content": "a"}]}, ("prompt", "wizard")),
    "chosen = rejected": ("prefer", PAIR | {"rejected": PAIR["chosen"]}, ("chosen", "rejected")),
    "wrong type": ("sft", GOOD | {"completion": 7}, ("completion",)),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_stops_a_strict_run(name: str, refused: Refused, tmp_path: Path) -> None:
    verb, bad, words = BAD_ROWS[name]
    file = rows_file(tmp_path / "rows.jsonl", GOOD if verb == "sft" else PAIR, bad)
    message = refused(verb, f"data.path={file}", "data.strict=true")
    assert "rows.jsonl:2" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", BAD_ROWS)
def test_nothing_but_bad_rows_stops_every_run(name: str, refused: Refused, tmp_path: Path) -> None:
    verb, bad, words = BAD_ROWS[name]
    layout = "prompt_completion" if verb == "sft" else "preference"
    message = refused(verb, f"data.path={rows_file(tmp_path / 'rows.jsonl', bad)}", f"data.layout={layout}")
    assert "rows.jsonl:1" in message
    assert all(word in message for word in words), message


def test_bad_rows_are_set_aside_and_counted(tmp_path: Path, rows: Rows, capfd: Any, caplog: Any) -> None:
    bad = [BAD_ROWS["empty answer"][1], "{", BAD_ROWS["unknown role"][1]]
    file = rows_file(tmp_path / "rows.jsonl", GOOD, *bad, GOOD | {"completion": [{"role": "assistant", "content": "Hi."}]})
    run = tmp_path / "run"
    assert main(["sft", RECIPES["sft"], f"data.path={file}", "data.limit=null", *QUICK, f"run_dir={run}", "--json"]) == 0
    assert "3 bad rows" in caplog.text
    aside = rows(run / "bad_rows.jsonl")
    assert [row["line"] for row in aside] == [2, 3, 4]
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["units"] == 2


OTHER_KINDS = {
    "prompt": {"prompt": "Say hello.", "response": "Hello."},
    "pair": PAIR,
    "unpaired": GOOD | {"label": False},
    "ranking": {"prompt": "Say hello.", "answers": ["Hello.", "No."], "ranks": [1, 2]},
    "rating": {"prompt": "Say hello.", "answer": "No.", "rating": 1},
    "steps": {"prompt": "Say hello.", "completions": ["No."], "labels": [False]},
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_answers_that_are_not_to_be_imitated_are_no_demonstrations(kind: str, refused: Refused, tmp_path: Path) -> None:
    """Of a pair the rejected answer would be imitated too, of a judged answer the unwanted one."""
    message = refused("sft", f"data={{path: {rows_file(tmp_path / 'rows.jsonl', OTHER_KINDS[kind])}}}", *QUICK)
    assert f"demonstration records are needed, layout {kind!r} holds" in message or f"holds {kind}" in message
    assert "demonstrations" in message
    if kind == "prompt":
        assert "columns that were not read: response" in message, "the answer's column has another name"


def test_the_best_answers_of_pairs_are_demonstrations(tmp_path: Path) -> None:
    file, run = rows_file(tmp_path / "rows.jsonl", PAIR), tmp_path / "run"
    assert main(["sft", RECIPES["sft"], f"data={{path: {file}, convert: {{to: demonstrations}}}}", *QUICK, f"run_dir={run}"]) == 0


def test_prompts_of_nothing_are_refused(refused: Refused, tmp_path: Path) -> None:
    """Plain text has an empty prompt: there is nothing to answer."""
    message = refused("rl", f"data={{path: {rows_file(tmp_path / 'rows.jsonl', {'text': 'Hello.'})}}}", *QUICK)
    assert "rows.jsonl:1" in message
    assert "empty" in message


def test_a_prompt_longer_than_the_limit(refused: Refused, tmp_path: Path) -> None:
    long = {"prompt": [{"role": "user", "content": "word " * 200}], "completion": GOOD["completion"]}
    message = refused("sft", f"data.path={rows_file(tmp_path / 'rows.jsonl', long)}", "render.max_prompt=50", *QUICK)
    assert "render.max_prompt is 50" in message
    assert "rows.jsonl" in message


def test_a_too_long_prompt_among_others_is_refused_and_counted(tmp_path: Path, rows: Rows, caplog: Any) -> None:
    long = {"prompt": [{"role": "user", "content": "word " * 200}], "completion": GOOD["completion"]}
    file, run = rows_file(tmp_path / "rows.jsonl", GOOD, long), tmp_path / "run"
    assert main(["sft", RECIPES["sft"], f"data.path={file}", "render.max_prompt=100", *QUICK, f"run_dir={run}"]) == 0
    assert "1 records refused" in caplog.text
    assert rows(run / "refused.jsonl")[0]["source_id"].endswith("rows.jsonl:2")


def test_prompts_of_rl_longer_than_the_limit(refused: Refused) -> None:
    assert "render.max_prompt is 2" in refused("rl", "render.max_prompt=2")


# -------------------------------------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded = load_model("tiny:llama?seed=1", ModelOptions(precision="fp32"))
    folder = tmp_path_factory.mktemp("model") / "tiny"
    loaded.model.save(folder, loaded.tokenizer, None)
    return folder


def changed(saved: Path, folder: Path, drop: tuple[str, ...]) -> Path:
    folder.mkdir()
    for file in saved.iterdir():
        if not file.name.startswith(drop):
            os.link(file, folder / file.name)
    return folder


def test_a_model_folder_without_a_tokenizer(refused: Refused, saved: Path, tmp_path: Path) -> None:
    folder = changed(saved, tmp_path / "bare", ("tokenizer", "chat_template", "special_tokens", "vocab", "merges"))
    message = refused("sft", f"model={folder}")
    assert str(folder) in message
    assert "tokenizer" in message


def test_a_model_without_a_chat_template(refused: Refused, saved: Path, tmp_path: Path) -> None:
    folder = changed(saved, tmp_path / "plain", ("chat_template", "tokenizer_config"))
    settings = json.loads((saved / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    message = refused("sft", f"model={folder}")
    assert "chat template" in message
    assert "chat_template" in message, "the hint names the setting that mends it"


def test_a_model_that_is_not_there(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no/such-model" in refused("sft", "model=no/such-model")
    assert "nowhere.gguf" in refused("sft", "model=nowhere.gguf")
    assert "tiny:lama" in refused("sft", "model=tiny:lama")


def test_a_folder_that_is_no_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused("sft", f"model={tmp_path / 'empty'}")


# ------------------------------------------------------------------------------------------------------------------------- settings


def test_a_wrong_type_names_the_key_and_the_override(refused: Refused) -> None:
    message = refused("sft", "optim.lr=fast", "loop.steps=many")
    assert "optim.lr" in message
    assert "loop.steps" in message, "all errors at once"


def test_an_unknown_key_gets_a_suggestion(refused: Refused) -> None:
    message = refused("sft", "optim.learning_rat=1", "loop.step=3")
    assert "loop.step" in message
    assert "steps" in message


def test_an_override_without_a_value(refused: Refused) -> None:
    assert "key.path=value" in refused("sft", "optim.lr")


OUT_OF_RANGE = {
    "optim.lr=.inf": "finite",
    "optim.lr=nan": "optim.lr",
    "optim.betas=[2, 3]": "below 1",
    "held_out=-0.1": "a share of the prompts",
    "held_out=1.0": "a share of the prompts",
    "held_out=many": "held_out: expected section or number",
    "seed=99999999999999999999": "less than",
    "settings.threads=100000": "less than",
    "settings.skip_self_test=[gradient]": "Did you mean 'gradients'?",
    "lora.targets='('": "no regular expression",
}


@pytest.mark.parametrize("override", OUT_OF_RANGE)
def test_a_value_out_of_range(override: str, refused: Refused) -> None:
    message = refused("sft", override)
    assert override.partition("=")[0] in message
    assert OUT_OF_RANGE[override] in message


def test_rl_without_a_reward_and_with_one_that_counts_for_nothing(refused: Refused) -> None:
    assert "rewards" in refused("rl", "rewards=[]")
    assert "rewards.0.weight" in refused("rl", "rewards.0.weight=nan")


def test_a_recipe_of_another_verb(refused: Refused) -> None:
    assert "keel run recipes/quickstart.yaml" in refused("sft", recipe="recipes/quickstart.yaml")
    text = refused("run", recipe="recipes/tiny_sft.yaml")
    assert f"keel VERB recipes/tiny_sft.yaml: VERB is one of {', '.join(STAGES)}" in text, "every verb that starts a recipe"


def test_a_recipe_nested_too_deep(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("model: " + "[" * 2000)
    assert "nested too deep" in refused("sft", recipe=str(tmp_path / "deep.yaml"))


def test_a_missing_recipe(refused: Refused) -> None:
    assert "recipes/nowhere.yaml" in refused("sft", recipe="recipes/nowhere.yaml")


def test_a_broken_recipe_names_the_line(refused: Refused, tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("model: tiny:llama\ndata: {path: rows.jsonl\nseed: 0\n")
    message = refused("sft", recipe=str(recipe))
    assert "broken.yaml" in message
    assert "line 3" in message or ":3" in message


def test_a_recipe_that_is_no_mapping(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    assert "list.yaml" in refused("sft", recipe=str(tmp_path / "list.yaml"))


def test_a_combination_that_cannot_work(refused: Refused) -> None:
    assert "compares the answers to one prompt" in refused("rl", "samples=1")


def test_a_reward_that_is_not_there(refused: Refused) -> None:
    message = refused("rl", "rewards.0.function=recipes/tiny/rewards.py:nothing")
    assert "nothing" in message


def test_a_reward_model_with_another_tokenizer(refused: Refused, stage: Any, tmp_path: Path) -> None:
    stage("reward", tmp_path / "reward", "model=tiny:llama?vocab=400", "loop.steps=1")
    rewards = f"[{{type: model, name: judge, path: {tmp_path / 'reward' / 'final'}}}]"
    assert "another tokenizer" in refused("rl", f"rewards={rewards}")


# ------------------------------------------------------------------------------------------------------------------ run directories


def test_a_run_directory_in_use_names_the_process(refused: Refused, tmp_path: Path, root: Path) -> None:
    (tmp_path / "run").mkdir()
    hold = "import sys, pathlib, keel.runs.lock as l; _ = l.Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "run")]
    other = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        message = refused("reward")
        assert f"in use by process {other.pid}" in message
        assert str(tmp_path / "run") in message
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()


def test_a_run_directory_below_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused("reward", f"run_dir={tmp_path / 'file' / 'run'}", run_dir=False)
    assert str(tmp_path / "file") in message
    assert "run_dir" in message


def test_a_run_directory_that_is_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("reward", f"run_dir={tmp_path / 'file'}", run_dir=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    message = refused("reward", f"run_dir={tmp_path / 'closed' / 'run'}", run_dir=False)
    assert "may write" in message


def test_a_run_directory_of_other_settings(refused: Refused, finished: Callable[[str], Path]) -> None:
    message = refused("reward", "optim.lr=1e-4", f"run_dir={finished('reward')}", run_dir=False)
    assert "optim.lr" in message


def test_data_that_changed_since_the_run_began(refused: Refused, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", GOOD, GOOD | {"completion": "Hi."})
    command = ["sft", RECIPES["sft"], f"data.path={file}", *QUICK, f"run_dir={tmp_path / 'run'}"]
    assert main(command) == 0
    rows_file(file, GOOD)
    assert str(file) in refused("sft", f"data.path={file}", *QUICK)


def test_data_show_of_a_missing_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capfd.readouterr().err


def test_a_report_of_a_folder_that_is_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capfd.readouterr().err
