"""Which chat template is used, and what it is handed besides the conversation."""

from __future__ import annotations

import datetime
import difflib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.render.codec import Codec
from keel.render.config import RenderConfig

log = logging.getLogger("keel")
_TODAY = "strftime_now"  # the function that gives templates the date
_ASKS = re.compile(rf"""{_TODAY}\(\s*(['"])(.*?)\1\s*\)""")
_WORD = re.compile(r"[A-Za-z_]\w*")
# what the call of a template is made of: a template argument of that name would not reach the template
_OURS = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize", "padding", "truncation")
_OURS += ("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "conversation", _TODAY)


def template_source(tokenizer: Any, processor: Any, config: RenderConfig) -> str | None:
    """The template's text: the configured file or name, else the processor's, else the tokenizer's; None when the model has none. Of
    several that one is taken which is called ``default``.

    Raises DataError when the configured file cannot be read.
    """
    owned = [found for owner in (processor, tokenizer) if (found := getattr(owner, "chat_template", None))]
    named: Mapping[str, str] = next((found for found in owned if isinstance(found, dict)), {})
    if config.chat_template:
        return str(named[config.chat_template]) if config.chat_template in named else _read(config.chat_template, named)
    found = next(iter(owned), None)
    if isinstance(found, dict):
        name = "default" if "default" in found else next(iter(found))
        if len(found) > 1:
            text = "this model has several chat templates (%s): %r is used, render.chat_template=NAME takes another"
            log.info(text, ", ".join(found), name)
        found = found[name]
    return str(found) if found else None


def _read(path: str, named: Mapping[str, str]) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        names = f", or one of the model's own by name: {', '.join(named)}" if named else ""
        raise DataError(f"render.chat_template={path}: cannot be read: {error}", f"give a text file with a Jinja template{names}") from None


def arguments(source: str, config: RenderConfig) -> dict[str, Any]:
    """What the template is handed besides the conversation: ``render.template_args``.

    Raises DataError for arguments that the template does not read, which would change nothing, and for those that are not its own.
    """
    words = set(_WORD.findall(source))
    for name in config.template_args:
        if name in _OURS:
            raise DataError(f"render.template_args: {name!r} is set by Keel", "take it out")
        if name not in words:
            near = difflib.get_close_matches(name, words, 1)
            raise DataError(
                f"render.template_args: the chat template does not read {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                "take it out: it would have no effect",
            )
    return dict(config.template_args)


def dated(source: str, config: RenderConfig) -> str:
    """The template with the day of ``render.date`` in the place of today's. Raises DataError where it asks for no date, or in a way that
    cannot be followed."""
    if config.date is None:
        return source
    day = datetime.datetime.combine(config.date, datetime.time())
    written = _ASKS.sub(lambda found: json.dumps(day.strftime(found[2])), source)
    if written == source:
        raise DataError("render.date is set, and the chat template asks for no date", "take it out: it would have no effect")
    if f"{_TODAY}(" in written:
        what = "render.date is set, and the chat template asks for today's date in a form that is not written out in it"
        raise DataError(what, "write the date into the template, and give it with render.chat_template=FILE")
    return written


def follows_calendar(source: str, config: RenderConfig) -> bool:
    """Do prompts change from day to day: does the template ask for today's date, and ``render.date`` hold it to none?"""
    return _TODAY in source and config.date is None


def tell_about(source: str, codec: Codec, rendered: str, config: RenderConfig) -> None:
    """Warn of a template whose prompts change from day to day, and of one that lacks the beginning that the tokenizer puts in front of
    texts. ``rendered``: any conversation."""
    if follows_calendar(source, config):
        text = (
            "the chat template writes today's date into prompts: set render.date=%s, so that other runs and evaluations see the same ones"
        )
        log.warning(text, datetime.date.today())
    if codec.bos and rendered and tuple(codec.encode(rendered)[: len(codec.bos)]) != codec.bos:
        start = "".join(codec.tokenizer.convert_ids_to_tokens(list(codec.bos)))
        log.warning(
            "the chat template does not begin with %s, which this tokenizer puts in front of texts: a model that has always seen it may do"
            " much worse without (write {{ bos_token }} in front of the template)",
            start,
        )
