"""Every setting is documented, listed in the reference, and read by something."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from pages import ROOT

import keel
from keel.core.config import Section, describe
from keel.reference import reference_markdown
from keel.verbs.run import RECIPES

# Fields that no attribute access reads, and why that is right.
READ_OTHERWISE = {
    **{
        ("WatchConfig", f"max_{name}"): "by keel/watch/rules/default.yaml, which a test of the rule files looks for"
        for name in ("kl_per_token", "kl_per_sequence", "reward_fall", "imbalance")
    },
    ("Stages", "sft"): "read by name in Stages.items",
    ("Stages", "preferences"): "read by name in Stages.items",
    ("Stages", "reward"): "read by name in Stages.items",
    ("Stages", "rl"): "read by name in Stages.items",
    ("Stages", "prefer"): "read by name in Stages.items",
    ("Stages", "evaluate"): "read by name in Stages.items",
}


def test_every_setting_is_named_in_a_recipe_a_guide_or_a_test() -> None:
    """One that nobody names is one that nobody tried."""
    files = [p for room in ("recipes", "docs", "tests", "labs") for p in (ROOT / room).rglob("*") if p.suffix in {".yaml", ".md", ".py"}]
    text = "\n".join(p.read_text(encoding="utf-8") for p in [*files, ROOT / "README.md"] if p.name != "reference.md")
    words = set(re.findall(r"\w+", text))
    paths = {doc.path for recipe in RECIPES.values() for doc in describe(recipe)}
    assert sorted(path for path in paths if path.rpartition(".")[2] not in words) == []


def sections() -> list[type[Section]]:
    """Every config class of the project."""
    for module in pkgutil.walk_packages(keel.__path__, "keel."):
        importlib.import_module(module.name)

    def below(cls: type[Section]) -> Iterator[type[Section]]:
        for child in cls.__subclasses__():
            yield child
            yield from below(child)

    return [s for s in dict.fromkeys(below(Section)) if s.__module__.startswith("keel.")]


SECTIONS = sections()


class Reads(ast.NodeVisitor):
    """Names of attributes that are read outside validators (a check of a value is no use of it), and names handed to ``given``."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        marks = {
            d.func.id if isinstance(d, ast.Call) and isinstance(d.func, ast.Name) else getattr(d, "id", "") for d in node.decorator_list
        }
        if not marks & {"model_validator", "field_validator"}:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "given":
            self.names |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
        self.generic_visit(node)


@pytest.fixture(scope="module")
def reads() -> set[str]:
    visitor = Reads()
    for path in (ROOT / "keel").rglob("*.py"):
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.names


def test_the_page_is_what_the_code_says():
    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == reference_markdown(), "run `make reference`"


def test_the_page_names_every_field():
    page = reference_markdown()
    for recipe in RECIPES.values():
        for name in recipe.model_fields:
            assert f"`{name}`" in page or f"`{name}." in page, f"{recipe.__name__}.{name}"


def test_what_verbs_share_stands_once():
    lines = [line for line in reference_markdown().splitlines() if line.startswith("| `optim.lr` ")]
    assert len(lines) == 1


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_every_field_has_a_description(section):
    for name, field in section.model_fields.items():
        text = field.description or ""
        assert len(text) > 3, name
        assert text[-1] in ".;)", f"{name}: a description is a sentence: {text!r}"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_every_field_is_read(section, reads):
    for name in section.model_fields:
        assert name in reads or (section.__name__, name) in READ_OTHERWISE, f"nothing reads {section.__name__}.{name}"


def test_exceptions_are_fields():
    fields = {(s.__name__, name) for s in SECTIONS for name in s.model_fields}
    assert set(READ_OTHERWISE) <= fields
