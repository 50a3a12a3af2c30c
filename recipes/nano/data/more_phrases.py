"""More ways to ask the same, for training only, so that a question worded in a new way is still understood.

Kept apart from `phrases` because the tokenizer's whole pieces are made from those: a new word there would move every
id of the shipped vocabulary. Here are only words that are pieces already.
"""

from __future__ import annotations

MORE: dict[str, str] = {
    "caption": "Please tell me what you see.|Describe what you see.|What does this picture show?|Tell me about the "
    "image.|What is shown in the image?|What is on the picture?|Please describe the image.|What is this?|Can you "
    "describe the image?|Please describe this picture.|What can you see?|Explain what you see in the image.",
    "read": "What is written?|Please read the text.|Can you read this?|What is the word?|What word do you see?|Which "
    "word is this?|Read the word.|What is the text?|Tell me what is written here.|What does the word say?|Read what is "
    "written in the picture.|Which word is written here?|What does the picture say?",
    "text_color": "What is the text color?|Tell me the color of the letters.|Which color is the writing?|What color "
    "is the word?|Which color are the letters?|What color does the text have?|The letters are which color?|Tell me "
    "the color of the text.|What is the color of the word?|Which color is the word written in?",
    "background": "Tell me the color of the background.|What color is behind the text?|What does the background look "
    "like?|What color does the background have?|Is the background white or black?|The background is which color?",
    "size": "How large is the word?|Tell me the size of the text.|How big is the word?|Are the letters small, medium "
    "or large?|Which size is the text?|How large is the writing?|How big is the writing?",
    "place": "Tell me where the text is.|In which part of the image do you see the text?|Where do you see the word?|"
    "Where is it written?|Where are the letters?|In which part of the picture is the text?|Where can I see the text?",
    "icon": "Does the image have a symbol?|Is there a symbol?|Do you see a symbol?|Can you see a symbol next to the "
    "text?|Does the logo have a symbol?|Is there any icon here?|Is an icon in the image?",
    "count_words": "Tell me the number of words.|How many words can you see?|How many words does the picture show?|"
    "Count the words in the image.|How many words can you read?|What number of words do you see?|Of how many words is "
    "the text?|What is the number of words in the image?|Number of words?",
    "first_letter": "Tell me the first letter.|With which letter does it start?|What letter is the first?|What does "
    "the word start with?|What is the first letter of the text?|Which letter is at the start?",
    "last_letter": "Tell me the last letter.|With which letter does it end?|What letter is the last?|What does the "
    "word end with?|What is the last letter of the text?|Which letter is at the end?",
    "count_letters": "Tell me the number of letters.|How many letters can you see?|How many letters are in the text?|"
    "Count the letters of the word.|What number of letters does the word have?|Of how many letters is the word?|What "
    "is the number of letters in the word?|Number of letters?",
    "bold": "Is the word written in bold?|Is it bold?|Is the writing bold?|Are these bold letters?|Is it a bold text?|"
    "Tell me if the text is bold.|Does the text have bold letters?",
    "capitals": "Are these capital letters?|Is the text all capitals?|Does it have only capital letters?|Is it written "
    "in capitals?|Is the word in capital letters?|Tell me if all letters are capitals.",
    "is_text_color": "Is the word {color}?|Is this text {color}?|Are these letters {color}?|Is it {color}?|Is the text "
    "written in {color}?|Tell me if the text is {color}.|Does the text have the color {color}?",
    "says": "Does the word say '{text}'?|Is this the word '{text}'?|Is it '{text}'?|Does the image say '{text}'?|Is "
    "the text '{text}'?|Is the word '{text}' in the picture?|Can you read '{text}' here?",
    "count_all": "Tell me the number of shapes.|How many shapes can you see?|Count all shapes.|How many shapes are in "
    "the picture?|How many things are there?|What number of shapes do you see?|What is the number of things?|How many "
    "shapes does the image have?|What is the number of shapes in the image?|Number of shapes?",
    "count_kind": "Tell me the number of {things}.|Count all {things}.|How many {things} are in the picture?|How many "
    "{things} does the image have?|What number of {things} do you see?|How many of the shapes are {things}?|What is "
    "the number of {things} in the image?|Number of {things}?",
    "count_color": "Tell me the number of {color} shapes.|Count all {color} shapes.|How many {color} shapes can you "
    "see?|How many of the shapes are {color}?|What number of {color} shapes do you see?|How many things are {color}?|"
    "What is the number of {color} things?|What is the number of {color} shapes in the image?|Number of {color} "
    "shapes?",
    "shape_color": "What color does the {thing} have?|The {thing} is which color?|In which color is the {thing}?|What "
    "is the {thing}'s color?|What colour has the {thing}?|Which color do you see on the {thing}?",
    "which_shape": "Tell me what is {color}.|Which thing is {color}?|What is {color}?|The {color} shape is what?|What "
    "kind of shape is the {color} shape?|Which shape is the {color} thing?|Which shape has the color {color}?",
    "shape_at": "What can you see {at}?|Which shape is there {at}?|What thing is {at}?|What kind of shape is {at}?|"
    "What is the shape {at}?|What is shown {at}?",
    "where": "Where is the {thing} in the image?|Tell me the place of the {thing}.|Where do I find the {thing}?|Where "
    "in the image is the {thing}?|In which part of the picture do you see the {thing}?|The {thing} is where?|In what "
    "part of the image is the {thing}?|Where does the {thing} stand?",
    "exists": "Is there {a_thing} here?|Can you see {a_thing} in the picture?|Does the image show {a_thing}?|Tell me "
    "if there is {a_thing}.|Do you see {a_thing} in the image?|Does the picture have {a_thing}?|Is {a_thing} here?",
    "relation": "Is the {one} placed {relation} the {other}?|Do you find the {one} {relation} the {other}?|Can you say "
    "if the {one} is {relation} the {other}?|Tell me if the {one} is {relation} the {other}.|Is the {one} to be seen "
    "{relation} the {other}?|The {one} is {relation} the {other}, true?",
    "bigger": "Which of the two is bigger, the {one} or the {other}?|Tell me which is bigger, the {one} or the "
    "{other}.|Which thing is larger, the {one} or the {other}?|What shape is larger, the {one} or the {other}?|Is the "
    "{one} or the {other} larger?",
    "bars": "Tell me the number of bars.|How many bars can you see?|Count all bars.|How many bars are in the image?|"
    "What number of bars does the chart have?|What is the number of bars in the chart?|Number of bars?",
    "largest": "Tell me the largest bar.|Which label is the largest?|Which is the largest bar?|What bar is the "
    "highest?|Which bar has the highest value?|What has the largest value?|Which one is the highest?|What is the "
    "highest bar?|Which bar is the biggest?",
    "smallest": "Tell me the smallest bar.|Which label is the smallest?|Which is the smallest bar?|What bar is the "
    "lowest?|Which bar has the lowest value?|What has the smallest value?|Which one is the lowest?|What is the lowest "
    "bar?|Which bar is the shortest of all?",
    "value": "What number has '{label}'?|What is the number of '{label}'?|How high is '{label}'?|How large is the bar "
    "'{label}'?|How much does the bar '{label}' show?|Which number does '{label}' have?|How high is the bar "
    "'{label}'?|What is '{label}'?",
    "bar_color": "What color does '{label}' have?|What color does the bar '{label}' have?|Tell me the color of the bar "
    "'{label}'.|In which color is the bar '{label}'?|The bar '{label}' is which color?",
    "compare": "Is '{one}' the larger one, more than '{other}'?|Is the bar '{one}' higher than '{other}'?|Is the bar "
    "'{one}' bigger than the bar '{other}'?|Does '{one}' have more than '{other}'?|Tell me if '{one}' is larger than "
    "'{other}'.",
    "number": "Tell me the number.|What number is written here?|Which number is shown?|What number is in the image?|"
    "Which number can you see?|What is the number?|Read this number.|What is the number in the picture?",
    "sum": "Tell me the result.|What is the result here?|How much does it make?|Which number is the result?|What does "
    "the calculation give?|Can you solve this?|What is the answer of the calculation?",
    "time": "Which time is it?|Tell me what time it is.|What is the time on the clock?|What time do you see?|Can you "
    "read the clock?|What time is shown?|How late is it?",
    "who": "Tell me who you are.|Who am I talk to?|What is this model?|Please tell me your name.|What kind of model "
    "are you?|Which name do you have?|Can you tell me your name?|Do you have a name?|Are you a person?|What should I "
    "call you?|Please introduce yourself.|Say who you are.|Who is there?|Are you a large model?",
    "able": "Tell me what you can do.|What kind of pictures do you know?|Which questions can I ask?|What can you "
    "answer?|What kind of questions can I ask you?|How do I use you?|What can you see and read?|What do you do?",
    "hello": "Hello there!|Good day.|Hi, how are you?|Hello VITA.|Good night.|Hey there.|Hello again.|Thank you.|"
    "Thanks!|Hi VITA!|Good to see you.|A very good evening to you.|Hello, good morning.",
}


def extra(kind: str) -> tuple[str, ...]:
    """The further phrasings of a kind."""
    return tuple(MORE[kind].split("|")) if kind in MORE else ()
