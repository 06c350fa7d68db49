"""Are all links of a folder of HTML pages whole? Files, anchors, and nothing that a reader without a network would miss."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}  # what a page fetches by itself
NO_FILES = {"canonical", "search", "author"}  # kinds of <link> that load nothing


@dataclass
class Page(HTMLParser):
    """Anchors of a page, where it leads, and what it loads."""

    anchors: set[str] = field(default_factory=set)
    targets: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.targets.append(given["href"])
        elif tag in LOADED and given.get(LOADED[tag]) and given.get("rel") not in NO_FILES:
            self.loads.append(given[LOADED[tag]])


def problems(root: Path) -> list[str]:
    """One line for each link that leads nowhere and each thing that would come from the network."""
    read: dict[Path, Page] = {}
    for file in sorted(root.rglob("*.html")):
        read[file] = Page()
        read[file].feed(file.read_text(encoding="utf-8"))
    return [f"{file.relative_to(root)}: {said}" for file, page in read.items() for said in _of_page(file, page, read)]


def _of_page(file: Path, page: Page, read: dict[Path, Page]) -> list[str]:
    found = [
        f"loads {target} from the network" for target in page.loads if urlsplit(target).scheme in ("http", "https") or target[:2] == "//"
    ]
    for target in dict.fromkeys([*page.targets, *page.loads]):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        there = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        anchor = unquote(parts.fragment)
        if not there.is_file():
            found.append(f"{target}: no such file")
        elif anchor and there in read and anchor not in read[there].anchors and anchor != "furo-main-content":
            found.append(f"{target}: no such anchor")
    return found
