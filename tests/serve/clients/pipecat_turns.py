"""Spoken turns with Pipecat's service. Arguments: URL, speech (raw PCM16), turns.

Pipecat validates every event and ends the session at one that it cannot read; warnings count as failures.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

from loguru import logger

failures: list[str] = []
logger.remove()
logger.add(lambda message: failures.append(str(message)[:300]), level="WARNING")

from pipecat.frames.frames import (  # noqa: E402  # the log is set up first
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineWorker  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor  # noqa: E402
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402

seen: Counter[str] = Counter()
texts: list[str] = []
changed = asyncio.Event()


class Sink(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        seen[type(frame).__name__] += 1
        if isinstance(frame, ErrorFrame):
            failures.append(str(frame)[:300])
        if isinstance(frame, TTSTextFrame):
            texts.append(frame.text)
        if isinstance(frame, TTSAudioRawFrame):
            seen["samples"] += len(frame.audio) // 2
        changed.set()
        await self.push_frame(frame, direction)


async def until(name: str, count: int) -> None:
    while seen[name] < count:
        changed.clear()
        await asyncio.wait_for(changed.wait(), 20)


async def main(url: str, speech: bytes, turns: int) -> None:
    service = OpenAIRealtimeLLMService(
        api_key="none", base_url=f"{url.replace('http', 'ws', 1)}/v1/realtime",
        settings=OpenAIRealtimeLLMService.Settings(model="vita", system_instruction="Be brief."),
    )  # fmt: skip
    worker = PipelineWorker(Pipeline([service, Sink()]))

    async def talk() -> None:
        await until("StartFrame", 1)
        await worker.queue_frame(LLMContextFrame(context=LLMContext([{"role": "user", "content": "Hello."}])))
        await until("TTSStoppedFrame", 1)
        for turn in range(turns):
            for at in range(0, len(speech) - 959, 960):
                piece = speech[at : at + 960]
                await worker.queue_frame(InputAudioRawFrame(audio=piece, sample_rate=24_000, num_channels=1))
                await asyncio.sleep(0.002)
            await until("TTSStoppedFrame", turn + 2)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), talk())
    print(json.dumps({"failures": failures, "seen": dict(seen), "text": "".join(texts)}))


asyncio.run(asyncio.wait_for(main(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3])), 150))
