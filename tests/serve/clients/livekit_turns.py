"""Spoken turns with LiveKit's plugin and its default settings. Arguments: URL, speech (raw PCM16), turns.

A log of LiveKit at level WARNING or above is a failure: it logs what it cannot handle.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

from livekit import rtc
from livekit.agents import llm
from livekit.plugins.openai import realtime

failures: list[str] = []


class Collect(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        failures.append(record.getMessage()[:300])


async def main(url: str, speech: bytes, turns: int) -> None:
    logging.getLogger().addHandler(Collect(logging.WARNING))
    model = realtime.RealtimeModel(model="vita", base_url=f"{url}/v1", api_key="none")
    session = model.session()
    generations: asyncio.Queue[llm.GenerationCreatedEvent] = asyncio.Queue()
    transcripts: list[str] = []
    answers: list[str] = []
    samples: list[int] = []
    session.on("generation_created", generations.put_nowait)
    session.on("error", lambda event: failures.append(str(event)[:300]))
    session.on(
        "input_audio_transcription_completed",
        lambda event: transcripts.append(event.transcript) if event.is_final else None,
    )
    await session.update_instructions("Be brief.")
    context = llm.ChatContext()
    context.add_message(role="user", content="Hello.")
    await session.update_chat_ctx(context)

    async def read(generation: llm.GenerationCreatedEvent) -> None:
        async for message in generation.message_stream:
            count = 0
            async for frame in message.audio_stream:
                count += frame.samples_per_channel
            answers.append("".join([str(piece) async for piece in message.text_stream]))
            samples.append(count)

    await session.generate_reply(instructions="Say hi.")
    await read(await generations.get())
    for _ in range(turns):
        for at in range(0, len(speech) - 4799, 4800):
            piece = speech[at : at + 4800]
            session.push_audio(rtc.AudioFrame(data=piece, sample_rate=24_000, num_channels=1, samples_per_channel=2400))
            await asyncio.sleep(0.002)
        await read(await generations.get())
    session.interrupt()
    await asyncio.sleep(0.5)
    await session.aclose()
    await model.aclose()
    print(json.dumps({"failures": failures, "answers": answers, "samples": samples, "transcripts": transcripts}))


asyncio.run(asyncio.wait_for(main(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3])), 150))
