"""`python -m vita`: the same as the `vita` command."""

from __future__ import annotations

from vita.cli import main

if __name__ == "__main__":
    main()
