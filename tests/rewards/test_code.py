"""Tests of code in answers: right and wrong code, and code that tries to win without being right."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from keel.rewards.score import Score
from keel.rewards.verifiers import code as module
from keel.rewards.verifiers.code import CodeReward, code, code_of
from keel.sandbox.choose import sandbox
from keel.types import Message, Prompt

pytestmark = pytest.mark.skipif(sandbox()[0] is None, reason=sandbox()[1])

ADD = {"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
PROGRAM = {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5", "output": "10"}]}


@pytest.fixture(scope="module")
def judge() -> Callable[..., Score]:
    def made(meta: dict, text: str, prompt: str = "?", **settings: object) -> Score:
        config = CodeReward.model_validate({"name": "code", "timeout_s": 2.0, **settings})
        return code(config)(Prompt("p", (Message("user", prompt),), meta=meta), text)  # type: ignore[return-value]

    return made


def test_functions_by_assertions(judge: Callable[..., Score]) -> None:
    right = judge(ADD, "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.")
    assert (right, right.reason) == (1.0, "2 of 2 tests passed")
    wrong = judge(ADD, "def add(a, b):\n    return 3")
    assert (wrong, wrong.reason) == (0.0, "1 of 2 tests passed; test 2: AssertionError: ")
    assert judge(ADD, "def add(a, b):\n    return 3", partial=True) == 0.5


def test_whole_programs_by_their_output(judge: Callable[..., Score]) -> None:
    assert judge(PROGRAM, "print(sum(map(int, input().split())))") == 1.0
    wrong = judge(PROGRAM, "print(3)")
    assert (wrong, wrong.reason) == (0.0, "1 of 2 tests passed; test 2: another output")
    assert judge(PROGRAM, "print(3)", partial=True) == 0.5
    assert "ZeroDivisionError" in judge(PROGRAM, "1 / 0").reason


def test_the_forms_of_published_data(judge: Callable[..., Score]) -> None:
    check = "def check(candidate):\n    assert candidate([2.0]) == double(1.0)\n"
    header = "def double(x):\n    return 2 * x\n\ndef first(xs):\n    '''The first.'''\n"
    meta = {"test": check, "entry_point": "first"}
    assert judge(meta, "    return xs[0]\n", prompt=header) == 1.0  # continues the prompt
    assert judge(meta, "def first(xs):\n    return xs[0]\n", prompt=header) == 1.0
    for words in ("Reverse", "反转列表", "'first of a list'"):  # Python too, but they define nothing
        plain = {"test": "def check(candidate):\n    assert candidate([2.0]) == 2.0\n", "entry_point": "first"}
        assert judge(plain, "def first(xs):\n    return xs[0]\n", prompt=words) == 1.0
    assert judge(meta, "def first(xs):\n    return 0\ndef double(x):\n    return 0\n", prompt=header) == 0.0  # helpers are the prompt's
    assert judge({"test_list": ["assert f(2) == math.sqrt(16)"], "test_setup_code": "import math"}, "def f(x): return x * 2") == 1.0
    apps = {"fn_name": "mul", "inputs": [[2, 3], [4, 5]], "outputs": [6, 20]}
    assert judge({"tests": apps}, "def mul(a, b): return a * b") == 1.0
    assert judge({"tests": '{"inputs": ["4"], "outputs": ["16"]}'}, "print(int(input()) ** 2)") == 1.0


@pytest.mark.parametrize(
    ("test", "answer"),
    [
        ("assert sorted(f(3)) == [0, 1, 2]", "def f(n):\n    for i in range(n):\n        yield i"),
        ("a = [3, 1, 2]; f(a); assert a == [1, 2, 3]", "def f(a): a.sort()"),
        ("s = f(); s.push(3); s.push(4); assert s.pop() == 4 and s.size == 1", "class f:\n    def __init__(self): self.x = []\n"
         "    def push(self, v): self.x.append(v)\n    def pop(self): return self.x.pop()\n    size = property(lambda self: len(self.x))"),
        ("assert f() == ({1, 2}, (3, None), b'x', 1.5, {'a': [True]}, 2**100)", "def f(): return {1, 2}, (3, None), b'x', 1.5, {'a': [True]}, 2**100"),  # noqa: E501
        ("try:\n    f(-1)\n    ok = False\nexcept ValueError:\n    ok = True\nassert ok", "def f(x):\n    if x < 0: raise ValueError('negative')"),  # noqa: E501
        ("assert f([1, 2])[0] == 2", "from collections import deque\ndef f(x): return deque(reversed(x)).__class__(reversed(x)).copy()[0:1] if 0 else list(reversed(x))"),  # noqa: E501
    ],
    ids=["generator", "in place", "object", "values", "exception", "list"],
)  # fmt: skip
def test_values_of_all_kinds_cross_the_border(judge: Callable[..., Score], test: str, answer: str) -> None:
    found = judge({"tests": [test]}, answer)
    assert found == 1.0, found.reason


DOUBLE = {"tests": [{"input": "3\n", "output": "6"}, {"input": "-1\n", "output": "-2"}]}


@pytest.mark.parametrize(
    "end", ["exit()", "quit()", "exit(0)", "quit(None)", "import sys; sys.exit()", "raise SystemExit", "import sys; sys.exit(0)"]
)
def test_a_program_may_end_itself_once_it_is_done(judge: Callable[..., Score], end: str) -> None:
    assert judge(DOUBLE, f"n = int(input())\nprint(2 * n)\n{end}") == 1.0
    assert judge(DOUBLE, f"n = int(input())\nif n < 0:\n    {end}\nprint(2 * n)") == 0.0  # it ends before it answered
    assert judge(DOUBLE, end) == 0.0


@pytest.mark.parametrize("end", ["exit(1)", "quit('sorry')", "import sys; sys.exit(3)"])
def test_a_program_that_says_it_failed_has_failed(judge: Callable[..., Score], end: str) -> None:
    assert judge(DOUBLE, f"n = int(input())\nprint(2 * n)\n{end}") == 0.0


@pytest.mark.parametrize("end", ["exit()", "quit()", "import os; os._exit(0)", "raise SystemExit(0)", "import sys; sys.exit(0)"])
def test_functions_cannot_leave_before_the_tests(judge: Callable[..., Score], end: str) -> None:
    assert judge(ADD, f"def add(a, b):\n    {end}") == 0.0
    assert judge(ADD, f"def add(a, b):\n    return a + b\n{end}") == 0.0  # at its top, before a test could run
    guarded = f"def add(a, b):\n    return a + b\n\nif __name__ == '__main__':\n    print(add(1, 2))\n    {end}"
    assert judge(ADD, guarded) == 1.0  # not run: the tests import it


THREADED = """
import sys, threading
def main():
    n = int(input())
    print(2 * n)
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 27)
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""


