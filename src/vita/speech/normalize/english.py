"""English text as it is spoken: numbers, dates, times, money, units, phone numbers, abbreviations."""

from __future__ import annotations

import re
from collections.abc import Callable

from vita.speech.normalize.algebra import zone
from vita.speech.normalize.english_words import (
    ABBREVIATIONS,
    BEFORE_A_NUMBER,
    CURRENCIES,
    CURRENCY_CODES,
    MAGNITUDES,
    MONTHS,
    SIGNS,
    UNITS,
)
from vita.speech.normalize.numbers import (
    ONE_NUMBER,
    cardinal,
    digits,
    is_singular,
    number,
    ordinal,
    plural,
    year,
)

_MONTH_NAME = (
    r"(?:(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
    r"|(?:January|February|March|April|May|June|July|August|September|October|November|December)\b)"
)
_MONTH = rf"(?P<month>{_MONTH_NAME})"
_DAY, _YEAR = r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?", r"(?P<year>1[0-9]{3}|20[0-9]{2})"
_EDGE, _END = r"(?<![\w.,/:-])", r"(?![\w/:-]|[.,][0-9])"
# Small letters stand for millions and billions only right after the amount: "$5 m" may be anything.
_MAGNITUDE = r"(?:\s?(?P<magnitude>[kKMBT]|(?<=[0-9])[mb]|bn|mn|tn|thousand|million|billion|trillion)\b)?"
_CURRENCY = r"(?<![A-Za-z])(?:US|CA?|AU?|HK|NZ|S|NT|R)\$|[$€£¥₹₩₽]"
_CODES = "|".join(CURRENCY_CODES)
_YEAR_DIGITS = r"1[1-9][0-9]{2}|20[0-9]{2}"
_SIZES_IN_BYTES = ("64", "128", "256", "512", "1024", "2048", "4096")  # with "B" right after them
_UNITS = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
# After "Main St." these words begin a sentence; a saint is named with another one.
_AFTER_STREET = r"The|An?|It|He|She|We|They|I|You|In|On|At|There|This|That|If|When|But|And|Our|My|His|Her|Their"
_NEAR = r"\b(?:his|her|their|my|your|our|the|early|late|mid)[\s-](?:(?:early|late|mid)[\s-])?"  # a decade
_MONEY_SIGN = r"(?:(?<![\w)\]])(?P<sign>[-−+±]))?"  # "Tea - $5" has none
_SIGN = r"(?:(?<![\w)\]])(?P<sign>[-−+±])\s?)?"


def _rule(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII | flags)


def _signed(found: re.Match[str], words: str) -> str:
    return f"{SIGNS[found['sign']]} {words}" if found["sign"] else words


def _date(found: re.Match[str]) -> str:
    """Year, month and day as numbers or a month's name."""
    parts = found.groupdict()
    named = (parts.get("month") or "").rstrip(".")
    month = int(named) if named.isdigit() else MONTHS.index(next(m for m in MONTHS if m.startswith(named[:3]))) + 1
    day = int(parts["day"]) if parts.get("day") else 0
    if not 1 <= month <= 12 or day > 31 or int(parts.get("last") or 0) > 31 or (parts.get("day") and day == 0):
        return found[0]
    words = MONTHS[month - 1] + (f" {ordinal(day)}" if day else "")
    if parts.get("last"):
        words += f" to {ordinal(int(parts['last']))}"
    return f"{words}{',' if day else ''} {year(int(parts['year']))}" if parts.get("year") else words


def _time(found: re.Match[str]) -> str:
    hour, minute = int(found["hour"]), int(found["minute"] or 0)
    half = (found["half"] or "").replace(".", "").lower()
    if hour > 23 or minute > 59:
        return found[0]
    words = cardinal(str(hour))
    if minute:
        words += " oh " + cardinal(str(minute)) if minute < 10 else " " + cardinal(str(minute))
    elif not half:
        words += " o'clock" if 1 <= hour <= 12 else " hundred"
    if found["second"]:
        words += f" and {plural(found['second'].lstrip('0') or '0', 'second')}"
    return words + (f" {half[0]} {half[1]}" if half else "")


