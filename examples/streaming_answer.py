"""Print an answer while it is generated. Leaving the loop early cancels the request."""

import vita

with vita.load() as model:
    question = vita.user("Describe the video.", video="assets/moving.mp4")
    for event in model.stream(question, vita.SamplingParams(max_tokens=100)):
        if isinstance(event, vita.TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, vita.Done):
            print(f"\n{event.finish_reason} after {event.usage.completion_tokens} tokens")
