"""Text that becomes certain, rules on text that grows, calls of tools in it: whatever the pieces are that it comes in."""

from __future__ import annotations

import json
import random

import pytest
from fakes import finish

from keel.core.errors import ConfigError
from keel.models.tiny import parse
from keel.serve.policy import frames
from keel.serve.policy.filters import RuleConfig, StreamFilter, hit_in, read_filters
from keel.serve.policy.frames import Piece, Row, TokenText
from keel.serve.policy.text_stream import TextStream, overlap
from keel.serve.policy.tool_calls import CallSplitter, form_of

WORDS = ("bad", " ", "word", "坏", "话", "12", "3", "4567", "x", "\u200b", "Ｂ", "ＡＤ")
RULES = (RuleConfig(name="words", keywords=("bad word", "坏话")), RuleConfig(name="numbers", regex=r"\b\d{4}\b", longest=6))


@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
def test_pieces_of_an_answer_make_its_text_whatever_the_tokens(arch: str) -> None:
    from keel.models import tiny

    tokenizer = tiny.build(parse(f"tiny:{arch}", 0))[1]

    def decode(ids) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    for seed in range(60):
        draw = random.Random(seed)
        ids = [draw.randrange(4, 400) for _ in range(24)] if seed % 2 else tokenizer("您好，谢谢 you 🎉 café\n\n  done")["input_ids"]
        stream = TextStream(decode)
        pieces = [stream.add(i) for i in ids]
        assert "".join(pieces) + stream.finish() == decode(ids)
        assert not any(p.endswith("\ufffd") for p in pieces if seed % 2 == 0), "a character is told when it is whole"


def test_a_stop_string_ends_the_text_before_it_and_nothing_of_it_is_ever_told() -> None:
    alphabet = "abcd"
    for seed in range(300):
        draw = random.Random(seed)
        text = "".join(draw.choice(alphabet) for _ in range(30))
        stops = ["".join(draw.choice(alphabet) for _ in range(draw.randint(1, 4))) for _ in range(2)]
        stream = TextStream(lambda ids: "".join(map(chr, ids)), stops)
        told = ""
        for c in text:
            told += stream.add(ord(c))
            assert not any(stop in told for stop in stops)
            if stream.stopped:
                break
        told += stream.finish()
        ends = [at + len(s) for s in stops if (at := text.find(s)) >= 0]
        first = min(ends, default=len(text))
        wanted = min((text[:first].find(s) for s in stops if s in text[:first]), default=len(text))
        assert told == text[:wanted]


def test_how_much_may_belong_to_a_mark() -> None:
    assert [overlap(t, ("abc",)) for t in ("xab", "xa", "abc", "b", "")] == [2, 1, 0, 0, 0]


def test_rules_stop_a_stream_where_they_stop_the_whole_text() -> None:
    for seed in range(400):
        draw = random.Random(seed)
        text = "".join(draw.choice(WORDS) for _ in range(12))
        whole, parts = StreamFilter(RULES), StreamFilter(RULES)
        at, told = 0, ""
        while at < len(text):
            n = draw.randint(1, 5)
            told += parts.add(text[at : at + n])
            assert hit_in(RULES[:1], told) is None, "what has left hits no word"
            at += n
        told += finish(parts.finish())
        assert (told, parts.hit) == (whole.add(text) + finish(whole.finish()), whole.hit)
        assert (parts.hit is None) == (told == text)


def test_width_case_and_invisible_characters_do_not_hide_a_word() -> None:
    for text in ("a BAD WORD", "ＢＡＤ ｗｏｒｄ", "b\u200bad\u2060 word", "这是坏\u200b话"):
        assert hit_in(RULES, text) is RULES[0]
    for text in ("bad", "word bad", "12345", "坏的话"):
        assert hit_in(RULES, text) is None


def test_a_pattern_of_unknown_length_holds_the_answer_back() -> None:
    stream = StreamFilter((RuleConfig(name="key", regex=r"-----BEGIN[^-]*-----"),))
    assert stream.add("It is: ") == ""
    assert stream.add("-----BEGIN KEY-----") == ""
    assert stream.add(" x") == "It is: "
    assert stream.hit is not None


