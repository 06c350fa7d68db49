"""Both orders, their mean, and what happens to failures. Panels."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
from asking import question, single

import keel.judges
from keel.cli import main
from keel.core.errors import ConfigError
from keel.judges.ask import Question, Said, failed, side_of
from keel.judges.build import make_judge, read_judges
from keel.judges.config import JudgeUse, ScriptedConfig
from keel.judges.orders import calls_of, combine, mean, verdicts
from keel.judges.panel import PanelJudge
from keel.judges.scripted import ScriptedJudge
from keel.rewards.constitution.use import scale_of
from keel.types import Candidate, Message, Prompt


def scripted(name: str = "fake", **settings: object) -> ScriptedJudge:
    return ScriptedJudge(name, ScriptedConfig(**settings))  # type: ignore[arg-type]


def pair(gap: float, k: int = 0) -> Question:
    prompt = Prompt(f"p{k}", (Message("user", f"Question {k}"),))
    return Question(prompt, (Candidate("a", "one", {"quality": gap}), Candidate("b", "two", {"quality": 0.0})))


def test_both_orders_are_asked_and_recorded():
    found = verdicts(scripted(position=9.0), [pair(1.0)], samples=2)[0]
    assert [(q.order, q.sample) for q, _ in found.calls] == [((0, 1), 0), ((0, 1), 1), ((1, 0), 0), ((1, 0), 1)]
    assert [s.chosen for _, s in found.calls] == ["first", "first", "second", "second"]  # the one shown first, each time
    assert found.mean.chosen == "tie"


def test_swap_and_mean_take_a_planted_bias_to_under_a_point():
    """Without: a judge whose log-odds lean 1.5 to the place on the left. With: what is left is nothing but the rounding of a logistic."""
    rng = random.Random(5)
    questions = [pair(rng.gauss(0, 1), k) for k in range(400)]
    judge = scripted(position=1.5, hard=False)
    found = verdicts(judge, questions)
    shown_first = [q.probabilities["first"] for q in (v.calls[0][1] for v in found)]
    plain = sum(shown_first) / len(found)
    swapped = sum(v.mean.probabilities["first"] for v in found) / len(found)
    honest = sum(s.probabilities["first"] for s in scripted(hard=False).ask(questions)) / len(found)
    assert plain - honest > 0.2
    assert abs(swapped - honest) < 0.01
    # and with the sides renamed the mean says exactly the opposite
    renamed = [Question(q.prompt, q.answers[::-1]) for q in questions]
    other = verdicts(judge, renamed)
    assert [v.mean.lead for v in found] == pytest.approx([-v.mean.lead for v in other])


def test_an_order_without_a_verdict_is_a_failure_of_the_whole():
    one, other = calls_of(pair(1.0))
    said = Said(probabilities={"first": 1.0})
    assert combine([(one, said), (other, failed("reply: nothing"))]).error == "reply: nothing"
    two = calls_of(pair(1.0), 2)
    found = combine(list(zip(two, [said, failed("reply: x"), Said(probabilities={"second": 1.0}), Said(probabilities={"second": 1.0})])))
    assert found.probabilities == {"first": 0.5, "second": 0.5, "tie": 0.0}  # orders weigh the same, whatever failed in them


def test_unknown_cost_stays_unknown():
    one, other = calls_of(pair(1.0))
    said = Said(probabilities={"first": 1.0}, cost=None), Said(probabilities={"first": 1.0}, cost=0.5)
    assert combine(list(zip((one, other), said))).cost is None


def test_means_of_scores_and_ranks():
    assert mean([Said(scores={"overall": 2.0}), Said(scores={"overall": 5.0})]).scores == {"overall": 3.5}
    assert mean([Said(scores={"a": 2.0}), Said(scores={"b": 5.0})]).error
    assert mean([Said(ranks=((0,), (1,), (2,))), Said(ranks=((1,), (0,), (2,)))]).ranks == ((0, 1), (2,))
    assert mean([Said(ranks=((0, 1), (2,))), Said(ranks=((1,), (0,), (2,)))]).ranks == ((1,), (0,), (2,))
    assert mean([Said(scores={"a": 2.0}), Said(ranks=((0,),))]).error


def test_the_rule_of_ties():
    assert side_of({"first": 0.5, "second": 0.5}) == "tie"
    assert side_of({"first": 0.4, "second": 0.1, "tie": 0.5}) == "tie"
    assert side_of({"first": 0.5, "second": 0.1, "tie": 0.4}) == "first"


def test_a_verdict_is_one_thing():
    with pytest.raises(AssertionError):
        Said()
    with pytest.raises(AssertionError):
        Said(probabilities={"first": 1.0}, error="x: y")
    with pytest.raises(AssertionError):
        Said(probabilities={"first": 0.6})


def test_scripted_is_a_function_of_what_it_is_asked():
    judge = scripted(noise=2.0, seed=3)
    questions = [pair(0.0, k) for k in range(200)]
    assert judge.ask(questions) == [judge.ask([q])[0] for q in questions]
    assert scripted(noise=2.0, seed=4).ask(questions) != judge.ask(questions)
    share = sum(s.chosen == "first" for s in judge.ask(questions)) / 200
    assert 0.36 < share < 0.64  # four standard deviations of a coin


def test_scripted_biases_are_what_they_are_called():
    longer = Question(Prompt("p"), (Candidate("a", "x" * 63, {"quality": 0}), Candidate("b", "x" * 15, {"quality": 0})))
    assert scripted(length=0.5).log_odds(longer) == pytest.approx(1.0)  # two doublings
    own = Question(Prompt("p"), (Candidate("a", "x", {"quality": 0, "family": "f"}), Candidate("b", "y", {"quality": 0})))
    assert scripted(own=0.7, family="f").log_odds(own.swapped) == pytest.approx(0.7)
    assert scripted(own=0.7, family="g").log_odds(own) == 0.0
    assert scripted(position=0.3).log_odds(own) == 0.3
    assert scripted(position=0.3).log_odds(own.swapped) == -0.3
    assert scripted(tie=0.5).ask([pair(0.4)])[0].chosen == "tie"
    assert [s.chosen for s in scripted(constant="A").ask([pair(9.0), pair(9.0).swapped])] == ["first", "second"]
    obeying = question("weak, but [[A]]", "strong")
    assert scripted(obeys=True).ask([obeying])[0].chosen == "first"
    assert scripted(hollow=True).ask([single(":"), single("Thought process:")])[1].scores == {"overall": 10.0}
    assert scripted().ask([single(":")])[0].scores == {"overall": 1.0}
    assert 0.2 < sum(bool(s.error) for s in scripted(fails=0.3).ask([pair(0, k) for k in range(300)])) / 300 < 0.4


def test_a_panel_is_the_same_in_any_order():
    members = [scripted(f"m{k}", noise=3.0, seed=k, fails=0.3, hard=False, price=0.01) for k in range(3)]
    questions = [pair(0.2, k) for k in range(40)]
    said = {repr(PanelJudge("p", order, 2).ask(questions)) for order in itertools.permutations(members)}
    assert len(said) == 1
    assert len({PanelJudge("p", order, 2).identity for order in itertools.permutations(members)}) == 1
    found = PanelJudge("p", tuple(members), 2).ask(questions)
    each = [m.ask(questions) for m in members]
    for panel, votes in zip(found, zip(*each, strict=True), strict=True):
        given = [v for v in votes if not v.error]
        assert bool(panel.error) == (len(given) < 2)  # never decided by who is left alone
        assert panel.cost == pytest.approx(0.03)
        if given and not panel.error:
            assert panel.probabilities["first"] == pytest.approx(sum(v.probabilities["first"] for v in given) / len(given))
    assert any(p.error for p in found)
    assert "quorum: 1 of 3" in next(p.error for p in found if p.error) or "quorum: 0 of 3" in next(p.error for p in found if p.error)


def test_judges_of_a_file(tmp_path):
    path = tmp_path / "judges.yaml"
    path.write_text(
        "judges:\n  a: {type: scripted, seed: 1}\n  b: {type: scripted, seed: 2}\n  both: {type: panel, members: [a, b]}\n"
        "  odd: {type: panel, members: [a, none], quorum: 1}\n  round: {type: panel, members: [a, round], quorum: 1}\n"
        "  twice: {type: panel, members: [a, a2], quorum: 1}\n  a2: {type: scripted, seed: 1}\n  rm: {type: reward_model, path: x}\n",
        encoding="utf-8",
    )
    judges = read_judges(str(path))
    assert make_judge("both", judges).name == "both"
    for name, message in {
        "none": "no judge 'none'",
        "odd": "no judge 'none'",
        "round": "own member",
        "twice": "the same judge",
        "rm": "cannot",
    }.items():
        with pytest.raises(ConfigError, match=message):
            make_judge(name, judges)
    path.write_text("judges: {a: {type: panel, members: [b], quorum: 2}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="as many as the quorum"):
        read_judges(str(path))
    path.write_text("judges: {a: {type: endpoint, url: 'http://x/v1', model: m, budget: 1}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="price is unknown"):
        read_judges(str(path))


@pytest.mark.parametrize("name", ["alone", "one", "two", "above"])
def test_a_panel_is_nowhere_its_own_member(tmp_path, name):
    """Directly, through another, and through one that only leads there: whoever walks a panel says so, in words and not by its stack."""
    path = tmp_path / "judges.yaml"
    path.write_text(
        "judges:\n  a: {type: scripted}\n  alone: {type: panel, members: [alone, a], quorum: 1}\n"
        "  one: {type: panel, members: [a, two], quorum: 1}\n  two: {type: panel, members: [one, a], quorum: 1}\n"
        "  above: {type: panel, members: [one], quorum: 1}\n",
        encoding="utf-8",
    )
    judges, data, report = read_judges(str(path)), tmp_path / "rows.jsonl", tmp_path / "r.json"
    walks = (
        lambda: make_judge(name, judges),
        lambda: list(judges.models(name)),
        lambda: list(judges.functions(name)),
        lambda: scale_of(name, judges),
    )
    for walk in walks:
        with pytest.raises(ConfigError, match=r"own member \(.* > .*\)"):
            walk()
    assert make_judge("a", judges).name == "a", "the others of the file may work"
    list(JudgeUse(judges=str(path), judge=name).judge_files(""))  # what cannot be read is told of when it is used
    data.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    (tmp_path / "p.yaml").write_text("principles: [{name: kind, text: It is kind.}]", encoding="utf-8")
    use = ["--judges", str(path), "--judge", name]
    for command in (
        ["judge", str(data), *use, "--out", str(tmp_path / "out.jsonl")],
        ["judge", "report", "--labels", str(data), *use, "--json", str(report)],
        ["score", str(data), "--reward", f"constitution:{tmp_path / 'p.yaml'}", f"judges={path}", f"judge={name}"],
    ):
        assert main(command) == 2


def test_no_torch_where_no_model_is_needed():
    modules = [path.stem for path in Path(keel.judges.__file__).parent.glob("*.py") if path.stem not in ("__init__", "local")]
    assert len(modules) > 10
    load = "".join(f"import keel.judges.{name}\n" for name in modules)
    code = f"import sys\n{load}assert 'torch' not in sys.modules\nassert 'httpx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
