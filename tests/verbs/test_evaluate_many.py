"""`keel eval` with many models, examples before the prompts, and people's votes: whole runs on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.cli import main, parse
from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.types import Message, Prompt
from keel.verbs.evaluate.shots import with_shots
from keel.verbs.run import RECIPES, run_verb

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("evaluate.max_tokens=6", "evaluate.samples=1", "evaluate.limit=12", "evaluate.draws=100", "model_options.precision=fp32")


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch, proofs: None) -> None:
    monkeypatch.chdir(ROOT)


def test_the_recipe_says_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "result.json"
    words = ["eval", "recipes/tiny_eval.yaml", "--json", str(file), f"run_dir={tmp_path / 'run'}", *SHORT]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "tuned against start by share_of_e: win rate " in out
    assert "the price: length" in out
    summary = json.loads(file.read_text(encoding="utf-8"))
    assert list(summary["board"]["models"]) == ["tuned", "early", "halfway"]
    for model in summary["board"]["models"].values():
        assert set(model["win_rates"]) == {"share_of_e", "finished"}
        assert {"kl", "retention"} <= set(model["price"])
    assert [p["shots"] for p in summary["board"]["shots"]["early"]["share_of_e"]] == [0, 1, 2]
    assert set(summary["board"]["wording"]["models"]) == {"tuned", "early", "halfway", "start"}
    assert summary["win_rate_rules"]["share_of_e"]["mean"] == summary["board"]["models"]["tuned"]["win_rates"]["share_of_e"]["mean"]
    assert (tmp_path / "run" / "report.zh.html").is_file()
    assert main(words) == 0  # finished already: it says the same again
    assert capsys.readouterr().out == out


def test_a_model_against_itself_is_even(tmp_path: Path):
    same = "tiny:llama?seed=1&std=0.2"
    overrides = [f"model={same}", "others=[]", "evaluate.shots=[]", "evaluate.shot_examples=''", f"run_dir={tmp_path}", *SHORT]
    summary = run_verb("eval", Path("recipes/tiny_eval.yaml"), overrides)
    (model,) = summary["board"]["models"].values()
    rate = model["win_rates"]["share_of_e"]
    assert (rate["mean"], rate["ties"], rate["p"]) == (0.5, 1.0, 1.0)
    assert model["price"]["kl"]["mean"] == pytest.approx(0.0, abs=1e-5)


def test_votes_of_people_are_found_again(tmp_path: Path):
    """Asked, voted, evaluated again: every pair goes to the baseline but one tie; votes about other answers are an error."""
    pytest.importorskip("sqlalchemy")
    from keel.feedback.db import Campaign, Store
    from keel.types import Annotator, Choice
    from keel.verbs.shared.tasks import read_tasks

    store = f"sqlite:///{tmp_path / 'votes.db'}"
    people = f"people={{store: '{store}', campaign: eval}}"
    quick = ("others=[]", "evaluate.shots=[]", "evaluate.shot_examples=''", "evaluate.headline=''", people, *SHORT)
    first = run_verb("eval", Path("recipes/tiny_eval.yaml"), [*quick, f"run_dir={tmp_path / 'a'}"])
    assert "people" not in first["board"]["scorers"]
    tasks = read_tasks(tmp_path / "a" / "samples" / "people.jsonl")
    with Store(store) as db:
        db.add_campaign(Campaign("eval", 1, "pairwise", tasks[0].protocol))
        db.add_tasks("eval", tasks)
        db.add_annotator(Annotator("ann", "person"))
        for i, item in enumerate(db.next_items("ann", "eval", len(tasks))):
            (task,) = (t for t in tasks if [c.text for c in t.candidates] == [c.text for c in item.task.candidates])
            best = next(k for k, c in enumerate(task.candidates) if c.origin["model"] == "baseline")
            shown = list(item.display_order).index(best)
            db.answer("ann", item.handle, f"e{i}", Choice("tie" if i == 0 else ("first", "second")[shown]))
    second = run_verb("eval", Path("recipes/tiny_eval.yaml"), [*quick, f"run_dir={tmp_path / 'b'}"])
    assert second["board"]["headline"] == "people"
    rate = second["board"]["models"]["tuned"]["win_rates"]["people"]
    assert rate["n"] == len(tasks)
    assert rate["mean"] == pytest.approx(0.5 / len(tasks))
    with pytest.raises(UserError, match="none of the"):
        run_verb("eval", Path("recipes/tiny_eval.yaml"), [*quick, f"run_dir={tmp_path / 'c'}", "evaluate.seed=5"])


def test_examples_stand_before_the_question():
    shown = [(Message("user", "q"), Message("assistant", "a"))]
    chat = with_shots(Prompt("p", (Message("system", "s"), Message("user", "mine"))), shown)
    assert [m.text for m in chat.messages] == ["s", "q", "a", "mine"]
    assert [m.text for m in with_shots(Prompt("p", text="mine"), shown).messages] == ["q", "a", "mine"]
    assert with_shots(Prompt("p", text="mine"), shown, as_chat=False).text == "q\na\n\nmine"


def test_what_cannot_be_is_refused(tmp_path: Path):
    for override, message in (
        ("others=[{name: tuned, model: x}]", "two models are called 'tuned'"),
        ("evaluate.shots=[2, 1]", "shots must rise"),
        ("evaluate.shot_examples=''", "go together"),
        ("othres=[]", "othres"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(RECIPES["eval"], Path("recipes/tiny_eval.yaml"), [override])
    quick = ["others=[]", "evaluate.shots=[]", "evaluate.shot_examples=''", *SHORT]
    for override, message in (("evaluate.groups=[nobody]", "no prompt has the field"), ("evaluate.headline=gold", "no scorer 'gold'")):
        with pytest.raises(UserError, match=message):
            run_verb("eval", Path("recipes/tiny_eval.yaml"), [*quick, override, f"run_dir={tmp_path / override[:18]}"])


@pytest.mark.parametrize(
    ("words", "flag", "file"),
    [
        (["r.yaml", "--json"], True, ""),
        (["--json", "r.yaml"], True, ""),
        (["r.yaml", "--json", "seed=1"], True, ""),
        (["r.yaml", "--json", "out.json", "seed=1"], False, "out.json"),
        (["--json=out.json", "r.yaml"], False, "out.json"),
    ],
)
def test_json_is_a_flag_or_names_a_file(words: list[str], flag: bool, file: str):
    args = parse(["eval", *words])
    assert (args.recipe, args.json, args.json_file) == ("r.yaml", flag, file)
