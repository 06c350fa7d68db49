"""Is the code in an answer right? It is run against the row's tests in a sandbox; see ``keel.sandbox``."""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import IsolatedConfig, WorkerConfig
from keel.rewards.verifiers.truth import column_of
from keel.sandbox.choose import require_sandbox
from keel.sandbox.functions import BrokenTestsError, run_functions
from keel.sandbox.process import Kind, Limits, SandboxError
from keel.sandbox.run import run_script
from keel.types import Prompt


class CodeReward(IsolatedConfig):
    """Tests of the Python code in an answer, run in a sandbox: no network, no files, limits of time, memory and processes."""

    libraries: ClassVar[tuple[str, ...]] = ("python",)

    type: Literal["code"] = Field(default="code", description="Python code is tested.")
    tests: str = Field(
        default="tests",
        min_length=1,
        description="Key of the prompt's extra columns: a list of {input, output}, a list of assertions, or code with check(candidate), "
        "which is called with the function that the column `entry_point` names.",
    )
    partial: bool = Field(default=False, description="The share of tests passed in place of all or nothing.")
    timeout_s: float = Field(default=4.0, gt=0, description="Seconds of wall time for each test (and of CPU time, rounded up).")
    memory_mb: int = Field(default=512, ge=64, description="Address space of the tested code.")
    max_tests: int = Field(default=50, ge=1, description="At most so many tests are run, the first ones.")
    unsandboxed: bool = Field(
        default=False,
        description="Run the code as it is where no sandbox works: it can then do whatever you can. Never for a model's code.",
    )

    def processes(self) -> WorkerConfig | None:
        """Its own limits come first: code that hangs is wrong, not a failure."""
        longest = self.worker.timeout_s + 2 * self.timeout_s * self.max_tests
        return self.worker.model_copy(update={"timeout_s": longest})


_FENCE = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_SETUP = (
    "import bisect, collections, copy, datetime, fractions, functools, heapq, itertools, json, math, operator, random, re, string\n"
    "from typing import *\n"
)
_NAMES = {  # module: what answers take from it without an import
    "typing": "Any Callable Deque Dict FrozenSet Iterable Iterator List Optional Sequence Set Tuple Union",
    "collections": "Counter OrderedDict defaultdict deque",
    "itertools": "accumulate combinations permutations product",
    "functools": "cache cmp_to_key lru_cache reduce",
    "math": "ceil comb factorial floor gcd inf isqrt lcm sqrt",
    "bisect": "bisect_left bisect_right insort",
    "heapq": "heapify heappop heappush",
}
_MODULES = ("copy", "datetime", "fractions", "operator", "random", "re", "string", *(m for m in _NAMES if m != "typing"))
_GRANTED = {name: f"import {name}" for name in _MODULES} | {n: f"from {m} import {n}" for m, names in _NAMES.items() for n in names.split()}


@dataclass(frozen=True, slots=True)
class Program:
    """Tests of a whole program: what it reads and what it must write."""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Functions:
    """Tests of functions: trusted setup, pieces of code that raise when the answer is wrong, and the names they may call."""

    setup: str
    tests: tuple[str, ...]
    names: tuple[str, ...]


class NoTestsError(ValueError):
    """The row's tests cannot be read."""


@of_answers
def code(config: CodeReward) -> TextReward:
    """1 when the answer's code passes all the row's tests (``partial``: the share it passes); else 0. Code that hangs, crashes or does not
    parse is wrong; tests that are not there or cannot be run, and a sandbox that does not start, are failures.

    Raises UserError where no sandbox works, unless ``unsandboxed`` is set."""
    kind = require_sandbox(config.unsandboxed, f"reward {config.name!r}")

    def judge(prompt: Prompt, text: str) -> Score:
        source = code_of(text)
        try:
            tests = tests_of(prompt, config)
            with_prompt = _continued(prompt, source)
            if isinstance(tests, Program):
                return _programs(with_prompt, tests, kind, config)
            return _functions(with_prompt, tests, kind, config)
        except NoTestsError as error:
            return failure(f"tests: {error}")
        except BrokenTestsError as error:
            return failure(f"tests cannot be run: {error}")
        except SandboxError as error:
            return failure(f"sandbox: {error}")

    return judge


def code_of(text: str) -> str:
    """The last fenced block of Python (or of no named language); without a fence, the whole text."""
    blocks = [body for language, body in _FENCE.findall(text) if language.lower() in ("", "python", "py", "python3")]
    return blocks[-1] if blocks else text


def tests_of(prompt: Prompt, config: CodeReward) -> Program | Functions:
    """The row's tests in one of the forms that data sets use. Raises NoTestsError."""
    found = column_of(prompt.meta, config.tests)
    if found is None:  # the published names of MBPP and HumanEval
        found = next((prompt.meta[k] for k in ("test_list", "test") if prompt.meta.get(k)), None)
    if isinstance(found, str) and found.lstrip()[:1] in "[{":
        with contextlib.suppress(ValueError):  # a list of Python, not of JSON: code
            found = json.loads(found)
    if not found:
        raise NoTestsError(f"the row needs a column {config.tests!r}")
    if isinstance(found, str):
        return _checked(prompt, found)
    if isinstance(found, Mapping):
        return _inputs_outputs(found, config)
    if not isinstance(found, Sequence):
        raise NoTestsError(f"{config.tests!r} is a {type(found).__name__}, not a list or code")
    if all(isinstance(t, str) for t in found):
        setup = _setup(prompt)
        tests = tuple(found[: config.max_tests])
        return Functions(setup, tests, _called(setup, tests))
    if all(isinstance(t, Mapping) and "output" in t for t in found):
        return Program(tuple((_text(t.get("input", "")), _text(t["output"])) for t in found[: config.max_tests]))
    raise NoTestsError(f"{config.tests!r} must hold assertions, or objects with input and output")


