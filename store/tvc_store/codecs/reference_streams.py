"""The two streams of a frame in NumPy: words of the entropy coder, and plain low bits.

Both are stacks, written from the last element to the first; the twin of `plain.h` and of the
stacks in `frame.c`.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from tvc_store.codecs.grid import Grid
from tvc_store.codecs.interface import MalformedFrame
from tvc_store.codecs.reference_tables import ESCAPE, SCALE_BITS, TOKENS

__all__ = ["direct", "pop_low", "pop_tokens", "push_low", "push_tokens"]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_LOW: Final = 1 << 16
_SCALE: Final = 1 << SCALE_BITS


def direct(grid: Grid) -> int:
    """Return the folded distance below which each has its own token."""
    return {1: 255, 8: 16}.get(grid.itemsize, 128)


def push_tokens(
    frequencies: Ints, numbers: Ints, tokens: Ints, lanes: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """Return the states and the words, in the order in which they are read."""
    starts = np.cumsum(frequencies, axis=1) - frequencies
    chosen = frequencies[numbers, tokens].astype(np.uint64)
    offsets = starts[numbers, tokens].astype(np.uint64)
    states = np.full(lanes, _LOW, np.uint64)
    words: list[npt.NDArray[np.uint16]] = []
    for start in range((tokens.size - 1) // lanes * lanes, -1, -lanes):
        frequency, offset = chosen[start : start + lanes], offsets[start : start + lanes]
        state = states[: frequency.size]
        is_full = state >= frequency << np.uint64(32 - SCALE_BITS)
        words.append(state[is_full].astype("<u2"))
        state[is_full] >>= np.uint64(16)
        quotient, rest = np.divmod(state, frequency)
        state[:] = (quotient << np.uint64(SCALE_BITS)) + rest + offset
    return states.astype("<u4"), np.concatenate(words[::-1])


def pop_tokens(
    frequencies: Ints, numbers: Ints, states: Words, words: npt.NDArray[np.uint16]
) -> Ints:
    """Return the tokens; `states` is used up.

    Raises:
        MalformedFrame: The words are too few or too many, or the states do not end as they began.
    """
    owners = np.repeat(
        np.tile(np.arange(TOKENS), len(frequencies)), frequencies.reshape(-1)
    ).reshape(-1, _SCALE)
    starts = np.cumsum(frequencies, axis=1) - frequencies
    tokens = np.empty(numbers.size, np.int64)
    at = 0
    for start in range(0, tokens.size, states.size):
        number = numbers[start : start + states.size]
        state = states[: number.size]
        slot = (state & np.uint64(_SCALE - 1)).astype(np.int64)
        token = owners[number, slot]
        tokens[start : start + states.size] = token
        frequency = frequencies[number, token].astype(np.uint64)
        bias = (slot - starts[number, token]).astype(np.uint64)
        state[:] = frequency * (state >> np.uint64(SCALE_BITS)) + bias
        empty = np.flatnonzero(state < _LOW)
        if empty.size > words.size - at:
            raise MalformedFrame("the words run out")
        state[empty] = state[empty] << np.uint64(16) | words[at : at + empty.size]
        at += empty.size
    if at != words.size or (states != _LOW).any():
        raise MalformedFrame("the words are not of these tokens")
    return tokens


def _widths(grid: Grid, tokens: Ints) -> Ints:
    """Return how many plain bits follow a token."""
    least = direct(grid)
    bucket = least.bit_length() + (tokens - least) // 4 - 3
    return np.where(tokens == ESCAPE, 8 * grid.itemsize, np.where(tokens < least, 0, bucket))


def push_low(grid: Grid, folded: Words, tokens: Ints) -> tuple[int, bytes]:
    """Return the plain low bits of large distances, those of the last element first."""
    large = np.flatnonzero((tokens >= direct(grid)) | (tokens == ESCAPE))[::-1]
    widths = _widths(grid, tokens[large])
    total = int(widths.sum())
    values = folded[large] & _ones(widths)
    at = np.cumsum(widths) - widths
    stack = np.zeros(total // 64 + 2, np.uint64)
    shift = (at & 63).astype(np.uint64)
    np.bitwise_or.at(stack, at >> 6, values << shift)
    # Shifting by 64 would be undefined: by one, then by the rest.
    np.bitwise_or.at(stack, (at >> 6) + 1, values >> np.uint64(1) >> (np.uint64(63) - shift))
    return total, stack.astype("<u8").tobytes()[: (total + 7) // 8]


def _ones(widths: Ints) -> Words:
    """Return words with the lowest bits set, up to all 64."""
    return np.uint64(2**64 - 1) >> (64 - np.maximum(widths, 1)).astype(np.uint64)


def pop_low(grid: Grid, tokens: Ints, low: bytes, low_bits: int) -> Words:
    """Return the folded distances.

    Raises:
        MalformedFrame: The bits are too few or too many, or a token is none of this width.
    """
    least = direct(grid)
    folded = tokens.astype(np.uint64)
    large = np.flatnonzero(tokens >= least)
    chosen = tokens[large]
    widths = _widths(grid, chosen)
    is_escape = chosen == ESCAPE
    if (widths[~is_escape] + 3 > 8 * grid.itemsize).any() or int(widths.sum()) != low_bits:
        raise MalformedFrame("the low bits are not of these tokens")
    stack = np.frombuffer(low + bytes(16 + -len(low) % 8), "<u8")
    at = low_bits - np.cumsum(widths)
    shift = (at & 63).astype(np.uint64)
    high = stack[(at >> 6) + 1] << np.uint64(1) << (np.uint64(63) - shift)
    values = (stack[at >> 6] >> shift | high) & _ones(widths)
    tops = (4 | ((chosen - least) & 3)).astype(np.uint64) << np.where(is_escape, 0, widths).astype(
        np.uint64
    )
    folded[large] = np.where(is_escape, values, values | tops)
    return folded
