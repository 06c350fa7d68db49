"""Completion: commands, recipes, runs, settings; nothing heavy is loaded for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keel.cli import main, parser
from keel.completion.cli import SHELLS
from keel.completion.complete import complete
from keel.completion.keys import FILE, read_keys, write_keys
from keel.help import GROUPS, NEXT

ROOT = Path(__file__).parents[2]


def words(line: str) -> list[str]:
    return complete(line.split(" "), parser)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs/a", "runs/b", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs/a/manifest.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "one.yaml").write_text("model: m\n")
    stages = "stages:\n  warm: {verb: prefer}\n  evaluate: {model: m}\n  people: {verb: annotate}\n"
    (tmp_path / "all.yaml").write_text("model: m\n" + stages)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_keys_are_those_of_the_classes() -> None:
    from keel.reference import setting_keys

    assert FILE.read_text(encoding="utf-8") == setting_keys(), "run `make reference`"


def test_keys_are_read_as_written() -> None:
    keys = {"sft": ["a", "a.b"], "rl": ["a"]}
    assert read_keys(write_keys(keys)) == keys


def test_commands() -> None:
    assert words("adv") == ["advise"]
    assert {"new", "run", "sft", "completion"} <= set(words(""))
    assert "reward" in words("eval re")
    assert "judge-report" not in words("j"), "people type judge report"
    assert words("serve ") == ["policy", "reward", "rollouts"]
    assert words("new x --labels p") == ["pairs"]
    assert words("export runs/a --to ") == ["merged", "adapter", "gguf"]
    assert words("rl --dr") == ["--dry-run"]
    assert words("nothing ") == []


def test_recipes_and_runs(project: Path) -> None:
    assert {"all.yaml", "one.yaml", "data/"} <= set(words("sft "))
    assert "rows.jsonl" not in words("sft ")
    assert "rows.jsonl" in words("advise ")
    assert "runs/a" in words("report ")
    assert words("report runs/") == ["runs/a", "runs/b/"], "a run is whole, a folder may hold more"
    assert words("sft one.yaml data.path=ro") == ["data.path=rows.jsonl"]
    assert words("sft nowhere/") == []


def test_settings(project: Path) -> None:
    assert words("sft one.yaml opti") == ["optim."]
    assert {"optim.lr=", "optim.warmup_ratio="} <= set(words("sft one.yaml optim."))
    assert "algorithm." not in words("sft one.yaml al")
    assert "algorithm." in words("rl one.yaml al")


def test_settings_of_stages_by_their_names(project: Path) -> None:
    assert words("run all.yaml stages.") == ["stages.evaluate.", "stages.people.", "stages.warm."]
    assert "stages.warm.objective." in words("run all.yaml stages.warm.")
    assert "stages.evaluate.baseline=" in words("run all.yaml stages.evaluate.")
    assert "stages.people.per_item=" in words("run all.yaml stages.people.")
    assert words("run broken.yaml stages.") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_shell(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "completion words --" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    file = tmp_path / "script"
    file.write_text(text)
    assert subprocess.run([shell, "-n", str(file)], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not on this machine")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("keel adv", "advise"),
        ("keel new x --labels p", "pairs"),
        ("keel sft recipes/tiny_sft.yaml data.path=recipes/tiny_pp", "recipes/tiny_ppo.yaml"),
    ],
)
def test_bash_asks_and_offers(line: str, found: str) -> None:
    script = f"""
    keel() {{ {sys.executable} -m keel.cli "$@"; }}
    source {ROOT}/keel/completion/scripts/keel.bash
    COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _keel 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found]


HEAVY = ("torch", "transformers", "pydantic", "numpy")
LIGHT = f"import sys; from keel.cli import main, parser\n{{}}\nsys.exit(any(name in sys.modules for name in {HEAVY}))"


@pytest.mark.parametrize("act", ["main(['completion', 'words', '--', 'sft', 'recipes/tiny_sft.yaml', 'optim.'])", "main([])"])
def test_completion_and_help_load_nothing_heavy(act: str) -> None:
    assert subprocess.run([sys.executable, "-c", LIGHT.format(act)], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_help_of_every_command_loads_nothing_heavy() -> None:
    """All in one process; what one of them loads is told by name. That of `keel score` lists the table of rewards: it may load pydantic."""
    act = (
        "top = parser(['completion'])\n"
        "for name, sub in next(a for a in top._actions if a.dest == 'verb').choices.items():\n"
        "    assert sub.format_help()\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    assert subprocess.run([sys.executable, "-c", LIGHT.format(act)], cwd=ROOT, check=False).returncode == 0
    score = "import sys; from keel.cli import parser; parser(['score']).format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", score], cwd=ROOT, check=False).returncode == 0


def test_every_command_is_in_a_group_and_says_what_comes_next() -> None:
    helps = parser().helps
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(set(helps)), "each command once"
    assert set(NEXT) <= set(helps)
    assert set(helps) - set(NEXT) <= {
        "sweep",
        "drift",
        "eval-hallucination",
        "eval-refusals",
        "bench",
        "study",
        "watchbench",
        "reference",
        "completion",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["rnu", "x"], "did you mean keel run"),
        (["evaluat"], "keel eval"),
        (["xyzzy"], "keel --help lists the commands"),
    ],
)
def test_a_command_that_there_is_not(given, message, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recipe_that_is_not_there(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for given, message in (("recipes/tiny_sft.yaml", "lies in a checkout of Keel"), ("recipe.yaml", "keel new DIR makes a project")):
        assert main(["sft", given]) == 2
        assert message in capsys.readouterr().err
    Path("mine.yaml").write_text("model: m\n")
    for given, message in (
        ("mien.yaml", "did you mean mine.yaml?"),
        ("other_thing.yaml", "there are, in"),
        (".", "is a folder, not a recipe"),
    ):
        assert main(["sft", given]) == 2
        assert message in capsys.readouterr().err
