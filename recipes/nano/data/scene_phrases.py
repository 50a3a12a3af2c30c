"""The sentences about pictures as people make them: signs, slides, messages, clocks; and the honest ones.

Kept apart from `phrases`, which has the sentences of the first scenes; `scene_pieces` gives the tokenizer their words.
"""

from __future__ import annotations

import re

HONEST = "I can only describe simple pictures, and this looks like {}."
LONG = "I can only read a few words, and this is a long text."
# Further ways to ask what `phrases` asks too; "|" parts the last one, which is asked on the held-out split only.
ASKED: dict[str, tuple[tuple[str, ...], str]] = {
    "sign": (
        ("What does the sign say?", "Read the sign.", "What is on the sign?", "What is written on the sign?",
         "What word is on the sign?", "Which word is on the sign?"),
        "What can you read on the sign?",
    ),
    "sign_color": (
        ("What color is the sign?", "Which color is the sign?", "What is the color of the sign?",
         "What colour is the sign?", "Tell me the color of the sign."),
        "Which color does the sign have?",
    ),
    "button": (
        ("What does the button say?", "Read the button.", "What is written on the button?", "What is on the button?"),
        "What can you read on the button?",
    ),
    "button_color": (
        ("What color is the button?", "Which color is the button?", "What is the color of the button?",
         "What colour is the button?"),
        "Which color does the button have?",
    ),
    "banner": (
        ("What does the banner say?", "Read the banner.", "What is written on the banner?", "Read the text."),
        "What can you read on the banner?",
    ),
    "label_color": (
        ("What color is the label?", "Which color is the label?", "What is the color of the label?"),
        "Which color does the label have?",
    ),
    "label": (
        ("What does the label say?", "Read the label.", "What is written on the label?", "Read the text."),
        "What can you read on the label?",
    ),
    "title": (
        ("What is the title?", "Read the title.", "What does the title say?", "Which title does it have?",
         "What is the headline?", "Tell me the title."),
        "What can you read in the title?",
    ),
    "points": (
        ("What are the points?", "Read the points.", "What do the points say?", "List the points.",
         "Which points are on the slide?", "What are the bullet points?"),
        "Which points do you see?",
    ),
    "count_points": (
        ("How many points are there?", "How many points do you see?", "How many bullet points are there?",
         "How many points does the slide have?", "Count the points."),
        "What is the number of points?",
    ),
    "point": (
        ("What is the {nth} point?", "Read the {nth} point.", "What does the {nth} point say?",
         "Which is the {nth} point?"),
        "Tell me the {nth} point.",
    ),
    "message": (
        ("What does the message say?", "Read the message.", "What is the message?", "What is written in the message?",
         "Read the text message."),
        "What can you read in the message?",
    ),
    "screen": (
        ("What is this?", "Is this a screenshot?", "What kind of picture is this?", "What do you see?"),
        "Which kind of picture is this?",
    ),
}  # fmt: skip
ANSWERS: dict[str, str] = {
    "caption_sign": "The image shows {color} sign with the word {text} in {ink} letters.",
    "caption_signs": "The image shows {color} sign with the words {text} in {ink} letters.",
    "caption_button": "The image shows {color} button with the word {text} in {ink} letters.",
    "caption_buttons": "The image shows {color} button with the words {text} in {ink} letters.",
    "caption_label": "The image shows {color} label with the word {text} in {ink} letters.",
    "caption_labels": "The image shows {color} label with the words {text} in {ink} letters.",
    "caption_slide": "The image shows a slide with the title {text} and {count} points: {list}.",
    "caption_phone": "The image shows a phone with the message {text}.",
    "sign_color": "The sign is {color}.",
    "button_color": "The button is {color}.",
    "label_color": "The label is {color}.",
    "title": "The title is {text}.",
    "points": "The points are {list}.",
    "count_points": "There are {count} points.",
    "point": "The {nth} point is {text}.",
    "message": "The message says {text}.",
}
LOOKS = (
    "a photograph", "a drawing", "a receipt", "a map", "a page of text", "a screenshot with many things",
    "a pie chart", "a line chart",
)  # fmt: skip


def say(kind: str, **blanks: object) -> str:
    """The one answer of this kind."""
    return ANSWERS[kind].format(**blanks)


def scene_pieces() -> set[str]:
    """Every word of this module's sentences as the tokenizer has it: a space before all but the first."""
    asked = [text for train, heldout in ASKED.values() for text in (*train, heldout)]
    pieces: set[str] = set()
    for text in (*asked, *ANSWERS.values(), LONG, *(HONEST.format(look) for look in LOOKS)):
        bare = re.sub(r"\{\w+\}", "0", text)
        pieces.update(p for p in re.findall(r" [A-Za-z]+", bare) if p != " I")
        pieces.update(re.findall(r"^[A-Za-z]+", bare))
    return pieces
