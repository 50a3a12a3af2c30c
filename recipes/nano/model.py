"""The embedded model in training: the engine's own modules, their first weights, and the heads that teach reading
and hearing.

Owns sizes, initialisation and those heads. Does not know about data, schedules or files.

The first weights already do what every reader learns first: a patch is seen through its whitened cosine transform,
and the first blocks' heads look at the patches beside, above and below (positions are odd harmonics, for which such
heads are exact). Without this, reading with plain 14x14 patches starts late or never.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.nano.data import CHARS, COLORS, PLACES, SHAPES
from recipes.nano.data.pieces import heard_words
from vita.config import AudioConfig, DecoderConfig, VisionConfig
from vita.media.filterbank import token_count
from vita.model.audio import AudioEncoder, frame_mask
from vita.model.decoder import Decoder
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionBlock, VisionEncoder
from vita.train.attention import training_attend

LETTERS = string.ascii_lowercase + " '"  # what the audio encoder writes down in training; 0 is blank
MOST_WORDS = 24  # of a sound whose words are numbered
SPELLS_AT = 2 / 3  # of the audio encoder's blocks: there letters are written down, at the end words
PARTS = ("vision", "projector", "decoder", "audio", "adapter")
DENSE = (len(CHARS) + 1, len(SHAPES) + 1, len(COLORS) + 1, PLACES + 1)  # character, shape, colour, place; 0: nothing
PLACE = 3  # of the kinds: which letter of the text, so that the decoder can find the next one
NOTHING_WEIGHT = 0.3  # most patches show nothing
Offset = tuple[int, int]
NEAR: tuple[tuple[Offset, ...], ...] = (
    ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)),
    ((-1, -1), (1, -1), (-1, 1), (1, 1), (0, 0)),
    ((-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0)),
    ((-1, 0), (1, 0), (2, 0)),
)  # columns and rows to the right and down, one a head, of the first blocks
AROUND = ((-1, 1, -2, 2), (-1, 1, -3, 3), (-2, 2, -5, 5), (-1, 1, -4, 4))  # frames, one a head, of the audio encoder's
SHARP = 2.5  # at a score's highest place against the frames beside it


@dataclass(frozen=True)
class Sizes:
    """Everything the configuration files will say."""

    vision: VisionConfig
    decoder: DecoderConfig
    audio: AudioConfig


def sizes(preset: str, vocab_size: int) -> Sizes:
    """`small` sees, `hearing` is the same with ears (7.85 million parameters), `nano10` and `nano12` are wider, for a
    GPU; `tiny` and `tiny-hearing` are the tests'."""
    seeing = preset.removesuffix("-hearing").replace("hearing", "small")
    width, mlp, layers, heads, text, inter, blocks, shared = {
        "small": (192, 576, 6, 6, 192, 512, 6, 3),
        "nano10": (224, 640, 6, 7, 224, 608, 6, 7),
        "nano12": (256, 640, 6, 8, 256, 576, 6, 4),
        "tiny": (64, 128, 2, 4, 64, 128, 2, 1),
    }[seeing]
    ears, linear, depth = {
        "hearing": (144, 576, 6), "nano10": (160, 640, 6), "nano12": (176, 640, 6), "tiny-hearing": (64, 128, 2),
    }.get(preset, (64, 128, 2))  # fmt: skip
    vision = VisionConfig(width, mlp, layers, heads, 224, 14, 1e-6, "layer_norm", True, False, "gelu")
    decoder = DecoderConfig(text, inter, blocks, heads, shared, vocab_size, max_positions=4096)
    audio = AudioConfig(dim=ears, num_heads=4, linear_units=linear, num_layers=depth, dynamic_chunks=False,
                        positions_in_input=True)  # fmt: skip
    return Sizes(vision, decoder, audio)


@dataclass(frozen=True)
class Heard:
    """A padded batch of sounds behind the audio encoder."""

    encoded: Tensor  # [sounds, T', E]
    mask: Tensor  # bool [sounds, T']
    letters: Tensor  # [sounds, T', letters + 1], what is written down half-way
    words: Tensor  # [sounds, T', words + 2], and at the end
    places: Tensor  # [sounds, T', MOST_WORDS + 1], which word of the sentence stands there
    rows: Tensor  # [sounds, ceil(T'/2), H], for the decoder


