"""The tests as other machines would run them: `make test-machines`.

Processors differ in the instructions that matrix libraries take, in whether they multiply bfloat16, and in threads; each changes the last
bits of a result. No test may hang on them. Every variation below is one run of pytest with an environment of its own; what a library
ignores on this processor (MKL's switch on those of other makers) is run all the same and changes nothing.

    python tests/machines.py                       # all variations of the rooms that compute
    python tests/machines.py bf16 "4 threads"      # some of them
    python tests/machines.py -- tests/learner -x   # other tests: what follows goes to pytest
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

_ISA = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
VARIATIONS: dict[str, dict[str, str]] = {
    "fp32": {"KEEL_AUTO_PRECISION": "fp32"},
    "bf16": {"KEEL_AUTO_PRECISION": "bf16"},
    "2 threads": {"KEEL_TEST_THREADS": "2"},
    "4 threads": {"KEEL_TEST_THREADS": "4"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "MKL_CBWR": "AVX2"},
    "oldest": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
    },
}
ROOMS = ("examples", "learner", "loops", "methods", "models", "rewards", "rollout", "types")
DEFAULT = [*(f"tests/{room}" for room in ROOMS), "tests/verbs", "tests/test_vlm.py", "tests/test_selftest.py", "tests/test_pipeline.py"]


def main(arguments: list[str]) -> int:
    """Run the variations that are named (all without a name), one after the other; print a table. Returns 1 when one of them failed."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    names, tests = arguments[:cut] or list(VARIATIONS), arguments[cut + 1 :] or DEFAULT
    if unknown := [name for name in names if name not in VARIATIONS]:
        print(f"no variation is called {', '.join(unknown)}; there are: {', '.join(VARIATIONS)}")
        return 2
    rows: list[tuple[str, int, float, str]] = []
    for name in names:
        print(f"== {name}: {' '.join(f'{k}={v}' for k, v in VARIATIONS[name].items())}", flush=True)
        started = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-m", "not slow and not gpu", *tests]
        run = subprocess.run(command, env={**os.environ, **VARIATIONS[name]}, stdout=subprocess.PIPE, text=True, check=False)
        print(run.stdout, end="", flush=True)
        rows.append((name, run.returncode, time.monotonic() - started, (run.stdout.strip().splitlines() or [""])[-1]))
    print()
    for name, code, seconds, last in rows:
        print(f"{'passed' if code == 0 else 'FAILED'}  {name:<10} {seconds:6.0f} s  {last}")
    return int(any(code for _, code, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
