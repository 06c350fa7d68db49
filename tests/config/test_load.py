"""The loader: what is read, what overrides do, and that every mistake gets its own clear line."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from keel.core.config import Section, as_override, dump, load, parse_yaml
from keel.core.errors import ConfigError


class Schedule(Section):
    warmup: float = Field(0.1, ge=0, le=1, description="Share of steps.")
    kind: Literal["cosine", "linear"] = Field("cosine", description="Shape.")


class Optim(Section):
    lr: float = Field(1e-5, gt=0, description="Learning rate.")
    schedule: Schedule = Field(Schedule(), description="Schedule.")


class Rule(Section):
    kind: Literal["rule"] = Field("rule", description="Kind.")
    weight: float = Field(1.0, description="Weight.")
    pattern: str = Field(description="Pattern.")


class Scored(Section):
    kind: Literal["model"] = Field("model", description="Kind.")
    weight: float = Field(1.0, description="Weight.")
    path: str = Field("rm", description="Folder.")


Reward = Annotated[Rule | Scored, Field(discriminator="kind")]


class Recipe(Section):
    steps: int = Field(10, gt=0, description="Steps.")
    model: str = Field("tiny", description="Model.")
    optim: Optim = Field(Optim(lr=1e-6, schedule=Schedule(warmup=0.5)), description="Optimizer.")
    rewards: tuple[Reward, ...] = Field((Scored(),), description="Rewards.")
    one: Reward = Field(Scored(path="gold"), description="One reward.")
    critic: Optim | None = Field(None, description="Critic.")
    stop: tuple[str, ...] = Field((), description="Stop strings.")
    weights: dict[str, float] = Field(default_factory=dict[str, float], description="By name.")
    limit: int | Literal["auto"] = Field("auto", description="Limit.")
    packed: bool = Field(True, description="Pack.")
    folder: Path = Field(Path("out"), description="Folder.")

    @model_validator(mode="after")
    def stops_differ(self) -> Recipe:
        if len(set(self.stop)) < len(self.stop):
            raise ConfigError("stop strings stand twice", "remove one")
        return self


def write(tmp_path: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def message(overrides: list[str], recipe: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, recipe, overrides)
    return str(caught.value)


# -- values ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("-2E3", -2000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0", 0),
        ("-7", -7),
        ("+3", 3),
        (".inf", math.inf),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("007", "007"),
        ("1e", "1e"),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
        ("null", None),
        ("true", True),
        ("tiny:llama?seed=0", "tiny:llama?seed=0"),
        ("[1, 2e1]", [1, 20.0]),
        ("中文", "中文"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    got = parse_yaml(f"x: {text}" if text != "-" else "x: '-'")["x"]
    assert got == value
    assert type(got) is type(value)


def test_defaults_alone() -> None:
    assert load(Recipe, None, []) == Recipe()


def test_file_and_overrides(tmp_path: Path) -> None:
    recipe = write(tmp_path, "steps: 3\noptim:\n  lr: 1e-4\nrewards:\n- {kind: rule, pattern: a}\n- {kind: model}\n")
    got = load(Recipe, recipe, ["rewards.0.weight=2", "optim.schedule.kind=linear", "critic.lr=3e-5", "stop=[a, b]", "weights.x=1"])
    assert got.steps == 3
    assert got.optim.lr == 1e-4
    assert got.optim.schedule.kind == "linear"
    assert got.rewards == (Rule(pattern="a", weight=2.0), Scored())
    assert got.critic == Optim(lr=3e-5)
    assert got.stop == ("a", "b")
    assert got.weights == {"x": 1.0}


def test_later_overrides_win_and_lists_grow_by_one(tmp_path: Path) -> None:
    got = load(Recipe, None, ["steps=3", "steps=4", "rewards.1={kind: rule, pattern: z}", "rewards.0.weight=5", "stop.0=x"])
    assert got.steps == 4
    assert got.rewards == (Scored(weight=5.0), Rule(pattern="z"))
    assert got.stop == ("x",)


def test_part_of_a_section_keeps_the_numbers_of_its_default() -> None:
    got = load(Recipe, None, ["optim.schedule.kind=linear"])
    assert got.optim == Optim(lr=1e-6, schedule=Schedule(warmup=0.5, kind="linear"))
    assert load(Recipe, None, ["one.weight=3"]).one == Scored(path="gold", weight=3.0)
    assert load(Recipe, None, ["one={kind: rule, pattern: a}"]).one == Rule(pattern="a")


def test_an_equals_sign_in_the_value() -> None:
    assert load(Recipe, None, ["model=tiny:llama?seed=0"]).model == "tiny:llama?seed=0"


def test_dump_is_json_and_reads_back() -> None:
    got = load(Recipe, None, ["critic.lr=1", "folder=a/b"])
    assert dump(got)["folder"] == "a/b"
    assert dump(got)["rewards"] == [{"kind": "model", "weight": 1.0, "path": "rm"}]
    assert Recipe.model_validate(dump(got)) == got


# -- base ------------------------------------------------------------------------------------------------------------------------


def test_base_lies_under_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "steps: 1\nmodel: ground\noptim: {lr: 1.0, schedule: {warmup: 0.2}}\nstop: [a, b]\n", "ground.yaml")
    write(tmp_path, "base: ground.yaml\nsteps: 2\noptim: {schedule: {kind: linear}}\n", "middle.yaml")
    top = write(tmp_path, "base: ../middle.yaml\nstop: [c]\n", "sub/top.yaml")
    got = load(Recipe, top, [])
    assert (got.steps, got.model, got.stop) == (2, "ground", ("c",))
    assert got.optim == Optim(lr=1.0, schedule=Schedule(warmup=0.2, kind="linear"))


def test_base_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "base: b.yaml\n", "a.yaml")
    write(tmp_path, "base: a.yaml\n", "b.yaml")
    assert "goes in a circle: a.yaml -> b.yaml -> a.yaml" in message([], tmp_path / "a.yaml")


def test_base_must_be_one_file_that_exists(tmp_path: Path) -> None:
    assert "`base` is the name of one recipe file" in message([], write(tmp_path, "base: [a]\n"))
    assert "no such recipe" in message([], write(tmp_path, "base: nowhere.yaml\n"))


# -- files that cannot be read ---------------------------------------------------------------------------------------------------


def test_missing_file_suggests_a_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\n", "quickstart.yaml")
    text = message([], tmp_path / "quikstart.yaml")
    assert "no such recipe" in text
    assert "did you mean" in text
    assert "quickstart.yaml?" in text


def test_folder_instead_of_file(tmp_path: Path) -> None:
    assert "is a folder, not a recipe" in message([], tmp_path)


def test_broken_yaml_names_line_and_column(tmp_path: Path) -> None:
    text = message([], write(tmp_path, "steps: 1\nmodel: [a, b\noptim: 3\n"))
    assert "recipe.yaml, line 3, column" in text
    assert "broken YAML" in text


def test_the_same_key_twice(tmp_path: Path) -> None:
    text = message([], write(tmp_path, "steps: 1\noptim:\n  lr: 1\n  lr: 2\n"))
    assert "line 4, column 3" in text
    assert "'lr' stands here a second time" in text


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "a list"), ("just words\n", "'just words'"), ("3\n", "the number 3")])
def test_no_mapping(tmp_path: Path, text: str, kind: str) -> None:
    assert f"a recipe is a mapping of `key: value`, this is {kind}" in message([], write(tmp_path, text))


def test_empty_file(tmp_path: Path) -> None:
    assert "the recipe is empty" in message([], write(tmp_path, "# nothing\n"))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"steps: 1\nmodel: caf\xe9\n")
    text = message([], path)
    assert "recipe.yaml, line 2: not UTF-8 text (byte 0xe9)" in text
    assert "save the file as UTF-8" in text


def test_python_objects_are_not_made(tmp_path: Path) -> None:
    assert "broken YAML" in message([], write(tmp_path, "model: !!python/object/apply:os.system ['true']\n"))


# -- wrong content ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("step=3", "step: unknown key. Did you mean steps? (from the override step=3)"),
        ("optm.lr=3", "optm: unknown key. Did you mean optim?"),
        ("optim.schedule.warmpu=0", "optim.schedule.warmpu: unknown key. Did you mean optim.schedule.warmup?"),
        ("warmup=0", "warmup: unknown key. Did you mean optim.schedule.warmup or critic.schedule.warmup?"),
        ("rewards.0.wieght=1", "rewards.0.wieght: unknown key. Did you mean rewards.0.weight?"),
        ("one.pathh=a", "one.pathh: unknown key. Did you mean one.path?"),
        ("critic.lrr=1", "critic.lrr: unknown key. Did you mean critic.lr?"),
        ("zzz=1", "zzz: unknown key (from"),
        ("optim.lr=fast", "optim.lr: expected number > 0, got 'fast'"),
        ("optim.lr=true", "optim.lr: expected number, got true"),
        ("steps=true", "steps: expected whole number, got true"),
        ("steps=1.5", "steps: expected whole number > 0, got the number 1.5"),
        ("steps=0", "steps: must be greater than 0, got the number 0"),
        ("steps=", "steps: expected whole number > 0, got nothing (null)"),
        ("model=3", "model: expected text, got the number 3"),
        ("optim=3", "optim: expected section, got the number 3"),
        ("stop=3", "stop: expected list of text, got the number 3"),
        ("stop=[1]", "stop.0: expected text, got the number 1"),
        ("weights.a=b", "weights.a: expected number, got 'b'"),
        ("packed=perhaps", "packed: expected true or false, got 'perhaps'"),
        ("limit=many", "limit: expected whole number or 'auto', got 'many'"),
        ("optim.schedule.kind=cosin", "expected one of 'cosine', 'linear', got 'cosin'. Did you mean 'cosine'?"),
        ("one.kind=modl", "one: 'kind' must be one of 'rule', 'model', not 'modl'"),
        ("rewards=[{weight: 1}]", "rewards.0: needs the key 'kind' that says which kind it is"),
        ("rewards=[{kind: rule}]", "rewards.0.pattern: required, but not given"),
        ("rewards.4.weight=1", "rewards.4: no such entry; rewards has 1, counted from 0"),
        ("rewards.x.weight=1", "rewards.x: rewards is a list; name an entry by its number, like rewards.0"),
        ("model.x=1", "model: expected text, got a mapping"),
        ("stop=[a, a]", "recipe: stop strings stand twice (remove one)"),
        ("foo", "override 'foo': must look like key.path=value"),
        ("a..b=1", "override 'a..b=1': must look like key.path=value"),
        ("model=[1,", "override 'model=[1,': the value is no YAML"),
        ("base=x.yaml", "base: unknown key"),
    ],
)
def test_each_mistake_has_its_line(override: str, line: str) -> None:
    assert f"  {line}" in message([override]) or line in message([override])


def test_a_scalar_in_the_recipe_has_no_keys(tmp_path: Path) -> None:
    text = message(["optim.lr.x=1"], write(tmp_path, "optim: {lr: 3}\n"))
    assert "optim.lr.x: optim.lr is the number 3, which has no keys" in text


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    recipe = write(tmp_path, "step: 3\noptim: {lr: fast}\n")
    text = message(["foo", "rewards.0.wieght=1"], recipe)
    assert "recipe.yaml: 4 problems in the configuration" in text
    assert all(part in text for part in ("override 'foo'", "step: unknown", "optim.lr: expected", "rewards.0.wieght: unknown"))
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize(
    ("text", "value"), [("off", "off"), ("no", "no"), ("On", "On"), ("y", "y"), ("true", True), ("False", False), ("null", None)]
)
def test_words_are_words_unless_they_are_true_or_false(text: str, value: object) -> None:
    """`language: no` is Norwegian and `fast_path=off` is a choice, as in YAML 1.2."""
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


class Checked(Section):
    """A section whose settings must fit together."""

    kind: str = Field(default="a", description="Kind.")
    needs: str = Field(default="", description="Needed by kind b.")

    @model_validator(mode="after")
    def _fits(self) -> Checked:
        if self.kind == "b" and not self.needs:
            raise ValueError("needs is needed with kind=b")
        return self


class Either(Section):
    """A place that takes a word, a number or a section."""

    place: str | float | Checked = Field(default="", description="One of three.")


def test_a_section_among_other_types_tells_its_own_problem() -> None:
    with pytest.raises(ConfigError) as told:
        load(Either, None, ["place={kind: b}"])
    assert "place: needs is needed with kind=b" in str(told.value)
    assert "expected" not in str(told.value)
    with pytest.raises(ConfigError, match=r"place\.kindd: unknown key\. Did you mean place\.kind\?"):
        load(Either, None, ["place={kindd: b}"])
    with pytest.raises(ConfigError, match="place: expected"):
        load(Either, None, ["place=[1]"])
    assert load(Either, None, ["place={kind: b, needs: x}"]).place == Checked(kind="b", needs="x")


ODD = "\x00\x7f\x85\u2028\ufeff\U0001f642\ud7ffé\n\t\"'\\#{}[],:&*!|>%@` <-1eE.~"


def _anything(draw: random.Random, depth: int) -> object:
    text = "".join(draw.choice(ODD) for _ in range(draw.randint(0, 60)))
    kind = draw.randint(0, 6 if depth else 4)
    if kind < 5:
        return (
            text,
            draw.choice(["no", "null", "1e5", "~", "<<", "2026-01-01"]),
            draw.randint(-(10**20), 10**20),
            draw.random() ** 40,
            None,
        )[kind]
    inner = [_anything(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    return inner if kind == 5 else {f"{i}{text[:20]}": x for i, x in enumerate(inner)}


def test_values_of_programs_arrive_as_they_are() -> None:
    """In one line, however long, with whatever characters: those beyond 16 bits, ends of lines, quotes, words that YAML knows."""
    draw = random.Random(0)
    for _ in range(300):
        value = _anything(draw, 3)
        key, _, text = as_override("a.b", value).partition("=")
        assert key == "a.b"
        assert text.isprintable()
        assert parse_yaml(text) == value
