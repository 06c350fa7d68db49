"""Columns of other names: the message has the setting that makes rows of them, and the setting does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load
from keel.data.guess import keys_for, roles, written

TABLES = [
    (["问题", "好的回答", "差的回答"], {"prompt": "问题", "chosen": "好的回答", "rejected": "差的回答"}, "Pair"),
    (["question", "good_answer", "bad answer"], {"prompt": "question", "chosen": "good_answer", "rejected": "bad answer"}, "Pair"),
    (["Query", "Win", "Lose"], {"prompt": "Query", "chosen": "Win", "rejected": "Lose"}, "Pair"),
    (["instruction text", "answer"], {}, ""),
    (["客户问题", "客服回复"], {"prompt": "客户问题", "completion": "客服回复"}, "Demonstration"),
    (["question", "reply", "stars"], {"prompt": "question", "answer": "reply", "rating": "stars"}, "Rating"),
    (["user_input", "bot_response", "thumbs_up"], {"prompt": "user_input", "completion": "bot_response", "label": "thumbs_up"}, "Unpaired"),
    (["title", "question", "reply"], {}, ""),  # two that could be the question
]


@pytest.mark.parametrize(("columns", "keys", "kind"), TABLES, ids=lambda v: "+".join(v) if isinstance(v, list) else None)
def test_the_message_names_keys_that_read_the_rows(columns: list[str], keys: dict[str, str], kind: str, tmp_path: Path) -> None:
    assert keys_for(columns) == keys
    path = tmp_path / "rows.csv"
    values = {"stars": ["5", "1"], "thumbs_up": ["true", "false"]}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for i in range(2):
            table.writerow([values.get(c, [f"{c} a", f"{c} b"])[i] for c in columns])
    with pytest.raises(DataError, match="no known layout") as said:
        load(DataConfig(path=str(path)))
    assert (written(keys) in (said.value.hint or "")) == bool(keys)
    if keys:
        found = load(DataConfig(path=str(path), keys=keys))
        assert (len(found), {type(r).__name__ for r in found.records}) == (2, {kind})


def test_a_role_that_two_columns_claim_is_nobodys() -> None:
    assert roles(["question", "query", "answer"]) == {"completion": "answer"}
    assert roles(["weather"]) == {}
