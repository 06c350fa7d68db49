"""`make docs`: the pages of docs/ as a site in two languages, checked. Needs the extra `docs`.

The start page of a language is the navigation: its headings become captions, the links of its lists entries. A Chinese page is NAME.zh.md;
in the Chinese tree it stands as NAME.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from links import problems

DOCS = Path(__file__).resolve().parents[1]
CHINESE = ".zh.md"
REDIRECT = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}"><a href="{0}">{0}</a>\n'


def pages() -> list[str]:
    """All pages, as paths below docs/ with forward slashes."""
    found = (p.relative_to(DOCS) for p in DOCS.rglob("*.md"))
    return sorted(p.as_posix() for p in found if p.parts[0] != "site")


def navigation(index: str) -> list[tuple[str, list[str]]]:
    """Captions and pages of a start page: links to pages in the list items under each heading."""
    parts = re.split(r"^## (.*)$", index, flags=re.MULTILINE)
    return [
        (title, [link for item in re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE) for link in re.findall(r"\]\(([\w./]+\.md)\)", item)])
        for title, text in zip(parts[1::2], parts[2::2])
    ]


def toctrees(index: str) -> str:
    """The navigation as Sphinx reads it; pages of other trees are left out."""
    text = ""
    for title, entries in navigation(index):
        named = "".join(f"{entry.removesuffix('.md')}\n" for entry in dict.fromkeys(entries))
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{named}```\n" if named else ""
    return text


def across(text: str, page: str, language: str) -> str:
    """A page of a tree (``page``: its name there): NAME.md is always the English page and NAME.zh.md the Chinese one, so links between
    trees become addresses, which Sphinx passes on (``myst_url_schemes``); files outside docs/ are named and not linked."""
    up = "../" * (page.count("/") + 1)

    def link(found: re.Match[str]) -> str:
        name, zh, anchor = found[1], found[2], found[3] or ""
        other = "zh" if zh else "en"
        below = "/".join([*page.split("/")[:-1], name]) if "/" in page else name
        return (
            f"]({name}.md{anchor})"
            if other == language
            else f"]({'place' if anchor else 'page'}:{up}{other}/{os.path.normpath(below)}.html{anchor})"
        )

    return outside(re.sub(r"\]\(([\w./-]+?)(\.zh)?\.md(#[^)]*)?\)", link, text), page)


def outside(text: str, page: str) -> str:
    """Links to files of the project beside the documentation become names."""
    folder = (DOCS / page).parent

    def link(found: re.Match[str]) -> str:
        target = (folder / found[2].partition("#")[0]).resolve()
        return found[0] if target.is_relative_to(DOCS) else f"{found[1]} (`{target.relative_to(DOCS.parent).as_posix()}`)"

    return re.sub(r"(?<!!)\[([^\]]*)\]\((\.\./[^)\s]*)\)", link, text)


def lay_out(work: Path) -> None:
    """Both trees of pages in ``work``/en and ``work``/zh."""
    for name in pages():
        text = (DOCS / name).read_text(encoding="utf-8")
        is_chinese = name.endswith(CHINESE)
        page = name.removesuffix(CHINESE) + ".md" if is_chinese else name
        made = across(text, page, "zh" if is_chinese else "en")
        target = work / ("zh" if is_chinese else "en") / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(made + (toctrees(made) if page == "index.md" else ""), encoding="utf-8")
    for language in ("en", "zh"):
        shutil.copytree(DOCS / "images", work / language / "images")


def build(out: Path) -> None:
    """Write the site to ``out``; whatever is wrong ends it with exit code 1."""
    work = out.with_name(out.name + "-pages")
    for folder in (work, out):
        shutil.rmtree(folder, ignore_errors=True)
    lay_out(work)
    runs = []
    for language, other in (("en", "zh"), ("zh", "en")):
        environment = {**os.environ, "KEEL_DOCS_LANGUAGE": language, "KEEL_DOCS_OTHER": str(work / other)}
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-c", str(DOCS / "site"), "-b", "html"]
        command += ["-d", str(work / f"{language}-cache"), str(work / language), str(out / language)]
        runs.append(subprocess.Popen(command, env=environment))
    codes = [run.wait() for run in runs]
    if any(codes):
        raise SystemExit(1)
    (out / "index.html").write_text(REDIRECT.format("en/index.html"), encoding="utf-8")
    found = problems(out)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        raise SystemExit(1)
    shutil.rmtree(work)
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages, every link and anchor found: {out / 'index.html'}")


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
