"""The words of scenes, in English and Chinese."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

SHAPES = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形", "cross": "十字形"}
COLOURS = {"red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色", "purple": "紫色", "orange": "橙色"}
SIZES = {"large": "大", "small": "小"}
MATERIALS = {"plain": "纯色", "striped": "条纹"}
PLACES = {"above": "上方", "below": "下方", "left of": "左边", "right of": "右边"}
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}

RGB = {
    "red": (214, 39, 40),
    "blue": (40, 90, 220),
    "green": (30, 160, 60),
    "yellow": (240, 205, 30),
    "purple": (140, 60, 180),
    "orange": (245, 130, 30),
}

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBERS_ZH = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九")


def plural(shape: str) -> str:
    """``crosses``, ``circles``."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"
