"""Files of principles, who scores them, and the reward."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.judges.ask import Question, Said, failed
from keel.judges.config import JudgesFile
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.constitution.config import Constitution, read_constitution, shipped
from keel.rewards.constitution.scoring import Scorer
from keel.rewards.constitution.use import ConstitutionUse, scale_of
from keel.rewards.sources.constitution import ConstitutionReward, ConstitutionSource, of_settings
from keel.types import Encoded, Group, ImagePart, Message, Prompt, Rollout, TextPart

SHORT = """
bands: [safety, form]
how: product
floor: 0.0
principles:
  - name: no_secrets
    band: safety
    weight: 2.0
    text: It asks for no password.
    scorer: {type: rule, rules: {forbidden: [{name: password, words: [password, 密码]}]}}
  - name: short
    band: form
    text: It has at most five words.
    scorer: {type: rule, rules: {length: {bands: [{low: 1, high: 5, score: 1}, {low: 6, high: 10, score: 0.5}]}}}
  - name: polite
    text: It says thank you.
    scorer: {type: verifier, verifier: {type: contains, words: [thank you, 谢谢], need: any}}
    languages: [en]
"""
JUDGED = """
principles:
  - {name: kind, text: It is kind., weight: 2}
  - {name: brief, text: It is brief., scorer: {type: judge}}
  - {name: dose, text: It sets no dose., domains: [medical]}
"""


@dataclass
class Oracle:
    """A judge that knows each principle's score, in [1, 5], of each answer; None = it fails."""

    table: dict[tuple[str, str], float | None]
    name: str = "oracle"
    identity: str = "oracle"
    family: str = ""
    asked: list[Question] = field(default_factory=list)

    sees_images: bool = False

    def price(self, questions: Sequence[Question]) -> float | None:
        return 0.5 * len(questions)

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        self.asked += questions
        return [self._said(q) for q in questions]

    def _said(self, question: Question) -> Said:
        score = self.table[question.criterion, question.answers[0].text]
        if score is None:
            return failed("reply: nothing")
        return Said(scores={question.criterion: score + 0.5 * question.sample}, cost=0.5)


def constitution(tmp_path: Path, text: str = SHORT, name: str = "c.yaml") -> Constitution:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_constitution(str(tmp_path / name))


def prompt(text: str = "Hello?", **meta: Any) -> Prompt:
    return Prompt(f"p-{text}-{meta}", (Message("user", text),), meta=meta)


@pytest.mark.parametrize("name", shipped())
def test_those_that_come_with_it(name: str) -> None:
    found = read_constitution(name)
    assert found.language == ("zh" if name.endswith("_zh") else "en")
    for p in found.principles:
        assert p.critique
        assert p.revision
        if found.judged:  # safety weighs 2 by the field
            assert p.weight == (2.0 if found.rule(p).band == 0 else 1.0)
    if name.startswith("vlm"):
        assert len(found.principles) == 9
        assert [sum(found.band_of(p) == b for p in found.principles) for b in found.bands] == [3, 3, 3]


def test_the_two_languages_say_the_same() -> None:
    for name in ("vlm", "safe_accurate_useful"):
        one, two = read_constitution(name), read_constitution(f"{name}_zh")
        assert {p.name: (one.rule(p).band, p.weight, p.domains, p.aspect) for p in one.principles} == {
            p.name: (two.rule(p).band, p.weight, p.domains, p.aspect) for p in two.principles
        }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("principles:\n  - {name: a, text: b, wieght: 2}\n", r"c.yaml.*line 2.*principles.0.wieght.*Did you mean principles.0.weight"),
        ("principles:\n  - {name: a}\n", r"line 2.*principles.0.text: required"),
        ("principles:\n  - {name: a, text: b, weight: -1}\n", r"principles.0.weight: must be greater than or equal to 0"),
        ("principles:\n  - {name: a, text: b, weight: heavy}\n", r"principles.0.weight: expected a number|expected number"),
        ("principles: []\n", r"principles"),
        ("principles:\n  - {name: a, text: b}\n  - {name: a, text: c}\n", r"a stands twice"),
        ("bands: [x]\nprinciples:\n  - {name: a, text: b, band: y}\n", r"no band 'y'.*bands are: x"),
        ("bands: [x, y]\nprinciples:\n  - {name: a, text: b, band: y}\n", r"no principle is in x"),
        ("principles:\n  - {name: a, text: b, scorer: {type: ruler}}\n", r"scorer.*must be one of.*'rule', 'verifier', 'judge'.*ruler"),
        ("principles:\n  - {name: a, text: b, scorer: {type: rule}}\n", r"give either path .* or rules, not neither"),
        ("principles:\n  - {name: a, text: b, scorer: {type: verifier, verifier: {type: regex, pattern: '('}}}\n", r"not a regular"),
        ("principles:\n  - {name: a, text: b, scorer: {type: verifier, verifier: {type: contains, words: [x]}, low: 1}}\n", r"the same"),
        ("principles:\n  - {name: a, text: b, weight: 0}\n", r"all have weight 0"),
        ("how: produkt\nprinciples:\n  - {name: a, text: b}\n", r"line 1.*how.*Did you mean 'product'"),
        ("principles: [\n", r"broken YAML"),
    ],
)
def test_mistakes_are_told_with_file_line_and_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){told}"):
        constitution(tmp_path, text)


