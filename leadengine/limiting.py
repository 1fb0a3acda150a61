"""So many in a minute: counts that all processes share through Redis."""

from __future__ import annotations

import time

from leadengine.redis import UNAVAILABLE, client

_counts: dict[str, int] = {}  # of this process alone, while Redis is away


def count_in_minute(kind: str, who: str, *, most: int) -> int:
    """Count one more; seconds until the next minute when there were more than `most` in this one, else 0.

    Each process counts alone while Redis is away.
    """
    minute = int(time.time() // 60)
    key = f"{kind}:{who}:{minute}"
    try:
        with client().pipeline() as pipe:
            pipe.incr(key)
            pipe.expire(key, 90)
            count = int(pipe.execute()[0])
    except UNAVAILABLE:
        for old in [name for name in _counts if not name.endswith(f":{minute}")]:
            del _counts[old]
        count = _counts[key] = _counts.get(key, 0) + 1
    return max(1, int((minute + 1) * 60 - time.time())) if count > most else 0
