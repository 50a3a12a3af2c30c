"""Spoken turns with the official client, every event validated strictly. Arguments: URL, speech (raw PCM16), turns."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI


async def main(url: str, speech: bytes, turns: int) -> None:
    client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1")
    failures: list[str] = []
    answers: list[str] = []
    transcripts: list[str] = []
    async with client.realtime.connect(model="vita") as connection:
        await connection.session.update(
            session={"type": "realtime", "audio": {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}}
        )
        for _ in range(turns):
            for at in range(0, len(speech), 4800):
                await connection.input_audio_buffer.append(audio=base64.b64encode(speech[at : at + 4800]).decode())
            answered = heard = False
            async for event in connection:
                try:
                    type(event).model_validate(event.model_dump())
                except Exception as error:
                    failures.append(f"{event.type}: {error}"[:300])
                if event.type == "error":
                    failures.append(event.error.message)
                elif event.type == "response.done":
                    answers.append(event.response.output[0].content[0].transcript)
                    answered = True
                elif event.type == "conversation.item.input_audio_transcription.completed":
                    transcripts.append(event.transcript)
                    heard = True
                if answered and heard:
                    break
    print(json.dumps({"failures": failures, "answers": answers, "transcripts": transcripts}))


asyncio.run(asyncio.wait_for(main(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3])), 150))
