"""`keel score` from the command line: rows kept, order kept, failures told, mistakes refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.sandbox.choose import sandbox

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def made(*argv: object) -> tuple[int, str, str]:
        code = main(["score", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return made


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


SUMS = (
    {"prompt": "1 + 1?", "completion": "It is 2.", "answer": "2", "id": "a"},
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "completion": [{"role": "assistant", "content": "5"}], "answer": "#### 4"},
    {"prompt": "?", "completion": "5"},
    {"messages": [{"role": "user", "content": "3?"}, {"role": "assistant", "content": "3"}], "reference": 3},
    {"question": "4?", "response": "vier: 4", "ground_truth": "4", "score": "old"},
)


def test_every_row_comes_back_in_order_with_its_score(run: Run, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", *SUMS), tmp_path / "out.jsonl"
    code, said, _ = run(source, "--reward", "gsm8k", "--out", out, "--json")
    assert code == 0
    rows = read(out)
    assert [{k: v for k, v in r.items() if k not in ("score", "reason", "error")} for r in rows] == [
        {k: v for k, v in r.items() if k != "score"} for r in SUMS
    ]
    assert [(r["score"], r["reason"]) for r in rows] == [
        (1.0, "2 is right"),
        (0.0, "5 is not 4"),
        (None, ""),
        (1.0, "3 is right"),
        (1.0, "4 is right"),
    ]
    assert [bool(r["error"]) for r in rows] == [False, False, True, False, False]
    summary = json.loads(said.splitlines()[-1])
    assert (summary["count"], summary["scored"], summary["failed"], summary["mean"]) == (5, 4, 1, 0.75)
    assert summary["quantiles"]["0.5"] == 1.0
    assert summary["failures"] == {"no 'ground_truth'": 1}
    assert "5 rows, 4 scored, 1 failed" in said


@pytest.mark.parametrize(
    ("reward", "row", "score"),
    [
        (["math"], {"completion": r"\boxed{\frac{1}{2}}", "solution": "0.5"}, 1.0),
        (["choice"], {"completion": "答案是B", "label": "B"}, 1.0),
        (["regex", "pattern='[0-9]+'"], {"completion": "x 12"}, 1.0),
        (["regex"], {"completion": "x", "pattern": "^y$"}, 0.0),
        (["exact"], {"completion": "Paris ", "answer": "paris"}, 1.0),
        (["numeric", "truth=wanted", "tolerance=0.1"], {"completion": "10", "wanted": 10.5}, 1.0),
        (["ifeval"], {"completion": "no", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, 1.0),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_rewards_by_name(run: Run, tmp_path: Path, reward: list[str], row: dict, score: float) -> None:
    source, out = write(tmp_path / "in.jsonl", {"prompt": "?", **row}), tmp_path / "out.jsonl"
    code, _, said = run(source, "--reward", reward[0], "--out", out, *reward[1:])
    assert code == 0, said
    assert read(out)[0]["score"] == score


def test_json_schema(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    source = write(tmp_path / "in.jsonl", {"prompt": "?", "completion": "[1]", "json_schema": {"type": "object"}})
    assert run(source, "--reward", "json_schema", "--out", tmp_path / "out.jsonl")[0] == 0
    assert "is not of type 'object'" in read(tmp_path / "out.jsonl")[0]["reason"]


@pytest.mark.skipif(sandbox()[0] is None, reason=sandbox()[1])
def test_code(run: Run, tmp_path: Path) -> None:
    rows = [{"prompt": "?", "completion": f"def f(x): return x + {i}", "tests": ["assert f(1) == 2"]} for i in (1, 2)]
    assert run(write(tmp_path / "in.jsonl", *rows), "--reward", "code", "--out", tmp_path / "out.jsonl")[0] == 0
    assert [r["score"] for r in read(tmp_path / "out.jsonl")] == [1.0, 0.0]


def test_rules_and_functions_by_file(run: Run, tmp_path: Path) -> None:
    source, out = (
        write(tmp_path / "in.jsonl", {"prompt": "?", "completion": "one two"}, {"prompt": "?", "completion": "bad"}),
        tmp_path / "o.jsonl",
    )
    (tmp_path / "rules.yaml").write_text("length: {bands: [{low: 2, score: 1.0}]}\n", encoding="utf-8")
    assert run(source, "--reward", f"rules:{tmp_path}/rules.yaml", "--out", out)[0] == 0
    assert [(r["score"], r["reason"]) for r in read(out)] == [(1.0, "length 1"), (0.0, "length 0")]
    body = (
        "def fn(prompt, completion):\n    if completion == 'bad': raise RuntimeError('broken')\n    return len(completion), 'its length'\n"
    )
    (tmp_path / "mine.py").write_text(body, encoding="utf-8")
    assert run(source, "--reward", f"python:{tmp_path}/mine.py:fn", "--out", out)[0] == 0
    assert [(r["score"], r["reason"], r["error"]) for r in read(out)] == [(7.0, "its length", ""), (None, "", "RuntimeError: broken")]


def test_scores_are_kept_and_a_change_makes_them_anew(run: Run, tmp_path: Path) -> None:
    source, out, log = write(tmp_path / "in.jsonl", {"prompt": "?", "completion": "x"}), tmp_path / "o.jsonl", tmp_path / "calls"
    body = f"def fn(prompt, completion):\n    open({str(log)!r}, 'a').write('.')\n    return 1\n"
    (tmp_path / "mine.py").write_text(body, encoding="utf-8")
    arguments = (source, "--reward", f"python:{tmp_path}/mine.py:fn", "--out", out, "--cache", tmp_path / "cache")
    for _ in range(2):
        assert run(*arguments)[0] == 0
        assert read(out)[0]["score"] == 1.0
    assert log.read_text(encoding="utf-8") == "."
    (tmp_path / "mine.py").write_text(body.replace("return 1", "return 2"), encoding="utf-8")
    assert run(*arguments)[0] == 0
    assert read(out)[0]["score"] == 2.0


GOOD = {"prompt": "?", "completion": "x", "answer": "1"}


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ((GOOD, {"prompt": "?"}), ["--reward", "gsm8k"], r"in.jsonl:2: completion: is missing"),
        ((GOOD, {"completion": "x"}), ["--reward", "gsm8k"], r"in.jsonl:2: prompt: is missing"),
        ((GOOD, {"prompt": "?", "completion": 3}), ["--reward", "gsm8k"], r"in.jsonl:2: completion: must be text, not a number"),
        ((GOOD, {"prompt": {"a": 1}, "completion": "x"}), ["--reward", "gsm8k"], r"in.jsonl:2: prompt: must be text or a list of messages"),
        ((GOOD, "{broken"), ["--reward", "gsm8k"], r"in.jsonl:2: broken JSON at column 2"),
        (({"prompt": "?", "completion": "x"},), ["--reward", "gsm8k"], "no row has a column 'ground_truth', which holds the right answer"),
        (({"prompt": "?", "completion": "x"},), ["--reward", "ifeval"], "no row has a column 'instruction_id_list'"),
        (({"prompt": "?", "completion": "x"},), ["--reward", "regex"], "no row has a column 'pattern', and no pattern=... is given"),
        ((GOOD,), ["--reward", "gms8k"], "did you mean gsm8k?"),
        ((GOOD,), ["--reward", "rules:none.yaml"], "none.yaml: no such rule file"),
        ((GOOD,), ["--reward", "rules:"], "nothing stands after the colon"),
        ((GOOD,), ["--reward", "python:none.py:fn"], "no such file: none.py"),
        ((GOOD,), ["--reward", "gsm8k", "tolerence=1"], "Did you mean tolerance?"),
        ((GOOD,), ["--reward", "regex", "pattern=("], "not a regular expression"),
    ],
)
def test_bad_input_is_refused_with_its_place(run: Run, tmp_path: Path, rows: tuple, arguments: list[str], message: str) -> None:
    code, _, said = run(write(tmp_path / "in.jsonl", *rows), *arguments, "--out", tmp_path / "out.jsonl")
    assert code == 2
    assert message in said
    assert not (tmp_path / "out.jsonl").exists()


def test_files_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", GOOD)
    assert "is the file that is read" in run(source, "--reward", "gsm8k", "--out", source)[2]
    assert run(tmp_path / "none.jsonl", "--reward", "gsm8k")[0] == 2
    assert "cannot be written" in run(source, "--reward", "gsm8k", "--out", tmp_path / "in.jsonl" / "out.jsonl")[2]
    assert json.loads(source.read_text(encoding="utf-8")) == GOOD


def test_a_model_scores_by_its_own_template(run: Run, tmp_path: Path) -> None:
    import torch

    from keel.models.config import ModelOptions
    from keel.models.loading import load_model

    loaded = load_model("tiny:llama", ModelOptions(), heads=frozenset({"score"}), new_heads=True)
    for parameter in loaded.model.score_head.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter)
    loaded.model.save(tmp_path / "rm", loaded.tokenizer, loaded.processor)
    rows = [{"prompt": "Hi", "completion": c} for c in ("one", "two", "one")] + [{"prompt": "Hi", "completion": "x " * 40}]
    code, _, said = run(write(tmp_path / "in.jsonl", *rows), "--reward", f"model:{tmp_path}/rm", "--out", tmp_path / "out.jsonl")
    assert code == 0, said
    scores = [r["score"] for r in read(tmp_path / "out.jsonl")]
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert scores[0] != scores[1]
    assert run(tmp_path / "in.jsonl", "--reward", f"model:{tmp_path}/none")[0] == 2
