"""The model of the task lstm, and its training loss with a sampled softmax."""

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class WordLSTM(nn.Module):
    """Two LSTM layers between an embedding and a decoder, which may share one matrix.

    A state is two tensors of shape (2, batch, width); None stands for zeros.
    """

    def __init__(self, n_words: int, width: int, dropout: float, tied: bool) -> None:
        """Build the model with random weights.

        Args:
            n_words: Words of the vocabulary.
            width: Width of the embedding and of both layers.
            dropout: The dropout rate, before, between and behind the layers.
            tied: Whether embedding and decoder share one matrix.
        """
        super().__init__()
        self.embedding = nn.Embedding(n_words, width)
        self.drop = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=dropout)
        self.decoder = nn.Linear(width, n_words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.embedding.weight

    def encode(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return what the decoder sees, and the state after the words.

        Args:
            tokens: Word indices, shape (steps, batch).
            state: The state before the words.

        Returns:
            The hidden values, shape (steps, batch, width), and the state.
        """
        # autocast off: under any dtype it runs cuDNN's LSTM in float16, which needs a scaled loss;
        # bfloat16 saves time in the decoder, which is 33,000 words wide
        with torch.autocast(tokens.device.type, enabled=False):
            hidden, after = self.lstm(self.drop(self.embedding(tokens)), state)
        return self.drop(hidden), after

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the scores of the next words, and the state after the words.

        Args:
            tokens: Word indices, shape (steps, batch).
            state: The state before the words.

        Returns:
            The scores, shape (steps, batch, n_words), and the state.
        """
        hidden, after = self.encode(tokens, state)
        return self.decoder(hidden), after


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    tail: Tensor,
    samples: int,
) -> Tensor:
    """Return the cross-entropy, with rare words of the softmax's sum sampled.

    The frequent words, which have the lowest indices, are summed exactly. Of the others, `samples`
    are drawn and weighted by 1 / (samples q), which makes the estimated sum unbiased. If a drawn
    word is the target itself, it does not count: the target is always in the sum, once.

    Args:
        hidden: What the decoder sees, shape (n, width).
        weight: The decoder's weight, shape (n_words, width).
        bias: The decoder's bias, shape (n_words,).
        targets: Word indices, shape (n,).
        tail: q, the probability of each of the last words to be drawn, shape (n_words - n_exact,);
            its sum is 1.
        samples: How many rare words are drawn.

    Returns:
        The mean loss in nats.

    Source: Jean et al. 2015 (importance-sampled softmax). The exact head is ours: with a plain
    unigram proposal a third of 4,096 draws are repeats of the hundred commonest words.
    """
    n_exact = weight.shape[0] - tail.shape[0]
    position = torch.rand(samples, device=weight.device)
    drawn = torch.searchsorted(tail.cumsum(0), position).clamp_max(tail.shape[0] - 1)
    candidates = torch.cat([torch.arange(n_exact, device=weight.device), drawn + n_exact])
    correction = torch.cat(
        [torch.zeros_like(tail[:1]).expand(n_exact), (samples * tail[drawn]).log()]
    )
    # one look-up for targets and candidates, as each look-up makes a gradient as large as weight
    looked_up = torch.cat([targets, candidates])
    rows = nn.functional.embedding(looked_up, weight)
    biases = bias[looked_up]
    n = targets.shape[0]
    of_target = (hidden * rows[:n]).sum(-1) + biases[:n]
    scores = torch.addmm(biases[n:] - correction, hidden, rows[n:].T)
    scores = scores.masked_fill(candidates == targets[:, None], -torch.inf)
    return (torch.logaddexp(of_target, scores.logsumexp(-1)) - of_target).mean()
