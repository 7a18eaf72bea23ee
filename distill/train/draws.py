"""Random numbers of many positions at once: those of `numpy.random.default_rng((seed, position))`, as arrays.

A generator of NumPy's per sample costs more than the sample's pixels. This is NumPy's own recipe (SeedSequence, PCG64,
bounded integers), applied to arrays: the values are equal, and `tests/distill/train/test_draws.py` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LOW32, SHIFT32 = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIER_HIGH, MULTIPLIER_LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
POOL = 4  # words of 32 bits in the pool of a SeedSequence


class Draws:
    """One generator per position. `rows` select some of them; only those move on.

    Positions and `seed` are whole numbers of 0 or more.
    """

    def __init__(self, seed: int, positions: Sequence[int]):
        position = np.asarray(positions, np.uint64)
        self.high, self.low, self.step_high, self.step_low = np.zeros((4, len(position)), np.uint64)
        self.half, self.has_half = np.zeros(len(position), np.uint64), np.zeros(len(position), bool)
        large = position > LOW32  # SeedSequence takes as many words as a number needs
        for rows in (np.flatnonzero(~large), np.flatnonzero(large)):
            if len(rows):
                self._seed(rows, _words(seed, position[rows]))

    def random(self, rows: np.ndarray) -> np.ndarray:
        """Generator.random(): (n,) float64 in [0, 1)."""
        return (self._next(rows) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float, high: float, count: int, rows: np.ndarray) -> np.ndarray:
        """Generator.uniform(low, high, count): (n, count) float64."""
        return low + (high - low) * np.stack([self.random(rows) for _ in range(count)], 1)

    def integers(self, high: int | np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Generator.integers(high): (n,) int64 in 0 .. high - 1. `high` is 1 .. 2**32 - 1, one or one for each row."""
        high = np.broadcast_to(np.asarray(high, np.uint64), rows.shape)
        out, open_ = np.zeros(len(rows), np.uint64), np.flatnonzero(high > 1)  # of one number nothing is drawn
        while len(open_):
            limit = high[open_]
            product = self._next_half(rows[open_]) * limit
            out[open_] = product >> SHIFT32
            open_ = open_[(product & LOW32) < (LOW32 + np.uint64(1) - limit) % limit]  # Lemire's rejection: draw anew
        return out.astype(np.int64)

    def two_of(self, sizes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Generator.choice(size, 2, replace=False): (n, 2) int64. sizes (n,) of 2 or more."""
        first, second = self.integers(sizes - 1, rows), self.integers(sizes, rows)
        second = np.where(second == first, sizes - 1, second)
        keep = self.integers(2, rows) == 1
        return np.stack([np.where(keep, first, second), np.where(keep, second, first)], 1)

    def generators(self, rows: np.ndarray) -> list[np.random.Generator]:
        """NumPy's generators that go on where these rows are."""
        made = []
        for row in rows.tolist():
            bits = np.random.PCG64(0)
            state, step = _join(self.high[row], self.low[row]), _join(self.step_high[row], self.step_low[row])
            half = {"has_uint32": int(self.has_half[row]), "uinteger": int(self.half[row])}
            bits.state = {"bit_generator": "PCG64", "state": {"state": state, "inc": step}, **half}
            made.append(np.random.Generator(bits))
        return made

    def _seed(self, rows: np.ndarray, words: list[np.ndarray]) -> None:
        start_high, start_low, high, low = _state(_pool(words))
        self.step_high[rows] = (high << np.uint64(1)) | (low >> np.uint64(63))
        self.step_low[rows] = (low << np.uint64(1)) | np.uint64(1)
        self._step(rows)
        self.high[rows], self.low[rows] = _add(self.high[rows], self.low[rows], start_high, start_low)
        self._step(rows)

    def _step(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        high, low = self.high[rows], self.low[rows]
        up, down = _multiply(low, MULTIPLIER_LOW)
        up += high * MULTIPLIER_LOW + low * MULTIPLIER_HIGH
        high, low = _add(up, down, self.step_high[rows], self.step_low[rows])
        self.high[rows], self.low[rows] = high, low
        return high, low

    def _next(self, rows: np.ndarray) -> np.ndarray:
        """64 bits of each row."""
        high, low = self._step(rows)
        mixed, turn = high ^ low, high >> np.uint64(58)
        return (mixed >> turn) | (mixed << ((np.uint64(64) - turn) & np.uint64(63)))

    def _next_half(self, rows: np.ndarray) -> np.ndarray:
        """32 bits of each row: the lower half of 64 bits, and the next time the upper half that was left."""
        out, fresh = self.half[rows], ~self.has_half[rows]
        new = rows[fresh]
        bits = self._next(new)
        out[fresh], self.half[new] = bits & LOW32, bits >> SHIFT32
        self.has_half[rows] = fresh
        return out


def _words(seed: int, position: np.ndarray) -> list[np.ndarray]:
    """The words of 32 bits of (seed, position), each (n,). All positions have as many words."""
    seeds = [seed & 0xFFFFFFFF]
    while seed := seed >> 32:
        seeds.append(seed & 0xFFFFFFFF)
    words = [np.full(len(position), word, np.uint32) for word in seeds]
    words.append((position & LOW32).astype(np.uint32))
    if position[0] > LOW32:
        words.append((position >> SHIFT32).astype(np.uint32))
    return words


def _pool(words: list[np.ndarray]) -> list[np.ndarray]:
    """SeedSequence.mix_entropy."""
    constant = 0x43B0D7E5

    def hashed(value: np.ndarray) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * 0x931E8875 & 0xFFFFFFFF
        value = value * np.uint32(constant)
        return value ^ (value >> np.uint32(16))

    def mixed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        value = x * np.uint32(0xCA01F9DD) - y * np.uint32(0x4973F715)
        return value ^ (value >> np.uint32(16))

    zeros = np.zeros_like(words[0])
    pool = [hashed(words[i] if i < len(words) else zeros) for i in range(POOL)]
    for source in range(POOL):
        for target in range(POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in words[POOL:]:
        for target in range(POOL):
            pool[target] = mixed(pool[target], hashed(word))
    return pool


def _state(pool: list[np.ndarray]) -> list[np.ndarray]:
    """SeedSequence.generate_state(4, uint64)."""
    constant, words = 0x8B51F9DD, []
    for i in range(8):
        value = pool[i % POOL] ^ np.uint32(constant)
        constant = constant * 0x58F38DED & 0xFFFFFFFF
        value = value * np.uint32(constant)
        words.append((value ^ (value >> np.uint32(16))).astype(np.uint64))
    return [words[i] | (words[i + 1] << SHIFT32) for i in range(0, 8, 2)]


def _multiply(a: np.ndarray, b: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of a product."""
    a_high, a_low, b_high, b_low = a >> SHIFT32, a & LOW32, b >> SHIFT32, b & LOW32
    low, cross = a_low * b_low, a_high * b_low
    middle = (low >> SHIFT32) + (cross & LOW32) + a_low * b_high
    return a_high * b_high + (cross >> SHIFT32) + (middle >> SHIFT32), (middle << SHIFT32) | (low & LOW32)


def _add(
    high: np.ndarray, low: np.ndarray, more_high: np.ndarray, more_low: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    total = low + more_low
    return high + more_high + (total < low), total


def _join(high: np.uint64, low: np.uint64) -> int:
    return int(high) << 64 | int(low)
