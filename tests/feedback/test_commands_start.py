"""`keel feedback` and `keel annotate` as processes: none of them loads torch, and none minds a reader that has gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import sys

class NotThis:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors"):
            raise AssertionError(f"{name} is loaded")

sys.meta_path.insert(0, NotThis())
from keel.cli import main
import keel.verbs.annotate.run as annotate

annotate.serve = lambda *_: print("serves")
url, folder = sys.argv[1:]
for words in (
    ["feedback", "import", f"{folder}/v.csv", "--campaign", "c"],
    ["feedback", "status"],
    ["feedback", "snapshot", "--campaign", "c"],
    *(["feedback", "export", "--campaign", "c", "--out", f"{folder}/{form}", "--as", form] for form in FORMS),
    ["feedback", "import", f"{folder}/judgements"],
    ["feedback", "lineage", "crowd_csv:ann", "--root", folder],
    ["feedback", "retract", "crowd_csv:ann", "--root", folder],
    ["annotate", "--campaign", "c", "--port", "0", "--no-browser"],
):
    code = main([*words, "--store", url])
    assert code == 0, (words, code)
"""
FORMS = ("judgements", "training", "preference", "unpaired", "argilla", "label_studio", "potato", "mturk", "crowd_csv", "keel")


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    (tmp_path / "v.csv").write_text("task,prompt,left,right,worker,label\nq,Ask?,yes,no,ann,left\nr,Ask?,so,not,bob,right\n")
    return tmp_path


def test_no_command_of_feedback_loads_torch(votes: Path) -> None:
    code = WITHOUT.replace("FORMS", repr(FORMS))
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{votes}/f.db", str(votes)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serves") == 1


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", ["['feedback', 'status', '--store', url]", "['annotate', '--store', url, '--port', '0', '--no-browser']"])
def test_a_reader_that_is_gone_is_no_trouble(votes: Path, words: str, buffered: str) -> None:
    """Each writes into a pipe that nobody reads: no traceback, also none at the end of the process, and a code that says so."""
    code = "import sys\nfrom keel.cli import main\nurl = sys.argv[1]\n"
    code += "assert main(['feedback', 'import', sys.argv[2], '--store', url, '--campaign', 'c']) == 0\n"
    code += "import keel.verbs.annotate.run as annotate, os\nannotate.serve = lambda *_: None\n"
    code += f"reading, writing = os.pipe()\nos.dup2(writing, 1)\nos.close(reading)\nsys.exit(main({words}))"
    args = [sys.executable, "-c", code, f"sqlite:///{votes}/f.db", str(votes / "v.csv")]
    env = {**os.environ, "PYTHONUNBUFFERED": buffered}
    done = subprocess.run(args, capture_output=True, text=True, timeout=120, env=env)
    assert (done.stderr, done.returncode) == ("", 141)
