"""`keel judge` and `keel judge report`: what they refuse, what they cost, what they leave behind."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.core.config import load
from keel.core.errors import ConfigError, DataError
from keel.evaluate.judge_page import page
from keel.evaluate.reward_judge import RewardModelJudge
from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.interchange import unjudged
from keel.feedback.own_files import read_files
from keel.feedback.views import of_store
from keel.judges.ask import Question
from keel.judges.config import JudgesFile, RewardModelConfig
from keel.rewards.score import Score, failure
from keel.types import Annotator, Candidate, Choice, Prompt, Task
from keel.verbs.judge.rows import tasks_of

JUDGES = """judges:
  good: {type: scripted, quality: 2.0, hard: false, price: 0.25}
  lazy: {type: scripted, constant: A}
  broken: {type: scripted, fails: 1.0}
  odd: {type: scripted, fails: 0.2}
  at_times: {type: scripted, quality: 2.0, fails: 0.2}
  noisy: {type: scripted, noise: 1.0, hard: false}
"""


@pytest.fixture
def judges(tmp_path: Path) -> str:
    (tmp_path / "judges.yaml").write_text(JUDGES, encoding="utf-8")
    return str(tmp_path / "judges.yaml")


def rows(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in found), encoding="utf-8")
    return str(path)


def answers(path: Path, n: int = 6, k: int = 2) -> str:
    texts = [[{"text": f"answer {i} to {q}", "origin": {"quality": float((i + q) % k)}} for i in range(k)] for q in range(n)]
    return rows(path, [{"prompt": f"Question {q}?", "answers": texts[q]} for q in range(n)])


def labels(path: Path, n: int = 60) -> str:
    """Pairs whose better answer has more different words; the scripted judge sees that, as does a label in eight of nine."""
    found = []
    for k in range(n):
        good, bad = " ".join(f"word{i} of{k}" for i in range(20)), f"word of {k}"
        turned = k % 9 == 0
        found.append({"prompt": f"Question {k}?", "chosen": bad if turned else good, "rejected": good if turned else bad})
    return rows(path, found)


def test_the_file_of_judges_of_the_recipes(root: Path):
    found = load(JudgesFile, root / "recipes" / "judges.yaml")
    assert {"scripted", "local", "server", "panel"} <= set(found.judges)
    assert list(found.models("panel")) == [("local", "tiny:llama?seed=1")]


def test_the_price_before_the_first_call(tmp_path: Path, judges: str, capsys: pytest.CaptureFixture[str]):
    command = ["judge", answers(tmp_path / "a.jsonl"), "--judges", judges, "--judge", "good", "--dry-run", "samples=2"]
    assert main(command) == 0
    assert "6 tasks, 24 calls of judge good, price at most 6" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"judges.yaml", "a.jsonl"}


def test_refused_without_a_report(tmp_path: Path, judges: str, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.jsonl"
    command = ["judge", answers(tmp_path / "a.jsonl"), "--judges", judges, "--judge", "good", "--out", str(out)]
    assert main(command) == 2
    assert "judge good may not be a labeller: it has no report" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--override", "lazy"]) == 2
    assert main([*command, "--override", "good"]) == 0
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["admitted"]["override"] is True
    assert manifest["admitted"]["refused_for"] == "it has no report"
    assert (manifest["calls"], manifest["cost"]) == (12, 3.0)


def test_what_it_writes_is_read_by_the_store(tmp_path: Path, judges: str):
    out, url = tmp_path / "out.jsonl", f"sqlite:///{tmp_path}/f.db"
    command = ["judge", answers(tmp_path / "a.jsonl"), "--judges", judges, "--judge", "good", "--out", str(out), "--override", "good"]
    assert main(command) == 0
    with Store(url) as store:
        assert read_files(store, [out])["judgement"] == 18  # both orders and their mean
        view = of_store(store, "judged")
    assert [c.outcome for c in view.comparisons] == ["second", "first"] * 3  # by the quality in the file
    assert view.left_out == {"audit": 12}
    other = f"sqlite:///{tmp_path}/g.db"
    assert main([*command, f"store={other}"]) == 0
    assert main([*command, f"store={other}"]) == 0  # the same again
    with Store(other) as store:
        assert len(store.judgements("judged")) == 18


def test_rankings_scores_and_rubrics(tmp_path: Path, judges: str):
    more = ["--judges", judges, "--judge", "good", "--override", "good"]
    assert main(["judge", answers(tmp_path / "r.jsonl", k=3), *more, "--out", str(tmp_path / "r.out")]) == 0
    said = [r["judgement"]["answer"] for r in map(json.loads, (tmp_path / "r.out").read_text().splitlines()) if "judgement" in r]
    assert len(said) == 18
    assert main(["judge", answers(tmp_path / "s.jsonl", k=1), *more, "--out", str(tmp_path / "s.out")]) == 0
    assert main(["judge", str(tmp_path / "s.jsonl"), *more, "--out", str(tmp_path / "u.out"), "kind=rubric", "criteria=[truth, task]"]) == 0
    said = [r["judgement"] for r in map(json.loads, (tmp_path / "u.out").read_text().splitlines()) if "judgement" in r]
    work = [j for j in said if j["purpose"] == "work"]
    assert len(work) == 6
    assert set(work[0]["answer"]["scores"]) == {"truth", "task"}
    assert len([j for j in said if j["purpose"] == "audit"]) == 12


def test_another_run_on_the_same_answers_loses_nothing(tmp_path: Path, judges: str):
    """Other criteria, more samples: all is in the store, and of a mean of more calls the newer one stands."""
    url = f"sqlite:///{tmp_path}/f.db"

    def judged(file: str, *more: str, judge: str = "good") -> None:
        given = ["--judges", judges, "--judge", judge, "--override", judge, f"store={url}", f"campaign={Path(file).stem}"]
        assert main(["judge", file, *given, *more]) == 0

    single = answers(tmp_path / "s.jsonl", n=3, k=1)
    for criterion in ("truth", "task", "truth"):
        judged(single, "kind=rubric", f"criteria=[{criterion}]")
    pairs = answers(tmp_path / "p.jsonl", n=3)
    for samples in (1, 2, 2):
        judged(pairs, f"samples={samples}", judge="noisy")
    with Store(url) as store:
        said = store.judgements("s")
        view = of_store(store, "s")
        assert sorted(name for x in view.ratings for name in x.scores) == ["task"] * 3 + ["truth"] * 3
        assert len(said) == 12
        said = store.judgements("p")
        assert sum(j.purpose == "audit" for j in said) == 12
        work = [j for j in said if j.purpose == "work"]
        assert len(work) == 6
        assert [len(j.meta["mean_of"]) for j in work] == [2] * 3 + [4] * 3
        assert [j.replaces for j in work[3:]] == [j.event_id for j in work[:3]]
        view = of_store(store, "p")
        assert set(view.events) == {j.event_id for j in work[3:]}
        assert view.left_out == {"audit": 12, "replaced": 3}


def test_a_rerun_with_more_calls_comes_in_by_its_file_too(tmp_path: Path, judges: str, caplog: pytest.LogCaptureFixture):
    """The newer mean takes the place of the older one, whatever file is read first; what an older file says again changes nothing."""
    pairs = answers(tmp_path / "p.jsonl", n=3)
    for samples in (1, 2):
        given = ["--judges", judges, "--judge", "noisy", "--override", "noisy", "campaign=p", f"samples={samples}"]
        assert main(["judge", pairs, *given, "--out", str(tmp_path / f"{samples}.jsonl")]) == 0
        text = (tmp_path / f"{samples}.jsonl").read_text()
        at = json.loads(text.splitlines()[-1])["judgement"]["at"]
        (tmp_path / f"{samples}.jsonl").write_text(text.replace(at, f"2026-01-0{samples}T00:00:00.000000Z"))
    for name, order in (("f", (1, 2, 1, 2)), ("g", (2, 1, 2))):
        with Store(f"sqlite:///{tmp_path}/{name}.db") as store:
            new = [read_files(store, [tmp_path / f"{samples}.jsonl"])["judgement"] for samples in order]
            view = of_store(store, "p")
            standing = [j for j in store.judgements("p") if j.event_id in view.events]
        assert [len(j.meta["mean_of"]) for j in standing] == [4] * 3
        assert new == ([9, 9, 0, 0] if name == "f" else [15, 0, 0])
    assert "3 judgements left out (first: " in caplog.text
    assert "an older answer of noisy@" in caplog.text


def test_a_judge_goes_through_a_campaign_before_people_do(tmp_path: Path, judges: str, capsys: pytest.CaptureFixture[str]):
    """Without a file the items of the store's campaign are judged; those without a verdict come first where the campaign says so."""
    url = f"sqlite:///{tmp_path}/f.db"
    with Store(url) as store:
        store.add_campaign(Campaign("shop", 1, "pairwise", "pairwise-v1", settings=CampaignSettings(order="judge_doubt")))
        pair = (Candidate("a", "one", {"quality": 1.0}), Candidate("b", "two", {"quality": 0.0}))
        store.add_tasks("shop", [Task(f"t{i}", Prompt(f"p{i}", text=f"?{i}"), pair, "pairwise", "pairwise-v1") for i in range(20)])
        gold = Task("g", Prompt("g", text="?"), pair, "pairwise", "pairwise-v1", expected=Choice("first"))
        store.add_tasks("shop", [gold], "gold")
        store.add_annotator(Annotator("ann", "person"))
    asked = ["judge", f"store={url}", "campaign=shop", "--judges", judges, "--judge", "at_times", "--override", "at_times"]
    assert main([*asked, "--dry-run"]) == 0
    assert "20 tasks, 40 calls" in capsys.readouterr().out
    assert main([*asked, "--out", str(tmp_path / "o.jsonl")]) == 0
    lost = json.loads((tmp_path / "o.jsonl.manifest.json").read_text())["without_verdict"]
    assert 0 < lost < 20
    with Store(url) as store:
        failed = {row["task"] for row in unjudged(store, "shop")}
        first = [item.task.prompt.text for item in store.next_items("ann", "shop", lost)]
        progress = store.progress("shop")
    assert {f"t{(text or '').removeprefix('?')}" for text in first} == failed
    assert (progress["votes"], progress["missing"]) == (0, 20)
    assert main(["judge", "--judges", judges, "--judge", "at_times"]) == 2
    assert "what is to be judged" in capsys.readouterr().err
    assert main(["judge", f"store={url}", "campaign=other", "--judges", judges, "--judge", "at_times"]) == 2
    assert "campaign 'other' is not in the store" in capsys.readouterr().err


