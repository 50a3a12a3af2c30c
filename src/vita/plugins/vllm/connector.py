"""Fetches media for vLLM as encoded bytes, which this package decodes itself.

vLLM's rules of what may be fetched apply: allowed domains, the local media folder, time-outs and sizes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm import envs
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media.base import MediaIO
from vllm.multimodal.media.connector import MediaConnector

from vita.sources import Bytes
from vita.types import MediaPolicy

FRAMES_TYPE = "video/jpeg"  # vLLM's data: URLs of several JPEG frames, joined by commas
Encoded = Bytes | tuple[Bytes, ...]


class EncodedMediaIO(MediaIO[Encoded]):
    """Keeps the bytes of a file as they are. Several frames become a tuple.

    Args:
        kind: "image", "video" or "audio", for error sentences.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def get_max_bytes(self) -> int:
        """The largest file that is read."""
        return MediaPolicy().max_bytes

    def load_bytes(self, data: bytes) -> Encoded:
        """A downloaded file."""
        return Bytes(data, f"<{self.kind}>")

    def load_base64(self, media_type: str, data: str) -> Encoded:
        """The content of a data: URL."""
        if media_type.lower() == FRAMES_TYPE and self.kind == "video":
            return tuple(Bytes(self._decode(frame), "<frame>") for frame in data.split(","))
        return self.load_bytes(self._decode(data))

    def load_file(self, filepath: Path) -> Encoded:
        """A file below `--allowed-local-media-path`."""
        try:
            return Bytes(filepath.read_bytes(), filepath.name)
        except OSError as error:
            raise VLLMValidationError(f"{filepath.name}: cannot be read ({error.strerror}).") from error

    def _decode(self, data: str) -> bytes:
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise VLLMValidationError(f"The data: URL of the {self.kind} is not valid base64.") from error


@contextmanager
def client_errors() -> Iterator[None]:
    """Answer an address that may not be read, or cannot be, with status 400: vLLM raises some of these as its own
    faults."""
    try:
        yield
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise VLLMValidationError(str(error)) from error


class VitaMediaConnector(MediaConnector):
    """vLLM's connector, but for what it does with the bytes."""

    def fetch_image(self, image_url: str, *, image_mode: str | None = None) -> Encoded:
        """The bytes of an image."""
        return self._fetch(image_url, "image", envs.VLLM_IMAGE_FETCH_TIMEOUT)

    async def fetch_image_async(self, image_url: str, *, image_mode: str | None = None) -> Encoded:
        """The bytes of an image."""
        return await self._fetch_async(image_url, "image", envs.VLLM_IMAGE_FETCH_TIMEOUT)

    def fetch_video(
        self, video_url: str, *, image_mode: str | None = None, video_processor: str | None = None
    ) -> Encoded:
        """The bytes of a video, or of its frames."""
        return self._fetch(video_url, "video", envs.VLLM_VIDEO_FETCH_TIMEOUT)

    async def fetch_video_async(
        self, video_url: str, *, image_mode: str | None = None, video_processor: str | None = None
    ) -> Encoded:
        """The bytes of a video, or of its frames."""
        return await self._fetch_async(video_url, "video", envs.VLLM_VIDEO_FETCH_TIMEOUT)

    def fetch_audio(self, audio_url: str) -> Encoded:
        """The bytes of an audio clip."""
        return self._fetch(audio_url, "audio", envs.VLLM_AUDIO_FETCH_TIMEOUT)

    async def fetch_audio_async(self, audio_url: str) -> Encoded:
        """The bytes of an audio clip."""
        return await self._fetch_async(audio_url, "audio", envs.VLLM_AUDIO_FETCH_TIMEOUT)

    def _fetch(self, url: str, kind: str, seconds: int) -> Encoded:
        with client_errors():
            return self.load_from_url(url, EncodedMediaIO(kind), fetch_timeout=seconds)

    async def _fetch_async(self, url: str, kind: str, seconds: int) -> Encoded:
        with client_errors():
            return await self.load_from_url_async(url, EncodedMediaIO(kind), fetch_timeout=seconds)
