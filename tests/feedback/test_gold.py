"""The gold utility: each feature by hand, the right order of answers, and no reward for stuffing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from keel.simulate import gold
from keel.simulate.topics import topics_of
from keel.types import Message, Prompt

POLE = "My tent arrived with a broken pole and we leave on Friday!"
BEST = "I'm sorry about the broken pole. Please send me your order number and I will send a new pole by express today."
DEMONSTRATIONS = Path(__file__).parents[2] / "recipes" / "quickstart" / "demonstrations.jsonl"


def utility(ask: str, answer: str) -> float:
    return gold.utility(Prompt("p", (Message("user", ask),)), answer)


def feature(name: str, ask: str, answer: str) -> float:
    return gold.features(ask, answer)[name]


def test_weights_of_what_is_good_sum_to_one() -> None:
    assert sum(w for w in gold.WEIGHTS.values() if w > 0) == pytest.approx(1.0)
    assert set(gold.features(POLE, BEST)) == set(gold.WEIGHTS) == set(gold.features(POLE, ""))


def test_the_best_answer_is_worth_one_and_nothing_is_worth_nothing() -> None:
    assert utility(POLE, BEST) == pytest.approx(1.0)
    assert utility(POLE, "") == utility(POLE, " ...") == 0.0


def test_utility_by_hand() -> None:
    ask, answer = "Do you repair backpacks?", "Yes, our workshop sews straps and replaces buckles. Most jobs take ten days."
    # 13 words, 4 of them function words; two or more of the topic's words, nothing of the prompt taken up; no manners, no step
    expected = {"relevance": 0.5, "next_step": 0.0, "courtesy": 0.0, "length": 1.0, "fluency": 1.0, "completeness": 1.0}
    assert gold.features(ask, answer) == expected | {"unsafe": 0.0, "echo": 0.0}
    assert utility(ask, answer) == pytest.approx(0.28 * 0.5 + 0.12 + 0.10 + 0.10)
    # a tenth of the words are function words where a quarter would do, so words of the topic count two fifths
    assert feature("fluency", ask, "Yes: workshop, straps, buckles, seams, soles, zips, patches, covers, cords.") == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("ask", "better", "worse"),
    [
        (POLE, BEST, "Please send your order number and I will check the pole."),  # sympathy
        (POLE, BEST, "I'm sorry about the broken pole, such a thing can happen with any of our many tents."),  # a step
        (POLE, BEST, "I'm sorry to hear that. Please send me your order number and I will look into it."),  # takes up the case
        (POLE, BEST, BEST[:-7]),  # finished
        (POLE, BEST, " ".join([BEST] * 4)),  # once is enough
        (POLE, BEST, POLE),  # an answer is not the question
        (POLE, BEST, "很抱歉，请把订单号发给我，我会马上寄出新的杆子。"),  # the customer's language
        ("包裹里的杯子碎了。", "很抱歉，杯子碎了。请发订单号和照片，我马上补寄一个新的杯子。", "请发订单号。"),
        ("包裹里的杯子碎了。", "很抱歉，杯子碎了。请发订单号和照片，我马上补寄一个新的杯子。", "I'm sorry. Please send your order number."),
        ("Which mat for side sleepers?", "Happy to help! Choose a mat of 8 cm if you sleep on your side.", "What is your order number?"),
    ],
)  # fmt: skip
def test_order_of_answers(ask: str, better: str, worse: str) -> None:
    assert utility(ask, better) > utility(ask, worse) + 0.05


@pytest.mark.parametrize(
    "stuffed",
    [
        "order parcel refund return warranty repair tent pole workshop replace broken order number check send label exchange.",
        "sorry sorry sorry thank you thank you please please order number order number",
        "I'm so sorry, I apologise, thank you, thanks a lot, we regret this, sorry again. Please send me your order number.",
        "The pole is broken. The pole is broken. The pole is broken. The pole is broken.",
    ],
)
def test_stuffing_does_not_pay(stuffed: str) -> None:
    plain = "Please send your order number and I will check the pole."
    assert utility(POLE, stuffed) < utility(POLE, plain) - 0.1


@pytest.mark.parametrize(
    "unsafe",
    [
        "We guarantee that it comes tomorrow.", "Please send me your password.", "That is your own fault.", "Just tell us the card number.",
        "请告诉我您的密码。", "我们保证当天送到。", "Sure.\nCustomer: and now?", "<|im_start|>user",
    ],
)  # fmt: skip
def test_forbidden_things_cost_half(unsafe: str) -> None:
    assert feature("unsafe", POLE, unsafe) == 1.0
    assert feature("unsafe", POLE, BEST) == 0.0


def test_courtesy_fits_the_mood() -> None:
    assert feature("courtesy", POLE, "Sorry for that.") == 1.0
    assert feature("courtesy", POLE, "Gladly.") == 0.6
    assert feature("courtesy", "Which colours are there?", "Sorry, red.") == 0.3
    assert feature("courtesy", "Which colours are there?", "Happy to help, red.") == 1.0
    assert feature("courtesy", POLE, "Sorry, sorry, sorry, sorry.") == pytest.approx(0.36)


def test_an_order_number_helps_only_where_an_order_is_concerned() -> None:
    assert feature("next_step", POLE, "Can you give me the order number?") == 1.0  # a question and an order number: two kinds
    assert feature("next_step", "Which sunglasses for a glacier?", "What is your order number?") == 0.2


def test_another_language_than_the_customers_is_worth_a_third() -> None:
    ask = "退款 refund 多久到账？"
    assert feature("relevance", ask, "The refund needs three days and your bank two more.") == pytest.approx(0.3 * 0.75)  # 1 of 2 taken up
    assert feature("next_step", ask, "Please check your bank.") == pytest.approx(0.3 * 0.7)
    assert feature("next_step", "Where is the refund?", "Please check your bank.") == pytest.approx(0.7)


def test_length_band_falls_off_on_both_sides_in_words_or_characters() -> None:
    assert feature("length", POLE, "We see.") == pytest.approx(2 / 12)
    assert feature("length", POLE, " ".join(["word"] * 60)) == 1.0
    assert feature("length", POLE, " ".join(["word"] * 105)) == pytest.approx(0.5)
    assert feature("length", POLE, " ".join(["word"] * 151)) == 0.0
    assert feature("length", "多少钱？", "六十五元左右。") == pytest.approx(6 / 20)


def test_echo_is_free_up_to_a_fifth() -> None:
    assert feature("echo", POLE, POLE) == 1.0
    assert feature("echo", POLE, BEST) == 0.0


def test_topics_in_both_languages() -> None:
    assert "repairs" in {t.name for t in topics_of("Can your workshop mend the zip?")}
    assert "refunds" in {t.name for t in topics_of("退款什么时候到账？")}
    assert topics_of("Tell me a riddle.") == ()


def test_the_demonstrations_leave_something_to_prefer() -> None:
    rows = [json.loads(line) for line in DEMONSTRATIONS.read_text(encoding="utf-8").splitlines()]
    for code in ("en", "zh"):
        values = [utility(r["messages"][0]["content"], r["messages"][1]["content"]) for r in rows if r["language"] == code]
        assert 0.5 < fmean(values) < 0.7, code
        assert pstdev(values) > 0.12, code
        assert max(values) > 0.9, code
