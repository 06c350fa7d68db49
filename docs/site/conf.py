"""Sphinx: one language of the documentation. `build.py` starts it twice, on pages that it has laid out, with KEEL_DOCS_LANGUAGE set."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import snowballstemmer
import sphinx.search
from sphinx.search import SearchLanguage

HERE = Path(__file__).parent
CHINESE = os.environ.get("KEEL_DOCS_LANGUAGE") == "zh"


class Bilingual(SearchLanguage):
    """Latin words, stemmed as English; of Chinese every pair of neighbouring characters, in the index and in what is looked for."""

    lang = "zh_CN"
    language_name = "English"  # names the class of the stemmer in its JavaScript
    js_stemmer_rawcode = "english-stemmer.js"
    js_splitter_code = """
function splitQuery(query) {
  const words = query.match(/[A-Za-z0-9_]+/g) || [];
  for (const run of query.match(/[\\u3400-\\u9fff]+/g) || []) {
    if (run.length === 1) words.push(run);
    for (let i = 0; i + 1 < run.length; i++) words.push(run.slice(i, i + 2));
  }
  return words;
}
"""

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__(options)
        self.stemmer = snowballstemmer.stemmer("english")

    def split(self, input: str) -> list[str]:
        runs = re.findall(r"[\u3400-\u9fff]+", input)
        return re.findall(r"[A-Za-z0-9_]+", input) + [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]

    def stem(self, word: str) -> str:
        return self.stemmer.stemWord(word.lower())

    def word_filter(self, word: str) -> bool:
        return not word.isdigit()


project = "Keel"
html_title = "Keel 文档" if CHINESE else "Keel"
language = "zh_CN" if CHINESE else "en"
extensions = ["myst_parser"]
myst_heading_anchors = 6
myst_url_schemes = {"http": None, "https": None, "mailto": None, "page": "{{path}}", "place": "{{path}}#{{fragment}}"}
exclude_patterns: list[str] = []
html_theme = "furo"
html_static_path = [str(HERE / "static")]
html_css_files = ["keel.css"]
templates_path = [str(HERE / "templates")]
html_sidebars = {"**": [f"sidebar/{part}.html" for part in ("brand", "search", "language", "scroll-start", "navigation", "scroll-end")]}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
pygments_style = "friendly"
sphinx.search.languages["zh"] = sphinx.search.languages["zh_CN"] = Bilingual  # type: ignore[assignment]
OTHER = Path(os.environ.get("KEEL_DOCS_OTHER", "."))  # pages of the other language


def _switch(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Where the other language's page is: the same one, else its start."""
    up = "../" * (page.count("/") + 1)
    there = page if (OTHER / f"{page}.md").is_file() else "index"
    context["other_language"] = ("English", "en", f"{up}en/{there}.html") if CHINESE else ("中文", "zh", f"{up}zh/{there}.html")


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("html-page-context", _switch)
