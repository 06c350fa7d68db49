"""Every setting of every verb, as Markdown, made from the config models: the page cannot disagree with the code."""

from __future__ import annotations

from keel.config import describe
from keel.pipeline import PipelineRecipe
from keel.stages.recipes import RECIPES


def reference_markdown() -> str:
    """docs/reference.md: a table a verb, one row a setting."""
    lines = ["# Settings", "", "Made by `make docs` from the code. Any setting is overridden on the command line as `key.path=value`.", ""]
    for verb, recipe in {**RECIPES, "run": PipelineRecipe}.items():
        lines += [f"## `keel {verb}`" if verb != "preferences" else "## stage `preferences`", "", str(recipe.__doc__).strip(), ""]
        lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for doc in describe(recipe):
            if verb == "run" and doc.path.startswith("stages."):
                continue  # each stage's settings stand under its verb
            lines.append("| " + " | ".join(_cell(x) for x in (f"`{doc.path}`", doc.type, f"`{doc.default}`", doc.description)) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
