"""From messages to a prompt of token ids, by this package's prompt code.

The prompt is the engine's: the same system texts, newlines, response state tokens of earlier answers, and the oldest
turns left out where a conversation is longer than the context. Text of users is literal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import ConversationMessage, parse_chat_messages, parse_chat_messages_async
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import ChatParams

from vita.media.policy import ReadGuard
from vita.plugins.vllm.checkpoint import opened_model
from vita.plugins.vllm.media import KINDS, Kind, as_part, media_options, vllm_errors
from vita.prompt.processor import Processor, split_system
from vita.prompt.template import Media
from vita.runtime.clock import Stopwatch
from vita.types import MediaSpan, Message, Part, Role, Span, Text, TextSpan

REFUSED = {"tools": None, "documents": None, "continue_final_message": False, "add_generation_prompt": True}
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
Prompt = dict[str, Any]  # vLLM's TokensPrompt


class VitaRenderer(HfRenderer):
    """Makes prompts of conversations. Prompts that are text or ids are vLLM's own matter."""

    def __init__(self, config: VllmConfig, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        opened = opened_model(config.model_config.hf_config.name_or_path)
        self._placeholders = opened.placeholders
        checkpoint = opened.checkpoint.config
        # The server may allow less than the checkpoint.
        limited = replace(checkpoint, max_length=min(config.model_config.max_model_len, checkpoint.context))
        self._processor = Processor(limited, opened.tokenizer)

    def render_messages(self, messages: Any, params: ChatParams) -> tuple[list[ConversationMessage], Prompt]:
        """The prompt of a conversation: ids with one placeholder for each item, and the decoded items.

        Raises:
            VLLMValidationError: a medium that cannot be used, a wrong order of roles, or a question that is longer than
                the context; the message is one sentence.
        """
        self._check(params)
        conversation, data, _ = parse_chat_messages(
            messages, self.model_config, content_format="openai", media_io_kwargs=params.media_io_kwargs,
            mm_processor_kwargs=params.mm_processor_kwargs,
        )  # fmt: skip
        return conversation, self._prompt(conversation, data, params)

    async def render_messages_async(
        self, messages: Any, params: ChatParams
    ) -> tuple[list[ConversationMessage], Prompt]:
        """As `render_messages`; media are decoded in threads."""
        self._check(params)
        conversation, data, _ = await parse_chat_messages_async(
            messages, self.model_config, content_format="openai", media_io_kwargs=params.media_io_kwargs,
            mm_processor_kwargs=params.mm_processor_kwargs,
        )  # fmt: skip
        return conversation, await asyncio.to_thread(self._prompt, conversation, data, params)

    def _check(self, params: ChatParams) -> None:
        """Refuse what would change the prompt."""
        if params.chat_template is not None:
            raise VLLMValidationError("The prompt of VITA-1.5 is fixed; leave chat_template out.")
        for name, usual in REFUSED.items():
            value = params.chat_template_kwargs.get(name)
            if value is not None and value != usual:
                raise VLLMValidationError(f"VITA-1.5 was not trained with {name}; leave it out.")

    def _prompt(
        self, conversation: Sequence[ConversationMessage], data: Mapping[str, Any] | None, params: ChatParams
    ) -> Prompt:
        """The prompt of parsed messages. Names that a client gives to media are not used: digests name them."""
        merged = self.model_config.get_multimodal_config().merge_mm_processor_kwargs(params.mm_processor_kwargs or {})
        with vllm_errors():
            options = media_options(merged)
            self._processor.check_options(options)
            system, turns = split_system(self._messages(conversation, data or {}))
            watch, guard = Stopwatch(), ReadGuard.start(options.policy.deadline)
            prepared = [self._processor.read_turn(turn, options, watch, guard) for turn in turns]
            inputs = self._processor.assemble(prepared, system, watch)
        items = [piece for turn in prepared for piece in turn.pieces if isinstance(piece, Media)]
        ids, kept = with_placeholders(inputs.spans, items, self._placeholders)
        prompt: Prompt = {"prompt_token_ids": ids}
        if kept:
            prompt["multi_modal_data"] = {k: found for k in KINDS if (found := [m for m in kept if m.kind == k])}
            prompt["mm_processor_kwargs"] = params.mm_processor_kwargs
        return prompt

    def _messages(self, conversation: Sequence[ConversationMessage], data: Mapping[str, Any]) -> list[Message]:
        """This package's messages; items are taken from `data` in their order."""
        waiting = {kind: iter(data.get(kind, [])) for kind in KINDS}
        rate = self._processor.config.filterbank.sample_rate
        messages: list[Message] = []
        for message in conversation:
            role = ROLES.get(message["role"])
            if role is None:
                raise VLLMValidationError(f"The role {message['role']!r} is not one of VITA-1.5's.")
            content = cast("Sequence[dict[str, Any]] | str", message.get("content") or ())
            parts: list[Part] = [Text(content)] if isinstance(content, str) else []
            for part in () if isinstance(content, str) else content:
                kind = part["type"]
                if kind == "text":
                    parts.append(Text(part["text"]))
                    continue
                if kind not in KINDS:
                    raise VLLMValidationError(f"VITA-1.5 takes no {kind} in a message.")
                item = next(waiting[cast(Kind, kind)])
                if item is None:
                    raise VLLMValidationError(f"The {kind} holds no data; a uuid alone does not name one here.")
                parts.append(as_part(cast(Kind, kind), item, rate))
            messages.append(Message(role, tuple(parts)))
        return messages


def with_placeholders(
    spans: Sequence[Span], items: Sequence[Media], placeholders: Mapping[str, int]
) -> tuple[list[int], list[Media]]:
    """Ids with one placeholder for each item, and the items that the prompt holds.

    Args:
        spans: of the prompt.
        items: of the conversation, in order; those of turns that were left out are not in `spans`.
        placeholders: id of each kind.
    """
    ids: list[int] = []
    kept: list[Media] = []
    present = {id(span) for span in spans}
    waiting = iter([item for item in items if id(item.spans[0]) in present])
    inside: set[int] = set()
    for span in spans:
        if isinstance(span, TextSpan):
            ids += span.ids
            continue
        assert isinstance(span, MediaSpan)
        if id(span) in inside:
            inside.remove(id(span))
            continue
        item = next(waiting)
        inside = {id(other) for other in item.spans} - {id(span)}
        ids.append(placeholders[item.kind])
        kept.append(item)
    return ids, kept
