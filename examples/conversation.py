"""A conversation that remembers its turns. The image is read and encoded once."""

import vita

with vita.load() as model:
    chat = model.chat()
    print(chat.ask("What does the logo say?", image="assets/vita_logo.png").text)

    answer = chat.ask("Which color is the text?")
    print(answer.text)
    print(f"{answer.usage.reused_tokens} of {answer.usage.prompt_tokens} prompt tokens were in the cache")
