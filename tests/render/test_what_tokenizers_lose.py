"""Answers are trained as they are written: a character that the tokenizer cannot write is refused, an end that stands in the text is not
doubled."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from keel.render.codec import Codec
from keel.render.config import RenderConfig
from keel.render.renderer import Refusal, Renderer
from keel.types import Demonstration, Message, Pair, Prompt, Steps, Unit

KNOWN = "abcdefghijklmnopqrstuvwxyz .,?"


def small(unknown: bool, lower: bool = False) -> Any:
    """Characters as tokens; an unknown one becomes <unk>, or nothing. ``lower``: capitals are written small."""
    vocab = {t: i for i, t in enumerate(["<pad>", "<unk>", "<eos>", *KNOWN.replace(" ", "▁")])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>" if unknown else None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def shown(text: str, kind: str = "demonstration") -> Any:
    prompt, answer = Prompt("p", text="what?"), (Message("assistant", text),)
    if kind == "pair":
        return Pair("r", prompt, answer, (Message("assistant", "no"),))
    if kind == "steps":
        return Steps("r", prompt, (text,), (True,))
    return Demonstration("r", prompt, answer)


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("kind", ["demonstration", "pair", "steps"])
@pytest.mark.parametrize("lost", ["ö", "{", "€", "你", "7"])
def test_a_character_that_the_tokenizer_cannot_write_is_refused(unknown, kind, lost):
    r = Renderer(small(unknown))
    assert isinstance(r.unit(shown("yes, it is.", kind)), Unit)
    refusal = r.unit(shown(f"yes, {lost} it is.", kind))
    assert isinstance(refusal, Refusal)
    assert f"cannot write {lost!r}" in refusal.reason


def test_line_breaks_count_and_invisible_marks_do_not():
    codec = Codec(small(True))
    assert codec.lost("a\nb\tc") == "\n\t"
    assert codec.lost("a\ufe0fb\u200dc\u00ad") == "", "variation selectors, joiners, soft hyphens"
    assert codec.lost("Ab") == "A"
    assert Codec(small(True, lower=True)).lost("Ab") == "", "another form of the same letter"


@pytest.mark.parametrize("name", ["none", "bos", "chatml", "llama3"])
def test_a_tokenizer_of_bytes_loses_nothing(tokenizers, name):
    assert Codec(tokenizers[name]).lost("Zoë says: 你好 {} \n\t ½ ① ﬁ ß İ ǆ 👩‍👩‍👧 ▁ é ①②") == ""


def test_a_chat_template_that_is_trained_is_looked_at_too(tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.role }} {{ m.content }}<eos>{% endfor %}")
    r = Renderer(small(True), config=RenderConfig(chat_template=str(tmp_path / "t.jinja")))
    record = Demonstration("r", Prompt("p", (Message("user", "what {}?"),)), (Message("assistant", "yes {"),))
    assert "cannot write '{'" in r.unit(record).reason


@pytest.mark.parametrize("name", ["none", "bos", "metaspace"])
def test_an_end_that_stands_in_the_text_is_not_doubled(tokenizers, name):
    """Files made for other trainers end their texts by hand."""
    r = Renderer(tokenizers[name], config=RenderConfig(as_chat=False))
    eos = r.tokenizer.eos_token
    for record in (shown("It is four."), Demonstration("r", Prompt("p", text=""), (Message("assistant", "It is four."),))):
        by_hand = Demonstration("r", record.prompt, (Message("assistant", f"It is four.{eos}"),))
        plain, ended = r.unit(record), r.unit(by_hand)
        assert plain.branches[0].tokens_T.tolist() == ended.branches[0].tokens_T.tolist()
        assert ended.branches[0].tokens_T.tolist().count(r.tokenizer.eos_token_id) == 1
        assert ended.branches[0].trained_T[-1]


def test_a_tokenizer_that_ends_texts_by_itself_ends_them_once():
    tokenizer = small(True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    unit = Renderer(tokenizer).unit(shown("yes"))
    assert unit.branches[0].tokens_T.tolist().count(2) == 1
    assert unit.prompt.tokens_T.tolist().count(2) == 0
