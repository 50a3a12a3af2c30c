"""What is said: questions about pictures, sentences to repeat, and talk that is not meant for the model."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from random import Random

from recipes.nano.data.asking import ask
from recipes.nano.data.labels import COLORS, POSITIONS, QA, SHAPES, Split, capital
from recipes.nano.data.phrases import QUESTIONS
from recipes.nano.data.pieces import heard_words
from recipes.nano.data.shapes import at, plural

# Questions that quote a word out of a picture are typed, not spoken: an invented word has no sound.
QUOTED = re.compile(r"'")
REPEAT = ("Repeat what I said.", "What did I say?", "Write down what I said.", "What do you hear?")
REPEAT_HELD_OUT = ("Please write what you hear.",)

_OTHERS = (
    "Honey, have you seen my keys?", "I will be home at six.", "Could you pass me the salt, please?",
    "Yes, mother, I will call you tomorrow.", "The meeting was moved to Thursday.", "Come here, good dog.",
    "We should leave now or we miss the train.", "Did you feed the cat this morning?", "No, I told him already.",
    "Two coffees and one tea, please.", "And now the news at nine o'clock.", "Put it on the table over there.",
    "He said he would never go back.", "Turn left after the church.", "I am so tired today.", "Stop it, both of you.",
    "She has been working there for ten years.", "That is not what I meant, Peter.", "Thank you for calling.",
    "The soup needs a little more time.", "Wait for me outside.", "Let us talk about it later.", "It is your turn.",
    "I think it is going to rain tonight.", "Who left the door open again?", "My phone is almost dead.",
    "Next stop, Central Station.", "You never listen to me, John.", "Goal! What a wonderful shot!",
    "Tickets, please.", "Hurry up, the bus is coming.", "I like your new jacket, Anna.",
)  # fmt: skip
_OTHERS_HELD_OUT = (
    "There is no milk left in the fridge.", "Our flight leaves at seven.", "Sit down, children.",
    "Good night, sleep well, my dear.", "The doctor will see you in a moment.", "I have no idea what she wants.",
)  # fmt: skip
_NAMES = (
    "Peter", "Anna", "John", "Mary", "Tom", "honey", "darling", "mother", "boys", "Doctor Brown", "Lucy", "sir",
)  # fmt: skip
_DO = ("bring", "buy", "wash", "fetch", "sell", "carry", "cook", "forget", "lose", "borrow", "lock", "drop", "hide")
_GOODS = (
    "the juice", "some bread", "your coat", "the tickets", "my keys", "the car", "his letter", "dinner", "the dishes",
    "the dog", "those boxes", "her umbrella", "the medicine", "a taxi", "the windows", "our luggage", "the baby",
)  # fmt: skip
_WHEN = (
    "tomorrow", "tonight", "at seven", "on Monday", "next week", "before lunch", "after school", "this morning",
    "later", "in an hour", "when I get home", "every evening", "last year",
)  # fmt: skip
_PEOPLE = (
    "my sister", "the teacher", "our neighbour", "the boss", "grandmother", "the driver", "your brother", "he", "she",
)  # fmt: skip
_GREETING = (
    "Good morning", "Welcome back", "Goodbye", "Good evening", "Bye for now", "See you", "Cheers",
)  # fmt: skip
_WISH = ("take care", "have a nice trip", "get well soon", "enjoy your meal", "drive safely", "dream of me")
_ORDER = (
    "Stand up", "Be quiet", "Wake up", "Go to bed", "Close the door", "Turn the music down", "Brush your teeth",
    "Put on your shoes", "Wash your hands", "Come inside", "Hold my bag", "Give it back", "Do not run", "Stay here",
)  # fmt: skip
_FEEL = ("think", "know", "hope", "heard", "believe", "guess", "forgot", "never knew", "am afraid", "am sure")
_DOES = (
    "works too much", "is on holiday", "wants some tea", "cannot come", "lives abroad", "will call back",
    "has a cold", "is asleep", "needs our help", "plays the piano", "missed the bus", "paid already", "comes home",
    "is very angry",
)  # fmt: skip
_WHERE = ("in the kitchen", "under the bed", "at the office", "in the garden", "at the corner", "upstairs", "at home")
_TIME = ("for an hour", "since noon", "all day", "for two weeks", "the whole summer", "since last winter")
_GONE = ("is broken again", "got wet", "costs too much", "is ready", "was stolen", "smells strange", "is almost empty")
_KIN = ("father", "aunt", "cousin", "wife", "husband", "daughter", "son", "boss", "friend Lucy")
_VEHICLE = ("bus", "taxi", "train", "ferry", "tram", "lift")
_TALK = (
    "{name}, can you {do} {goods} {when}?", "Did you {do} {goods} {when}?", "Do not {do} {goods} again, {name}.",
    "{people} wants to {do} {goods} {when}.", "I have to {do} {goods} {when}.", "We will see you {when}, {name}.",
    "Please {do} {goods}, {name}.", "{people} will {do} {goods} {when}.", "Why did {people} {do} {goods}?",
    "{name}, where did you put {goods}?", "I never said that {people} should {do} {goods}.", "Happy birthday, {name}.",
    "{people} called about {goods} {when}.", "The shop opens {when}.", "{name}, {people} is waiting for you.",
    "How much did you pay for {goods}?", "Sorry, I was late {when}.", "{people} has been sick since Monday.",
    "Where is {people}? I have been waiting {time}.", "{greeting}, {name}.", "{greeting}, {name}, {wish}.",
    "{order}, {name}.", "{order}, please.", "{order} {when}.", "I {feel} that {people} {does}.",
    "I know what you mean.", "Is {goods} still {where}?", "Somebody left {goods} {where}.", "{goods} {gone}.",
    "Nobody {does}, {name}.", "{people} {does} {time}.", "{people} {does} {when}, I {feel}.", "We need {goods} {when}.",
    "My {kin} {does} {when}.", "Are you coming {when}?", "Do you think that {people} {does}?",
    "{order} or we will be late.", "The {vehicle} stops {where}.", "Your {vehicle} is here, {name}.",
    "The {vehicle} was late again {when}.",
)  # fmt: skip

# Sentences of words that are each heard as one.
_DAILY = (
    "I want to {do} {when}.", "Can you {do} {when}?", "Please {do}, it is {how}.", "You should {do} {when}.",
    "You can {do} if you want.", "{what} is very {how}.", "I think {what} was {how} {when}.", "Where is {what}?",
    "{what} and {what} are the same.", "She said that {what} is {how}.", "He must {do} before you {do}.",
    "Tell me why you {do}.", "How long does it take to {do}?", "What would you like to know about {what}?",
    "Thank you, that was {how}.", "They will {do} {when}.", "I never {do} because it is so {how}.",
    "Is {what} really {how}?", "Some people {do} every day.", "Wait, I would like to {do} first.",
    "There are two of them, and one is {how}.", "It is not {how}, but {what} is.", "Look at {what}, please.",
)  # fmt: skip
_DAILY_WHEN = (
    "today", "tomorrow", "again", "this morning", "now", "after work", "together", "next week", "later",
    "all day", "this year", "in the evening", "first", "soon",
)  # fmt: skip
_DAILY_DO = (
    "go home", "read the text", "look at it", "call her", "walk to the city", "write the name",
    "play with him", "see the water", "stop the music", "change the color", "make a poster", "find a word",
    "spell it", "sing", "draw a tree", "buy some food", "help me", "talk to the man", "show them the picture",
)  # fmt: skip
_DAILY_WHAT = (
    "the picture", "my friend", "the room", "your name", "the game", "this story", "the weather", "the light",
    "the book", "his life", "the last question", "our street", "the small one", "the next page",
)  # fmt: skip
_DAILY_HOW = (
    "good", "nice", "full", "great", "hard", "wrong", "small", "strong", "long", "different", "easy", "young",
    "bright", "quick", "right", "bad", "new", "old",
)  # fmt: skip
# What a listener says while another speaks: it asks for nothing. Synthesisers spell "mm-hm" letter by letter; it is
# hummed by `noise.hum`.
_LISTENING = (
    "um hum", "hum hum", "hum", "humm", "umm", "hmm", "hmm hmm", "uh huh", "uh-huh", "yeah", "yep", "yup",
    "yes", "okay", "OK", "right", "alright", "I see", "aha", "ah", "oh", "huh", "uh", "um", "er", "ooh",
    "wow", "nice", "cool", "great", "really", "sure", "good", "fine", "of course", "exactly", "absolutely",
    "true", "indeed", "got it", "I know", "well", "so", "interesting", "makes sense", "oh really", "oh no",
    "oh wow", "oh dear", "ha ha", "you know", "no", "nah", "very good", "that's right", "no way",
    "I hear you", "ah okay", "oh I see", "wait",
)  # fmt: skip
_LISTENING_HELD_OUT = ("oh right", "fair enough", "um yes", "go on", "I get it", "uh yeah", "good point", "ah I see")


def spoken(qa: QA) -> bool:
    """Whether a question about a picture can be asked aloud."""
    return qa.after is None and not QUOTED.search(qa.question) and bool(re.fullmatch(r"[A-Za-z ,.?!'-]+", qa.question))


def question(rng: Random, split: Split) -> str:
    """A question as one might ask it of some picture, without the picture."""
    kind = rng.choice([k for k in QUESTIONS if k not in ("says", "value", "bar_color", "compare")])
    one, other = (f"{rng.choice(COLORS)} {rng.choice(SHAPES)}" for _ in range(2))
    shape = rng.choice(SHAPES)
    blanks = {
        "color": rng.choice(COLORS), "thing": rng.choice((shape, one)), "things": plural(shape),
        "a_thing": f"a {one}", "one": one, "other": other, "at": at(rng.choice(POSITIONS)),
        "relation": rng.choice(("left of", "right of", "above", "below")),
    }  # fmt: skip
    return ask(rng, split, kind, **blanks).replace("'", "")


def sentence_to_repeat(rng: Random) -> str:
    """Plain words in an order that cannot be guessed, or a small statement."""
    draw = rng.random()
    if draw < 0.25:
        return _statement(rng)
    if draw < 0.4:
        return _said_daily(rng)
    if draw < 0.5:  # what a user's turn usually is, to be written down beside its answer
        while not set(re.findall("[a-z]+", (asked := question(rng, "train")).lower())) <= set(heard_words()):
            continue
        return asked
    words = _everyday() if draw < 0.7 else list(heard_words()) if draw < 0.9 else [*_everyday(), *COLORS, *SHAPES]
    said = " ".join(rng.choice(words) for _ in range(rng.randint(2, 6)))
    return capital(said) + "."


def _said_daily(rng: Random) -> str:
    blanks = {"when": _DAILY_WHEN, "do": _DAILY_DO, "what": _DAILY_WHAT, "how": _DAILY_HOW}
    return capital(rng.choice(_DAILY).format(**{blank: rng.choice(words) for blank, words in blanks.items()}))


def _statement(rng: Random) -> str:
    color, other, shape, thing = rng.choice(COLORS), rng.choice(COLORS), rng.choice(SHAPES), rng.choice(SHAPES)
    place = rng.choice(POSITIONS)
    return rng.choice(
        (
            f"The {shape} is {color}.",
            f"The {color} {shape} is at the {place}.",
            f"There is a {color} {shape} and a {other} {thing}.",
            f"I see {rng.choice(('one', 'two', 'three', 'four', 'five', 'six'))} {color} things.",
            f"The background is {color}.",
            f"The {shape} is above the {other} {thing}.",
        )
    )


def not_for_the_model(rng: Random, split: Split) -> str:
    """Something one person says to another."""
    if split == "heldout":
        return rng.choice(_OTHERS_HELD_OUT)
    if rng.random() < 0.3:
        return rng.choice(_OTHERS)
    blanks = {
        "name": _NAMES, "do": _DO, "goods": _GOODS, "when": _WHEN, "people": _PEOPLE, "greeting": _GREETING,
        "wish": _WISH, "order": _ORDER, "feel": _FEEL, "does": _DOES, "where": _WHERE, "time": _TIME,
        "gone": _GONE, "kin": _KIN, "vehicle": _VEHICLE,
    }  # fmt: skip
    said = rng.choice(_TALK).format(**{blank: rng.choice(words) for blank, words in blanks.items()})
    return capital(said)


def backchannel(rng: Random, split: Split) -> str:
    """A listener's word or two."""
    if split == "heldout":
        return capital(rng.choice(_LISTENING_HELD_OUT)) + "."
    words = [rng.choice(_LISTENING) for _ in range(rng.choices((1, 2, 3), (7, 3, 1))[0])]
    words = words[:1] * len(words) if rng.random() < 0.3 else words
    return capital(rng.choice((" ", ", ")).join(words)) + rng.choice((".", ".", "!", "?", "..."))


def ask_to_repeat(rng: Random, split: Split) -> str:
    """The typed question that goes with a sentence to be repeated."""
    return rng.choice(REPEAT if split == "train" else REPEAT_HELD_OUT)


@lru_cache(maxsize=1)
def _everyday() -> list[str]:
    # All of them in both splits: each is one token, and a token that was never taught is never said. What is held out
    # are the speakers, and the order of the words is nobody's.
    lines = (Path(__file__).parents[1] / "data" / "everyday.txt").read_text(encoding="utf-8").splitlines()[1:]
    return [w for w in " ".join(lines).split() if w.isalpha()]
