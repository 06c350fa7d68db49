"""Columns of other names: which of them is the question, which the answer, the better one, the label? A guess for messages; rows are
read by it only when the user says so."""

from __future__ import annotations

import re
from collections.abc import Collection

_TIDY = re.compile(r"[\s_\-.]+")
# In this order: "bad answer" is no "answer". The whole name must match, without spaces and underscores, in lower case.
_NAMES: tuple[tuple[str, str], ...] = (
    (
        "rejected",
        r"(?:rejected|bad|worse|worst|lose|loser|losing|negative|dispreferred|poor|wrong)(?:answer|response|reply|completion|output|text)?s?"
        r"|(?:answer|response|reply)?(?:l|neg|rejected|worse|bad)|(?:差|坏|较差|更差|拒绝|负)的?(?:回答|答案|回复|例|样本)?",
    ),
    (
        "chosen",
        r"(?:chosen|good|better|best|win|winner|winning|positive|preferred)(?:answer|response|reply|completion|output|text)?s?"
        r"|(?:answer|response|reply)?(?:w|pos|chosen|better|good)|(?:好|较好|更好|优选|正)的?(?:回答|答案|回复|例|样本)?",
    ),
    ("rating", r"(?:user|overall|human)?(?:rating|score|stars?|grade|points?)s?|评分|打分|得分|分数|星级"),
    (
        "label",
        r"(?:label|thumbs?(?:up)?|liked?|isgood|accepted|feedback|vote|upvoted?|helpful|desirable|ktotag)"
        r"|标签|点赞|好评|是否有用|是否好|反馈",
    ),
    (
        "prompt",
        r"(?:user|customer|input)?(?:prompt|question|query|instruction|request|input|ask|title|problem)s?"
        r"|问题|提问|问|指令|提示|提示词|用户|客户问题|用户问题|输入|题目",
    ),
    (
        "completion",
        r"(?:model|bot|agent|assistant|gold|reference|system)?(?:completion|answer|response|reply|output|target|solution|assistant)s?"
        r"|回答|答案|回复|答复|输出|助手|客服回复|参考答案",
    ),
)


def roles(columns: Collection[str]) -> dict[str, str]:
    """{role: column} for the columns whose names speak for one role; a role that two columns claim is left out, nobody can know which."""
    found: dict[str, list[str]] = {}
    for column in columns:
        name = _TIDY.sub("", column.strip().lower())
        role = next((role for role, names in _NAMES if re.fullmatch(names, name)), None)
        if role is not None:
            found.setdefault(role, []).append(column)
    return {role: names[0] for role, names in found.items() if len(names) == 1}


def keys_for(columns: Collection[str]) -> dict[str, str]:
    """``data.keys`` that would make a known layout of the columns; {} where the names do not tell."""
    by = roles(columns)
    answer = by.get("completion", "")
    for wanted in ({"prompt", "chosen", "rejected"}, {"prompt", "completion", "rating"}, {"prompt", "completion", "label"}):
        if wanted <= by.keys():
            return {("answer" if role == "completion" and "rating" in wanted else role): by[role] for role in sorted(wanted, key=_order)}
    if {"chosen", "rejected"} <= by.keys():
        return {role: by[role] for role in ("chosen", "rejected")}
    return {"prompt": by["prompt"], "completion": answer} if "prompt" in by and answer else {}


def _order(role: str) -> int:
    return ("prompt", "chosen", "rejected", "completion", "rating", "label").index(role)


def written(keys: dict[str, str]) -> str:
    """As it is typed: ``data.keys={prompt: question}``; without what has its name already."""
    return "data.keys={" + ", ".join(f"{role}: {column}" for role, column in keys.items() if role != column) + "}"
