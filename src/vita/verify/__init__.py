"""Holding a checkpoint against reference numbers, stage by stage (`vita verify`).

Owns the comparison and nothing of the model: every stage is computed by the same modules that answer questions.
"""

from __future__ import annotations

from vita.verify.rows import Row
from vita.verify.run import run

__all__ = ["Row", "run"]
