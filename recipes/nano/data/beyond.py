"""Questions beyond the model's world, put together by number, and words around a question that change nothing.

Words that are no pieces of the tokenizer are spelled, which is what a stranger's questions look like too.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from recipes.nano.data.labels import small
from recipes.nano.data.words import WordBook

_NOUNS = (
    "cat", "horse", "bird", "fish", "tree", "flower", "table", "bridge", "river", "mountain", "phone", "computer",
    "teacher", "doctor", "king", "queen", "painter", "singer", "player", "team", "movie", "song", "book", "story",
    "bottle", "cup", "shoe", "hat", "dress", "coat", "train", "plane", "boat", "bicycle", "truck", "kitchen", "garden",
    "city", "country", "church", "tower", "street", "hotel", "island", "ocean", "planet", "moon", "sun", "rain", "snow",
    "child", "baby", "girl", "boy", "woman", "man", "people", "crowd", "face", "hand", "hair", "eye", "smile", "coffee",
    "tea", "cheese", "pizza", "cake", "apple", "banana", "salad", "meat", "engine", "battery", "school", "job", "law",
    "medicine", "science", "religion", "language", "war", "peace", "market", "price", "bank", "company", "product",
    "window", "door", "roof", "wall", "road", "airport", "ship", "camera", "guitar", "piano", "ball", "game", "toy",
    "lion", "tiger", "elephant", "snake", "monkey", "bear", "rabbit", "cow", "pig", "sheep", "insect", "spider",
)  # fmt: skip
_ATTRIBUTES = (
    "age", "price", "weight", "purpose", "history", "owner", "meaning", "job", "title", "origin", "speed", "taste",
    "address", "birthday", "temperature", "height", "material", "future", "nationality", "species", "model", "date",
)  # fmt: skip
_VERBS = (
    "make", "buy", "cook", "find", "fix", "draw", "sell", "build", "write", "learn", "play", "clean", "open", "paint",
    "grow", "feed", "drive", "wash", "carry", "train",
)  # fmt: skip
_DONE = (
    "built", "made", "wrote", "painted", "found", "owns", "likes", "bought", "drives", "designed", "sang", "loves",
    "killed", "started", "holds", "eats",
)  # fmt: skip
_KINDS_OF = (
    "old", "heavy", "fast", "expensive", "dangerous", "famous", "beautiful", "happy", "sad", "tired", "young", "real",
    "healthy", "hot", "cold", "rich", "strong", "deep", "funny", "angry", "smart", "popular",
)  # fmt: skip
_WRITTEN = ("an essay", "an email", "a report", "a speech", "a song", "a review", "a message", "a book", "a list")
_BEYOND = (
    "What is the {attribute} of the {noun}?", "What is the {noun}'s {attribute}?", "Who {done} the {noun}?",
    "Who {done} this {noun}?", "How {kind} is the {noun}?", "How {kind} is this {noun}?", "Is the {noun} {kind}?",
    "Is this {noun} {kind}?", "Are the {noun}s {kind}?", "Does the {noun} look {kind}?", "How do I {verb} a {noun}?",
    "How can I {verb} the {noun}?", "Can you {verb} a {noun}?", "Can you {verb} me a {noun}?", "Where can I {verb} a "
    "{noun}?", "Why is the {noun} {kind}?", "Why do people {verb} {noun}s?", "When did they {verb} the {noun}?",
    "Write {written} about the {noun}.", "Write {written} about {noun}s.", "Write {written} to my {noun}.",
    "Explain the {noun}.", "Explain how to {verb} a {noun}.", "What does the {noun} do?", "What is the {noun} doing?",
    "What is a {noun}?", "What are {noun}s?", "Which {noun} is this?", "What {noun} is this?", "What kind of {noun} is "
    "this?", "What {attribute} is the {noun}?", "Who is the {noun}?", "Who is this {noun}?", "Should I {verb} a "
    "{noun}?", "Do you like {noun}s?", "What do you think about {noun}s?", "Help me {verb} a {noun}.", "I want to "
    "{verb} a {noun}.", "Tell me a story about a {noun}.", "Tell me something about {noun}s.", "Give me a {noun}.",
    "How many {noun}s live in {other} city?", "How much is a {noun}?", "How long does a {noun} live?", "Translate "
    "'{noun}' into Spanish.", "Is there a {kind} {noun} near me?", "What is the best {noun}?", "Which {noun} is the "
    "best?", "Who is the best {noun} in the world?", "What happens if I {verb} the {noun}?", "What brand is the "
    "{noun}?", "What is the brand of this {noun}?", "Where was this {noun} made?", "Where does the {noun} live?",
    "What does the {noun} wear?", "What will the {noun} do next?", "Is it a {noun} or a {other}?", "Recommend a "
    "{noun}.", "Who plays the {noun}?", "What color is the {noun}'s {other}?", "What does the {noun} feel?", "What is "
    "the name of this {noun}?", "What is the name of the {noun}?", "Who {done} {noun}s?", "Who {done} the first "
    "{noun}?", "How {kind} are {noun}s?", "How {kind} was the {noun}?", "Write a {noun} to my {other}.", "What {noun} "
    "is on the {other}?", "What is the {attribute} of {noun}s?",
)  # fmt: skip
# Asked on the held-out split only. None has the form of a sentence above: of `phrases`' own held-out ones most have,
# since forms with any word in any blank were added.
BEYOND_HELD_OUT = (
    "Whose bicycle is this?", "May I have a glass of water?", "Could somebody repair my watch?", "Order me a taxi.",
    "At what hour does the museum close?", "Since when are they married?", "Convert ten miles to kilometers.",
    "Prove that there is no largest prime.", "Whom did she marry?", "Will it rain tomorrow?", "Play some jazz.",
    "Remind me to call my aunt.", "If I had wings, could I fly?", "Compare Paris with Vienna.", "Let us play chess.",
    "Is a whale a fish?",
)  # fmt: skip
_BEFORE = (
    "Please tell me: {}", "Tell me: {}", "Look at the image: {}", "Can you say: {}", "I want to know: {}", "Now: {}",
    "And {}", "So {}", "Hello, {}", "Please, {}", "Look, {}", "Then {}",
)  # fmt: skip
_AFTER = ("{} please", "{} in this image", "{} here", "{}, please", "{} in the picture", "{} now")


@lru_cache(maxsize=1)
def _any_words() -> tuple[str, ...]:
    """Words that mean nothing to the model: a question about any of them is beyond it."""
    book = WordBook()
    known = {piece.strip() for piece in book.whole_pieces}
    return tuple(w for w in book.dictionary["train"] if w.isalpha() and w.islower() and w not in known)


def beyond(rng: Random) -> str:
    """A question beyond the model's world."""
    known = {
        "attribute": _ATTRIBUTES, "noun": _NOUNS, "other": _NOUNS, "verb": _VERBS, "done": _DONE, "kind": _KINDS_OF,
    }  # fmt: skip
    # Words of any kind in any place: a question is beyond the model by its form, whatever it is about.
    shares = {"attribute": 0.3, "noun": 0.5, "other": 0.3, "verb": 0.2, "done": 0.4, "kind": 0.3}
    words = {blank: rng.choice(_any_words() if rng.random() < shares[blank] else known[blank]) for blank in known}
    words["written"] = rng.choice(_WRITTEN)
    return rng.choice(_BEYOND).format(**words)


def dressed(rng: Random, question: str) -> str:
    """The question with words before or after it that change nothing."""
    if rng.random() < 0.6:
        return rng.choice(_BEFORE).format(small(question))
    return rng.choice(_AFTER).format(question[:-1]) + question[-1]