def _date_time(found: re.Match[str]) -> str:
    """A date and time as ISO 8601 writes them."""
    date, time = _date(found), _time(found)
    if found[0] in (date, time):
        return found[0]
    offset = found["zone"] or ""
    if offset == "Z":
        return f"{date} at {time} UTC"
    return f"{date} at {time}" + (f" {zone('UTC', offset[0], offset[1:3], offset[-2:], 'en')}" if offset else "")


def _money(found: re.Match[str]) -> str:
    name = CURRENCIES[found["currency"]] if found["currency"] in CURRENCIES else CURRENCY_CODES[found["currency"]]
    one, many, cent, cents = name
    amount = found["amount"]
    magnitude = MAGNITUDES.get(found["magnitude"] or "", found["magnitude"])
    if magnitude:
        return _signed(found, f"{number(amount)} {magnitude} {many}")
    integer, _, fraction = amount.partition(".")
    if fraction and (len(fraction) != 2 or not cent):
        return _signed(found, f"{number(amount)} {many}")
    parts = []
    if integer.strip("0,") or not fraction.strip("0"):
        parts.append(f"{number(integer)} {one if is_singular(integer) else many}")
    if fraction.strip("0"):
        parts.append(f"{cardinal(str(int(fraction)))} {cent if int(fraction) == 1 else cents}")
    return _signed(found, " and ".join(parts))


def _measure(found: re.Match[str]) -> str:
    one, many = UNITS[found["unit"]]
    if found[0].endswith(f"{found['amount']}B") and found["amount"] not in _SIZES_IN_BYTES:
        one = many = "billion"  # "a 7B model", but "512 B"
    return _signed(found, f"{number(found['amount'])} {one if is_singular(found['amount']) else many}")


def _phone(found: re.Match[str]) -> str:
    groups = re.findall(r"[0-9]+", found[0])
    return ("plus " if found[0].startswith("+") else "") + ", ".join(digits(group) for group in groups)


def _fraction(found: re.Match[str]) -> str:
    top, bottom = int(found["top"]), int(found["bottom"])
    if not 1 < bottom <= 100 or not top:
        return f"{cardinal(found['top'])} over {cardinal(found['bottom'])}"
    part = {2: "half", 4: "quarter"}.get(bottom, ordinal(bottom))
    many = "halves" if part == "half" else part + "s"
    return f"{cardinal(found['top'])} {part if top == 1 else many}"


def _part_measure(found: re.Match[str]) -> str:
    """A fraction with its unit."""
    one, many = UNITS[found["unit"]]
    integer = f"{cardinal(found['integer'])} and " if found["integer"] else ""
    return f"{integer}{_fraction(found)} {many if integer else one}"


def _groups(found: re.Match[str]) -> str:
    """Numbers with hyphens between them: digits one by one if one of them is long."""
    groups = found[0].split("-")
    read = digits if any(len(group) > 2 for group in groups) else cardinal
    return ", ".join(read(group) for group in groups)


def _duration(found: re.Match[str]) -> str:
    parts = zip(found.groups(), ("hour", "minute", "second"), strict=True)
    return " ".join(plural(value, name) for value, name in parts if value)


def _feet(found: re.Match[str]) -> str:
    feet = "foot" if is_singular(found[1]) else "feet"
    return f"{cardinal(found[1])} {feet} {cardinal(found[2])} {'inch' if is_singular(found[2]) else 'inches'}"


def _time_range(found: re.Match[str]) -> str:
    return f"{found[1] or found[2] or ''} to "


def _plain(found: re.Match[str]) -> str:
    """A number of no other kind; four digits from 1100 to 2099 are a year."""
    text = found["amount"]
    if re.fullmatch(_YEAR_DIGITS, text) and not found["sign"]:
        return year(int(text))
    return _signed(found, number(text))


def _decade(found: re.Match[str]) -> str:
    words = year(int(found["year"]))
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def _short_decade(found: re.Match[str]) -> str:
    return re.sub(r"'?([2-9]0)s\b", lambda decade: cardinal(decade[1])[:-1] + "ies", found[0].replace("’", "'"))


def _range_start(start: str) -> str:
    """The first number of a range; a year as one."""
    return f"{year(int(start)) if re.fullmatch(_YEAR_DIGITS, start) else start} to "


def _dimensions(found: re.Match[str]) -> str:
    power = re.match(r" (?:to the power|squared|cubed|times)", found.string[found.end() :])
    between = "times" if power or ("×" in found[0] and " " in found[0]) else "by"
    return f"{number(found[1])} {between} {number(found[2])}"


