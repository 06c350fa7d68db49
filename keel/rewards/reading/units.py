"""Units of measure and of money, in English, Chinese and LaTeX: what they measure, and how large they are."""

from __future__ import annotations

from fractions import Fraction

# dimension: {names: size}; a dimension whose sizes are all 1 has names for one unit.
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "mm|millimeter|millimetre|毫米": "1/1000", "cm|centimeter|centimetre|厘米|公分": "1/100", "dm|decimeter|decimetre|分米": "1/10",
        "m|meter|metre|米": "1", "km|kilometer|kilometre|千米|公里": "1000", "ft|foot|feet|英尺": "0.3048", "inch|inches|英寸": "0.0254",
        "yd|yard|码": "0.9144", "mi|mile|英里": "1609.344",
    },
    "mass": {
        "mg|milligram|毫克": "1/1000", "g|gram|克": "1", "kg|kilogram|千克|公斤": "1000", "斤": "500", "吨|tonne|ton": "1000000",
        "lb|lbs|pound": "453.59237", "oz|ounce|盎司": "28.349523125",
    },
    "time": {
        "ms|millisecond|毫秒": "1/1000", "s|sec|second|秒|秒钟": "1", "min|mins|minute|分钟": "60", "h|hr|hrs|hour|小时|钟头": "3600",
        "day|天|日": "86400", "week|周|星期": "604800",
    },
    "month": {"month|个月|月": "1", "year|yr|年|岁": "12"},
    "area": {
        "mm^2": "1/1000000", "cm^2|sq cm|square centimeter|square centimetre|平方厘米": "1/10000", "dm^2|平方分米": "1/100",
        "m^2|sq m|square meter|square metre|平方米|平米": "1",
        "hectare|ha|公顷": "10000",
        "km^2|square kilometer|square kilometre|平方千米|平方公里": "1000000",
        "ft^2|sq ft|square foot|square feet": "0.09290304", "in^2|square inch|square inches": "0.00064516",
    },
    "volume": {
        "mm^3": "1/1000000000", "ml|mL|milliliter|millilitre|毫升|cm^3|cubic centimeter|cubic centimetre|立方厘米":
        "1/1000000",
        "l|L|liter|litre|升|dm^3|立方分米": "1/1000", "m^3|cubic meter|cubic metre|立方米": "1",
    },
    "speed": {"m/s|mps|meters per second|米/秒|米每秒": "1",
              "km/h|kmh|kph|kilometers per hour|千米/时|千米/小时|公里/小时|千米每小时": "5/18",
              "mph|miles per hour|miles/hour|mi/h": "0.44704"},
    "dollars": {"$|dollar|usd|USD|US$|bucks|美元": "1", "¢|cent|美分": "1/100"},
    "euros": {"€|euro|EUR|欧元": "1"}, "sterling": {"£|GBP|英镑": "1"},
    "yuan": {"元|yuan|rmb|RMB|CNY|块|块钱|人民币": "1", "角|毛": "1/10"},
    "rupees": {"₹|rupee|INR": "1"},
    "angle": {"^\\circ|degree|度": "1"}, "celsius": {"^\\circ C|℃|°C|degrees Celsius|摄氏度": "1"},
    "fahrenheit": {"^\\circ F|℉|°F|degrees Fahrenheit|华氏度": "1"},
    "energy": {"J|joule|焦耳|焦": "1", "kJ|千焦": "1000"}, "power": {"W|watt|瓦|瓦特": "1", "kW|千瓦": "1000"},
    "force": {"N|newton|牛顿|牛": "1"}, "voltage": {"V|volt|伏特|伏": "1"}, "current": {"A|ampere|amp|安培|安": "1"},
}  # fmt: skip


def _names() -> dict[str, tuple[str, Fraction]]:
    found: dict[str, tuple[str, Fraction]] = {}
    for dimension, units in _TABLE.items():
        for names, size in units.items():
            for name in names.split("|"):
                found[name] = (dimension, Fraction(size))
                if name.isascii() and name.isalpha() and len(name) > 2:
                    found[name + "s"] = found[name]
    return found


UNITS = _names()
CURRENCY = "$€£¥₹"


def unit_of(text: str) -> tuple[str, Fraction] | None:
    """(dimension, size) of a unit, alone; None for a word that is none: ``cm``, ``square meters``, ``cm^{2}``, ``公里``, ``^\\circ C``."""
    text = " ".join(text.replace("{", "").replace("}", "").replace("^ ", "^").split()).strip(" .")
    for name in (text, text.lower(), text.replace(" ", "")):
        if name in UNITS:
            return UNITS[name]
    words = text.lower().split()
    plural = " ".join([*words[:-1], words[-1].rstrip("s")]) if words else ""
    return UNITS.get(plural) if len(plural) > 2 else None
