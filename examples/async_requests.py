"""Ask from asyncio: two questions at once, and an answer piece by piece."""

import asyncio

import vita


async def main() -> None:
    with vita.load() as model:
        logo, voice = await asyncio.gather(
            model.aask("What does the logo say?", image="assets/vita_logo.png"),
            model.aask(audio="assets/what_can_you_do.flac"),
        )
        print(logo.text)
        print(voice.text)
        async for event in model.astream(vita.user("Describe the video.", video="assets/moving.mp4")):
            if isinstance(event, vita.TextDelta):
                print(event.text, end="", flush=True)
        print()


asyncio.run(main())
