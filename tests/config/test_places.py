"""Problems name the line of the recipe that they are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.core.config import Section, load
from keel.core.errors import ConfigError
from keel.core.recipe_files import places

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


class Inner(Section):
    size: int = 1


class Outer(Section):
    inner: Inner = Inner()
    entries: tuple[Inner, ...] = ()
    rate: float = 0.1


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as found:
        load(Outer, path, overrides)
    return [line.strip() for line in found.value.message.splitlines()[1:]]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_key_of_a_recipe_stands_on_its_line(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    own = {key: int(place.removeprefix("line ")) for key, place in places(path).items() if place.startswith("line ")}
    assert own
    for key, line in own.items():
        name = key.rpartition(".")[2]
        assert name in lines[line - 1] or name.isdecimal(), f"{path.name}: {key} is not in line {line}"


def test_lines_of_keys_entries_and_missing_sections(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("# a comment\nrate: quick\ninner:\n  size: big\n\nentries:\n  - size: 1\n  - {size: 2, other: 3}\n", encoding="utf-8")
    assert problems(path) == [
        "line 4: inner.size: expected whole number, got 'big'",
        "line 8: entries.1.other: unknown key. Did you mean entries.N.size?",
        "line 2: rate: expected number, got 'quick'",
    ]


def test_what_a_base_file_says_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("rate: quick\ninner: {size: big}\n", encoding="utf-8")
    path = tmp_path / "r.yaml"
    path.write_text("base: base.yaml\ninner:\n  size: 2\n  wrong: 1\n", encoding="utf-8")
    found = problems(path)
    assert any(p.startswith("line 4: inner.wrong: unknown key") for p in found)
    assert any(p.startswith("base.yaml, line 1: rate: ") for p in found)


def test_an_override_is_named_in_place_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("rate: 0.5\n", encoding="utf-8")
    assert problems(path, "rate=fast") == ["rate: expected number, got 'fast' (from the override rate=fast)"]
