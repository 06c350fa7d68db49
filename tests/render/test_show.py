from __future__ import annotations

import io
import json

from rich.console import Console

from keel.data.dataset import read
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.render.show import explain, show
from keel.types import Demonstration, Message, Pair, Prompt

ASK = Prompt("p", (Message("user", "你好"),))


def said(text):
    return (Message("assistant", text),)


def test_names_with_brackets_are_shown_as_they_are(tokenizers, tmp_path):
    file = tmp_path / "a[b]c.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "b <|im_end|>"}\n')
    out = io.StringIO()
    show(read(str(file)), Renderer(tokenizers["chatml"]), 2, Console(file=out, width=400))
    assert out.getvalue().count("a[b]c.jsonl") == 3


def test_explain_tells_prompt_from_trained_and_untrained(tokenizers):
    r = Renderer(tokenizers["chatml"])
    turns = (*said("Red."), Message("user", "Sure?"), *said("Yes."))
    text = explain(r, r.unit(Demonstration("d", ASK, turns)))
    assert text.plain == (
        "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>"
    )

    def style(part):
        at = text.plain.index(part)
        return " ".join(str(s.style) for s in text.spans if s.start <= at < s.end)

    assert "dim" in style("你好")
    assert "green" in style("Red.")
    assert "yellow" in style("Sure?")
    assert "green" in style("Yes.")
    assert "reverse" in style("<|im_end|>")


def test_explain_names_the_answers_of_a_pair(tokenizers):
    r = Renderer(tokenizers["chatml"])
    plain = explain(r, r.unit(Pair("x", ASK, said("Red."), said("Blue.")))).plain
    assert "[answer 1 of 2: over 2] Red." in plain
    assert "[answer 2 of 2: under 1] Blue." in plain


def test_show_reports_layout_bad_rows_and_the_injected_system_prompt(tokenizers, tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [
        {"prompt": "two?", "completion": "It is four."},
        {"prompt": "two?", "completion": ""},
        {"prompt": "two?", "completion": "x " * 99},
    ]
    file.write_text("\n".join(json.dumps(r) for r in rows))
    out = io.StringIO()
    r = Renderer(tokenizers["default_system"], config=RenderConfig(max_completion=50))
    show(read(str(file)), r, 2, Console(file=out, width=400))
    shown = out.getvalue()
    for part in (
        "3 rows, layout prompt_completion (2 demonstration)",
        "a.jsonl:2: completion: the answer is empty",
        "'You are kind.'",
        "answers end at: '<eos>', '<|im_end|>'",
        "It is four.<|im_end|>",
        "refused",
        "render.max_completion",
    ):
        assert part in shown


def test_show_tells_duplicates_and_contradictions(tokenizers, tmp_path):
    rows = [{"prompt": "q", "chosen": a, "rejected": b} for a, b in ("ab", "ba", "ab")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    console = Console(record=True, width=300, file=io.StringIO())
    show(read(str(tmp_path / "a.jsonl")), Renderer(tokenizers["chatml"]), 0, console)
    text = console.export_text()
    assert "1 exact duplicates (first: " in text
    assert "a.jsonl:3 repeats" in text
    assert "a.jsonl:2 contradicts" in text
