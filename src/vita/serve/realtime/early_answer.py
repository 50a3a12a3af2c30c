"""Preemptive generation: a turn that has paused is answered before it is known whether the turn is complete.

At the first pause of 256 ms the audio of a turn is what it will be if the turn ends there. Its answer is generated from
then on; nothing of it is sent. If the turn ends, it is the answer. If the speech goes on, it is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import numpy as np

from vita.engine.handle import Handle
from vita.errors import VitaError
from vita.events import Started
from vita.serve.errors import ApiError
from vita.serve.realtime.dialogue import Job
from vita.sources import Array
from vita.speech.turns import Input
from vita.types import Audio, Message, Part

log = logging.getLogger("vita.serve")


class EarlyAnswer:
    """The answer to one turn that has paused.

    Args:
        job: what is answered; its number does not count.
        submit: submits it.
        tell: tells the listener what the model takes the turn for.
        wanted: whether the turn is answered when it ends. Otherwise only the response state is generated: the prompt is
            in the prefix cache when the client asks.
    """

    def __init__(
        self, job: Job, submit: Callable[[Job], Awaitable[Handle]], tell: Callable[[Input], None], *, wanted: bool
    ) -> None:
        self._job, self._submit, self._tell, self._wanted = job, submit, tell, wanted
        self._handle: Handle | None = None
        self._started: Started | None = None
        self._asked: tuple[Input, Input] | None = None
        self._dropped = False
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Submit the answer, and wait for its response state."""
        try:
            await self._begin()
        except (VitaError, ApiError):
            pass  # the answer that is asked for will meet it, too
        except Exception:
            log.exception("an early answer has failed")
        finally:
            self._ended.set()

    async def _begin(self) -> None:
        self._handle = await self._submit(self._job)
        if self._dropped:
            self._handle.cancel()
        event = await self._handle.started()
        self._started = event if isinstance(event, Started) else None
        self._answer()
        if not self._wanted:
            self._handle.cancel()

    def ask(self, complete: Input, noise: Input) -> None:
        """Tell the listener, once it is known, that the turn is complete or that it is noise."""
        self._asked = complete, noise
        self._answer()

    def end_turn(self) -> None:
        """The turn has ended: nobody asks any more."""
        self._asked = None

    def drop(self) -> None:
        """It is of no use."""
        self._asked, self._dropped = None, True
        if self._handle is not None:
            self._handle.cancel()

    async def take(self, job: Job) -> Handle | None:
        """The answer, once its response state is known. None: it failed, or it is no answer to `job`."""
        await self._ended.wait()
        if self._wanted and self._started is not None and is_same(job, self._job):
            return self._handle
        self.drop()
        return None

    def _answer(self) -> None:
        if self._asked is None or self._started is None:
            return
        (complete, noise), self._asked = self._asked, None
        self._tell(noise if self._started.state == "noise" else complete)


def is_same(job: Job, other: Job) -> bool:
    """Whether two jobs have the same settings and prompt."""
    if (job.session, job.aloud, len(job.messages)) != (other.session, other.aloud, len(other.messages)):
        return False
    return all(map(_is_same_message, job.messages, other.messages))


def _is_same_message(one: Message, other: Message) -> bool:
    return (one.role, len(one.parts)) == (other.role, len(other.parts)) and all(
        map(_is_same_part, one.parts, other.parts)
    )


def _is_same_part(one: Part, other: Part) -> bool:
    if isinstance(one, Audio) and isinstance(other, Audio):
        samples, others = one.source, other.source
        if isinstance(samples, Array) and isinstance(others, Array):  # made anew for every prompt
            same = np.array_equal(np.asarray(samples.values), np.asarray(others.values))
            return same and one.sample_rate == other.sample_rate
    return one == other