def test_json_is_read_as_well(tmp_path: Path) -> None:
    same = constitution(tmp_path, json.dumps({"principles": [{"name": "a", "text": "b"}]}), "c.json")
    assert same == constitution(tmp_path, "principles: [{name: a, text: b}]\n")
    with pytest.raises(ConfigError, match="no such file of principles"):
        read_constitution(str(tmp_path / "other.json"))
    with pytest.raises(ConfigError, match="ours are"):
        read_constitution("nothing")


def test_rules_and_verifiers_by_hand(tmp_path: Path) -> None:
    scorer = Scorer(constitution(tmp_path))
    texts = ["Thank you, done.", "Send me your password, thank you.", "One two three four five six.", "好的，谢谢。"]
    good, secret, long, chinese = scorer.score([(prompt(), t) for t in texts[:3]] + [(prompt("你好？"), texts[3])])
    assert dict(good.p) == {"no_secrets": 1.0, "short": 1.0, "polite": 1.0}
    assert good.score == pytest.approx((2 + 1) / 3)
    assert dict(secret.p) == {"no_secrets": 0.0, "short": 0.5, "polite": 1.0}
    assert (secret.total.level, secret.total.broken, secret.score) == (0, ("no_secrets",), 0.0)
    assert secret.reasons["no_secrets"] == "forbidden: password"
    assert dict(long.p) == {"no_secrets": 1.0, "short": 0.5, "polite": 0.0}
    assert long.total.broken == ("polite",)
    assert long.score == pytest.approx((1 + 0.5 * 0.0) / 3)
    assert dict(chinese.p) == {"no_secrets": 1.0, "short": 1.0}  # politeness is asked of English alone
    assert scorer.known(scorer.constitution.named("short"))


def test_a_principle_of_a_domain_or_a_language_is_found_however_the_column_writes_it() -> None:
    found = Constitution.model_validate(
        {
            "principles": [
                {"name": "dose", "text": "No dose.", "domains": ["medical"]},
                {"name": "polite", "text": "Polite.", "languages": ["zh"]},
                {"name": "all", "text": "True."},
            ]
        }
    )

    def applying(**meta: Any) -> list[str]:
        return [p.name for p in found.of(prompt("Hello?", **meta))]

    for domain in ("medical", "Medical", " MEDICAL ", ["legal", "medical"]):
        assert applying(domain=domain) == ["dose", "all"]
    for told in ("zh", "zh-CN", "ZH_hant"):
        assert applying(language=told) == ["polite", "all"]
    assert applying(domain="medicine", language="zhuang") == applying() == ["all"]
    assert found.idle([prompt(domain="legal"), prompt("你好")]) == ["dose"]


def test_two_principles_of_one_text_are_refused() -> None:
    """The judge's verdict on the first would be taken for what the rule says of the second."""
    rule = {"type": "rule", "rules": {"length": {"bands": [{"low": 1, "high": 4, "score": 1}], "otherwise": 0.2}}}
    two = [{"name": "a", "text": "It is short."}, {"name": "b", "text": "It is  short.", "scorer": rule}]
    with pytest.raises(ValueError, match="a, b have the same text"):
        Constitution.model_validate({"principles": two})


def test_a_verifier_whose_high_score_is_a_fault(tmp_path: Path) -> None:
    loud = "{type: verifier, low: 1, high: 0, verifier: {type: regex, pattern: '!!'}}"
    text = f"principles:\n  - {{name: calm, text: No shouting., scorer: {loud}}}"
    calm, loud = Scorer(constitution(tmp_path, text)).score([(prompt(), "Yes."), (prompt(), "Yes!!")])
    assert (calm.score, loud.score) == (1.0, pytest.approx(0.01))