def test_failures_are_counted_and_named(tmp_path: Path, judges: str, capsys: pytest.CaptureFixture[str]):
    command = ["judge", answers(tmp_path / "a.jsonl", n=30), "--judges", judges, "--judge", "odd", "--override", "odd"]
    assert main([*command, "--out", str(tmp_path / "o.jsonl")]) == 0
    manifest = json.loads((tmp_path / "o.jsonl.manifest.json").read_text())
    kept = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    work = [r for r in kept if "judgement" in r and r["judgement"]["purpose"] == "work"]
    assert manifest["without_verdict"] == len(manifest["lost"]) == 30 - len(work) > 0
    assert manifest["failures"]["reply"] >= len(manifest["lost"])
    assert "without a verdict" in capsys.readouterr().out


def test_a_recipe(tmp_path: Path, judges: str):
    recipe = tmp_path / "label.yaml"
    recipe.write_text(
        f"judges: {judges}\njudge: good\ndata: {answers(tmp_path / 'a.jsonl')}\nout: {tmp_path / 'o.jsonl'}\noverride: good\n"
    )
    assert main(["judge", str(recipe)]) == 0
    assert (tmp_path / "o.jsonl").is_file()
    assert main(["judge", judges, "--judge", "good"]) == 2  # a file of judges is no recipe
    assert main(["judge", str(tmp_path / "none.jsonl"), "--judges", judges, "--judge", "good"]) == 2


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script"


