"""The documentation does what it says: examples run, commands parse, links lead somewhere, layouts are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks, tracked_files

from keel.ablate.study import read_study
from keel.cli import main, parse
from keel.core.config import load
from keel.data import layouts
from keel.data.fields import Fields
from keel.data.layouts import LAYOUTS
from keel.data.sources import RawRow
from keel.methods import ALGORITHMS, POLICY_LOSSES
from keel.methods.credit.assign import ESTIMATORS
from keel.methods.preference import PREFERENCE_OBJECTIVES
from keel.pipeline import load_pipeline
from keel.plan.read import recipe_of
from keel.tune.recipe import read_search
from keel.verbs.data_clean import DataCleanRecipe
from keel.verbs.data_show import DataShowRecipe
from keel.verbs.run import RECIPES

WITH_EXAMPLES = [page for page in PAGES if any(b.note in ("test", "run") for b in blocks(page))]
COMMANDS = [
    (page.name, line)
    for page in PAGES
    for b in blocks(page)
    if b.language == "bash" and b.note != "run"
    for line in b.code.splitlines()
    if line
]


@pytest.fixture
def tables() -> Iterator[None]:
    """Puts back what examples add to the tables."""
    tables = (ALGORITHMS, ESTIMATORS, POLICY_LOSSES, PREFERENCE_OBJECTIVES)
    kept, data = [dict(t) for t in tables], (layouts.LAYOUTS, layouts.BY_NAME)
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    layouts.LAYOUTS, layouts.BY_NAME = data


@pytest.mark.stages
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_examples_run(page, tmp_path, monkeypatch):
    """Blocks with ``file=NAME`` are written, blocks with ``test`` are run, in order, in one namespace, beside the project's recipes; the
    lines of ``bash run`` are commands of keel, which must succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    example = types.ModuleType("example")  # a module, because dataclasses look theirs up
    monkeypatch.setitem(sys.modules, "example", example)
    for block in blocks(page):
        if block.note.startswith("file="):
            Path(block.note.removeprefix("file=")).write_text(block.code, encoding="utf-8")
        elif block.note == "run":
            for line in filter(None, block.code.splitlines()):
                words = shlex.split(line, comments=True)
                assert words[0] == "keel"
                assert main(words[1:]) == 0, f"{page.name}: {line}"
        elif block.note == "test":
            assert block.language == "python"
            padded = "\n" * (block.line - 1) + block.code  # so that a traceback shows the page's line
            exec(compile(padded, str(page), "exec"), vars(example))


TUTORIALS = {"start", "sft", "dpo", "reward_model", "rl", "labels", "judges", "evaluate", "release"}