def test_a_program_may_start_its_work_in_a_thread(judge: Callable[..., Score]) -> None:
    assert judge(DOUBLE, THREADED) == 1.0
    assert judge(DOUBLE, THREADED.replace("2 * n", "3 * n")) == 0.0
    assert judge(DOUBLE, THREADED.replace("2 * n", "2 * n // 0")) == 0.0
    assert (
        judge(DOUBLE, THREADED.replace("threading.Thread(", "T(").replace("import sys", "from threading import Thread as T\nimport sys", 1))
        == 1.0
    )
    several = "from threading import Thread\nout = []\nts = [Thread(target=out.append, args=(k,)) for k in (1, 1)]\n"
    several += "for t in ts: t.start()\nfor t in ts: t.join()\nprint(sum(out) * int(input()))"
    assert judge(DOUBLE, several) == 1.0


SOLUTION = """
class Solution:
    def add(self, a: int, b: Optional[int]) -> List[int]:
        return self._sum(a, b)

    def _sum(self, a, b):
        return a + b
"""


def test_methods_of_a_solution_are_functions(judge: Callable[..., Score]) -> None:
    assert judge(ADD, SOLUTION) == 1.0
    assert judge(ADD, SOLUTION.replace("a + b", "a - b")) == 0.0
    assert judge({"tests": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}}, SOLUTION) == 1.0
    check = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(a=5, b=6) == 11\n"
    assert judge({"test": check, "entry_point": "add"}, SOLUTION) == 1.0
    assert judge({"test": check, "entry_point": "Solution().add"}, SOLUTION) == 1.0
    assert judge({"test": check, "entry_point": "Solution().add"}, SOLUTION.replace("a + b", "3")) == 0.0
    kept = "class Solution:\n    def __init__(self): self.seen = []\n    def add(self, a, b):\n        self.seen.append(a)\n"
    kept += "        return len(self.seen) + b"
    assert judge({"tests": ["assert add(7, 0) == 1", "assert add(7, 0) == 1"]}, kept) == 1.0  # each call has an object of its own
    own = "class Solution:\n    def add(self, a, b): return 0\ndef add(a, b): return a + b"
    assert judge(ADD, own) == 1.0


def test_answers_may_take_common_imports_for_granted(judge: Callable[..., Score]) -> None:
    body = "    heap: List[int] = []\n    for x in (a, b): heappush(heap, x)\n    return reduce(operator.add, deque(heap), 0)"
    assert judge(ADD, f"def add(a: int, b: Optional[int] = None) -> Optional[int]:\n{body}") == 1.0
    assert judge(ADD, "def gcd(a, b): return a + b\ndef add(a, b): return gcd(a, b)") == 1.0  # its own name is kept
    assert judge(ADD, "from __future__ import annotations\ndef add(a: List[int], b): return a + b") == 1.0
    assert "NameError" in judge(ADD, "def add(a, b): return frobnicate(a, b)").reason


