"""Python's garbage collector, kept from looking where there is none.

Owns that one setting. Importing PyTorch makes hundreds of thousands of objects that live as long as the process; the
collector goes through them again and again meanwhile, a sixth of the time. Does not know what is imported.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection inside; afterwards as before."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