def _exponent(found: re.Match[str]) -> str:
    return " times ten to the power of " + ("minus " if found[1] == "-" else "")


Replace = str | Callable[[re.Match[str]], str]
# In this order: what a rule makes has no digits, so that later rules leave it alone.
RULES: tuple[tuple[re.Pattern[str], Replace], ...] = (
    (_rule(rf"(?<=\w )St\.(?=\s+(?:{_AFTER_STREET})\b|\s*\Z)"), "Street."),
    (_rule(r"(?<=\w )St\.(?=\s*[,;]|\s+[a-z])"), "Street"),
    (_rule(r"\bSt\.(?=\s+[A-Z])"), "Saint"),
    (_rule("|".join(rf"(?<![\w.]){re.escape(short)}(?!\w)" for short in sorted(ABBREVIATIONS, key=len, reverse=True))),
     lambda found: ABBREVIATIONS[found[0]]),
    (_rule(r"\b(" + "|".join(re.escape(s) for s in BEFORE_A_NUMBER) + r")\s?(?=[0-9])"),
     lambda found: BEFORE_A_NUMBER[found[1]] + " "),
    (_rule(rf"{_EDGE}{_YEAR}-(?P<month>[01][0-9])-(?P<day>[0-3][0-9])[T ](?P<hour>[0-2][0-9]):(?P<minute>[0-5][0-9])"
           r"(?::(?:00|(?P<second>[0-5][0-9]))(?:[.,][0-9]{1,9})?)?(?P<half>)(?P<zone>Z|[-+−][01][0-9]:?[0-5][0-9])?"
           r"(?![\w:-])"), _date_time),
    (_rule(rf"{_EDGE}{_YEAR}[-/.](?P<month>[01]?[0-9])[-/.](?P<day>[0-3]?[0-9])(?![\w/:-])"), _date),
    (_rule(rf"{_EDGE}(?P<month>[01]?[0-9])[-/](?P<day>[0-3]?[0-9])[-/]{_YEAR}{_END}"), _date),
    (_rule(rf"{_EDGE}(?P<day>[0-3]?[0-9])[-/](?P<month>[01]?[0-9])[-/]{_YEAR}{_END}"), _date),
    (_rule(rf"{_EDGE}(?P<day>[0-3]?[0-9])\.(?P<month>[01]?[0-9])\.{_YEAR}{_END}"), _date),
    (_rule(rf"\b({_MONTH_NAME}\s+[0-3]?[0-9])\s?[-–—]\s?(?={_MONTH_NAME}\s+[0-9])"), r"\1 to "),
    (_rule(rf"\b{_MONTH}\s+{_DAY}\s?[-–—]\s?(?P<last>[0-3]?[0-9])(?:st|nd|rd|th)?(?:,?\s+{_YEAR})?\b"
           r"(?![.,:/%-][0-9]|-)"), _date),
    (_rule(rf"(?<![\w.,:/$€£-]){_DAY}\s?[-–—]\s?(?P<last>[0-3]?[0-9])(?:st|nd|rd|th)?\s+{_MONTH}"
           rf"(?:,?\s+{_YEAR}\b)?"), _date),
    (_rule(rf"\b{_MONTH}\s+{_DAY}(?:,?\s+{_YEAR})?\b(?![.,:][0-9])"), _date),
    (_rule(rf"\b{_DAY}\s+{_MONTH}(?:,?\s+{_YEAR}\b)?"), _date),
    (_rule(rf"\b{_MONTH},?\s+{_YEAR}\b"), _date),
    (_rule(r"(?<=[0-9]:[0-5][0-9])(\s?[ap]\.?m\.?)?\s?[-–—−]\s?(?=[0-2]?[0-9]:[0-5][0-9])|"
           r"(?<=[0-9])(\s?[ap]\.?m\.?)\s?[-–—−]\s?(?=[0-9])", re.IGNORECASE), _time_range),
    (_rule(rf"{_EDGE}(?P<hour>[0-2]?[0-9]):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?"
           r"(?:\s?(?P<half>[ap]\.?m\.?)(?!\w))?(?![\w:]|\.[0-9])", re.IGNORECASE), _time),
    (_rule(rf"{_EDGE}(?P<hour>1[0-2]|0?[1-9])(?P<minute>)(?P<second>)\s?(?P<half>[ap]\.?m\.?)(?!\w)", re.IGNORECASE),
     _time),
    (_rule(r"(?<![\w.,+-])([1-9](?: [0-9]{3}){2,}|[1-9][0-9]{1,2}(?: [0-9]{3})* 000)(?![\w-]|[.,][0-9])"),
     lambda found: found[1].replace(" ", "")),
    (_rule(r"(?<![\w.-])(?:\+[0-9]{1,3}[-\s.]?|1[-.])?(?:\([0-9]{2,4}\)\s?|[0-9]{2,4}[-\s.])"
           r"[0-9]{3,4}[-\s.][0-9]{3,4}(?![\w-])"), _phone),
    (_rule(r"(?<![\w.-])[0-9]{3}-[0-9]{4}(?![\w-])|(?<!\w)\+[0-9]{7,15}(?!\w)"), _phone),
    (_rule(r"(?<![\w.,/-])[0-9]{1,9}(?:-[0-9]{1,9}){2,}(?![\w/-]|[.,][0-9])"), _groups),
    (_rule(r"\b([A-Za-z]+)(?=\$\s?[0-9])"), lambda found: found[1] + ("" if f"{found[1]}$" in CURRENCIES else " ")),
    (_rule(rf"(?<=[0-9kKmMbBTn])\s?[–—-]\s?(?={_CURRENCY})"), " to "),
    (_rule(rf"({_CURRENCY})({ONE_NUMBER})[–—-](?={ONE_NUMBER})"), r"\2 to \1"),
    (_rule(rf"(?<![\w.,-])({ONE_NUMBER})[–—-](?={ONE_NUMBER}{_MAGNITUDE}\s?(?:[€£¥₹₩₽]|(?:{_CODES})\b))"), r"\1 to "),
    (_rule(rf"{_MONEY_SIGN}(?P<currency>{_CURRENCY})\s?(?P<amount>{ONE_NUMBER}){_MAGNITUDE}"), _money),
    (_rule(rf"{_MONEY_SIGN}\b(?P<currency>{_CODES})\s?(?P<amount>{ONE_NUMBER}){_MAGNITUDE}"), _money),
    (_rule(rf"{_MONEY_SIGN}(?<![\w.,])(?P<amount>{ONE_NUMBER}){_MAGNITUDE}\s?"
           rf"(?P<currency>[€£¥₹₩₽]|(?:{_CODES})\b)"),
     _money),
    (_rule(r"(?<![\w./])24/7(?![\w/])"), "twenty-four seven"),
    (_rule(r"(?<![\w./])9/11(?![\w/])"), "nine eleven"),
    (_rule(r"(?<![\w./])50/50(?![\w/])"), "fifty-fifty"),
    (_rule(r"(?<![\w./])(?:(?P<integer>[0-9]+) )?(?P<top>[0-9])/(?P<bottom>[0-9]{1,2})\s?"
           rf"(?P<unit>{_UNITS})(?![\w²³/])"), _part_measure),
    (_rule(r"\b(?P<year>1[0-9][0-9]0|20[0-9]0)s\b"), _decade),
    (_rule(r"\b(1,?0{1,3})s of\b"),
     lambda found: {2: "tens", 3: "hundreds", 4: "thousands"}[len(found[1].replace(",", ""))] + " of"),
    (_rule(rf"(?:{_NEAR}['’]?|\b(?:under|over)-|(?<!\w)['’])[2-9]0s\b"
           r"(?:(?:, |,? (?:and|or|to) |[-–])['’]?[2-9]0s\b)*"), _short_decade),
    (_rule(r"(?<![\w.,:-])([0-9]{1,3})\s?h\s?([0-5]?[0-9])\s?m(?:in)?\b(?:\s?([0-5]?[0-9])\s?s\b)?"), _duration),
    (_rule(r"(?<![\w.,:-])()([0-9]{1,3})\s?m(?:in)?\s?([0-5]?[0-9])\s?s\b"), _duration),
    (_rule(r"(?<![\w.,°])([0-9]{1,2})\s?['’′]\s?(1[01]|[0-9])(?:\.[0-9])?\s?(?:[\"”″]|['’]{2})"), _feet),
    (_rule(r"(?<=[A-Za-z]{2})-(?=[0-9]+(?:\.[0-9]+)?[BM]\b)"), " "),
    (_rule(r"\b([A-Za-z]{2,}-?[0-9]+(?:\.[0-9]+)?)-(?=[0-9])"), r"\1, "),  # a name: no range
    (_rule(r"(?<![\w.])\.(?=[0-9])"), "0."),
    (_rule(rf"(?<![\w.,-])({ONE_NUMBER})[–—-](?={ONE_NUMBER}(?![-\d]))"), lambda found: _range_start(found[1])),
    (_rule(rf"(?<![\w.,])({ONE_NUMBER}\s?(?:{_UNITS}|M))\s?[-–—]\s?(?={ONE_NUMBER}\s?(?:{_UNITS}|M)(?![\w²³/]|\s?=))"),
     r"\1 to "),
    (_rule(r"(?<=[0-9])\s[-–—−]\s(?=[0-9])"), " minus "),
    (_rule(rf"(?<![\w.,])({ONE_NUMBER})\s?[x×]\s?({ONE_NUMBER})(?!\w)"), _dimensions),
    (_rule(rf"(?<![\w.,/])(?!3M)({ONE_NUMBER})M(?![\w²³/-])"), lambda found: f"{number(found[1])} million"),
    (_rule(rf"{_SIGN}(?<![\w.,/])(?P<amount>{ONE_NUMBER})[\s-]?(?P<unit>{_UNITS})(?![\w²³/])"), _measure),
    (_rule(r"(?<![\w.])(v?)([0-9]+(?:\.[0-9]+){2,})(?!\w)"),
     lambda found: ("version " if found[1] else "") + " point ".join(cardinal(part) for part in found[2].split("."))),
    (_rule(r"(?<![\w.:])([0-9]+):([0-9]+)(?![\w:])"), r"\1 to \2"),
    (_rule(r"(?<![\w./])(?P<integer>[0-9]+) (?P<top>[0-9])/(?P<bottom>[0-9]{1,2})(?![\w/])"),
     lambda found: f"{cardinal(found['integer'])} and {_fraction(found)}"),
    (_rule(r"(?<![\w./])(?P<top>[0-9]{1,3})/(?P<bottom>[0-9]{1,3})(?![\w/])"), _fraction),
    (_rule(r"(?<![\w.,])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,9})(?:st|nd|rd|th)\b"),
     lambda found: ordinal(int(found[1].replace(",", "")))),
    (_rule(r"#(?=[0-9])"), "number "),
    (_rule(r"(?<!\w)#(?=[A-Za-z])"), "hashtag "),
    (_rule(r"(?<=[0-9])[eE]([-+]?)(?=[0-9]+\b)"), _exponent),
    (_rule(r"(?<=[A-Za-z])-?(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"), " "),
    (_rule(rf"{_SIGN}(?P<amount>{ONE_NUMBER})"), _plain),
    (_rule(r"\s&\s"), " and "),
    (_rule(r"\bw/(?=\s)"), "with"),
    (_rule(r"\b([Aa])nd/or\b"), r"\1nd or"),
)  # fmt: skip
_OPERATORS = {
    "=": "equals", "+": "plus", "<": "is less than", ">": "is greater than", "≤": "is at most", "≥": "is at least",
    "≠": "is not equal to", "≈": "is about", "×": "times", "÷": "divided by", "±": "plus or minus",
    "√": "the square root of",
    "%": "percent", "°": "degrees", "∞": "infinity", "π": "pi", "µ": "micro", "&": "and", "@": "at", "€": "euros",
    "£": "pounds", "¥": "yen", "$": "dollars", "§": "section",
    "~": "about", "→": "to", "←": "from", "−": "minus", "⇔": "if and only if", "¢": "cents",
}  # fmt: skip
_OPERATOR = re.compile("|".join(re.escape(sign) for sign in _OPERATORS))
_BETWEEN = re.compile(r"(?<=\w)\s*[/](?=\s*\w)")


def english_words(text: str) -> str:
    """Replace what is written by what an English speaker says; words stay as they are."""
    if text.isascii() and text.replace(" ", "").replace(",", "").isalpha():
        return text
    for pattern, replace in RULES:
        text = pattern.sub(replace, text)
    text = _OPERATOR.sub(lambda found: f" {_OPERATORS[found[0]]} ", text)
    return _BETWEEN.sub(" ", text)
