"""Every sentence of the recipe: what may be asked, and the one form in which each kind is answered.

Questions vary, answers do not: kinds that need several looks say what they see, a colon, and then the answer; what
stands before the colon goes between think tokens (`recipes.nano.look`). The last list of each kind is asked on the
held-out split only. Sentences only: `asking` draws one, `pieces` makes the vocabulary of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from recipes.nano.data.labels import small


class Asked(NamedTuple):
    """Phrasings for training and those kept back."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


def _asked(train: str, heldout: str) -> Asked:
    return Asked(tuple(train.strip().splitlines()), tuple(heldout.strip().splitlines()))


QUESTIONS: dict[str, Asked] = {
    "caption": _asked(
        "Describe this images.\nDescribe this image.\nWhat do you see?\nWhat is in the image?\nDescribe the picture.\n"
        "Describe the image.\nWhat does the image show?\nWhat is shown here?\nTell me what you see.\n"
        "Describe this picture in one sentence.\nWhat can you see in this picture?",
        "What is in this picture?\nPlease describe what you see.",
    ),
    "read": _asked(
        "What does the logo say?\nWhat is written here?\nWhat does it say?\nRead the text.\nWhat does the text say?\n"
        "What is the text in the image?\nWhat word is in the picture?\nWhat is written in the image?\nRead this.\n"
        "What does the image say?",
        "Read the logo.\nWhat is written on the picture?",
    ),
    "text_color": _asked(
        "What color is the text?\nWhich color is the text?\nWhat is the color of the text?\n"
        "What colour is the writing?\n"
        "What color are the letters?\nIn which color is it written?\nWhat is the color of the letters?",
        "Which color do the letters have?",
    ),
    "background": _asked(
        "What color is the background?\nWhat is the background color?\nWhich color is the background?\n"
        "What colour is the background?\nDescribe the background.\nWhat is the color of the background?\n"
        "What is behind it?",
        "Which color does the background have?",
    ),
    "size": _asked(
        "How big is the text?\nHow large is the text?\nIs the text small, medium or large?\nWhat size is the text?\n"
        "How big are the letters?\nWhat is the size of the text?",
        "How large are the letters?",
    ),
    "place": _asked(
        "Where is the text?\nWhere is the word?\nWhere in the picture is the text?\nWhere is the text placed?\n"
        "In which part of the image is the text?\nWhere does the text stand?",
        "In which part of the picture is the word?",
    ),
    "icon": _asked(
        "Is there an icon?\nIs there an icon in the picture?\nDoes the logo have an icon?\nDo you see an icon?\n"
        "Is there a symbol next to the text?\nDoes the picture have an icon?",
        "Can you see an icon?",
    ),
    "count_words": _asked(
        "How many words are there?\nHow many words do you see?\nHow many words are in the image?\nCount the words.\n"
        "How many words does the text have?\nHow many words are written here?",
        "What is the number of words?",
    ),
    "first_letter": _asked(
        "What is the first letter?\nWhich letter comes first?\nWhat is the first letter of the word?\n"
        "With which letter does the text start?\nWhat letter does the word start with?\nWhich is the first letter?",
        "Which letter does it start with?",
    ),
    "last_letter": _asked(
        "What is the last letter?\nWhich letter comes last?\nWhat is the last letter of the word?\n"
        "With which letter does the text end?\nWhat letter does the word end with?\nWhich is the last letter?",
        "Which letter does it end with?",
    ),
    "count_letters": _asked(
        "How many letters does the word have?\nHow many letters are there?\nCount the letters.\n"
        "How many letters do you see?\nHow long is the word?\nHow many letters are in the word?",
        "What is the number of letters?",
    ),
    "bold": _asked(
        "Is the text bold?\nAre the letters bold?\nIs it written in bold letters?\nIs the word bold?\n"
        "Is this bold text?\nDo you see bold letters?",
        "Is the text written in bold?",
    ),
    "capitals": _asked(
        "Is the text in capital letters?\nIs it written in capital letters?\nAre all letters capital letters?\n"
        "Is the word in capitals?\nIs it all in capitals?\nAre the letters capitals?",
        "Is everything in capital letters?",
    ),
    "is_text_color": _asked(
        "Is the text {color}?\nAre the letters {color}?\nIs it written in {color}?\nIs the color of the text {color}?\n"
        "Is the writing {color}?\nDo you see {color} letters?",
        "Is the word written in {color}?",
    ),
    "says": _asked(
        "Does it say '{text}'?\nDoes the text say '{text}'?\nIs the word '{text}'?\nDo you read '{text}'?\n"
        "Does the logo say '{text}'?\nIs '{text}' written here?",
        "Does the picture say '{text}'?",
    ),
    "count_all": _asked(
        "How many shapes are there?\nHow many shapes do you see?\nCount the shapes.\n"
        "How many shapes are in the image?\n"
        "How many shapes does the picture show?\nHow many things do you see?",
        "What is the number of shapes?",
    ),
    "count_kind": _asked(
        "How many {things} are there?\nHow many {things} do you see?\nCount the {things}.\n"
        "How many {things} are in the image?\nHow many {things} does the picture show?\nHow many {things} can you see?",
        "What is the number of {things}?",
    ),
    "count_color": _asked(
        "How many {color} shapes are there?\nHow many {color} shapes do you see?\nCount the {color} shapes.\n"
        "How many shapes are {color}?\nHow many {color} shapes are in the image?\nHow many {color} things do you see?",
        "What is the number of {color} shapes?",
    ),
    "shape_color": _asked(
        "What color is the {thing}?\nWhich color is the {thing}?\nWhat is the color of the {thing}?\n"
        "What colour is the {thing}?\nWhich color has the {thing}?\nTell me the color of the {thing}.",
        "Which color does the {thing} have?",
    ),
    "which_shape": _asked(
        "What shape is {color}?\nWhich shape is {color}?\nWhat is the {color} shape?\nWhat is the {color} thing?\n"
        "What kind of shape is {color}?\nTell me the {color} shape.",
        "What kind of shape is the {color} thing?",
    ),
    "shape_at": _asked(
        "What is {at}?\nWhat shape is {at}?\nWhich shape is {at}?\nWhat do you see {at}?\n"
        "Which shape do you see {at}?\n"
        "Tell me what is {at}.",
        "What is there {at}?",
    ),
    "where": _asked(
        "Where is the {thing}?\nWhere do you see the {thing}?\nIn which part of the image is the {thing}?\n"
        "Where in the picture is the {thing}?\nWhere can you see the {thing}?\nTell me where the {thing} is.",
        "In which part of the picture is the {thing}?",
    ),
    "exists": _asked(
        "Is there {a_thing}?\nDo you see {a_thing}?\nIs there {a_thing} in the image?\nCan you see {a_thing}?\n"
        "Does the picture show {a_thing}?\nIs {a_thing} in the picture?",
        "Does the image have {a_thing}?",
    ),
    "relation": _asked(
        "Is the {one} {relation} the {other}?\nIs the {one} {relation} the {other} in the image?\n"
        "Do you see the {one} {relation} the {other}?\nIs it true that the {one} is {relation} the {other}?\n"
        "Does the {one} stand {relation} the {other}?\nIn the picture, is the {one} {relation} the {other}?",
        "Can you see the {one} {relation} the {other}?",
    ),
    "bigger": _asked(
        "Which shape is bigger, the {one} or the {other}?\nWhich is bigger, the {one} or the {other}?\n"
        "What is bigger, the {one} or the {other}?\nIs the {one} or the {other} bigger?\n"
        "Which one is larger, the {one} or the {other}?\nWhich is larger, the {one} or the {other}?",
        "What is larger, the {one} or the {other}?",
    ),
    "bars": _asked(
        "How many bars are there?\nHow many bars does the chart have?\nHow many bars do you see?\nCount the bars.\n"
        "How many bars are in the chart?\nHow many bars does the chart show?",
        "What is the number of bars?",
    ),
    "largest": _asked(
        "Which bar is the largest?\nWhat is the largest bar?\nWhich bar is the tallest?\nWhich bar is the highest?\n"
        "What is the largest in the chart?\nWhich one is the largest?\nWhich label has the largest value?",
        "Which bar has the largest value?",
    ),
    "smallest": _asked(
        "Which bar is the smallest?\nWhat is the smallest bar?\nWhich bar is the shortest?\nWhich bar is the lowest?\n"
        "What is the smallest in the chart?\nWhich one is the smallest?\nWhich label has the smallest value?",
        "Which bar has the smallest value?",
    ),
    "value": _asked(
        "What is the value of '{label}'?\nWhat value has '{label}'?\nHow much is '{label}'?\n"
        "Which value does '{label}' have?\nTell me the value of '{label}'.\nWhat is the value of the bar '{label}'?",
        "How large is '{label}'?",
    ),
    "bar_color": _asked(
        "What color is the bar '{label}'?\nWhich color is the bar '{label}'?\nWhat is the color of '{label}'?\n"
        "What colour is '{label}'?\nWhich color has the bar '{label}'?\nTell me the color of '{label}'.",
        "Which color does the bar '{label}' have?",
    ),
    "compare": _asked(
        "Is '{one}' larger than '{other}'?\nIs '{one}' more than '{other}'?\n"
        "Is the bar '{one}' larger than '{other}'?\n"
        "Is '{one}' bigger than '{other}'?\nIs the value of '{one}' larger than that of '{other}'?\n"
        "Does '{one}' have a larger value than '{other}'?",
        "Is '{one}' higher than '{other}'?",
    ),
    "number": _asked(
        "What number is shown?\nWhich number is this?\nWhat number do you see?\nRead the number.\n"
        "What is the number in the image?\nWhich number is written here?\nWhat number is it?",
        "Which number do you see?",
    ),
    "sum": _asked(
        "What is the result?\nWhat is the answer?\nWhat is the result of the calculation?\nWhat does it make?\n"
        "Solve this.\nWhat is the solution?\nHow much is it?",
        "What does the calculation make?",
    ),
    "time": _asked(
        "What time is it?\nWhat time does the clock show?\nWhat is the time?\nRead the clock.\nWhich time is shown?\n"
        "Tell me the time.",
        "Which time does the clock show?",
    ),
    "who": _asked(
        "Who are you?\nWhat is your name?\nWhat are you?\nAre you VITA?\nIntroduce yourself.\nWhat model are you?\n"
        "Tell me about yourself.\nAre you a robot?\nAre you ChatGPT?\nAre you an AI?\nWho made you?",
        "Can you tell me who you are?\nWhich model are you?",
    ),
    "able": _asked(
        "What can you do?\nHow can you help me?\nWhat do you know?\nWhat are you able to do?\nWhat can I ask you?\n"
        "What are you good at?\nHow can I use you?\nHelp.",
        "What kind of questions can you answer?",
    ),
    "hello": _asked(
        "Hello.\nHi!\nGood morning.\nHey.\nHello, how are you?\nHi there!\nGood evening.\nHow are you?",
        "Good afternoon.",
    ),
    "outside": _asked(
        "Who is the president?\nWhat breed is the dog?\nTranslate this into French.\nWrite a poem.\nTell me a joke.\n"
        "What is the capital of {place}?\nWho is the person in the photo?\nHow old is this man?\n"
        "What is the weather like?\n"
        "Who painted this?\nWhich company is this?\nWhat is the meaning of life?\nWrite a story about {topic}.\n"
        "What does the woman wear?\nWhat kind of car is this?\nExplain {topic} to me.\nWho wrote this book?\n"
        "Where was this photo taken?\nWhat is the person doing?\nHow far is {place}?\nHow do I cook {topic}?\n"
        "What is the history of {topic}?\nWrite code for {topic}.\nSing a song about {topic}.\nWhat is {topic}?\n"
        "Who invented {topic}?\nWhy is the sky blue?\nWhat year is it?\nWhat is the stock price of this company?\n"
        "What food is on the plate?\nIs the cat asleep?\nWhat emotion does the face show?\nWhat city is this?\n"
        "Summarize this article.\nCan you recommend a movie?\nWhat should I eat today?\nWhich animal is this?\n"
        "Who won the game?\nWhat plant is this?\nIs this person happy?\nHow do I get to {place}?\n"
        "Who lives in {place}?\n"
        "Translate '{topic}' into German.\nHow much does {topic} cost?\nIs {topic} good for me?",
        "What is the name of this actor?\nHow tall is this building?\nWhat brand is the shirt?\n"
        "Write a letter to my boss.\n"
        "Who discovered {topic}?\nIs the dog big?\nWhat is the population of {place}?\nTell me about {topic}.",
    ),
}  # fmt: skip