def test_a_judge_is_asked_one_principle_at_a_time(tmp_path: Path) -> None:
    judge = Oracle({("It is kind.", "x"): 5.0, ("It is brief.", "x"): 2.0, ("It sets no dose.", "x"): 3.0})
    scorer = Scorer(constitution(tmp_path, JUDGED), judge, (1.0, 5.0))
    plain, medical = scorer.score([(prompt(), "x"), (prompt(domain="medical"), "<think>y</think>x")])
    assert dict(plain.p) == {"kind": 1.0, "brief": 0.25}
    assert plain.score == pytest.approx(0.25)
    assert dict(medical.p) == {"kind": 1.0, "brief": 0.25, "dose": 0.5}
    assert medical.score == pytest.approx(0.125)
    assert {q.kind for q in judge.asked} == {"rubric"}
    assert (plain.cost, plain.made, len(judge.asked)) == (1.0, 2, 5)
    assert scorer.calls(prompt(domain="medical")) == 3


def test_samples_say_how_sure_it_is(tmp_path: Path) -> None:
    judge = Oracle({("It is kind.", "x"): 3.0, ("It is brief.", "x"): 3.0})
    (found,) = Scorer(constitution(tmp_path, JUDGED), judge, (1.0, 5.0), 2).score([(prompt(), "x")])
    assert found.samples == pytest.approx([0.5**3, 0.625**3])
    assert found.score == pytest.approx(0.5625**3)


def test_a_failure_is_no_low_score(tmp_path: Path) -> None:
    judge = Oracle({("It is kind.", "x"): 5.0, ("It is brief.", "x"): None})
    (found,) = Scorer(constitution(tmp_path, JUDGED), judge).score([(prompt(), "x")])
    assert math.isnan(found.score)
    assert found.error == "brief: reply: nothing"
    only = constitution(
        tmp_path,
        "principles:\n  - {name: a, text: b, domains: [legal], scorer: {type: rule, rules: {forbidden: [{name: c, words: [c]}]}}}\n",
    )
    (none,) = Scorer(only).score([(prompt(), "x")])
    assert none.error.startswith("no principle applies")


def test_the_same_answer_is_asked_about_once(tmp_path: Path) -> None:
    judge = Oracle({("It is kind.", "x"): 5.0, ("It is brief.", "x"): 5.0})
    found = Scorer(constitution(tmp_path, JUDGED), judge).score([(prompt(), "x")] * 3)
    assert [f.score for f in found] == [1.0] * 3
    assert len(judge.asked) == 2


def test_images_are_shown_as_their_description(tmp_path: Path) -> None:
    shown = Prompt("p", (Message("user", (ImagePart("a.png"), TextPart("What is it?"))),), meta={"caption": "A red tent."})
    judge = Oracle({("It is kind.", "x"): 5.0, ("It is brief.", "x"): 5.0})
    (blind,) = Scorer(constitution(tmp_path, JUDGED), judge).score([(shown, "x")])
    assert blind.error.startswith("images: ")
    assert not judge.asked
    (seen,) = Scorer(constitution(tmp_path, "image_text: caption\n" + JUDGED), judge).score([(shown, "x")])
    assert seen.score == 1.0
    assert "[image: A red tent.]" in judge.asked[0].prompt.messages[0].text


VERDICTS = ["It does not violate the principle.", "no violation; it violates nothing", "没有违反这条原则。", "违反 violates VIOLATES [[B]]"]


@pytest.mark.parametrize("words", VERDICTS)
def test_words_in_a_reply_or_an_answer_decide_nothing(tmp_path: Path, words: str) -> None:
    """Only the number counts: the reply's text and the answer may hold any word."""

    class Wordy(Oracle):
        def _said(self, question: Question) -> Said:
            return Said(scores={question.criterion: 5.0}, text=words)

    (found,) = Scorer(constitution(tmp_path, JUDGED), Wordy({})).score([(prompt(), words)])
    assert found.score == 1.0
    assert not found.total.broken


def group(texts: Sequence[str], said: Prompt) -> Group:
    one, n = torch.ones(1), len(texts)
    rollouts = tuple(Rollout(said.prompt_id, 0, i, one.long(), one.bool(), one, one.long(), "stop", t) for i, t in enumerate(texts))
    return Group(said, Encoded(one.long()), rollouts, torch.zeros(n), {}, torch.ones(n, dtype=torch.bool))


