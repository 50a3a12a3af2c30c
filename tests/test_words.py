"""Word check: names and sentences in src use the field's terms, not the private synonyms of version 1.

The lists are the left column of the glossary "Words" of the architecture document and the phrases quoted there. Each
test lists every offence with file and line. A word that is right somewhere is in `ALLOWED` with the reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "vita"
PYTHON = sorted(SOURCE.rglob("*.py"))
C = sorted([*SOURCE.rglob("*.c"), *SOURCE.rglob("*.h")])
PARTS_OF_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Words of a name (snake_case or CamelCase, any case), and the term that replaces them.
WORDS = {
    "together": "KVCacheBatch", "places": "block table, indices", "resting": "idle, cached prefix",
    "batcher": "Scheduler", "ticket": "sequence", "leader": "-", "gather": "-", "patience": "batching window",
    "turned": "rotated, rope", "ahead": "async decoding, prefetch distance",
    "fit": "memory limit, memory plan, supports()", "fits": "memory limit, supports()", "spilled": "streamed from disk",
    "residence": "weight residency", "settle": "weight residency",
    "heap": "malloc tuning", "collector": "GC pause", "ceiling": "bandwidth, peak", "ceilings": "bandwidth, peak",
    "costs": "FLOPs", "room": "workspace, reserve",
    "own": "native", "product": "matmul, linear", "products": "matmul, linear",
    "rounded": "quantized", "rounding": "quantize", "unrounded": "unquantized", "whole": "integer",
    "widen": "dequantize, upcast", "widened": "dequantize, upcast", "widening": "dequantize, upcast",
    "wide": "intermediate_size, upcast", "reachable": "pinned", "locked": "pinned", "preparer": "Processor",
    "slot": "placeholder", "slots": "placeholders",
    "sound": "audio", "sounds": "audios", "picture": "image", "pictures": "images", "ears": "audio encoder",
    "house": "-", "owns": "-",
}  # fmt: skip
# Neighbouring words of a name.
PAIRS = {
    ("prefix", "store"): "PrefixCache", ("feature", "store"): "EncoderCache", ("few", "rows"): "small-M GEMM",
    ("many", "rows"): "large-M GEMM", ("some", "rows"): "GEMM", ("plain", "steps"): "EagerDecode",
    ("graphed", "steps"): "CudaGraphDecode", ("state", "mark"): "response state token",
    ("state", "marks"): "response state tokens", ("no", "number"): "NaN",
}  # fmt: skip
# Names that are wrong as they are, in this case: the words in them have a right meaning too.
NAMES = {
    "Steps": "DecodeRunner", "Unit": "prompt segment", "Prepared": "ProcessedInputs", "LARGEST": "QMAX",
    "_turn": "-", "turn": "-", "pages": "mmap", "costs": "FLOPs",
}  # fmt: skip
# The same, in kernels alone (Python and C): split-K partials, norm weights, block sizes.
KERNEL_NAMES = {
    "parts": "split-K partials", "joined": "reduce", "join": "fused QKV, fused gate-up", "gain": "norm weight",
    "unit": "scale", "units": "scales", "NEAR": "L1_BYTES", "PANEL": "N_BLOCK", "PANELS": "N_BLOCK",
    "TILE": "M_BLOCK", "KEYS": "KV_BLOCK", "LARGEST": "QMAX",
}  # fmt: skip
# What computes: `gate` and `up` are right for the inputs of SwiGLU.
KERNEL_FUNCTIONS = {"gate": "SwiGLU"}
# In files about attention; elsewhere a group is one of quantisation.
ATTENTION_NAMES = {"groups": "kv_heads"}
# Phrases of comments, docstrings and messages; a space stands for any white space, comment marks included.
PHRASES = (
    # quoted in the architecture document
    "waits for the turn", "next leader gathers", "took part in the one before", "before its id is known here",
    "computed for nothing", "word from the host", "no number", "the scale is none", "taken in panels",
    "only as far as x fits", "kept from looking where there is none",
    # the project's review script
    "Together", "Resting", "Batcher", "Preparer", "FeatureStore", "few_rows", "many_rows", "some_rows", "the house",
    "its turn", "what is there", "as they lie", "nobody waits",
    # formulas
    "Owns", "own kernels", "whole numbers?", "whoever asks", "in good company", "worth its while", "stands still",
    "PrefixStore", "PlainSteps", "GraphedSteps", "state marks?",
)  # fmt: skip
CASE_MATTERS = {"Together", "Resting", "Batcher", "Preparer", "FeatureStore", "Owns"}
# Words of sentences that users read: string constants of Python, docstrings left out.
SENTENCES = {
    "pictures?": "image", "sounds?": "audio", "rounded": "quantised", "unrounded": "unquantised",
    "ears": "audio encoder", "no number": "NaN", "whole numbers?": "integer",
    "own kernels": "native kernels", "ceilings?": "bandwidth, peak",
}  # fmt: skip
# Where a word is right: a pattern for "file:name" or "file:sentence", and why.
ALLOWED: dict[str, str] = {
    r"(prompt/.*|engine/session\.py|cli/chat/.*):turn": "a turn of a conversation",
    r"api\.py:fit": "the old name of `memory`, deprecated",
    r"cli/evaluate\.py:--(wide|pictures|sounds)": "a flag of recipes/nano/evaluate.py, which keeps its names",
    r"cli/options\.py:--fit": "the old name of --memory, hidden",
    r"cli/app\.py:--pictures": "the old name of --images, hidden",
}


@dataclass(frozen=True)
class Name:
    """A name that src defines, and where."""

    file: Path
    line: int
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line} {self.kind} {self.name}"


def python_names(file: Path, text: str) -> Iterator[Name]:
    """The module, classes, functions, arguments, constants, attributes and command line flags of a file."""
    yield Name(file, 1, "module", file.stem)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield Name(file, node.lineno, "class", node.name)
            for target in assigned(node.body):
                yield Name(file, target.lineno, "attribute", str(name_of(target)))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Name(file, node.lineno, "function", node.name)
            a = node.args
            for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg):
                if argument is not None:
                    yield Name(file, argument.lineno, "argument", argument.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield Name(file, node.lineno, "attribute", node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for flag in re.findall(r"^--[a-z][a-z0-9_-]*$", node.value):
                yield Name(file, node.lineno, "flag", flag)
    for target in assigned(tree.body):
        yield Name(file, target.lineno, "constant", str(name_of(target)))


def assigned(body: list[ast.stmt]) -> Iterator[ast.expr]:
    """Plain names that statements assign, tuples taken apart."""
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                if isinstance(one, ast.Name):
                    yield one


def name_of(target: ast.expr) -> str | None:
    return target.id if isinstance(target, ast.Name) else None


def c_names(file: Path, text: str) -> Iterator[Name]:
    """The file, and the macros, functions, types and enumerators that it defines."""
    yield Name(file, 1, "file", file.stem)
    text = without_comments(text)
    patterns = {
        "macro": r"^[ \t]*#[ \t]*define[ \t]+(\w+)",
        "function": r"^(?!#|typedef|return|else|struct|enum)[A-Za-z_][\w \t*]*?[ \t*](\w+)[ \t]*\([^;{}]*\)[ \t\n]*\{",
        "type": r"(?:\}|^typedef[^;{]*?)[ \t]*(\w+)[ \t]*;",
        "constant": r"^(?:static[ \t]+)?const[ \t]+\w+[ \t*]+(\w+)[ \t]*(?:\[[^\]]*\])?[ \t]*=",
    }
    for kind, pattern in patterns.items():
        for found in re.finditer(pattern, text, re.MULTILINE):
            yield Name(file, text.count("\n", 0, found.start(1)) + 1, kind, found[1])
    for found in re.finditer(r"\benum\b[^{;]*\{([^}]*)\}", text):
        for name in re.findall(r"\b([A-Z_]\w*)\b\s*(?==|,|$)", found[1]):
            yield Name(file, text.count("\n", 0, found.start(1)) + 1, "enumerator", name)


def without_comments(text: str) -> str:
    """C with its comments blanked, lines kept."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.DOTALL)