PLACES = (
    ["France", "China", "Spain", "Japan", "Brazil", "Canada", "Egypt", "India", "Berlin", "London", "Rome", "Texas"],
    ["Peru", "Norway", "Madrid"],
)
TOPICS = (
    [
        "cats", "music", "history", "love", "the", "sea", "physics", "football", "rice", "soup", "trains", "space",
        "money", "a", "dog", "computers", "war",
    ],
    ["bread", "chess", "whales"],
)  # fmt: skip

ANSWERS: dict[str, str] = {
    "caption_word": "The image shows the word {text} in {style} letters on {ground}.",
    "caption_words": "The image shows the words {text} in {style} letters on {ground}.",
    "caption_number": "The image shows the number {text} in {style} on {ground}.",
    "caption_sum": "The image shows the calculation {text} in {style} on {ground}.",
    "caption_clock": "The image shows a clock on {ground}. The time is {text}.",
    "caption_shape": "The image shows {list} on {ground}.",
    "caption_shapes": "The image shows {count} shapes on {ground}: {list}.",
    "caption_chart": "The image shows a bar chart with {count} bars: {list}.",
    "caption_icon": " There is {icon} {side} it.",
    "caption_underline": " The text is underlined.",
    "caption_box": " There is a box around it.",
    "read": "It says {text}.",
    "text_color": "The text is {color}.",
    "background": "The background is {color}.",
    "gradient": "The background is a gradient from {one} to {other}.",
    "colorful": "The background is colorful.",
    "size": "The text is {size}.",
    "place": "The text is {at}.",
    "icon_yes": "Yes, there is {icon}.",
    "icon_no": "No, there is no icon.",
    "count_words": "There are {count} words.",
    "count_word": "There is 1 word.",
    "first_letter": "The first letter is {text}.",
    "last_letter": "The last letter is {text}.",
    "count_letters": "It says {text}: the word has {count} letters.",
    "bold_yes": "Yes, the text is bold.",
    "bold_no": "No, the text is not bold.",
    "capitals_yes": "Yes, all letters are capitals.",
    "capitals_no": "No, not all letters are capitals.",
    "is_text_color_yes": "Yes, the text is {color}.",
    "is_text_color_no": "No, the text is {color}.",
    "says_yes": "It says {text}: yes, it says {text}.",
    "says_no": "It says {text}: no, it says {text}.",
    "seen": "I see {list}: {verdict}",
    "count_many": "There are {count} {things}.",
    "count_one": "There is 1 {thing}.",
    "count_none": "There are no {things}.",
    "shape_color": "The {thing} is {color}.",
    "which_shape": "The {color} shape is {a_thing}.",
    "shape_at": "There is {a_thing} {at}.",
    "where": "The {thing} is {at}.",
    "exists_yes": "Yes, there is {a_thing}.",
    "exists_no": "No, there is no {thing}.",
    "relation": "The {one} is {there} and the {other} is {elsewhere}: {verdict}",
    "relation_yes": "Yes, the {one} is {relation} the {other}.",
    "relation_no": "No, the {one} is not {relation} the {other}.",
    "bigger": "The {thing} is bigger.",
    "bars": "There are {count} bars.",
    "largest": "The largest bar is {text}.",
    "smallest": "The smallest bar is {text}.",
    "value": "The value of {text} is {count}.",
    "bar_color": "The bar {text} is {color}.",
    "listed": "{list}: {verdict}",
    "compare_yes": "Yes, {one} is larger than {other}.",
    "compare_no": "No, {one} is not larger than {other}.",
    "number": "The number is {text}.",
    "sum": "It says {text}: the result is {count}.",
    "time": "The time is {text}.",
    "no_text": "There is no text in the image.",
    "no_shapes": "There are no shapes in the image.",
    "no_chart": "There is no chart in the image.",
    "no_thing": "There is no {thing} in the image.",
    "nothing": "I do not see any words, shapes or charts that I know.",
    "no_picture": "I do not see an image.",
    "who": "I am a very small demonstration model with the architecture of VITA. I know only simple pictures.",
    "able": "I can describe simple pictures: words, shapes, colors, numbers and small charts.",
    "hello": "Hello! You can ask me about simple pictures: words, shapes, colors, numbers and small charts.",
    "outside": "I can only describe simple pictures: words, shapes, colors, numbers and small charts.",
}

