"""Chinese text as it is spoken: `wetext` reads numbers, dates and units; what it leaves is mended around it."""

from __future__ import annotations

import importlib.util
import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wetext import Normalizer

LONGEST = 15  # digits that are read as one number; more are read one by one
_DIGITS = dict(zip("0123456789", "零一二三四五六七八九", strict=True))
_SEPARATOR = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_LONG = re.compile(rf"[0-9]{{{LONGEST + 1},}}")
_RANGE = re.compile(r"(?<=[0-9%年月日号点时度元])\s?[-~～—–]+\s?(?=[0-9])(?![0-9]+-)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}")
_SENTENCE = re.compile(r"[^，。；！？、,;!?]*[0-9][^，。；！？、,;!?]*")  # the parts that have a digit
_SIGNS = {
    "=": "等于", "+": "加", "×": "乘", "÷": "除以", "<": "小于", ">": "大于", "≤": "小于等于", "≥": "大于等于",
    "≠": "不等于", "≈": "约等于", "±": "正负", "&": "和", "@": "艾特", "%": "百分号", "°": "度", "→": "到",
    "←": "来自", "−": "负", "√": "根号", "∞": "无穷大", "π": "派", "$": "美元", "€": "欧元", "£": "英镑", "¥": "元",
}  # fmt: skip
_SIGN = re.compile("|".join(re.escape(sign) for sign in _SIGNS))


_CURRENCIES = {"$": "美元", "€": "欧元", "£": "英镑", "¥": "元"}
_MAGNITUDES = {"k": 3, "thousand": 3, "m": 6, "mn": 6, "million": 6, "b": 9, "bn": 9, "billion": 9, "t": 12, "tn": 12,
               "trillion": 12}  # fmt: skip
_MONEY = re.compile(
    r"(?P<currency>[$€£¥])\s?(?P<amount>[0-9]{1,15}(?:\.[0-9]{1,9})?)\s?"
    r"(?P<magnitude>[kKMBT]|(?<=[0-9])[mbt]|bn|mn|tn|thousand|million|billion|trillion)(?![A-Za-z0-9])"
)


def _money(found: re.Match[str]) -> str:
    """An amount with a magnitude, in ten thousands or hundred millions."""
    amount = Decimal(found["amount"]).scaleb(_MAGNITUDES[found["magnitude"].lower()])
    size, name = (8, "亿") if amount >= 10**8 else (4, "万") if amount >= 10**4 else (0, "")
    return f"{amount.scaleb(-size).normalize():f}{name}{_CURRENCIES[found['currency']]}"


def chinese_words(text: str) -> str:
    """Replace what is written by what a Chinese speaker says.

    Without the package `wetext`, numbers stay as digits, which the voice reads.
    """
    if any(character in "0123456789" for character in text):
        text = _MONEY.sub(_money, _SEPARATOR.sub("", text))
        text = re.sub(r"(?<![0-9./])9/11(?![0-9/])", "九一一", text)
        text = _LONG.sub(lambda found: "".join(_DIGITS[digit] for digit in found[0]), _SEPARATOR.sub("", text))
        text = re.sub(r"(?<=[A-Za-z])-(?=[0-9])", " ", text)  # a name, not a negative number
        dates = {found[0] for found in _DATE.finditer(text)}
        if not dates:
            text = _RANGE.sub("到", text)
        text = re.sub(r"(?<=[0-9a-zA-Z\u4e00-\u9fff])\s*=\s*", "等于", text)
        text = re.sub(r"(?<=[0-9a-zA-Z)])\s*\+\s*(?=[0-9a-zA-Z(])", "加", text)
        normalizer = _normalizer()
        if normalizer is not None:
            text = _SENTENCE.sub(lambda found: normalizer.normalize(found[0]), text)
    return _SIGN.sub(lambda found: _SIGNS[found[0]], text)


@cache
def _normalizer() -> Normalizer | None:
    if importlib.util.find_spec("wetext") is None:
        return None
    from wetext import Normalizer

    return Normalizer(lang="zh", operator="tn")
