"""What the pages of an evaluation and of an A/B test share: texts in two languages, the template engine, writing both languages side
by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from keel.runs.durable import write_atomic

LANGUAGES = ("en", "zh")
Say = Callable[..., str]


@lru_cache(maxsize=4)
def _texts(language: str) -> Mapping[str, str]:
    return json.loads((resources.files("keel.evaluate") / "lang" / f"{language}.json").read_text(encoding="utf-8"))


def say(language: str) -> Say:
    """The texts of a language: ``t("key", n=3)``. Raises KeyError for a text that is not there."""
    texts = _texts(language)
    return lambda key, **values: texts[key].format(**values) if values else texts[key]


def knows(key: str) -> bool:
    """Is there a text of this name?"""
    return key in _texts("en")


def render(template: str, language: str, view: Mapping[str, Any]) -> str:
    """A page of ``templates/`` in a language. Everything from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("keel.evaluate", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(t=say(language), language=language, **view)


def write_pages(path: Path, page: Callable[[str, str], str]) -> Path:
    """Write ``page(language, file name of the other language)``: English at ``path``, Chinese beside it as ``NAME.zh.html``."""
    chinese = path.with_name(f"{path.stem}.zh{path.suffix or '.html'}")
    write_atomic(path, page("en", chinese.name).encode("utf-8"))
    write_atomic(chinese, page("zh", path.name).encode("utf-8"))
    return path