@pytest.mark.parametrize(("score", "told"), [(0.5, "fine"), (-0.5, ""), (float("nan"), "")])
def test_an_answer_with_a_low_score_or_none_never_leaves(score: float, told: str) -> None:
    rule = RuleConfig(name="low", where="output", score={"url": "http://127.0.0.1/score", "below": 0.0})  # type: ignore[arg-type]
    stream = StreamFilter((rule,))

    async def ask(config, prompt: str, answer: str) -> float:
        assert (prompt, answer) == ("why?", "fine")
        return score

    assert stream.add("fine") == ""
    assert finish(stream.finish("why?", ask)) == told
    assert (stream.hit is None) == bool(told)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{name: a}]", "needs one of"),
        ("rules: [{name: a, regex: '('}]", "regex"),
        ("rules: [{name: a, keywords: [x], regex: y}]", "needs one of"),
        ("rules: [{name: a, keywords: [x]}, {name: a, keywords: [y]}]", "different names"),
        ("rules: [{name: a, keyword: [x]}]", "keyword"),
        ("rules: [{name: a, keywords: ['\u200b']}]", "empty keyword"),
        ("rules: []", "rules"),
    ],
)
def test_a_file_of_rules_says_what_is_wrong_with_it(tmp_path, text: str, said: str) -> None:
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as error:
        read_filters(tmp_path / "rules.yaml")
    assert "rules.yaml" in error.value.message


def test_calls_come_out_of_any_pieces() -> None:
    text = 'Look: <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for seed in range(100):
        draw, splitter, told, at = random.Random(seed), CallSplitter("hermes"), "", 0
        while at < len(text):
            n = draw.randint(1, 7)
            told += splitter.add(text[at : at + n])
            at += n
        rest, calls = splitter.finish(["f"])
        assert (told + rest, [c["function"]["arguments"] for c in calls]) == ("Look: ", ['{"a": 1}', "{}"])


def test_text_that_only_looks_like_a_call_is_all_shown() -> None:
    for text in ("a <tool", "a <tool_call>{", "<tool_cal", '<tool_call>{"name": "f"', "{", "[1]"):
        for form in ("hermes", "json"):
            splitter = CallSplitter(form)  # type: ignore[arg-type]
            told = splitter.add(text)
            rest, calls = splitter.finish(["g"])
            assert (told + rest, calls) == (text, [])


def test_a_whole_answer_of_json_is_a_call_where_the_template_has_that_form() -> None:
    assert [form_of(t) for t in ("{{ tools }}<tool_call>", "{{ tools }}", "{{ messages }}")] == ["hermes", "json", ""]
    splitter = CallSplitter("json")
    assert splitter.add('{"name": "f", "parameters": {"a": 2}}') == ""
    (call,) = splitter.finish(["f"])[1]
    assert call["function"] == {"name": "f", "arguments": '{"a": 2}'}


ROWS = [
    Row("a", prompt="x", temperature=0.0, top=0),
    Row("b", messages=({"role": "user", "content": ""},), temperature=1.0, top=3, stop=("x",), said=(0,), probe=True),
    Row("c", prompt="", max_tokens=1, top_p=0.5, top_k=0, seed=0, sample=0),
    Row("d", temperature=1, tools=({"type": "function"},), seed=1, sample=2),  # type: ignore[arg-type]
]
PIECES = [
    Piece("a", prompt_tokens=0),
    Piece("b", ids=(0,), tokens=(TokenText("", 0.0),)),
    Piece("c", (1,), "x", (TokenText("x", -0.0, (("y", 0.0),)),), "stop", counted=(0, 0)),
    Piece("d", end="error", error="it broke"),
]


@pytest.mark.parametrize("record", [*ROWS, *PIECES])
def test_front_and_worker_read_the_same_record(record: Row | Piece) -> None:
    """To the last zero: a temperature of 0 that is left out would be one of 1."""
    sent = json.loads(frames.line(frames.plain(record)))
    read = frames.row_from(sent) if isinstance(record, Row) else frames.piece_from(sent)
    assert repr(read) == repr(record)  # 0, 0.0 and False are equal, and not the same
