"""Compare a checkpoint's results with reference numbers, stage by stage (`vita verify`).

Every stage is computed by the modules that answer requests.
"""

from __future__ import annotations

from vita.verify.rows import Row
from vita.verify.run import run

__all__ = ["Row", "run"]