def test_a_report_lets_a_judge_label(tmp_path: Path, judges: str, capsys: pytest.CaptureFixture[str]):
    report, html = tmp_path / "report.json", tmp_path / "report.html"
    fast = ["draws=200", "injected_pairs=5", "hollow_prompts=5", "--judges", judges]
    command = ["judge", "report", "--labels", labels(tmp_path / "l.jsonl"), *fast]
    assert main([*command, "--judge", "good", "--json", str(report), "--html", str(html)]) == 0
    found = json.loads(report.read_text())
    assert found["gate"]["passed"], [c for c in found["gate"]["checks"] if not c["passed"]]
    assert found["measures"]["agreement_decided"]["mean"] == pytest.approx(53 / 60)
    assert found["price"]["cost"] == 0.25 * 240
    text = capsys.readouterr().out
    assert "the judge passes the gate" in text
    tags = _Tags()
    tags.feed(html.read_text())
    assert tags.scripts == 0
    assert "default-src 'none'" in html.read_text()
    label = ["judge", answers(tmp_path / "a.jsonl"), "--judges", judges, "--out", str(tmp_path / "o.jsonl"), "--report", str(report)]
    assert main([*label, "--judge", "good"]) == 0
    assert json.loads((tmp_path / "o.jsonl.manifest.json").read_text())["admitted"]["passed"] is True
    assert main([*label, "--judge", "lazy"]) == 2  # the report is of another
    assert "of another judge" in capsys.readouterr().err
    assert main([*command, "--judge", "lazy", "--json", str(tmp_path / "lazy.json")]) == 0
    assert not json.loads((tmp_path / "lazy.json").read_text())["gate"]["passed"]
    assert main([*command, "--judge", "broken", "--json", str(tmp_path / "broken.json"), "--html", str(html)]) == 0
    assert "no case" in html.read_text()


