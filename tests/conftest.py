"""Whole stages on tiny models, as tests use them: the recipes of `recipes/`, shortened by overrides, in this process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from keel.models.config import LoraConfig
    from keel.models.heads import HeadSpec, ValueKind
    from keel.models.loading import Loaded  # not for the tests that need no model: it takes seconds

os.environ.setdefault("KEEL_AUTO_PRECISION", "fp32")  # one precision on every machine, in processes that tests start too
torch.set_num_threads(int(os.environ.get("KEEL_TEST_THREADS", "1")))  # `make test-machines` asks for others
ROOT = Path(__file__).resolve().parents[1]
VERBS = {"sft": "sft", "reward": "reward", "dpo": "prefer", "online_dpo": "prefer", "offline": "offline", "grpo": "rl", "ppo": "rl"}
SHORT = (
    "loop={steps: 4, batch_size: 4, eval_every: 2, probes: 1}",
    "settings={threads: 1, checkpoint: {every: 2}}",
    "model_options.precision=fp32",
)
SHORT_RL = ("samples=4", "sampling.max_tokens=6", "rewards.0.worker={processes: 1}")  # a worker's start costs more than its work here
SHORT_ONLINE = tuple(f"online.{setting}" for setting in SHORT_RL)

Stage = Callable[..., dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run whole stages or a browser are told apart by what they ask for, so that none is forgotten."""
    for item in items:
        asks = {"stage", "finished", "parts", "browser"} & set(getattr(item, "fixturenames", ()))
        if asks or ROOT / "tests" / "verbs" in item.path.parents:
            item.add_marker(pytest.mark.stages)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository: recipes name their files relative to it."""
    return ROOT


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of this machine, without a window; one for all tests of a process, which cannot hold two."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Verdicts of proofs, shared by the stages of this session; none comes from the user's cache or goes there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_proofs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test of models' insides: it finds no verdict of a proof, and leaves none."""
    from keel.models import prove

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(prove, "_memory", {})


@pytest.fixture
def load() -> Callable[..., Loaded]:
    """``load("llama", lora=..., heads=...)``: a tiny model with weights large enough to show errors, in float32."""
    from keel.core.errors import ModelError
    from keel.models.config import ModelOptions
    from keel.models.loading import load_model

    def make(
        arch: str,
        query: str = "std=0.15",
        lora: LoraConfig | None = None,
        heads: frozenset = frozenset(),
        score: HeadSpec | None = None,
        value: ValueKind | None = None,
        **options,
    ) -> Loaded:
        spec = arch if Path(arch).is_dir() else f"tiny:{arch}?{query}"
        try:
            return load_model(spec, ModelOptions(precision="fp32", device="cpu", **options), lora, heads, 3, True, score, value)
        except ModelError as error:
            if "torchvision" in str(error):
                pytest.skip(str(error))
            raise

    return make


@pytest.fixture(scope="session")
def stage(proofs: None) -> Stage:
    """``stage("grpo", run_dir, "key=value", ...)``: run recipes/tiny_grpo.yaml, four steps of it, and return the summary."""
    from keel.verbs.run import run_verb

    def run(name: str, path: Path, *overrides: str) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            logging.getLogger("keel").setLevel(logging.WARNING)
            return run_verb(VERBS[name], Path(f"recipes/tiny_{name}.yaml"), [*_short(name), *overrides, f"run_dir={path}"])

    return run


def _short(name: str) -> tuple[str, ...]:
    return SHORT + (SHORT_RL if VERBS[name] == "rl" else ()) + (SHORT_ONLINE if name.startswith("online") else ())


@pytest.fixture
def parts(proofs: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """``parts("grpo", "key=value", ...)``: what ``stage`` would train with, built and neither tested nor trained."""
    from keel.core import config
    from keel.verbs.run import BUILDERS, RECIPES
    from keel.verbs.shared.session import open_session
    from keel.verbs.shared.units import datasets

    monkeypatch.chdir(ROOT)
    logging.getLogger("keel").setLevel(logging.WARNING)
    with contextlib.ExitStack() as opened:

        def make(name: str, *overrides: str) -> Any:
            verb = VERBS[name]
            recipe: Any = config.load(RECIPES[verb], Path(f"recipes/tiny_{name}.yaml"), [*_short(name), *overrides])
            splits, path = datasets(recipe), tmp_path_factory.mktemp("parts") / name
            session = opened.enter_context(open_session(verb, recipe, path, splits.fingerprints))
            return BUILDERS[verb](session, recipe, splits)

        yield make


@pytest.fixture(scope="session")
def finished(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``finished("sft")``: the directory of a finished, undisturbed run; each is made once a session."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("finished") / name
            stage(name, made[name])
        return made[name]

    return run


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """``rows(file)``: the objects of a JSON lines file."""
    return lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
