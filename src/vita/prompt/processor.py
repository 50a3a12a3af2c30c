"""From messages to everything the encoders and the decoder need, with no model run yet.

Owns reading the media of a request, counting their tokens, fitting the conversation into the context, and the ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL.Image import Image as Picture
from torch import Tensor

from vita.config import Tiling, VitaConfig
from vita.errors import RequestError
from vita.media.audio import Waveform, load_audio
from vita.media.digest import digest
from vita.media.filterbank import filterbank, pad_to_minimum, token_count
from vita.media.image import cut_tiles, fitted, limited, load_image_with_notes, normalised
from vita.media.video import load_video
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, Piece, Placeholders, Turn, render
from vita.prompt.tokenizer import STATE_TOKENS, Tokenizer
from vita.runtime.clock import Stopwatch
from vita.types import Audio, Image, MediaOptions, Message, Text, Video

FRAMES_PER_ENCODER_FRAME = 4
FRAMES_PER_TOKEN = 8
ANSWER_ROOM = 512  # positions that old turns give up for the answer


@dataclass
class TurnMedia:
    """One turn with its media decoded."""

    turn: Turn
    pixels: list[Tensor] = field(default_factory=list)  # each float32 [tiles, 3, S, S]
    tile_keys: list[bytes] = field(default_factory=list)
    filterbanks: list[list[Tensor]] = field(default_factory=list)  # a sound: its windows, each float32 [T, 80]
    sound_keys: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    pictures: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ProcessedInputs:
    """A request ready for the encoders. Keys are names of content: one a tile, one a sound."""

    ids: list[int]  # with slots
    pixels: Tensor | None  # float32 [tiles, 3, S, S], all pictures in order
    tile_keys: list[bytes]
    filterbanks: list[list[Tensor]]
    sound_keys: list[bytes]
    image_tokens: int
    audio_tokens: int
    pictures: int
    audio_seconds: float
    dropped: int
    notes: tuple[str, ...]

    @property
    def length(self) -> int:
        """Positions after fusion."""
        return sequence_length(self.ids, self.image_tokens + self.audio_tokens)


class Processor:
    """Turns conversations of one checkpoint into `ProcessedInputs` requests."""

    def __init__(self, config: VitaConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer

    def __call__(self, messages: Sequence[Message], options: MediaOptions, watch: Stopwatch) -> ProcessedInputs:
        """Read, count, fit, encode.

        Raises:
            RequestError: no question, an unknown order of roles, a last turn too long for the context, or a number of
                tiles out of range.
            MediaError: a file that cannot be used.
        """
        system, messages = split_system(messages)
        tiling = limited(self.config.tiling, options.max_tiles)
        turns = [self._read_turn(m, options, tiling, watch) for m in messages]
        self._mark_answers(turns)
        with watch.stage("preprocess"):
            kept, ids = self._fit(turns, system)
        return self._pack(kept, ids, dropped=len(turns) - len(kept))

    def _read_turn(self, message: Message, options: MediaOptions, tiling: Tiling, watch: Stopwatch) -> TurnMedia:
        pieces: list[Piece] = []
        media = TurnMedia(Turn(message.role, ()))
        for part in message.parts:
            if isinstance(part, Text):
                pieces.append(part.text)
            elif isinstance(part, Image):
                pieces.append(self._read_image(part, media, options, tiling, watch))
            elif isinstance(part, Video):
                pieces.append(self._read_video(part, media, options, watch))
            else:
                pieces.append(self._read_audio(part, media, options, watch))
        media.turn = Turn(message.role, tuple(pieces))
        return media

    def _read_image(
        self, image: Image, media: TurnMedia, options: MediaOptions, tiling: Tiling, watch: Stopwatch
    ) -> Placeholders:
        with watch.stage("media"):
            loaded = load_image_with_notes(image.source, options)
        with watch.stage("preprocess"):
            tiles = cut_tiles(loaded.image, tiling)
            self._keep(tiles, media)
        media.notes += loaded.notes
        media.pictures += 1
        return Placeholders("image", len(tiles))

    def _read_video(self, video: Video, media: TurnMedia, options: MediaOptions, watch: Stopwatch) -> Placeholders:
        with watch.stage("media"):
            clip = load_video(video, options)
        with watch.stage("preprocess"):
            self._keep(clip.frames, media)
        media.pictures += len(clip.frames)
        media.notes += clip.notes
        return Placeholders("video", len(clip.frames))

    def _keep(self, pictures: Sequence[Picture], media: TurnMedia) -> None:
        values = fitted(pictures, self.config.image)
        media.pixels.append(normalised(values, self.config.image))
        media.tile_keys += [digest(picture) for picture in values]

    def _read_audio(self, audio: Audio, media: TurnMedia, options: MediaOptions, watch: Stopwatch) -> Placeholders:
        with watch.stage("media"):
            wave = load_audio(audio, options, self.config.filterbank.sample_rate)
        with watch.stage("preprocess"):
            windows = self._windows(wave, reference=options.reference)
            media.filterbanks.append([filterbank(w, self.config.filterbank) for w in windows])
            media.sound_keys.append(digest(*media.filterbanks[-1]))
        media.seconds += wave.seconds
        media.notes += wave.notes
        return Placeholders("audio")

    def _windows(self, wave: Waveform, *, reference: bool) -> list[Tensor]:
        """A sound cut into equal windows that each fit the encoder's position table, on token borders."""
        bank = self.config.filterbank
        shift = int(bank.sample_rate * bank.frame_shift / 1000)
        token = shift * FRAMES_PER_TOKEN
        longest = self.config.audio.max_frames * FRAMES_PER_ENCODER_FRAME * shift // token * token
        samples = torch.from_numpy(wave.samples)
        if not reference:
            samples = pad_to_minimum(samples)
        count = -(-samples.numel() // longest)
        size = -(-samples.numel() // count // token) * token if count > 1 else samples.numel()
        return [pad_to_minimum(w) if count > 1 else w for w in samples.split(size)]

    def _mark_answers(self, turns: list[TurnMedia]) -> None:
        """Earlier answers carry the state mark they were given with, as the model was trained to see them."""
        spoken = False
        for media in turns:
            if media.turn.role == "user":
                spoken = bool(media.filterbanks)
            elif media.turn.pieces and isinstance(media.turn.pieces[0], str):
                first = media.turn.pieces[0]
                mark = "☞" if spoken else "☜"
                if not first.startswith(tuple(STATE_TOKENS)) and self._is_token(mark):
                    media.turn = Turn("assistant", (mark + first, *media.turn.pieces[1:]))

    def _is_token(self, mark: str) -> bool:
        return self.tokenizer.backend.token_to_id(mark) is not None or len(self.tokenizer.encode(mark)) == 1

    def _fit(self, turns: list[TurnMedia], system: str | None) -> tuple[list[TurnMedia], list[int]]:
        """Drop the oldest turns until the rest fits with room for an answer; a lone turn may fill the context."""
        limit = self.config.context - 1
        roomy = limit - min(ANSWER_ROOM, self.config.context // 8)
        kept = list(turns)
        while True:
            ids = render([m.turn for m in kept], self.tokenizer, system=system)
            length = sequence_length(ids, sum(self._rows(kept)))
            follow = next((i for i, m in enumerate(kept[1:], start=1) if m.turn.role == "user"), None)
            if length <= (limit if follow is None else roomy):
                return kept, ids
            if follow is None:
                raise RequestError(
                    f"the question takes {length} tokens and the model's context is {self.config.context}",
                    fix="shorten the text, or send fewer or smaller pictures and shorter sound",
                )
            kept = kept[follow:]

    def _rows(self, kept: Sequence[TurnMedia]) -> tuple[int, int]:
        """Decoder rows of all pictures and of all sounds."""
        tiles = sum(len(p) for m in kept for p in m.pixels)
        sounds = sum(audio_rows(windows, self.config) for m in kept for windows in m.filterbanks)
        return tiles * self.config.vision.tokens_per_tile, sounds

    def _pack(self, kept: list[TurnMedia], ids: list[int], dropped: int) -> ProcessedInputs:
        pixels = [p for m in kept for p in m.pixels]
        notes = [n for m in kept for n in m.notes]
        if dropped:
            notes.append(f"The {dropped} oldest messages were left out so that the rest fits the context.")
        image_tokens, audio_tokens = self._rows(kept)
        return ProcessedInputs(
            ids=ids,
            pixels=(torch.cat(pixels) if len(pixels) > 1 else pixels[0]) if pixels else None,
            tile_keys=[key for m in kept for key in m.tile_keys],
            filterbanks=[b for m in kept for b in m.filterbanks],
            sound_keys=[key for m in kept for key in m.sound_keys],
            image_tokens=image_tokens,
            audio_tokens=audio_tokens,
            pictures=sum(m.pictures for m in kept),
            audio_seconds=sum(m.seconds for m in kept),
            dropped=dropped,
            notes=tuple(notes),
        )


def sequence_length(ids: Sequence[int], media_rows: int) -> int:
    """Positions after fusion: slots give way to their media's rows."""
    return len(ids) - sum(1 for i in ids if i in (IMAGE_PLACEHOLDER, AUDIO_PLACEHOLDER)) + media_rows


def audio_rows(windows: Sequence[Tensor], config: VitaConfig) -> int:
    """Decoder rows one sound takes (spec sections 5.4 and 7)."""
    return sum(token_count(w.shape[0]) + config.audio.prompt_tokens for w in windows)


def without_first(prepared: ProcessedInputs, count: int) -> ProcessedInputs:
    """The request without its first `count` ids, and without the media that stood among them."""
    gone = prepared.ids[:count]
    tiles = sum(token == IMAGE_PLACEHOLDER for token in gone)
    sounds = sum(token == AUDIO_PLACEHOLDER for token in gone)
    pixels = None if prepared.pixels is None or tiles == len(prepared.pixels) else prepared.pixels[tiles:]
    return replace(
        prepared, ids=prepared.ids[count:], pixels=pixels, tile_keys=prepared.tile_keys[tiles:],
        filterbanks=prepared.filterbanks[sounds:], sound_keys=prepared.sound_keys[sounds:],
    )  # fmt: skip


def split_system(messages: Sequence[Message]) -> tuple[str | None, list[Message]]:
    """The leading system message, if any, and the turns.

    Raises:
        RequestError: no turns, turns that do not alternate, or a conversation that does not end with the user.
    """
    rest = list(messages)
    system = rest.pop(0).text if rest and rest[0].role == "system" else None
    if not rest:
        raise RequestError("there is no question", fix="give a text, a picture, a video or a sound")
    for index, message in enumerate(rest):
        wanted = "user" if index % 2 == 0 else "assistant"
        if message.role != wanted:
            raise RequestError(
                f"message {index + 1} has the role {message.role!r} where {wanted!r} is due",
                fix="alternate user and assistant, a system message only first",
            )
    if rest[-1].role != "user":
        raise RequestError("the last message must be the user's")
    if not any(not isinstance(p, Text) or p.text.strip() for p in rest[-1].parts):
        raise RequestError("there is no question", fix="give a text, a picture, a video or a sound")
    return system, rest