class Learner(nn.Module):
    """All parts of the checkpoint plus the heads that label patches and write down sounds.

    Args:
        size: of every part.
        words: rows of the head that writes words; by default those of the recipe's words.
    """

    def __init__(self, size: Sizes, words: int | None = None) -> None:
        super().__init__()
        self.size = size
        width = size.decoder.hidden_size
        self.vision = VisionEncoder(size.vision)
        self.projector = Projector(4 * size.vision.hidden_size, width, 2)
        self.decoder = Decoder(size.decoder, size.decoder.vocab_size)
        self.audio = AudioEncoder(size.audio)
        self.adapter = AudioAdapter(size.audio, width)
        self.dense = nn.Linear(size.vision.hidden_size, sum(DENSE))
        self.ctc = nn.Linear(size.audio.dim, len(LETTERS) + 1)
        self.words = nn.Linear(size.audio.dim, words or len(heard_words()) + 2)
        self.places = nn.Linear(size.audio.dim, MOST_WORDS + 1)
        initialise(self)

    def use_fast_attention(self) -> None:
        """Attention whose backward is fast on this device: on a CPU in vision and decoder, on a GPU everywhere."""
        device = self.decoder.device
        ears = self.audio.layers if device.type == "cuda" else ()
        attend = training_attend(device)
        for block in (*self.vision.layers, *self.decoder.layers, *ears):
            block.attn.attend = attend

    def patches(self, pixels: Tensor) -> Tensor:
        """The last block's output, `[tiles, 1 + G*G, C]`; none for none (a batch of drills)."""
        if not len(pixels):
            return pixels.new_zeros(0, 1 + self.size.vision.grid**2, self.size.vision.hidden_size)
        x = self.vision.embed(pixels)
        for layer in self.vision.layers:
            x = layer(x)
        return x

    def rows(self, patches: Tensor) -> Tensor:
        """What the decoder sees of each tile: `[tiles, (G/2)^2, H]`."""
        if not len(patches):
            return patches.new_zeros(0, self.size.vision.tokens_per_tile, self.size.decoder.hidden_size)
        return self.projector(self.vision.extract_features(patches))

    def hear(self, banks: Tensor, frames: Tensor) -> Heard:
        """What the encoder makes of filterbanks `[sounds, T, 80]`, of which so many frames are real."""
        states = [x for x, _ in self.audio.hidden_states(banks, frames)]  # the last one behind the final norm
        mask, x = frame_mask(banks.shape[1], frames), states[-1]
        spelled = states[round(SPELLS_AT * len(self.audio.layers))]
        letters = self.ctc(functional.layer_norm(spelled, spelled.shape[-1:]))
        rows, _ = self.adapter(x, mask)
        return Heard(x, mask, letters, self.words(x), self.places(x), rows)

    def heard(self, sounds: Heard, frames: Tensor) -> list[Tensor]:
        """Decoder rows of each sound: `[tokens, H]`."""
        return [row[: token_count(int(n))] for row, n in zip(sounds.rows, frames, strict=True)]

    def dense_loss(self, patches: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Which character, shape, colour and place in the text lie under each patch.

        Args:
            patches: `[pictures, 1 + G*G, C]`.
            labels: uint8 `[pictures, 4, G, G]`; places that are 0 teach nothing (pages have none).

        Returns:
            the summed losses, and for each kind the share right among patches that show something.
        """
        kinds = self.dense(patches[:, 1:]).split(DENSE, dim=-1)
        loss = patches.new_zeros(())
        right = []
        for k, (logits, count) in enumerate(zip(kinds, DENSE, strict=True)):
            target = labels[:, k].reshape(-1).long()
            weight = torch.ones(count, device=logits.device)
            weight[0] = NOTHING_WEIGHT if k < PLACE else 0.0
            flat = logits.reshape(-1, count).float()
            shown = target > 0
            each = functional.cross_entropy(flat, target, weight=weight, reduction="sum")
            loss = loss + each / weight[target].sum().clamp(min=1e-6)  # no place may be taught: 0 of 0
            hits = ((flat.argmax(-1) == target) & shown).sum()
            right.append(hits / shown.sum().clamp(min=1))
        return loss, right


def ctc_loss(logits: Tensor, mask: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Connectionist temporal classification over the sounds that say something.

    Args:
        logits: `[sounds, T', labels + 1]`.
        mask: bool `[sounds, T']`; like `counts` it may be on the host, so that nothing waits for the device.
        labels: int64, sound after sound; 0 is blank and does not occur.
        counts: int64 `[sounds]`, labels of each; 0 where nothing is to be written.
    """
    said = counts > 0
    if not said.any():
        return logits.new_zeros(())
    chosen = said.nonzero()[:, 0].to(logits.device)
    logs = logits[chosen].float().log_softmax(-1).transpose(0, 1)  # [T', sounds, labels + 1]
    return functional.ctc_loss(logs, labels, mask[said].sum(1), counts[said], blank=0, zero_infinity=True)


def initialise(model: Learner) -> None:
    """First weights of every part."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.6 * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for table in (model.decoder.embed, model.decoder.head):
        nn.init.normal_(table.weight, std=0.02)
    for block in (*model.vision.layers, *model.decoder.layers):
        deep = (2 * len(model.vision.layers)) ** -0.5
        last = [block.attn.proj, block.mlp.fc2] if isinstance(block, VisionBlock) else [block.attn.o, block.mlp.down]
        for linear in last:
            linear.weight.data.mul_(deep * 2)
    for p in model.audio.parameters():
        if p.dim() == 4:
            nn.init.kaiming_normal_(p)
    head = model.size.vision.hidden_size // model.size.vision.num_heads
    _see_patches(model.vision, head)
    _look_around(model.vision, head)
    _listen_around(model.audio)


def _cosines(size: int) -> Tensor:
    """Orthonormal cosine basis `[size, size]`, lowest frequency first."""
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / size) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return basis.float()


def _see_patches(vision: VisionEncoder, places: int) -> None:
    """The patch embedding as a whitened cosine transform of lightness and colour; `places` channels stay free."""
    edge, content = vision.config.patch_size, vision.config.hidden_size - places
    basis = _cosines(edge)
    order = sorted((math.hypot(u, v), u, v) for u in range(edge) for v in range(edge))
    hues = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]]) / 2
    chosen = [(f, u, v, hue) for f, u, v in order[: content // 10] for hue in hues]
    chosen += [(f, u, v, torch.full((3,), 1 / 3)) for f, u, v in order[: content - len(chosen)]]
    kernel = torch.zeros_like(vision.patch)
    for channel, (f, u, v, tone) in enumerate(chosen):
        wave = torch.outer(basis[v], basis[u])  # rows are v, columns u
        kernel[channel] = tone[:, None, None] * wave * 0.07 * (1 + f)
    vision.patch.data.copy_(kernel)


def _look_around(vision: VisionEncoder, places: int) -> None:
    """Positions as odd harmonics in the last channels, and heads of the first blocks that look at neighbours."""
    grid, count = vision.config.grid, places // 4  # harmonics an axis
    rate = (2 * torch.arange(count) + 1) * math.pi / (2 * count)
    at = torch.arange(grid)[:, None] * rate  # [grid, count]
    line = torch.cat([at.cos(), at.sin()], dim=1)  # [grid, 2 * count]
    table = torch.cat([line[None].expand(grid, -1, -1), line[:, None].expand(-1, grid, -1)], dim=-1)  # x, then y
    vision.positions.data.normal_(std=0.02)
    vision.positions.data[0, 1:, -places:] = table.reshape(grid * grid, -1)
    vision.class_embedding.data.normal_(std=0.02)
    for block, offsets in zip(vision.layers, NEAR, strict=False):
        weight = block.attn.qkv.weight.data  # [3C, C]
        width = weight.shape[1]
        for head, (dx, dy) in enumerate(offsets[: block.attn.heads]):
            rows = slice(head * places, (head + 1) * places)
            weight[rows] *= 0.3
            weight[width:][rows] *= 0.3
            weight[rows, -places:] = 1.1 * torch.block_diag(_turn(rate * dx), _turn(rate * dy))
            weight[width:][rows, -places:] = 1.1 * torch.eye(places)


def _listen_around(ears: AudioEncoder) -> None:
    """Positions in channels of their own, and heads that look at the frames before and after.

    Scores are a sum of cosines of the distance, largest at a head's own. Without this a frame hears a tenth of a
    second.
    """
    width = ears.config.dim // ears.config.num_heads
    places = 2 * (width // 2 - width // 16)  # the fastest waves of the table; the rest of a head compares contents
    ears.embed_norm.weight.data[:places] = 0.0
    rate = torch.exp(torch.arange(0, places, 2) * -(math.log(10000.0) / ears.config.dim))
    for block, offsets in zip(ears.layers, AROUND, strict=False):
        for head, offset in enumerate(offsets[: ears.config.num_heads]):
            rows = slice(head * width, head * width + places)
            for linear in (block.attn.q, block.attn.k):
                linear.weight.data[rows] *= 0.3
            block.attn.pos.weight.data[rows] = 0.0
            block.attn.pos.weight.data[rows, :places] = SHARP * torch.eye(places)
            c, s = torch.diag((rate * offset).cos()), torch.diag((rate * offset).sin())
            turn = torch.zeros(places, places)  # on (sine, cosine) pairs
            turn[0::2, 0::2], turn[0::2, 1::2], turn[1::2, 0::2], turn[1::2, 1::2] = c, s, -s, c
            block.attn.q.weight.data[rows, :places] = SHARP * turn


def _turn(angle: Tensor) -> Tensor:
    """The rotation of all harmonics by their angles: `[2n, 2n]` on (cosines, sines)."""
    c, s = torch.diag(angle.cos()), torch.diag(angle.sin())
    return torch.cat([torch.cat([c, -s], 1), torch.cat([s, c], 1)], 0)
