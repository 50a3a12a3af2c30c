"""Formulas in LaTeX and plain text, read from left to right."""

from __future__ import annotations

import re

from vita.speech.normalize.algebra import powers_of_stars
from vita.speech.normalize.operators import single_operators

# A formula needs delimiters; a single dollar sign is one only if no white space or digit follows the closing one.
_ENVIRONMENT = r"\\begin\{(?:align|aligned|equation|gather|gathered|multline|split|cases|array|[pbvB]?matrix)\*?\}"
_DELIMITED = re.compile(
    r"\$\$(?P<a>[^$]{1,500})\$\$|\\\((?P<b>.{1,500}?)\\\)|\\\[(?P<c>.{1,500}?)\\\]"
    rf"|(?P<e>{_ENVIRONMENT}.{{1,500}}?\\end\{{[a-z]+\*?\}})"
    r"|(?<![A-Za-z0-9_$])\$(?P<d>(?=[^$\n]{0,300}[\\^_=+A-Za-z])(?![\s])[^$\n]{1,300}?(?<![\s\\]))\$(?![A-Za-z0-9_$])",
    re.DOTALL,
)
_BOUNDS = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\{[clr| ]*\})?")  # of an environment
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|.)")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\s*\{([^{}]*)\}")
_POWER = re.compile(r"\s*\^\s*(?:\{([^{}]*)\}|\(([^()]{1,40})\)|([-−]?(?:[0-9]+\.[0-9]+|[A-Za-z0-9]+)))")
_INDEX = re.compile(r"(?<=[A-Za-z0-9)])_(?:\{([^{}]*)\}|([A-Za-z0-9]))")
GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
_EN = {
    "times": "times", "cdot": "times", "div": "divided by", "pm": "plus or minus", "leq": "is at most",
    "le": "is at most",
    "geq": "is at least", "ge": "is at least", "neq": "is not equal to", "ne": "is not equal to",
    "approx": "is about", "equiv": "is equivalent to", "infty": "infinity", "sum": "the sum of",
    "int": "the integral of",
    "prod": "the product of", "partial": "partial", "to": "to", "rightarrow": "to", "in": "in", "lim": "the limit of",
    "ldots": "and so on", "cdots": "and so on", "dots": "and so on", "log": "log", "ln": "natural log", "sin": "sine",
    "cos": "cosine", "tan": "tangent", "circ": "degrees", "degree": "degrees",
    "+": "plus", "-": "minus", "−": "minus", "=": "equals", "<": "is less than", ">": "is greater than", "/": "over",
    "*": "times",
}  # fmt: skip
_ZH = {
    "times": "乘", "cdot": "乘", "div": "除以", "pm": "加减", "leq": "小于等于", "le": "小于等于", "geq": "大于等于",
    "ge": "大于等于", "neq": "不等于", "ne": "不等于", "approx": "约等于", "equiv": "恒等于", "infty": "无穷大",
    "sum": "求和", "int": "积分", "prod": "求积", "partial": "偏", "to": "趋于", "rightarrow": "趋于", "in": "属于",
    "lim": "极限", "ldots": "等等", "cdots": "等等", "dots": "等等", "circ": "度", "degree": "度",
    "+": "加", "-": "减", "−": "减", "=": "等于", "<": "小于", ">": "大于", "/": "除以", "*": "乘",
}  # fmt: skip
_STYLES = frozenset(
    ("text", "mathrm", "mathbf", "mathit", "left", "right", "quad", "qquad", "displaystyle", "begin", "end")
)
_PATTERNS = {
    "en": (
        "the fraction {} over {}, ",
        "the square root of {}",
        " squared",
        " cubed",
        " to the power of {}",
        " sub {}",
    ),
    "zh": ("{1}分之{0}", "根号{}", "的平方", "的立方", "的{}次方", "{}"),
}


def speak_formulas(text: str, language: str) -> str:
    """Replace formulas between LaTeX delimiters, and powers such as x^2, by words; other languages lose the marks."""
    text = powers_of_stars(text)
    return read_powers(_DELIMITED.sub(lambda found: f" {read_formula(_inner(found), language)} ", text), language)


def _inner(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)


def read_powers(text: str, language: str) -> str:
    """x^2 as "x squared"."""
    _, _, squared, cubed, power, _ = _PATTERNS.get(language, _PATTERNS["en"])
    minus = "负" if language == "zh" else "minus "

    def word(found: re.Match[str]) -> str:
        exponent = re.sub(r"\A\s*[-−]\s*", minus, found[1] or found[2] or found[3] or "").strip()
        return squared if exponent == "2" else cubed if exponent == "3" else f"{power.format(exponent)} "

    return re.sub(rf"(?<=[A-Za-z0-9)\]]){_POWER.pattern}", word, text)


def _fraction(top: str, bottom: str, pattern: str) -> str:
    """Two integers are read like any fraction of a text."""
    return f"{top}\u2215{bottom}" if top.isdigit() and bottom.isdigit() else pattern.format(top, bottom)


def read_formula(formula: str, language: str) -> str:
    """The words of one formula, numbers left as digits.

    Args:
        formula: LaTeX without its delimiters.
        language: "en" or "zh"; others are read in English.
    """
    words = _ZH if language == "zh" else _EN
    formula = single_operators(_BOUNDS.sub(" ", formula).replace("\\\\", ", "))
    fraction, root, _, _, _, index = _PATTERNS.get(language, _PATTERNS["en"])
    for _ in range(4):  # nested from the inside
        shorter = _FRACTION.sub(lambda found: f" {_fraction(found[1], found[2], fraction)} ", formula)
        shorter = _ROOT.sub(lambda found: " " + root.format(found[1]) + " ", shorter)
        if shorter == formula:
            break
        formula = shorter
    formula = read_powers(formula, language)
    formula = _INDEX.sub(lambda found: index.format(found[1] or found[2]) + " ", formula)

    def command(found: re.Match[str]) -> str:
        name = found[1] or ""
        if name in _STYLES or not name:
            return " "
        return f" {words.get(name, name.lower() if name.lower() in GREEK else name)} "

    formula = _COMMAND.sub(command, formula)
    if language == "zh":  # a minus with nothing before it is another word
        formula = re.sub(r"(?<![A-Za-z0-9)\]}方])(\s*)[-−]", r"\1负", formula)
    formula = re.sub(r"[-+=<>/*−]", lambda found: f" {words[found[0]]} ", formula)
    return re.sub(r"[{}&\\^_]", " ", formula).replace("\u2215", "/")
