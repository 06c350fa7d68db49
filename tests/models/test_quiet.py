"""No progress bar of transformers' own while a model is read, and all of them back afterwards."""

from __future__ import annotations

import pytest
from transformers import modeling_gguf_pytorch_utils as gguf

from keel.models.read_errors import quiet


def test_the_reader_of_gguf_files_draws_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = gguf.tqdm
    with quiet():
        assert list(gguf.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert capsys.readouterr().err == ""
    assert gguf.tqdm is bar
    list(gguf.tqdm([1], desc="Converting"))
    assert "Converting" in capsys.readouterr().err, "without quiet there is one: the test can fail"
