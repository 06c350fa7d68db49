"""Which template is used and what it is handed: nothing that is asked for may be without effect, no prompt may change from day to day."""

from __future__ import annotations

import copy
import datetime
import logging
from types import SimpleNamespace

import pytest

from keel.core.errors import DataError
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.runs.directory import RunDir
from keel.types import Message, Prompt
from keel.verbs.shared.session import keep_day

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
DATED = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}Today is {{ date_string }}.\n",
    '{{ "Today is " + strftime_now("%d %b %Y") + "." }}\n',
    "{%- if strftime_now is defined %}Today is {{ strftime_now( '%d %b %Y' ) }}.\n{%- endif %}",
    "{%- macro head() %}Today is {{ strftime_now('%d') }} {{ strftime_now('%b %Y') }}.{% endmacro %}{{ head() }}\n",
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


def test_a_run_keeps_to_the_day_that_it_began_with(tokenizers, tmp_path):
    """Resumed on another day, its prompts are those that it was trained on."""
    source = DATED[1] + TURNS + ASKS
    path = tmp_path / "run"
    with RunDir.open(path, RenderConfig(), "sft", 0) as run:
        first = renderer(tokenizers, source, tmp_path)
        keep_day(SimpleNamespace(run=run), first)
        assert run.manifest["day"] == datetime.date.today().isoformat()
        run.record(day="2024-02-03")  # as if it had begun then
    for later in range(2):
        with RunDir.open(path, RenderConfig(), "sft", 0) as run:
            if later:  # by an earlier version, that did not write the day down
                manifest = {k: v for k, v in run.manifest.items() if k != "day"}
                run.manifest = {**manifest, "starts": [{"at": "2024-02-03T12:00:00+00:00"}]}
            again = renderer(tokenizers, source, tmp_path)
            keep_day(SimpleNamespace(run=run), again)
            assert "Today is 03 Feb 2024." in again.tokenizer.decode(again.prompt(ASK).tokens_T)
            assert again.template_hash == first.template_hash
            assert run.manifest["day"] == "2024-02-03"


def test_a_date_that_cannot_be_held_is_told(tokenizers, tmp_path, caplog):
    source = "{% set f = '%Y' %}Today is {{ strftime_now('%d') }}{{ strftime_now(f) }}." + TURNS + ASKS
    found = renderer(tokenizers, source, tmp_path)
    before = found.prompt(ASK).tokens_T.tolist()
    with RunDir.open(tmp_path / "run", RenderConfig(), "sft", 0) as run, caplog.at_level(logging.WARNING, "keel"):
        keep_day(SimpleNamespace(run=run), found)
        assert "day" not in run.manifest
    assert "sees another date" in caplog.text
    assert found.prompt(ASK).tokens_T.tolist() == before
    assert found.config.date is None, "nothing is changed"


def test_only_templates_that_ask_for_the_date_are_held_to_one(tokenizers, tmp_path):
    for source, config, follows in (
        (DATED[1] + TURNS + ASKS, {}, True),
        (DATED[1] + TURNS + ASKS, {"date": "2024-02-03"}, False),
        (TURNS + ASKS, {}, False),
    ):
        found = renderer(tokenizers, source, tmp_path, **config)
        before = found.config
        assert found.follows_calendar == follows
        found.hold_day(datetime.date(2030, 1, 2))
        assert (found.config != before) == follows
        assert not found.follows_calendar


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
