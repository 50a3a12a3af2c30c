"""Queue many requests at once: they share decode steps, and one that fails does not stop the others."""

import vita

QUESTIONS = [
    vita.user("What does the logo say?", image="assets/vita_logo.png"),
    vita.user("Describe the video.", video="assets/moving.mp4"),
    vita.user(audio="assets/what_can_you_do.flac"),
    vita.user("What is this?", image="assets/missing.png"),
]

with vita.load() as model:
    handles = [model.submit(question) for question in QUESTIONS]
    for handle in handles:
        try:
            print(handle.result().text)
        except vita.VitaError as error:
            print(f"error: {error}")
    print(f"{model.stats().finished} answers")