def _inputs_outputs(found: Mapping[str, Any], config: CodeReward) -> Program | Functions:
    """{inputs: [...], outputs: [...]} and, for functions, fn_name with lists of arguments."""
    inputs, outputs = found.get("inputs", found.get("input")), found.get("outputs", found.get("output"))
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise NoTestsError("inputs and outputs must be lists of the same length")
    pairs = list(zip(inputs, outputs, strict=True))[: config.max_tests]
    name = found.get("fn_name")
    if name is None:
        return Program(tuple((_text(i), _text(o)) for i, o in pairs))
    if not str(name).isidentifier():
        raise NoTestsError(f"fn_name is no name: {name!r}")
    tests = tuple(f"assert {name}(*{list(i)!r}) == {o!r}" for i, o in pairs)
    return Functions(_SETUP, tests, (str(name),))


def _checked(prompt: Prompt, source: str) -> Functions:
    """HumanEval's form: code that defines check(candidate); or plain code with assertions."""
    setup, entry = _setup(prompt), prompt.meta.get("entry_point")
    if isinstance(entry, str) and re.search(r"^def check\(", source, re.MULTILINE):
        owner = re.match(r"\w+", entry)  # of Solution().twoSum, Solution
        return Functions(setup + _prompt_code(prompt), (f"{source}\ncheck({entry})",), (owner.group() if owner else entry,))
    names = (entry,) if isinstance(entry, str) else _called(setup, [source])
    return Functions(setup, (source,), names)


def _setup(prompt: Prompt) -> str:
    """Trusted code before the tests: a few modules of the library, and what the row brings."""
    given = [prompt.meta.get(k) for k in ("test_imports", "test_setup_code", "setup")]
    lines = [line for part in given if part for line in (part if isinstance(part, list) else [part])]
    return _SETUP + "\n".join(map(str, lines)) + "\n"


def _prompt_code(prompt: Prompt) -> str:
    """The prompt, where it is Python by itself (a header with its docstring): tests may use what it defines. A word or two of any language
    may be Python too, and define nothing."""
    text = prompt.last_user_text
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return ""
    return "" if all(isinstance(node, ast.Expr) for node in body) else text + "\n"


def _called(setup: str, tests: Sequence[str]) -> tuple[str, ...]:
    """The names that the tests take from the code under test: what they read that is neither built in, nor made by the setup or by
    themselves. So an answer cannot slip its own ``abs`` or ``sorted`` under the tests. Raises NoTestsError."""
    try:
        trees = [ast.parse(setup), *(ast.parse(t) for t in tests)]
    except (SyntaxError, ValueError, RecursionError) as error:
        raise NoTestsError(f"they are not Python: {error}") from None
    names = tuple(_unknown(trees))
    if not names:
        raise NoTestsError("they call nothing that an answer could define")
    return names


def _unknown(trees: Sequence[ast.AST]) -> list[str]:
    """The names that code reads and neither makes nor finds built in, in order."""
    read: dict[str, None] = {}
    made: set[str] = set(dir(builtins))
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    read[node.id] = None
                else:
                    made.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                made.add(node.name)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
            elif isinstance(node, ast.alias):
                made.add((node.asname or node.name).partition(".")[0])
    return [name for name in read if name not in made]


def _with_imports(source: str) -> str:
    """Code with the imports of the standard library that it takes for granted, as on sites that bring them: List, deque, heapq."""
    try:
        unknown = _unknown([ast.parse(source)])
    except (SyntaxError, ValueError, RecursionError):
        return source
    lines = [_GRANTED[name] for name in unknown if name in _GRANTED]
    return "\n".join([*lines, source]) if lines and "__future__" not in source else source


def _continued(prompt: Prompt, source: str) -> str:
    """An answer that continues the prompt's code (HumanEval's bare models) comes with it."""
    entry = prompt.meta.get("entry_point")
    text = prompt.last_user_text
    if isinstance(entry, str) and f"def {entry}" in text and f"def {entry}" not in source and _prompt_code(prompt):
        return text + source
    return source


def _programs(source: str, tests: Program, kind: Kind, config: CodeReward) -> Score:
    limits = Limits(config.timeout_s, math.ceil(config.timeout_s), config.memory_mb)
    right, why = 0, ""
    for i, (given, wanted) in enumerate(tests.cases):
        outcome = run_script(source, given, kind, limits)
        if outcome.status == "exited" and outcome.code == 0 and _same_output(outcome.stdout, wanted):
            right += 1
            continue
        ended = outcome.status == "exited" and outcome.code == 0
        why = why or f"test {i + 1}: " + ("another output" if ended else outcome.ending)
        if not config.partial:
            break
    return _summed(right, len(tests.cases), why, config.partial)


def _functions(source: str, tests: Functions, kind: Kind, config: CodeReward) -> Score:
    limits = Limits(config.timeout_s, math.ceil(config.timeout_s) * len(tests.tests), config.memory_mb)
    found = run_functions(_with_imports(source), tests.setup, tests.tests, tests.names, kind, limits, stop=not config.partial)
    return _summed(sum(found.passed), len(tests.tests), found.why, config.partial)


def _summed(right: int, n: int, why: str, partial: bool) -> Score:
    return Score(right / n if partial else float(right == n), f"{right} of {n} tests passed" + (f"; {why}" if why else ""))


def _same_output(found: str, wanted: str) -> bool:
    """Equal line by line, white space at the ends of lines and of the whole aside."""
    return [line.rstrip() for line in found.strip().splitlines()] == [line.rstrip() for line in wanted.strip().splitlines()]


def _text(value: Any) -> str:
    """A case's input or output: text, or lines of it."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


ROW = TextRow(CodeReward, code)