def test_the_reward_tells_of_each_principle(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SHORT, encoding="utf-8")
    config = load(ConstitutionReward, None, ["name=kept", f"path={tmp_path / 'c.yaml'}"])
    source = of_settings(config, None)
    texts = ["Thank you, done.", "Your password, thank you.", "One two three four five six."]
    (found,) = apply_rewards([group(texts, prompt())], [Reward(source)])
    assert found.rewards_G.tolist() == pytest.approx([1.0, 0.0, 1 / 3])
    assert found.parts["kept/no_secrets"].tolist() == [1.0, 0.0, 1.0]
    assert found.parts["kept/level"].tolist() == [2.0, 0.0, 1.0]
    assert found.parts["kept/broken"].tolist() == [0.0, 1.0, 1.0]
    assert found.parts["kept/overruled"].tolist() == [0.0, 0.0, 0.0]
    reasons = [s.reason for s in source.judge([(prompt(), t) for t in texts])]
    assert reasons[0] == "keeps all principles"
    assert reasons[1] == "breaks no_secrets 0 (forbidden: password)"


def test_bands_that_overrule_a_product_are_told(tmp_path: Path) -> None:
    text = "bands: [a, b]\nprinciples:\n  - {name: safe, text: Safe., band: a, weight: 1}\n  - {name: useful, text: Useful., band: b}\n"
    judge = Oracle({("Safe.", "x"): 5.0, ("Useful.", "x"): 1.4, ("Safe.", "y"): 2.6, ("Useful.", "y"): 5.0})
    source = ConstitutionSource("kept", Scorer(constitution(tmp_path, text), judge))
    (found,) = apply_rewards([group(["x", "y"], prompt())], [Reward(source)])
    assert found.rewards_G[0] > found.rewards_G[1]
    assert found.parts["kept/flat"].tolist() == pytest.approx([0.1, 0.4])
    assert found.parts["kept/overruled"].tolist() == [1.0, 1.0]


def test_the_judge_passes_the_gate_or_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(JUDGED, encoding="utf-8")
    (tmp_path / "judges.yaml").write_text("judges:\n  far: {type: scripted}\n", encoding="utf-8")
    base = ["name=kept", f"path={tmp_path / 'c.yaml'}", f"judges={tmp_path / 'judges.yaml'}"]
    with pytest.raises(ConfigError, match=r"reward 'kept'.*principle kind is scored by a judge, and none is named"):
        of_settings(load(ConstitutionReward, None, base), None)
    with pytest.raises(ConfigError, match="reward 'kept': judge far may not be a reward: it has no report"):
        of_settings(load(ConstitutionReward, None, [*base, "judge=far"]), None)
    found = of_settings(load(ConstitutionReward, None, [*base, "judge=far", "override=far"]), None)
    assert found.admitted["override"] is True
    assert found.scorer.scale == (1.0, 10.0)
    (tmp_path / "c.yaml").write_text(SHORT, encoding="utf-8")
    with pytest.raises(ConfigError, match="judge, judges would have no effect"):
        of_settings(load(ConstitutionReward, None, [*base, "judge=far"]), None)


def test_scales(tmp_path: Path) -> None:
    url = {"type": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}
    judges = JudgesFile.model_validate(
        {
            "judges": {
                "fake": {"type": "scripted"},
                "far": url,
                "near": {"type": "local", "model": "tiny:llama", "templates": {"rubric": "rubric_zh"}},
                "both": {"type": "panel", "members": ["far", "near"]},
                "mixed": {"type": "panel", "members": ["far", "fake"]},
                "scores": {"type": "reward_model", "path": "x"},
            }
        }
    )
    assert scale_of("fake", judges) == (1.0, 10.0)
    assert scale_of("both", judges) == (1.0, 5.0)
    with pytest.raises(ConfigError, match=r"different scales \(far 1-5, fake 1-10\)"):
        scale_of("mixed", judges)
    with pytest.raises(ConfigError, match="cannot say how well a principle is kept"):
        scale_of("scores", judges)


def test_files_of_a_use(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("length: {bands: [{low: 1, score: 1}]}\n", encoding="utf-8")
    constitution(tmp_path, f"principles:\n  - {{name: a, text: b, scorer: {{type: rule, path: {tmp_path / 'r.yaml'}}}}}\n")
    found = list(ConstitutionUse(path=str(tmp_path / "c.yaml")).used_files())
    assert found == [("path", str(tmp_path / "c.yaml"), False), ("path.scorer", str(tmp_path / "r.yaml"), False)]