FORGERIES = {
    "exits with success": "import os\ndef add(a, b): os._exit(0)",
    "exits at once": "raise SystemExit(0)",
    "exits before it is asked": "import os\nos._exit(0)\ndef add(a, b): return a + b",
    "equals everything": "class E:\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n    __hash__ = None\ndef add(a, b): return E()",  # noqa: E501
    "an int that equals everything": "class E(int):\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef add(a, b): return E()",
    "prints a verdict": "print('2 of 2 tests passed')\nprint('{\"done\": true}')\ndef add(a, b): return 0",
    "writes a verdict on every descriptor": "import os, json, struct\nfor m in ({'done': True}, {'end': 0, 'passed': True}, {'value': True}):\n"  # noqa: E501
    "    b = json.dumps(m).encode()\n    for fd in range(64):\n        try: os.write(fd, struct.pack('>I', len(b)) + b)\n        except OSError: pass\n"  # noqa: E501
    "def add(a, b): return 0",
    "patches the library": "import builtins, json\njson.dumps = lambda *a, **k: '{\"value\": {\"i\": \"0x3\"}, \"changed\": []}'\ndef add(a, b): return 0",  # noqa: E501
    "patches its host": "import sys\nf = sys._getframe()\nwhile f:\n    f.f_globals['encode'] = lambda v, r: {'i': '0x3'}\n    f = f.f_back\ndef add(a, b): return 0",  # noqa: E501
    "patches the assertions": "import builtins\nbuiltins.AssertionError = type('Never', (BaseException,), {})\nbuiltins.isinstance = lambda *a: True\ndef add(a, b): return 0",  # noqa: E501
    "patches the end": "import builtins\nbuiltins.exit = builtins.quit = lambda *a: 3\ndef add(a, b): return exit()if a < 0 else exit",
    "catches everything": "import sys\nsys.settrace(lambda *a: None)\nsys.excepthook = lambda *a: None\ntry:\n    add\nexcept NameError:\n    def add(a, b): return None",  # noqa: E501
    "takes over the comparison": "def AssertionError(*a): return None\ndef sorted(x): return 3\ndef add(a, b): return 0",
    "raises what passes": "def add(a, b): raise AssertionError",
    "looks for the tests": "import gc\nneedle = ''.join(reversed('(dda tressa'))\ndef add(a, b):\n    for o in gc.get_objects():\n"
    "        for x in o if isinstance(o, (list, tuple)) else o.values() if isinstance(o, dict) else ():\n"
    "            if isinstance(x, str) and needle in x: return eval(x.split('==')[1].split(chr(10))[0])\n    return None",
    "loops": "def add(a, b):\n    while True: pass",
    "floods": "def add(a, b): return 'x' * (20 << 20)",
    "nests": "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_wins(judge: Callable[..., Score], name: str) -> None:
    found = judge(ADD, FORGERIES[name])
    assert found == 0.0, f"{found!r} {found.reason} {found.error}"


def test_helpers_of_the_tests_cannot_be_replaced(judge: Callable[..., Score]) -> None:
    assert judge({"tests": ["assert abs(f(2) - 4) < 1e-6"]}, "def abs(x): return -1\ndef f(x): return 9") == 0.0
    assert (
        judge(
            {"tests": ["assert close(f(2), 4)"], "setup": "def close(a, b): return a == b"},
            "def close(*a): return True\ndef f(x): return 9",
        )
        == 0.0
    )


@pytest.mark.parametrize(
    "answer",
    ["import sys; sys.exit(0)", "while True: pass", "import os; os.kill(os.getppid(), 9)", "", "print(open('/proc/self/cmdline').read())"],
)
def test_programs_that_do_not_do_it(judge: Callable[..., Score], answer: str) -> None:
    assert judge(PROGRAM, answer) == 0.0


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ({}, "tests: the row needs a column 'tests'"),
        ({"tests": ["assert f(1) =="]}, "tests: they are not Python"),
        ({"tests": ["assert 1 == 1"]}, "tests: they call nothing that an answer could define"),
        ({"tests": ["assert f(lambda x: x) == 1"]}, "tests cannot be run: the tests hand over a function"),
        ({"tests": ["f(1)\nwhile True: pass"]}, "tests cannot be run: the tests took too long by themselves"),
        ({"tests": [{"x": 1}]}, "tests: 'tests' must hold assertions, or objects with input and output"),
        ({"tests": ["assert f(1) == 1"], "setup": "import nonsense_module"}, "tests cannot be run: ModuleNotFoundError"),
    ],
)
def test_tests_that_cannot_be_run_are_a_failure_not_a_zero(judge: Callable[..., Score], meta: dict, error: str) -> None:
    found = judge(meta, "def f(x): return 1")
    assert math.isnan(found)
    assert error in found.error


def test_the_last_block_counts() -> None:
    assert code_of("```python\na\n```\ntext\n```\nb\n```\n```bash\nls\n```") == "b\n"
    assert code_of("plain") == "plain"
    assert code_of("```python\nnever closed") == "never closed"


def test_only_so_many_tests_are_run() -> None:
    prompt = Prompt("p", (Message("user", "?"),), meta={"tests": [{"input": str(i), "output": ""} for i in range(9)]})
    assert len(module.tests_of(prompt, CodeReward(name="c", max_tests=4)).cases) == 4  # type: ignore[union-attr]
