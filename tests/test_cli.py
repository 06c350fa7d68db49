"""The command line: verbs, exit codes, what goes to standard output and what to standard error."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from keel import __version__
from keel.cli import main, parse
from keel.commands import STAGES


@pytest.fixture(autouse=True)
def in_the_repository(root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_no_verb_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("run", "doctor", "data", "runs", "report", *STAGES))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_does_not_load_torch(root: Path) -> None:
    code = "import sys; from keel.cli import parser; parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_dry_run_prints_the_resolved_recipe_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["sft", "recipes/tiny_sft.yaml", "optim.lr=2e-4", "model_options.fast_path=off", f"run_dir={tmp_path / 'run'}", "--dry-run"]
    assert main(command) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert (resolved["optim"]["lr"], resolved["model_options"]["fast_path"]) == (2e-4, "off")
    assert resolved["loop"]["last_batch"] == "keep", "defaults are shown too"
    assert not (tmp_path / "run").exists()


def test_json_is_the_last_line_and_all_of_standard_output(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["--json", "reward", "recipes/tiny_reward.yaml", "loop.steps=1", f"run_dir={run}"]) == 0
    out = capfd.readouterr().out
    assert json.loads(out.splitlines()[-1])["run_dir"] == str(run)
    assert json.loads(out)["steps"] == 1


def test_data_show_of_every_layout_of_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    for file, layout in (("tiny/pairs", "preference"), ("quickstart/demonstrations", "messages"), ("tiny/prompts", "prompt")):
        assert main(["data", "show", f"recipes/{file}.jsonl", "--rows", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["layout"] == layout


def test_runs_lists_and_compares(finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    sft, reward = finished("sft"), finished("reward")
    assert main(["runs", "--root", str(sft.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"] == [str(sft)]
    assert main(["runs", "--compare", str(sft), str(reward)]) == 0
    assert "data.path" in capsys.readouterr().out


def test_a_report_is_written_again(finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = finished("dpo")
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()


def test_reference_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference"]) == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in ("optim", "microbatch_tokens", "keel rl", "stages"))


def test_doctor(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "longest=32", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["model"] == "tiny:llama"
    assert "passed  resume" in captured.err


FULL, GONE = OSError(errno.ENOSPC, "No space left on device", "runs/a/samples"), OSError(errno.ENOENT, "No such file", "x")


@pytest.mark.parametrize("error", [KeyboardInterrupt, FULL, GONE])
def test_an_interrupt_is_no_traceback(error: BaseException, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("keel.verbs.run.run_verb", stop)
    if error is KeyboardInterrupt:
        assert main(["sft", "recipes/tiny_sft.yaml"]) == 130
        assert capfd.readouterr().err.strip() == "interrupted"
    elif error is FULL:
        assert main(["sft", "recipes/tiny_sft.yaml"]) == 2
        assert capfd.readouterr().err.startswith("error: runs/a/samples: No space left on device\n  hint: free some space")
    else:
        with pytest.raises(OSError, match="No such file"):  # a fault of the program is not hidden as one of the user's
            main(["sft", "recipes/tiny_sft.yaml"])


def test_a_terminal_that_cannot_show_chinese(root: Path, tmp_path: Path) -> None:
    """Standard output of another encoding gets escapes; the JSON line is still the same JSON."""
    file = tmp_path / "\u6587.jsonl"
    file.write_text('{"prompt": "\u4f60\u597d"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "keel.cli", "data", "show", str(file), "--json"]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["path"] == str(file)


def test_numbers_that_are_none_are_valid_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("keel.verbs.run.run_verb", lambda *_, **__: {"loss": float("nan")})
    assert main(["sft", "recipes/tiny_sft.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": "NaN"}


@pytest.mark.parametrize(
    "words", ["import a.jsonl b.jsonl --store s.db", "import --store s.db a.jsonl b.jsonl", "import a.jsonl --store s.db b.jsonl"]
)
def test_names_stand_before_or_after_options(words: str) -> None:
    args = parse(["feedback", *words.split()])
    assert (args.what, args.names, args.store) == ("import", ["a.jsonl", "b.jsonl"], "s.db")
    with pytest.raises(SystemExit):
        parse(["feedback", *words.split(), "--nothing"])
