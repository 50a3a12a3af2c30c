"""Decode the media of messages to what the encoders read: NumPy arrays only, no torch.

Runs in media workers and in the server's decode processes. What needs torch (normalisation, filterbank) is done in the
engine thread, at the head of the encoder's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL.Image import Image as PILImage

from vita.config import Tiling, VitaConfig
from vita.errors import MediaError
from vita.media.audio import Waveform, load_audio
from vita.media.audio_frames import frame_sizes, min_samples, token_count
from vita.media.digest import digest
from vita.media.image import Map, cut_tiles, limit_tiles, load_image_with_notes, resize_and_crop
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.video import load_video
from vita.prompt.template import Media, Piece
from vita.runtime.clock import Stopwatch
from vita.runtime.threads import available_cores
from vita.types import Audio, Image, MediaOptions, MediaSpan, Message, Role, Text, Video

FRAMES_PER_ENCODER_FRAME = 4
FRAMES_PER_TOKEN = 8
MAX_RESIZE_THREADS = 8

Samples = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class PreparedTurn:
    """One message with its media decoded; a session keeps it, so that no media are decoded twice."""

    role: Role
    pieces: tuple[Piece, ...]
    images: int = 0  # images and video frames
    audio_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def is_spoken(self) -> bool:
        """Whether it holds audio."""
        return any(isinstance(piece, Media) and piece.kind == "audio" for piece in self.pieces)


class TurnReader:
    """Decodes the media of messages for one checkpoint; needs no tokenizer. Safe to use from several threads."""

    def __init__(self, config: VitaConfig) -> None:
        self.config = config
        threads = resize_threads()
        self._map: Map = map if threads < 2 else ThreadPoolExecutor(threads, "vita-resize").map

    def read_turn(
        self, message: Message, options: MediaOptions, watch: Stopwatch, guard: ReadGuard = UNGUARDED
    ) -> PreparedTurn:
        """Decode the media of one message.

        Raises:
            MediaError: a file that cannot be used. RequestError: `max_tiles` is out of range. Cancelled: by the guard.
        """
        tiling = limit_tiles(self.config.tiling, options.max_tiles)
        turn = PreparedTurn(message.role, ())
        for part in message.parts:
            if isinstance(part, Text):
                turn = replace(turn, pieces=(*turn.pieces, part.text))
            elif isinstance(part, Image):
                turn = self._add_image(turn, part, options, tiling, watch, guard)
            elif isinstance(part, Video):
                turn = self._add_video(turn, part, options, watch, guard)
            else:
                turn = self._add_audio(turn, part, options, watch, guard)
        return turn

    def _add_image(
        self, turn: PreparedTurn, image: Image, options: MediaOptions, tiling: Tiling, watch: Stopwatch,
        guard: ReadGuard,
    ) -> PreparedTurn:  # fmt: skip
        if image.max_tiles is not None:
            tiling = limit_tiles(self.config.tiling, image.max_tiles)
        with watch.stage("media"):
            loaded = load_image_with_notes(image.source, options, guard)
        with watch.stage("preprocess"):
            media = Media("image", self._tiles(cut_tiles(loaded.image, tiling, self._map)), *loaded.image.size)
        return replace(turn, pieces=(*turn.pieces, media), images=turn.images + 1, notes=(*turn.notes, *loaded.notes))

    def _add_video(
        self, turn: PreparedTurn, video: Video, options: MediaOptions, watch: Stopwatch, guard: ReadGuard
    ) -> PreparedTurn:
        with watch.stage("media"):
            clip = load_video(video, options, guard=guard)
        with watch.stage("preprocess"):
            media = Media("video", self._tiles(clip.frames), *clip.frames[0].size, seconds=clip.n_frames / clip.fps)
        return replace(
            turn, pieces=(*turn.pieces, media), images=turn.images + len(clip.frames), notes=(*turn.notes, *clip.notes)
        )

    def _tiles(self, images: Sequence[PILImage]) -> tuple[MediaSpan, ...]:
        rows = self.config.vision.tokens_per_tile
        tiles = resize_and_crop(images, self.config.image, self._map)  # uint8 [S, S, 3]
        digests = self._map(digest, tiles)
        return tuple(MediaSpan("image", key, rows, (tile,)) for key, tile in zip(digests, tiles, strict=True))

    def _add_audio(
        self, turn: PreparedTurn, audio: Audio, options: MediaOptions, watch: Stopwatch, guard: ReadGuard
    ) -> PreparedTurn:
        with watch.stage("media"):
            wave = load_audio(audio, options, self.config.filterbank.sample_rate, guard=guard)
        with watch.stage("preprocess"):
            windows = self.windows(wave, reference=options.reference)
            span = MediaSpan("audio", digest(*windows), self.audio_rows(windows), windows)
            media = Media("audio", (span,), seconds=wave.seconds)
        return replace(
            turn,
            pieces=(*turn.pieces, media),
            audio_seconds=turn.audio_seconds + wave.seconds,
            notes=(*turn.notes, *wave.notes),
        )

    def windows(self, wave: Waveform, *, reference: bool) -> tuple[Samples, ...]:
        """An audio clip cut into equal windows that each fit the encoder's position table, on token borders."""
        _, shift = frame_sizes(self.config.filterbank)
        token = shift * FRAMES_PER_TOKEN
        longest = self.config.audio.max_frames * FRAMES_PER_ENCODER_FRAME * shift // token * token
        least = min_samples(self.config.filterbank)
        samples = wave.samples
        if not reference:
            samples = _padded(samples, least)
        elif len(samples) < least:
            raise MediaError(f"an audio clip of {len(samples)} samples is too short; the encoder needs {least}")
        count = -(-len(samples) // longest)
        if count == 1:
            return (samples,)
        size = -(-len(samples) // count // token) * token
        return tuple(_padded(samples[at : at + size], least) for at in range(0, len(samples), size))

    def audio_rows(self, windows: Sequence[Samples]) -> int:
        """Decoder rows that an audio clip takes (spec sections 5.4 and 7)."""
        frame, shift = frame_sizes(self.config.filterbank)
        return sum(token_count(1 + (len(w) - frame) // shift) + self.config.audio.prompt_tokens for w in windows)


def resize_threads() -> int:
    """Threads that resize images: half of the cores that the process may use, at most 8. On two cores a second one
    would take the other core from decode steps as well."""
    return min(MAX_RESIZE_THREADS, max(1, available_cores() // 2))


def _padded(samples: Samples, least: int) -> Samples:
    """Silence behind audio that is too short to give the encoder one frame."""
    return np.pad(samples, (0, max(0, least - len(samples))))
