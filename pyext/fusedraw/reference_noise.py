# SPDX-License-Identifier: Apache-2.0
"""R1's noise: Philox, what its words are for, and the keys of requests."""

from dataclasses import dataclass, field

from .reference_arithmetic import exponential

BLOCK, TOKEN, COIN, MANY, ORDER, XTC, ROUTE, CONTROL = range(1, 9)  # purpose of a noise value
TARGET, DRAFT, ACCEPT, RECOVERY = range(4)  # domain of a noise value


def philox4x32_10(key, counter):
    """Ten rounds of Philox 4x32 (Salmon et al., SC'11): (k0, k1), (c0, c1, c2, c3) -> four 32-bit words."""
    (k0, k1), (c0, c1, c2, c3), low = key, counter, 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (q >> 32) ^ c1 ^ k0, q & low, (p >> 32) ^ c3 ^ k1, p & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def split64(n):
    """(low word, high word) of n modulo 2^64."""
    return n & 0xFFFFFFFF, n >> 32 & 0xFFFFFFFF


@dataclass(frozen=True)
class Noise:
    """The noise of a row. `forced` {(purpose, id): r64} replaces single values, to test the end points."""

    key: tuple = (0, 0)  # (seed, offset), taken modulo 2^64
    domain: int = TARGET
    forced: dict = field(default_factory=dict)

    def r64(self, purpose, token):
        """64 bits for (purpose, id): the low or the high half of one Philox block for even and odd ids."""
        if (purpose, token) in self.forced:
            return self.forced[purpose, token]
        seed, offset = self.key
        o = philox4x32_10(split64(seed), (token // 2, purpose | self.domain << 8, *split64(offset)))
        return o[3] << 32 | o[2] if token % 2 else o[1] << 32 | o[0]

    def r128(self, j):
        """128 bits for draw j of many: both halves of the block, ids 2j (low) and 2j + 1 (high) of MANY."""
        return self.r64(MANY, 2 * j + 1) << 64 | self.r64(MANY, 2 * j)

    def exponential(self, purpose, token):
        return exponential(self.r64(purpose, token))


def derive_key(seed, request_id, sample_id=0, step=0):
    """The key (seed, offset) of a request; sample_id is one 32-bit word, the others count modulo 2^64."""
    if not 0 <= sample_id < 1 << 32:
        raise ValueError(f"reference: sample_id must lie in [0, 2^32), got {sample_id}")
    h0, h1, _, _ = philox4x32_10(split64(seed), (*split64(request_id), sample_id, 0x4B455953))
    return h1 << 32 | h0, step & 0xFFFFFFFFFFFFFFFF
