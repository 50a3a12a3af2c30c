"""Chinese text as it is spoken: `wetext` reads numbers, dates and units; what it leaves is mended around it."""

from __future__ import annotations

import importlib.util
import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from vita.speech.normalize.algebra import zone

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

_CURRENCIES = {
    "$": "美元", "US$": "美元", "€": "欧元", "£": "英镑", "¥": "元", "C$": "加元", "CA$": "加元", "A$": "澳元",
    "AU$": "澳元", "HK$": "港元", "NT$": "新台币", "NZ$": "新西兰元", "S$": "新加坡元", "R$": "雷亚尔",
}  # fmt: skip
_MAGNITUDES = {"k": 3, "thousand": 3, "m": 6, "mn": 6, "million": 6, "b": 9, "bn": 9, "billion": 9, "t": 12, "tn": 12,
               "trillion": 12}  # fmt: skip
_MONEY = re.compile(
    r"(?:(?<![\w)\]])(?P<sign>[-−]))?(?P<currency>(?<![A-Za-z])(?:US|CA?|AU?|HK|NZ|S|NT|R)\$|[$€£¥])\s?"
    r"(?P<amount>[0-9]{1,15}(?:\.[0-9]{1,9})?)"
    r"(?:\s?(?P<magnitude>[kKMBT]|(?<=[0-9])[mbt]|bn|mn|tn|thousand|million|billion|trillion)(?![A-Za-z0-9]))?",
    re.ASCII,
)
_PHONE = re.compile(
    r"(?<![0-9.-])(?:0[0-9]{2,3}-[0-9]{7,8}|[0-9]{3}-[0-9]{3,4}-[0-9]{4}|1[0-9]{2}-[0-9]{8})(?![0-9-]|\.[0-9])"
)
_VERSION = re.compile(
    r"(?<![0-9.])(?:(?<![A-Za-z])[vV])?(?!(?:19|20)[0-9]{2}\.)([0-9]+(?:\.[0-9]+){2,})(?![0-9.]*[0-9])"
)
_ISO_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]{1,9})?"
    r"(?:(?P<utc>Z)|(?P<sign>[-+])(?P<hours>[01][0-9]):?(?P<minutes>[0-5][0-9]))?(?![0-9A-Za-z])"
)
_RANGE_OF_UNITS = re.compile(r"([0-9]\s?(?:°[CF]?|℃|[kcmμ]?m|[km]?g|[KMGT]B|m?s|h))\s?[-~～—–]+\s?(?=[0-9])")


def _money(found: re.Match[str]) -> str:
    """An amount with its currency after it; with a magnitude, in ten thousands or hundred millions."""
    sign, amount = "负" if found["sign"] else "", found["amount"]
    currency = _CURRENCIES[found["currency"]]
    if not found["magnitude"]:
        return f"{sign}{amount}{currency}"
    scaled = Decimal(amount).scaleb(_MAGNITUDES[found["magnitude"].lower()])
    size, name = (8, "亿") if scaled >= 10**8 else (4, "万") if scaled >= 10**4 else (0, "")
    return f"{sign}{scaled.scaleb(-size).normalize():f}{name}{currency}"


def _iso_time(found: re.Match[str]) -> str:
    if found["utc"]:
        return f"{found[1]} {found[2]} UTC"
    offset = zone("UTC", found["sign"], found["hours"], found["minutes"], "zh") if found["sign"] else ""
    return f"{found[1]} {found[2]} {offset}".rstrip()


def _phone(found: re.Match[str]) -> str:
    """Digit by digit; "one" has a sound of its own on the phone."""
    return "，".join("".join(_DIGITS[digit] for digit in group).replace("一", "幺") for group in found[0].split("-"))


def _version(found: re.Match[str]) -> str:
    parts = found[1].split(".")
    name = "版本" if found[0][0] in "vV" and not found.string[: found.start()].endswith(("版", "版本")) else ""
    return name + "点".join("".join(_DIGITS[digit] for digit in part) for part in parts)


def chinese_words(text: str) -> str:
    """Replace what is written by what a Chinese speaker says.

    Without the package `wetext`, numbers stay as digits, which the voice reads.
    """
    if any(character in "0123456789" for character in text):
        text = _ISO_TIME.sub(_iso_time, _MONEY.sub(_money, _SEPARATOR.sub("", text)))
        text = _VERSION.sub(_version, _PHONE.sub(_phone, text))
        text = _RANGE_OF_UNITS.sub(r"\1到", text)
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
