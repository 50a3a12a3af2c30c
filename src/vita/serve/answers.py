"""What the routes that answer a conversation share: how it ended, details that OpenAI has no field for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vita.events import Done, TokenLogprob
from vita.prompt.tokenizer import STATE_TOKENS
from vita.serve.errors import JSON, timed_out, unavailable

if TYPE_CHECKING:
    from vita.events import Timings
    from vita.serve.served_model import LoadedCheckpoint
    from vita.serve.server import Server


def check_ended(server: Server, done: Done) -> None:
    """Count an answer that has ended; one that was cut off by the server is an error.

    Raises:
        ApiError: 503 or 504.
    """
    server.metrics.answered(done)
    if done.finish_reason == "cancelled":
        took_long = done.timings.total >= server.options.limits.request_seconds
        raise timed_out() if took_long else unavailable("The request was cancelled.")


def details(state: str | None, notes: Sequence[str], timings: Timings) -> dict[str, JSON]:
    """What OpenAI has no field for: the response state, notes for the user, timings in seconds."""
    return {
        "state": state, "notes": list(notes),
        "timings": {
            "queued": timings.queued, "media": timings.media + timings.preprocess,
            "encode": timings.vision + timings.audio, "prefill": timings.prefill, "decode": timings.decode,
            "first_token": timings.first_token, "total": timings.total,
            "tokens_per_second": timings.tokens_per_second,
        },
    }  # fmt: skip


def shown_tokens(tokens: Sequence[TokenLogprob], model: LoadedCheckpoint) -> list[TokenLogprob]:
    """Tokens of the text: without the response state token and the stop token."""
    shown = [token for token in tokens if token.id not in model.stop_ids]
    return shown[1:] if shown and shown[0].text in STATE_TOKENS else shown


def logprob_object(model: LoadedCheckpoint, token: int, text: str, logprob: float) -> dict[str, JSON]:
    """A token with its log-probability and bytes, as OpenAI writes it."""
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(model.tokenizer.token_bytes(token))}
