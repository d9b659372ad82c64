"""Parallel streams of text, and the windows of truncated back-propagation."""

from typing import Any

from torch import Tensor

STEPS = 35  # words of truncated back-propagation through time


def folded(text: Tensor, n: int) -> Tensor:
    """Return a text as parallel streams; each stream goes on from row to row.

    Args:
        text: Word indices, shape (n_words,).
        n: The number of streams.

    Returns:
        The streams, shape (n_words // n, n).
    """
    length = len(text) // n
    return text[: length * n].view(n, length).T.contiguous()


def window(streams: Tensor, start: int, carry: bool) -> dict[str, Any]:
    """Return a batch of up to STEPS words per stream.

    Args:
        streams: The streams, shape (words, n).
        start: The row of the first words.
        carry: Whether the state of the batch before is used.

    Returns:
        "tokens", "targets" (the words after them) and "carry".
    """
    stop = min(start + STEPS, len(streams) - 1)
    return {"tokens": streams[start:stop], "targets": streams[start + 1 : stop + 1], "carry": carry}
