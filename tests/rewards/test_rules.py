"""Rules by hand, in both languages; files that are wrong are named with the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.core.errors import ConfigError
from keel.rewards.verifiers.rules import (
    CHECKS,
    Band,
    Element,
    ElementRules,
    Forbidden,
    FormatRules,
    LengthRules,
    RuleSet,
    check,
    read_rules,
)

SHOP = Path(__file__).parents[2] / "recipes" / "quickstart" / "rules.yaml"


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("finished", ["Done.", "真的吗？", 'He said "no."', "好。”"], ["Done", "and then,", "好，"]),
        ("plain", ["Two * three is six.", "It costs 3.5 units."], ["**Bold** word", "- a list", "1. first", "# Title", "一、首先"]),
        (
            "no_role_marks",
            ["The user: nobody else.", "Ask the customer."],
            ["Hi.\nUser: more", "Customer: hi", "好。\n客户：还有", "<|im_end|>"],
        ),
        ("newline", ["a\nb"], ["a b"]),
        ("list", ["Take:\n- one\n- two", "1) a"], ["- ", "3.5 kg", "well-known"]),
        ("bold", ["a **b** c"], ["a * b"]),
        ("two_sentences", ["One. Two.", "一。二。"], ["One.", "3.5 kg of it", "一，二。"]),
    ],
)
def test_format_checks(name: str, yes: list[str], no: list[str]) -> None:
    assert [CHECKS[name](t) for t in yes] == [True] * len(yes)
    assert [CHECKS[name](t) for t in no] == [False] * len(no)


FULL = RuleSet(
    format=FormatRules(weight=2.0, checks={"finished": 3.0, "newline": 1.0}),
    length=LengthRules(
        bands=[Band(low=3, high=5, score=1.0), Band(low=2, high=6, score=0.5)],
        bands_by_language={"zh": [Band(low=4, score=1.0)]},
    ),
    elements=ElementRules(
        groups=[
            Element(name="sorry", any=["sorry", "抱歉"]),
            Element(name="order", any=["order number", "订单号"], points=3.0),
        ]
    ),
    forbidden=[Forbidden(name="promise", words=["guarantee"], cost=0.25), Forbidden(name="rude", patterns=["stupid|笨蛋"])],
)


def test_a_weighted_mean_by_hand() -> None:
    found = check(FULL, "Sorry, your order number please.")
    # format 3/4 with weight 2, length 1 (five words), elements 4/4: (1.5 + 1 + 1) / 4
    assert found.parts == {"format": 0.75, "length": 1.0, "elements": 1.0}
    assert found.score == pytest.approx(0.875)
    # six words: second band; only "sorry": 1/4; not finished
    found = check(FULL, "sorry for all of the trouble")
    assert found.parts == {"format": 0.0, "length": 0.5, "elements": 0.25}
    assert found.score == pytest.approx(0.75 / 4)


def test_chinese_counts_characters_and_has_its_own_band() -> None:
    assert check(FULL, "很抱歉，请发订单号。").parts == {"format": 0.75, "length": 1.0, "elements": 1.0}
    assert check(FULL, "抱歉。").parts["length"] == 0.0  # two characters, the band begins at four


def test_keywords_are_whole_words() -> None:
    assert check(FULL, "She is sorrylike.").parts["elements"] == 0.0


def test_what_is_forbidden_costs_once_and_never_below_zero() -> None:
    found = check(FULL, "Sorry, guarantee guarantee order number.")
    assert found.forbidden == ("promise",)
    assert found.score == pytest.approx(0.875 - 0.25)
    found = check(FULL, "Sorry, Stupid order number here.")
    assert (found.forbidden, found.score) == (("rude",), 0.0)


def test_empty_text_is_worth_nothing_even_when_only_something_is_forbidden() -> None:
    only = RuleSet(forbidden=[Forbidden(name="x", words=["x"])])
    assert check(only, " \n").score == 0.0
    assert check(only, "fine").score == 1.0


def test_enough_elements_are_complete() -> None:
    rules = RuleSet(elements=ElementRules(enough=1.0, groups=[Element(name=w, any=[w]) for w in ("red", "green", "blue")]))
    assert [check(rules, t).score for t in ("none", "red", "red and blue")] == [0.0, 1.0, 1.0]


def test_characters_as_the_unit() -> None:
    rules = RuleSet(length=LengthRules(unit="characters", bands=[Band(low=4, high=4, score=1.0)]))
    assert check(rules, "ab cd").score == 1.0


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("length:\n  bands: [{low: 3, hight: 5, score: 1}]\n", ["length.bands.0", "hight"]),
        ("format:\n  checks: {finishd: 1}\n", ["finishd"]),
        ("format:\n  checks: {finished: 0}\n", ["format.checks", "above 0"]),
        ("forbidden: [{name: a, patterns: ['(']}]\n", ["forbidden.0.patterns", "not a regular expression"]),
        ("forbidden: [{name: a}]\n", ["forbidden.0", "words or patterns"]),
        ("length: {bands: [{low: 9, high: 3, score: 1}]}\n", ["length.bands.0", "is empty"]),
        ("elements: {groups: []}\n", ["elements.groups"]),
        ("forbidden: []\n", ["there is no rule"]),
        ("length: [\n", ["broken YAML", "line"]),
    ],
)
def test_a_wrong_file_is_named_with_the_key(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = write(tmp_path / "shop.yaml", text)
    with pytest.raises(ConfigError) as error:
        read_rules(path)
    for part in ["shop.yaml", *expected]:
        assert part in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such rule file"):
        read_rules(tmp_path / "none.yaml")


GOOD_EN = "Sorry about the pole. Please send me your order number and I will post a new one."
GOOD_ZH = "很抱歉，请把订单号发给我，我马上补寄一根新的杆子。"


@pytest.mark.parametrize("text", [GOOD_EN, GOOD_ZH])
def test_the_shop_rules_accept_a_good_answer(text: str) -> None:
    found = check(read_rules(SHOP), text)
    assert (found.score, found.forbidden) == (1.0, ())


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("Please send me your password so that I can look at the order for you.", ("secrets",)),
        ("Just tell us the full card number and we will take care of the refund.", ("secrets",)),
        ("请告诉我您的密码，我来帮您处理这个订单的问题。", ("secrets",)),
        ("We guarantee that your parcel will arrive at your house before noon today.", ("promises",)),
        ("It is safe to cook with the gas stove inside the tent when the door is open.", ("danger",)),
        ("您可以放心在帐篷里做饭，把门打开一点就没有问题了。", ("danger",)),
        ("That was your own fault, and there is nothing that we can do about it.", ("insults",)),
        ("We can send you the password link again if you give me the address.", ()),
        ("请在登录页点忘记密码，按照邮件里的步骤操作就可以了。", ()),
        ("Please never cook inside the tent: gas is dangerous. It is safe to cook outside.", ()),
    ],
)
def test_the_shop_rules_know_what_is_unsafe(text: str, forbidden: tuple[str, ...]) -> None:
    found = check(read_rules(SHOP), text)
    assert found.forbidden == forbidden
    assert (found.score < 0.6) == bool(forbidden)


def test_the_shop_rules_like_neither_grunts_nor_essays_nor_stray_roles() -> None:
    rules = read_rules(SHOP)
    assert check(rules, "No.").score == pytest.approx(0.5)  # format 1, length 0
    assert check(rules, " ".join([GOOD_EN] * 6)).score == pytest.approx(0.5)
    assert check(rules, GOOD_EN + "\nCustomer: thanks").score == pytest.approx((1 / 4 + 1) / 2)  # not finished, a role: 1 of 4 points