def terms_for(name: Name) -> set[str]:
    """What the name should say instead; empty where it is right."""
    words = [word.lower() for word in PARTS_OF_WORDS.findall(name.name)]
    found = {WORDS[word] for word in words if word in WORDS}
    found |= {PAIRS[pair] for pair in pairwise(words) if pair in PAIRS}
    exact = name.name.removeprefix("--")
    found |= {NAMES[exact]} if exact in NAMES else set()
    if name.file.relative_to(SOURCE).parts[0] == "kernels":
        found |= {KERNEL_NAMES[exact]} if exact in KERNEL_NAMES else set()
        callable_ = name.kind in ("function", "macro")
        found |= {KERNEL_FUNCTIONS[exact]} if callable_ and exact in KERNEL_FUNCTIONS else set()
    if "attention" in name.file.stem:
        found |= {ATTENTION_NAMES[exact]} if exact in ATTENTION_NAMES else set()
    return found


def allowed(where: str) -> bool:
    return any(re.fullmatch(pattern, where) for pattern in ALLOWED)


def marked(text: str) -> str:
    """One line: comment marks and white space between words become one space."""
    return re.sub(r"\s*\n\s*(?:#|//|\*(?!/))?\s*", " ", text)


def phrase(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b{words}\b", 0 if words in CASE_MATTERS else re.IGNORECASE)


def sentences(file: Path) -> Iterator[tuple[int, str]]:
    """String constants with a space in them, which are no docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def every_name() -> list[Name]:
    python = [name for file in PYTHON for name in python_names(file, file.read_text(encoding="utf-8"))]
    return [*python, *(name for file in C for name in c_names(file, file.read_text(encoding="utf-8")))]


def name_offences() -> list[tuple[str, str]]:
    """Each with the key that `ALLOWED` is searched by."""
    return [
        (f"{name.file.relative_to(SOURCE)}:{name.name}", f"{name}: say {', '.join(sorted(terms))}")
        for name in every_name()
        if (terms := terms_for(name))
    ]


def phrase_offences() -> list[tuple[str, str]]:
    out = []
    for file in [*PYTHON, *C]:
        text, here = marked(file.read_text(encoding="utf-8")), file.relative_to(SOURCE)
        for words in PHRASES:
            for found in phrase(words).finditer(text):
                around = text[max(0, found.start() - 40) : found.end() + 40]
                out.append((f"{here}:{found[0]}", f"{here} {found[0]!r} in '…{around}…'"))
    return out


def sentence_offences() -> list[tuple[str, str]]:
    out = []
    for file in PYTHON:
        here = file.relative_to(SOURCE)
        for line, text in sentences(file):
            for words, term in SENTENCES.items():
                if phrase(words).search(text):
                    out.append((f"{here}:{text}", f"{here}:{line} {text!r}: say {term}"))
    return out


def report(offences: list[tuple[str, str]]) -> None:
    left = sorted({shown for key, shown in offences if not allowed(key)})
    assert not left, f"{len(left)} offences:\n" + "\n".join(left)


def test_names_are_the_fields() -> None:
    report(name_offences())


def test_phrases_of_version_1_are_gone() -> None:
    report(phrase_offences())


def test_sentences_for_users_say_image_audio_and_quantised() -> None:
    report(sentence_offences())


@pytest.mark.slow
def test_every_exception_is_needed() -> None:
    keys = [key for key, _ in [*name_offences(), *phrase_offences(), *sentence_offences()]]
    unused = [pattern for pattern in ALLOWED if not any(re.fullmatch(pattern, key) for key in keys)]
    assert not unused, f"delete from ALLOWED: {unused}"


SAMPLE_PYTHON = """
LARGEST = 7
app.option("--fit")
class Together:
    places: int
    def few_rows(self, room, *, own=True):
        self._locked = whole = gate = 1
        return product(room)
"""
SAMPLE_C = """
#define PANEL 16
#define TILES 3 /* #define NEAR 1 */
typedef struct { int rows; } many_rows;
enum { KEYS = 4, BLOCK };
static const int AHEAD = 8;
static inline float gate(float x, int room)
{
    return widen(x);
}
"""


def test_the_check_finds_what_it_should() -> None:
    """Its own test: a check that sees nothing would pass."""
    python = python_names(SOURCE / "kernels" / "heap.py", SAMPLE_PYTHON)
    assert {name.name for name in python if terms_for(name)} == {
        "heap", "LARGEST", "--fit", "Together", "places", "few_rows", "room", "own", "_locked",
    }  # fmt: skip
    c = c_names(SOURCE / "kernels" / "cpu" / "sound.c", SAMPLE_C)
    assert {name.name for name in c if terms_for(name)} == {"sound", "PANEL", "many_rows", "KEYS", "AHEAD", "gate"}
    assert not terms_for(Name(SOURCE / "prompt" / "template.py", 1, "class", "Turn"))
    assert phrase("its turn").search(marked("# a lock, and\n    # its\n    # turn comes"))
    assert phrase("no number").search(marked("/* What is no\n * number stays */")) and not phrase("Owns").search("owns")
