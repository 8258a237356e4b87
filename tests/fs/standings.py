"""How files stand, for tests of what is shown of them."""

from __future__ import annotations

from typing import Any

from mirrorfs.catalog.standing import Standing

MIB = 1 << 20
NS = 10**9


def stands(path: bytes, size: int = 8 * MIB, **fields: Any) -> Standing:
    """A good file of `size` bytes, all allocated, but for what `fields` say."""
    whole = Standing(path, 5 * NS, 5 * NS, "closed", size, size, 0.25, False, "", "rsync")
    return whole._replace(**fields)