def test_the_guides_have_examples():
    tutorials = {p.stem for p in WITH_EXAMPLES if p.parent.name == "tutorials"}
    assert tutorials == TUTORIALS
    guides = {p.name for p in PAGES if p.name.startswith("add_a")}
    assert guides == {"add_a_loss.md", "add_an_algorithm.md", "add_a_reward.md", "add_a_sampler.md", "add_a_data_layout.md"}
    assert guides | {
        "architecture.md",
        "concepts.md",
        "runs.md",
        "personal.md",
        "scenes.md",
        "rewards.md",
        "reward_models.md",
        "advise.md",
        "online_preferences.md",
        "distillation.md",
        "feedback.md",
        "judges.md",
        "release.md",
        "ab.md",
        "evaluate.md",
        "constitutions.md",
        "environments.md",
        "README.md",
    } == {p.name for p in WITH_EXAMPLES if p.parent.name != "tutorials"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_quoted_source_is_in_the_file(page):
    for block in blocks(page):
        if block.note.startswith("source="):
            source = (ROOT / block.note.removeprefix("source=")).read_text(encoding="utf-8")
            for line in filter(None, block.code.splitlines()):
                assert line.strip() in source, f"{page.name}: {line}"


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda x: x)
def test_commands_are_valid(page, line):
    """`make` targets and programs exist; `keel` lines parse; where a recipe is the project's own, its settings and overrides hold."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        return
    if words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), f"{page}: no such module: {line}"
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"{page}: no such program: {line}"
        return
    assert words[0] == "keel", f"{page}: neither make, python nor keel: {line}"
    args = parse(words[1:])
    if args.verb == "data":
        load(DataCleanRecipe if args.what == "clean" else DataShowRecipe, None, [f"data.path={args.path}", *args.overrides])
    elif args.verb == "tune":
        read_search(ROOT / args.recipe, args.overrides)
    elif args.verb == "plan":
        recipe_of(ROOT / args.recipe, args.overrides, args.verb_of)
    elif args.verb == "ablate":
        read_study(ROOT / args.recipe, args.keys, args.overrides)
    elif hasattr(args, "recipe") and args.recipe != "recipe.yaml":  # that one keel new writes; its tests run it
        path = ROOT / args.recipe
        load_pipeline(path, args.overrides) if args.verb == "run" else load(RECIPES[args.verb], path, args.overrides)


@pytest.mark.parametrize(
    "line", ["sft R --json a=1 b=2", "sft R a=1 --dry-run b=2", "data show --rows 1 P a=1 b=2", "data show P a=1 --rows 1 b=2"]
)
def test_options_and_overrides_in_any_order(line):
    assert parse(line.split()).overrides == ["a=1", "b=2"]


@pytest.mark.parametrize("line", ["sft R --jsn", "sft R a=1 --dry-run stray", "runs --json a=1"])
def test_what_is_neither_option_nor_override_is_refused(line):
    with pytest.raises(SystemExit) as stopped:
        parse(line.split())
    assert stopped.value.code == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_paths_lead_somewhere(page):
    """Links, also to headings, and every file of the project that a page names in code marks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name) if name else page
        assert found.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in headings(found), f"{page.name}: {target}"
    for name in re.findall(r"`((?:keel|recipes|docs|tests|examples)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_navigation():
    """Of the start page in its own language; Chinese pages have an English one of the same name, and each leads to the other."""
    docs = ROOT / "docs"
    names = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    for start, chinese in (("index.md", False), ("index.zh.md", True)):
        linked = set(re.findall(r"\]\(([\w./]+\.md)\)", (docs / start).read_text(encoding="utf-8")))
        assert {name for name in names if name.endswith(".zh.md") == chinese} - {start} <= linked, start
    for name in (name for name in names if name.endswith(".zh.md")):
        english = name.replace(".zh.md", ".md")
        assert f"[English]({Path(english).name})" in (docs / name).read_text(encoding="utf-8"), name
        assert f"[中文]({Path(name).name})" in (docs / english).read_text(encoding="utf-8"), name
    assert "(docs/index.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_data_md_shows_every_layout_as_it_is():
    found = re.findall(
        r"^### `(\w+)` → (\w+)\n(.*?)```json\n(.*?)\n```", (ROOT / "docs/data.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert [(name, json.loads(row)) for name, _, _, row in found] == [(layout.name, dict(layout.example)) for layout in LAYOUTS]
    for (_, kind, text, row), layout in zip(found, LAYOUTS, strict=True):
        assert layouts.match(json.loads(row)) is layout
        assert type(layout(Fields(RawRow(json.loads(row), "data.md", 1), {}))).__name__ == kind
        assert all(f"`{column}`" in text for column in layout.also), layout.name


# What must not stand in the project: paths of one machine, hosts of package indexes. Written so that this line is none of them.
FORBIDDEN = re.compile(r"(?<![\w.])/(?:wor[k]|roo[t]|hom[e]/\w+)/|index-ur[l]|PIP_INDE[X]|pypi\.or[g]|/simpl[e]\b|files\.pythonhoste[d]")


def test_no_machine_in_the_files():
    for path in tracked_files():
        if path.suffix in (".png", ".safetensors", ".parquet"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            assert not FORBIDDEN.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
