from __future__ import annotations

import pytest

from keel.data import text


def test_words_of_both_languages():
    assert text.words("Don't stop: 你好，world! a_b") == ["don't", "stop", "你", "好", "world", "a", "b"]
    assert text.words("用VIP卡付款") == ["用", "vip", "卡", "付", "款"]
    assert text.words("") == []
    assert text.word_count("We sell 3 well-made cups. 三个杯子。") == 9
    assert text.char_count(" a b\n你 好") == 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.50 at www.shop.com today. Yes.", ["It costs 3.50 at www.shop.com today.", "Yes."]),
        ("Dr. Wang is here. He waits", ["Dr. Wang is here.", "He waits"]),
        ("您好！请问多少钱？三元。", ["您好！", "请问多少钱？", "三元。"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ('He said "Stop!" Then he left.', ['He said "Stop!"', "Then he left."]),
        ("a\n\nb", ["a", "b"]),
        ("Wait... what?", ["Wait...", "what?"]),
        ("退货要3天。OK. 好的", ["退货要3天。", "OK.", "好的"]),
        ("", []),
    ],
)
def test_sentences(given, expected):
    assert text.sentences(given) == expected


def test_ngrams_distinct_and_repetition():
    assert text.ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert text.ngrams(["a"], 2) == []
    assert text.distinct(["a b a", "a c"], 1) == pytest.approx(3 / 5)
    assert text.distinct(["你好你好"], 2) == pytest.approx(2 / 3)
    assert text.distinct([], 1) == 0.0
    assert text.repetition("one two three four five") == 0.0
    assert text.repetition("a b a b a b", n=2) == pytest.approx(3 / 5)
    assert text.repetition("好好好好好", n=2) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Where is my parcel?", "en"),
        ("我的包裹在哪里？", "zh"),
        ("请把 invoice 发给我", "zh"),
        ("Please say 谢谢 to everybody in the shop", "en"),
        ("荷物はどこですか", "ja"),
        ("明日の会議は中止です", "ja"),
        ("这件事（の）很重要，请尽快回复我", "zh"),
        ("내 소포 어디 있어요", "ko"),
        ("Где моя посылка", "other"),
        ("12 + 3!", ""),
    ],
)
def test_language(given, expected):
    assert text.language(given) == expected


def test_keywords():
    said = "Refunds: a refund takes 3 days. 退款需要三天，退款会到账。VIP卡"
    assert text.count_keywords(said, ["refund", "退款", "day", "vip", "三"]) == {"refund": 1, "退款": 2, "vip": 1, "三": 1}
    assert text.count_keywords("C++ and c++", ["c++"]) == {"c++": 2}
    assert text.count_keywords("anything", [""]) == {}