def test_the_page_escapes(tmp_path: Path, judges: str):
    report = tmp_path / "r.json"
    command = ["judge", "report", "--labels", labels(tmp_path / "l.jsonl"), "--judges", judges, "--judge", "good", "--json", str(report)]
    assert main([*command, "draws=100", "injected_pairs=0", "hollow_prompts=0"]) == 0
    found = json.loads(report.read_text())
    found["judge"]["name"] = "<script>alert(1)</script>"
    found["failures_by_kind"] = {"<img onerror>": 3}
    text = page(found)
    assert "<script>" not in text
    assert "<img" not in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "answers": []}, "answers must be a list"),
        ({"prompt": "q", "answers": ["a", 3]}, "answers.1 must be a text"),
        ({"prompt": "", "answers": ["a", "b"]}, "prompt must be"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str):
    path = rows(tmp_path / "a.jsonl", [{"prompt": "q", "answers": ["a", "b"]}, row])
    with pytest.raises(DataError, match=f"a.jsonl:2: {message}"):
        tasks_of(path, "c")


def test_rows_of_layouts(tmp_path: Path):
    pairs = tasks_of(labels(tmp_path / "l.jsonl", 5), "c")
    assert [t.kind for t in pairs] == ["pairwise"] * 5
    single = tasks_of(rows(tmp_path / "d.jsonl", [{"prompt": "q", "completion": "a"}]), "c")
    assert [t.kind for t in single] == ["rating"]
    with pytest.raises(DataError, match="no answers to judge"):
        tasks_of(rows(tmp_path / "p.jsonl", [{"prompt": "q"}]), "c")
    same = tasks_of(rows(tmp_path / "s.jsonl", [{"prompt": "q", "answers": ["a", "b"]}] * 2), "c")
    assert len(same) == 1


def test_a_prompt_id_that_stands_for_two_prompts_is_refused_with_both_lines(tmp_path: Path) -> None:
    """Their answers would be judged as answers to one."""
    one, other = ({"prompt_id": "p", "prompt": text, "answers": ["a", "b"]} for text in ("What is tea?", "What is rain?"))
    more = one | {"answers": ["c", "d"], "prompt": [{"role": "user", "content": one["prompt"]}]}
    assert len(tasks_of(rows(tmp_path / "same.jsonl", [one, more]), "c")) == 2
    path = rows(tmp_path / "two.jsonl", [one, more, other])
    with pytest.raises(DataError, match=r"two.jsonl:3: prompt_id 'p' stands for another prompt \('What is rain\?'\) than at .*two.jsonl:1"):
        tasks_of(path, "c")


def test_a_reward_model_as_judge():
    class Scores:
        name = "rm"

        def judge(self, items: Any) -> list[Score]:
            return [failure("too long") if text == "bad" else Score(float(len(text))) for _, text in items]

    judge = RewardModelJudge("rm", RewardModelConfig(path="x", temperature=2.0), Scores(), "w")
    q = Question(Prompt("p", text="q"), (Candidate("a", "xxx"), Candidate("b", "x")))
    plain, turned = judge.ask([q, q.swapped])
    assert plain == turned  # it sees no order
    assert plain.probabilities["first"] == pytest.approx(0.7310586)  # sigmoid(2 / 2)
    assert judge.ask([Question(Prompt("p", text="q"), (Candidate("a", "x"), Candidate("b", "bad")))])[0].error == "score: too long"
    three = Question(Prompt("p", text="q"), tuple(Candidate(str(i), t) for i, t in enumerate(("x", "xx", "y"))), "ranking")
    assert judge.ask([three])[0].ranks == ((1,), (0, 2))
    other = RewardModelJudge("rm", RewardModelConfig(path="x", temperature=1.0), Scores(), "w")
    assert other.identity != judge.identity


def test_settings_are_checked(tmp_path: Path, judges: str):
    assert main(["judge", answers(tmp_path / "a.jsonl"), "--judges", judges, "--judge", "nobody"]) == 2
    assert main(["judge", answers(tmp_path / "a.jsonl"), "--judges", str(tmp_path / "no.yaml"), "--judge", "good"]) == 2
    assert main(["judge", answers(tmp_path / "a.jsonl"), "--judges", judges, "--judge", "good", "kind=rubric", "--override", "good"]) == 2
    with pytest.raises(ConfigError, match="no judge"):
        load(JudgesFile, Path(judges)).named("nobody")
