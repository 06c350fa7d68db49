"""Fingerprints change when what they stand for changes, and only then."""

from __future__ import annotations

from pathlib import Path

import torch

from keel.runs.fingerprints import file_fingerprint, model_fingerprint, tensors_digest


def test_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456789")
    assert file_fingerprint(tmp_path / "a") == "9:cbf43926"  # the check value of CRC-32
    (tmp_path / "b").write_bytes(b"1" * 5_000_000 + b"2")  # longer than one chunk
    (tmp_path / "c").write_bytes(b"1" * 5_000_000 + b"3")
    assert file_fingerprint(tmp_path / "b") != file_fingerprint(tmp_path / "c")


def test_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = model_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "more").mkdir()
    assert model_fingerprint(tmp_path) == before
    (tmp_path / "config.json").write_text("[]")
    changed = model_fingerprint(tmp_path)
    assert changed != before
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert model_fingerprint(tmp_path) not in (before, changed)
    assert model_fingerprint(tmp_path / "model.safetensors") == file_fingerprint(tmp_path / "model.safetensors")


def test_of_tensors() -> None:
    a, b = torch.arange(6.0), torch.arange(6, dtype=torch.bfloat16)
    digest = tensors_digest([("a", a), ("b", b)])
    assert tensors_digest([("a", a.clone()), ("b", b.clone())]) == digest
    changed = a.clone()
    changed[3] += 1e-6
    others = [
        [("a", changed), ("b", b)],
        [("a", a), ("c", b)],
        [("a", a.reshape(2, 3)), ("b", b)],
        [("a", a), ("b", b.view(torch.float16))],
        [("a", a)],
    ]
    assert len({digest, *map(tensors_digest, others)}) == 6
    assert tensors_digest([("a", a.reshape(2, 3).T)]) == tensors_digest([("a", a.reshape(2, 3).T.contiguous())])
