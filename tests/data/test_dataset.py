from __future__ import annotations

import csv
import gzip
import json
import os
import sys

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load, mixture_sizes, prompt_of, read
from keel.types import Demonstration, Pair


def write(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def demos(n, start=0):
    return [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(start, start + n)]


def fails(path, **config):
    with pytest.raises(DataError) as error:
        read(str(path), DataConfig(path=str(path), **config))
    assert error.value.hint
    return str(error.value)


def test_the_same_rows_from_every_kind_of_file(tmp_path):
    rows = demos(3)
    write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.json").write_text(json.dumps({"version": 1, "data": rows}))
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(r) for r in rows))
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes())
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as out:
            writer = csv.DictWriter(out, ["prompt", "completion"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = [(r["prompt"], r["completion"]) for r in rows]
    for file in sorted(tmp_path.iterdir()):
        dataset = read(str(file))
        assert [(r.prompt.text, r.completion[0].text) for r in dataset.records] == expected, file.name
        assert dataset.layout == "prompt_completion"
        assert dataset.bad == ()


def test_csv_lists_flags_and_lines(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('prompt,completion,label\n"a\nb",x,True\n"[{""role"": ""user"", ""content"": ""q""}]",y,0\nc,z,maybe\nd,w\n')
    dataset = read(str(file), DataConfig(path=str(file), layout="unpaired"))
    assert [r.desirable for r in dataset.records] == [True, False]
    assert dataset.records[1].prompt.messages[0].text == "q"
    assert [(b.line, b.field) for b in dataset.bad] == [(5, "label"), (6, "")]
    assert dataset.records[1].prompt.source_id.endswith("a.csv:4")  # the first row takes two lines


def test_folder_reads_only_the_asked_split(tmp_path):
    write(tmp_path / "train-0.jsonl", *demos(2))
    write(tmp_path / "train-1.jsonl", *demos(2, 2))
    write(tmp_path / "test.jsonl", *demos(3, 10))
    assert len(read(str(tmp_path))) == 4
    assert len(read(str(tmp_path), DataConfig(path=str(tmp_path), split="test"))) == 3
    assert "test, train" in fails(tmp_path, split="validation")
    (tmp_path / "sub").mkdir()
    assert "no data file" in fails(tmp_path / "sub")


def test_file_inside_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "keel_sample_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(package / "rows.jsonl", *demos(2))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(read("package:keel_sample_package/rows.jsonl")) == 2
    assert "holds no file" in fails("package:keel_sample_package/other.jsonl")
    assert "no installed package" in fails("package:keel_absent_package/rows.jsonl")


def test_missing_empty_and_unreadable_files(tmp_path):
    write(tmp_path / "near.jsonl", *demos(1))
    assert "no such file" in fails(tmp_path / "missing.jsonl")
    assert "near.jsonl" in fails(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    assert "empty" in fails(tmp_path / "empty.jsonl")
    (tmp_path / "list.json").write_text("[]")
    assert "empty" in fails(tmp_path / "list.json")
    (tmp_path / "notes.txt").write_text("hello")
    assert "what kind of file" in fails(tmp_path / "notes.txt")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 500)[:20])
    assert "cannot be read" in fails(tmp_path / "cut.jsonl.gz")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    pytest.importorskip("pyarrow")
    assert "broken Parquet" in fails(tmp_path / "bad.parquet")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path):
    file = tmp_path / "a.jsonl"
    write(file, *demos(1))
    file.chmod(0)
    assert "no permission" in fails(file)


def test_broken_json_names_its_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n\n{"prompt": "a"\n[1]\n')
    dataset = read(str(file))
    assert [(b.line, b.reason.split(":")[0]) for b in dataset.bad] == [
        (3, "broken JSON at column 15"),
        (4, "a row must be a JSON object, this is a list"),
    ]
    (tmp_path / "a.json").write_text('[{"prompt": "a"},\n {"prompt" "b"}]')
    assert "a.json:2: broken JSON" in fails(tmp_path / "a.json")


def test_not_utf8_names_line_and_byte(tmp_path):
    good = b'{"prompt": "a", "completion": "b"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + b'{"prompt": "\xff", "completion": "b"}\n')
    (bad,) = read(str(tmp_path / "a.jsonl")).bad
    assert bad.line == 2
    assert f"byte {len(good) + 12} of the file (0xff)" in bad.reason
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\na,\xe9\n")
    assert "a.csv:2: not UTF-8 at byte 20" in fails(tmp_path / "a.csv")


def test_bad_rows_are_set_aside_and_counted(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", *demos(2), {"prompt": "x", "completion": ""}, {"prompt": "only"})
    with caplog.at_level("INFO", logger="keel"):
        dataset = read(path)
    assert dataset.counts == {"rows": 4, "bad": 2, "records": 2, "demonstration": 2}
    assert "layout prompt_completion; 2 bad rows" in caplog.text
    assert [(b.line, b.field, b.reason) for b in dataset.bad] == [
        (3, "completion", "the answer is empty"),
        (4, "completion", "is missing"),
    ]
    assert dataset.bad[0].values == {"prompt": "x", "completion": ""}
    message = fails(path, strict=True)
    assert "a.jsonl:3: completion: the answer is empty" in message
    assert "a.jsonl:4: completion: is missing" in message


def test_no_usable_row_is_an_error(tmp_path):
    assert "no usable row" in fails(write(tmp_path / "a.jsonl", {"prompt": "", "completion": "b"}))


def test_unknown_columns_name_the_nearest_layout(tmp_path):
    message = fails(write(tmp_path / "a.jsonl", {"instructions": "a", "output": "b"}))
    assert "instructions, output" in message
    assert "'alpaca'" in message
    assert "instruction: instructions" in message
    assert "did you mean 'alpaca'" in fails(write(tmp_path / "a.jsonl", *demos(1)), layout="alpacca")


def test_mixed_layouts_are_an_error_unless_one_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", *demos(3), {"prompt": "a", "chosen": "b", "rejected": "c"})
    message = fails(path)
    assert f"3 rows of 'prompt_completion' (first at {tmp_path / 'a.jsonl'}:1)" in message
    assert f"1 rows of 'preference' (first at {tmp_path / 'a.jsonl'}:4)" in message
    dataset = read(path, DataConfig(path=path, layout="prompt_completion"))
    assert (len(dataset), len(dataset.bad)) == (3, 1)


def test_named_layout_reads_what_detection_would_read_otherwise(tmp_path):
    path = write(tmp_path / "a.jsonl", *demos(2))
    prompts = read(path, DataConfig(path=path, layout="prompt"))
    assert [p.text for p in prompts.records] == ["q0", "q1"]


def test_offline_hub_data_set_in_plain_words(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def no_network(*_args, **_kwargs):
        raise ConnectionError("name resolution")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    message = fails("someone/something")
    assert "neither a file or folder here" in message
    assert "without a network" in message


def test_hub_data_set(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def fake(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(demos(3))

    monkeypatch.setattr(datasets, "load_dataset", fake)
    dataset = read("openai/sums:main@v1.0", DataConfig(path="x", split="test"))
    assert asked == [(("openai/sums", "main"), {"split": "test", "revision": "v1.0"})]
    assert len(dataset) == 3
    assert dataset.records[1].prompt.source_id == "openai/sums:main@v1.0[test]:2"
    assert dataset.fingerprint == read("openai/sums:main@v1.0", DataConfig(path="x", split="test")).fingerprint


def test_without_the_datasets_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs the datasets package" in fails("someone/something")


def test_fingerprint_follows_the_content(tmp_path):
    a, b = write(tmp_path / "a.jsonl", *demos(2)), write(tmp_path / "b.jsonl", *demos(2))
    c = write(tmp_path / "c.jsonl", *demos(3))
    assert read(a).fingerprint == read(b).fingerprint != read(c).fingerprint
    assert len(read(a).fingerprint) == 64


def test_record_ids_are_distinct_and_stable(tmp_path):
    rows = demos(1) * 3
    first, second = read(write(tmp_path / "a.jsonl", *rows)), read(write(tmp_path / "b.jsonl", *rows))
    ids = [r.record_id for r in first.records]
    assert ids == [r.record_id for r in second.records]
    assert ids[1:] == [f"{ids[0]}#2", f"{ids[0]}#3"]
    assert len({r.prompt.prompt_id for r in first.records}) == 1


def test_limit(tmp_path):
    path = write(tmp_path / "a.jsonl", *demos(5))
    assert len(read(path, DataConfig(path=path, limit=2))) == 2


def test_split_goes_by_prompt(tmp_path):
    rows = [{"prompt": f"q{i % 20}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(100)]
    dataset = read(write(tmp_path / "a.jsonl", *rows))
    train, held = dataset.split_by_prompt(0.25, seed=3)
    ours, theirs = ({prompt_of(r).prompt_id for r in d.records} for d in (train, held))
    assert (len(ours), len(theirs)) == (15, 5)
    assert not ours & theirs
    assert (len(train), len(held), held.counts["records"]) == (75, 25, 25)
    again = read(write(tmp_path / "b.jsonl", *reversed(rows))).split_by_prompt(0.25, seed=3)[1]
    assert {prompt_of(r).prompt_id for r in again.records} == theirs  # the order of the file plays no part
    assert {prompt_of(r).prompt_id for r in dataset.split_by_prompt(0.25, seed=4)[1].records} != theirs
    assert len(dataset.without_prompts(held)) == 75
    assert len(dataset.prompts()) == 20
    with pytest.raises(DataError, match="cannot hold out"):
        held.split_by_prompt(1.0)


def test_records_of_another_kind_are_refused(tmp_path):
    dataset = read(write(tmp_path / "a.jsonl", *demos(2)))
    assert len(dataset.of(Demonstration)) == 2
    with pytest.raises(DataError, match="pair records are needed"):
        dataset.of(Pair)


def test_mixture_by_weight(tmp_path):
    a, b = write(tmp_path / "a.jsonl", *demos(80)), write(tmp_path / "b.jsonl", *demos(80, 100))
    assert mixture_sizes([80, 80], [0.8, 0.2]) == [80, 20]
    assert mixture_sizes([10, 80], [1, 1]) == [10, 10]
    assert mixture_sizes([10, 80], []) == [10, 80]
    mixed = load(DataConfig(path=[a, b], weights=[0.8, 0.2]), seed=1)
    texts = [r.prompt.text for r in mixed.records]
    assert len(set(texts)) == 100
    assert sum(int(t[1:]) >= 100 for t in texts) == 20
    assert texts == [r.prompt.text for r in load(DataConfig(path=[a, b], weights=[0.8, 0.2]), seed=1).records]
    assert texts != [r.prompt.text for r in load(DataConfig(path=[a, b], weights=[0.8, 0.2]), seed=2).records]
    assert mixed.counts["rows"] == 160


def test_convert_on_loading(tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": "q", "answers": ["x", "y", "z"], "ranks": [1, 2, 3]})
    pairs = load(DataConfig(path=path, convert={"to": "pairs"}))
    assert pairs.counts["pair"] == 3
    assert load(DataConfig(path=path, convert={"to": "unpaired"})).counts["unpaired"] == 2  # y is as often better as worse
    assert load(DataConfig(path=path, convert={"to": "prompts"})).counts["prompt"] == 1
    with pytest.raises(DataError, match="cannot become pairs"):
        load(DataConfig(path=write(tmp_path / "b.jsonl", *demos(1)), convert={"to": "pairs"}))


def test_config_refuses_nonsense():
    for bad in ({"path": ""}, {"path": []}, {"path": ["a", "b"], "weights": [1.0]}, {"path": "a", "weights": [-1.0]}):
        with pytest.raises(ValueError):
            DataConfig(**bad)


def test_of_several_files_one_may_be_empty_which_is_told(tmp_path, caplog):
    full, empty = write(tmp_path / "full.jsonl", *demos(3)), write(tmp_path / "empty.jsonl")
    for paths in ([full, empty], [empty, full]):
        caplog.clear()
        assert len(load(DataConfig(path=paths))) == 3
        assert "empty.jsonl: 0 rows" in caplog.text
    for config in (DataConfig(path=[empty]), DataConfig(path=[empty, empty]), DataConfig(path=[full, empty], weights=[1, 1])):
        with pytest.raises(DataError, match=r"empty\.jsonl: the file is empty"):
            load(config)
