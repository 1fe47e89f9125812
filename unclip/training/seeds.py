"""Seeds by purpose: what is random in step k depends on the run's seed and k alone; no random state is ever saved."""

import hashlib


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A seed in [0, 2^63) for one purpose of one step; unrelated to every other."""
    digest = hashlib.sha256(f"{seed}:{step}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
