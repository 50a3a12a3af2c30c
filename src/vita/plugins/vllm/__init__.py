"""vLLM plugin: serves VITA-1.5 with vLLM's engine (docs/scaling.md).

vLLM calls `register` in each of its processes, by the entry point `vllm.general_plugins`. The rest of the package
imports it for `vita serve --engine vllm` only.
"""

from __future__ import annotations

from vita.plugins.vllm.register import ARCHITECTURE, TESTED_VERSIONS, register
from vita.plugins.vllm.state import response_state

__all__ = ["ARCHITECTURE", "TESTED_VERSIONS", "register", "response_state"]