# Words that fill the answers' blanks and stand outside quotation marks.
FILLERS = (
    "background", "a gradient background from to", "a colorful background", "bold", "a an", "and", "is",
    "in the center", "on the left", "on the right", "at the top", "at the bottom", "at the top left",
    "at the top right",
    "at the bottom left", "at the bottom right", "left of", "right of", "above", "below", "to the left of",
    "dark light",
    "to the right of", "small medium large", "shape shapes", "bar chart", "1 2 3 4 5 6",
)  # fmt: skip


def bare(question: str) -> str:
    """Without case and punctuation."""
    return " ".join(re.findall(r"[a-z0-9']+", question.lower()))


def answer(kind: str, **blanks: object) -> str:
    """The one answer of this kind."""
    return ANSWERS[kind].format(**blanks)


def concluded(kind: str, verdict: str, **blanks: object) -> str:
    """What is seen, and after a colon what follows: a small model that looks aloud first is right more often."""
    return answer(kind, verdict=small(verdict), **blanks)


def quoted(text: str) -> str:
    """The text as it stands in an answer."""
    return f"'{text}'"


def topics() -> tuple[str, ...]:
    """What the questions beyond the model's world may be about."""
    return (*PLACES[0], *PLACES[1], *TOPICS[0], *TOPICS[1])
