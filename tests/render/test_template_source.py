"""Which template is used and what it is handed: nothing that is asked for may be without effect, no prompt may change from day to day."""

from __future__ import annotations

import copy
import logging

import pytest

from keel.core.errors import DataError
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.types import Message, Prompt

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
DATED = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}Today is {{ date_string }}.\n",
    '{{ "Today is " + strftime_now("%d %b %Y") + "." }}\n',
    "{%- if strftime_now is defined %}Today is {{ strftime_now( '%d %b %Y' ) }}.\n{%- endif %}",
)
ASK = Prompt("p", (Message("user", "What is two and two?"),))


def renderer(tokenizers, source, tmp_path, tokenizer="none", **config):
    (tmp_path / "t.jinja").write_text(source)
    return Renderer(tokenizers[tokenizer], config=RenderConfig(chat_template=str(tmp_path / "t.jinja"), **config))


@pytest.mark.parametrize("start", DATED)
def test_a_template_that_writes_the_date_is_held_to_one_day(tokenizers, tmp_path, caplog, start):
    with caplog.at_level(logging.WARNING, "keel"):
        today = renderer(tokenizers, start + TURNS + ASKS, tmp_path)
    assert "render.date=" in caplog.text
    day = caplog.text.partition("render.date=")[2].partition(",")[0]
    caplog.clear()
    fixed = renderer(tokenizers, start + TURNS + ASKS, tmp_path, date="2024-02-03")
    text = fixed.tokenizer.decode(fixed.prompt(ASK).tokens_T)
    assert "Today is 03 Feb 2024." in text
    assert not caplog.text
    same = renderer(tokenizers, start + TURNS + ASKS, tmp_path, date=day)  # the way out that the warning names
    assert same.prompt(ASK).tokens_T.tolist() == today.prompt(ASK).tokens_T.tolist()
    assert fixed.template.source == start + TURNS + ASKS, "what is saved with the model still asks for the date"


@pytest.mark.parametrize(
    ("source", "config", "said"),
    [
        (TURNS + ASKS, {"date": "2024-02-03"}, "asks for no date"),
        ("{% set f = '%Y' %}{{ strftime_now(f) }}" + TURNS, {"date": "2024-02-03"}, "asks for no date"),
        ("{% set f = '%Y' %}{{ strftime_now('%d') }}{{ strftime_now(f) }}" + TURNS, {"date": "2024-02-03"}, "not written out"),
        ("{{ '' if enable_thinking }}" + TURNS, {"template_args": {"enable_thinkng": False}}, "did you mean 'enable_thinking'"),
        (TURNS, {"template_args": {"enable_thinking": False}}, "does not read 'enable_thinking'"),
        (TURNS, {"template_args": {"add_generation_prompt": False}}, "is set by Keel"),
        (TURNS, {"template_args": {"max_length": 5}}, "is set by Keel"),
        (TURNS, {"template_args": {"tools": []}}, "is set by Keel"),
    ],
)
def test_settings_without_effect_are_refused(tokenizers, tmp_path, source, config, said):
    with pytest.raises(DataError, match=said):
        renderer(tokenizers, source, tmp_path, **config)


def test_an_argument_that_the_template_reads_reaches_it(tokenizers, tmp_path):
    r = renderer(tokenizers, "{{ mood | default('calm') }}\n" + TURNS + ASKS, tmp_path, template_args={"mood": "brisk"})
    assert r.tokenizer.decode(r.prompt(ASK).tokens_T).startswith("brisk\n")


def test_a_template_file_of_windows_is_read_as_it_is_meant(tokenizers, tmp_path):
    """A byte order mark and carriage returns are the editor's, no part of the prompt."""
    plain = renderer(tokenizers, TURNS + ASKS, tmp_path).prompt(ASK)
    (tmp_path / "w.jinja").write_bytes(b"\xef\xbb\xbf" + (TURNS + ASKS).replace("\n", "\r\n").encode())
    other = Renderer(tokenizers["none"], config=RenderConfig(chat_template=str(tmp_path / "w.jinja"))).prompt(ASK)
    assert other.tokens_T.tolist() == plain.tokens_T.tolist()


def test_one_of_several_templates_is_taken_by_name(tokenizers, caplog):
    tokenizer = copy.deepcopy(tokenizers["none"])
    tokenizer.chat_template = {"default": TURNS + ASKS, "tool_use": "tools\n" + TURNS + ASKS}
    with caplog.at_level(logging.INFO, "keel"):
        default = Renderer(tokenizer)
    assert "render.chat_template=NAME" in caplog.text
    assert default.template.source == TURNS + ASKS
    assert Renderer(tokenizer, config=RenderConfig(chat_template="tool_use")).template.source.startswith("tools")
    with pytest.raises(DataError, match="by name: default, tool_use"):
        Renderer(tokenizer, config=RenderConfig(chat_template="rag"))


def test_a_template_without_the_beginning_of_texts_is_told(tokenizers, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "keel"):
        renderer(tokenizers, TURNS + ASKS, tmp_path, "bos")
        assert "does not begin with <bos>" in caplog.text
        caplog.clear()
        r = renderer(tokenizers, "{{ bos_token }}" + TURNS + ASKS, tmp_path, "bos")  # the way out
        assert r.prompt(ASK).tokens_T.tolist().count(r.tokenizer.bos_token_id) == 1, "and it is not written twice"
        renderer(tokenizers, TURNS + ASKS, tmp_path)
    assert not caplog.text
