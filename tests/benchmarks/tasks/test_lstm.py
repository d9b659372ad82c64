"""The language task: vocabulary, windows, the carried state, perplexity by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import HWATraining, calibrate, convert, train
from benchmarks import tasks
from benchmarks.tasks import DigitalRecipe, lstm, streams, word_lstm
from presets import rasch2023
from tests.stats import proven, quantile

RECIPE = DigitalRecipe(epochs=1, batch_size=4, learning_rate=0.1)


def language(n_words: int = 7, length: int = 800, **options) -> lstm.LanguageTask:
    """Return a language of a few words; "rare" is in the test text only."""
    generator = torch.Generator().manual_seed(0)

    def text(n: int) -> list[str]:
        return [f"w{int(i)}" for i in torch.randint(0, n_words, (n,), generator=generator)]

    words = {"train": text(length), "validation": text(100), "test": [*text(150), "rare"]}
    return lstm.LanguageTask(words, "toy", "tiny", RECIPE, tied=False, dropout=0.2, **options)


# --- lstm -----------------------------------------------------------------------------------------


def test_the_vocabulary_is_trains_alone_the_commonest_first() -> None:
    words = {
        "train": ["a", "b", "a", "c", "a", "b"],
        "validation": ["d", "a"] * 20,
        "test": ["e", "b"] * 20,
    }
    task = lstm.LanguageTask(words, "toy", "tiny", RECIPE, tied=False, dropout=0.0)
    assert task.vocabulary == {"a": 0, "b": 1, "c": 2, "<unk>": 3}
    assert task.streams["test"].tolist() == [3, 1] * 20
    rare = lstm.LanguageTask(words, "toy", "tiny", RECIPE, tied=False, dropout=0.0, min_count=2)
    assert rare.vocabulary == {"a": 0, "b": 1, "<unk>": 2}


@pytest.mark.parametrize("subset", [None, 90])
def test_perplexity_and_word_error_by_hand(subset) -> None:
    """Each stream is read word by word, and its state is carried all the way.

    So no window shows.
    """
    task = language()
    model = task.build(0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # The scores differ.
    text = task.streams["test"][: None if subset is None else subset + 1]
    n = max(1, min(task.evaluation_streams, len(text) // streams.STEPS))
    length = len(text) // n
    losses, wrong = [], []
    for stream in range(n):
        state = None
        words = text[stream * length : (stream + 1) * length]
        for here, after in zip(words[:-1], words[1:], strict=True):
            with torch.no_grad():
                scores, state = model(here.view(1, 1), state)
            chances = scores.double().flatten().softmax(0)
            losses.append(-math.log(chances[after]))
            wrong.append(int(chances.argmax()) != int(after))
    metrics = task.evaluate(model, subset)
    mean = sum(losses) / len(losses)
    assert metrics["loss"] == pytest.approx(mean, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert metrics["error"] == pytest.approx(sum(wrong) / len(wrong))


def test_windows_follow_each_other_and_targets_are_the_next_words() -> None:
    task = language()
    batches = list(task.train_loader(4, 0).passing(0))
    tokens = torch.cat([b["tokens"] for b in batches])
    targets = torch.cat([b["targets"] for b in batches])
    assert torch.equal(tokens[1:], targets[:-1])
    assert [b["carry"] for b in batches] == [False] + [True] * (len(batches) - 1)


@pytest.mark.parametrize("analog", [False, True])
def test_nothing_propagates_back_into_the_batch_before(analog) -> None:
    """The state goes on as numbers.

    The second batch's gradient knows nothing of the first.
    """
    task = language()
    first, second = list(task.train_loader(4, 0).passing(0))[:2]
    model = task.build(0, dropout=0.0)
    if analog:
        model = convert(model, rasch2023)
        calibrate(model, task.calibration_batches(2))
    loss = task.loss(model, first)
    carried = task.carried(model)
    assert set(carried) == {"hidden", "cell"}
    assert all(not t.requires_grad and t.grad_fn is None for t in carried.values())
    assert float(carried["hidden"].abs().sum()) > 0
    before = {key: value.clone() for key, value in carried.items()}
    loss.backward()  # This frees the first batch's graph: going back into it would be an error.
    task.loss(model, second).backward()
    assert all(torch.equal(before[key], carried[key]) for key in before)


def test_hardware_aware_training_carries_the_state_in_every_batch() -> None:
    """`train` hands `loss` a model with a state.

    The state goes on, so four batches see three states.
    """
    task = language()
    model = convert(task.build(0), rasch2023)
    recipe = HWATraining.for_(rasch2023, "lstm").override(ramp_batches=0, epochs=1)
    hidden = []

    def loss(of: nn.Module, batch: dict) -> Tensor:
        hidden.append(task.carried(of).get("hidden"))
        return task.loss(of, batch)

    train(
        model,
        task.train_loader(4, 0),
        loss,
        recipe=recipe,
        max_batches=4,
        progress=False,
        cpu=True,
    )
    assert hidden[0] is None
    states = [state for state in hidden[1:] if state is not None]
    assert len(states) == 3
    assert all(not state.requires_grad for state in states)
    assert len({tuple(state.flatten().tolist()) for state in states}) == 3


def test_the_state_is_used() -> None:
    task = language()
    model = task.build(0, dropout=0.0)
    first, second = list(task.train_loader(4, 0).passing(0))[:2]
    with torch.no_grad():
        task.loss(model, first)
        with_state = task.logits(model, second)
        without = task.logits(model, {**second, "carry": False})
        _, state = model(first["tokens"])
        expected, _ = model(second["tokens"], state)
    assert torch.allclose(with_state, expected.flatten(0, 1), atol=1e-6)
    assert not torch.allclose(with_state, without, atol=1e-4)


def test_an_evaluation_between_two_batches_changes_neither() -> None:
    task = language()
    model = task.build(0, dropout=0.0)
    first, second = list(task.train_loader(4, 0).passing(0))[:2]
    with torch.no_grad():
        task.loss(model, first)
        expected = task.logits(model, second)
        task.loss(model, first)
        score = task.evaluate(model)
        assert torch.equal(task.logits(model, second), expected)
    assert task.evaluate(task.build(0, dropout=0.0)) == score  # No state reaches it either.


def sampled(samples: int, repeats: int, n_exact: int) -> Tensor:
    """Return estimated softmax sums over the true one, (targets, repeats)."""
    generator = torch.Generator().manual_seed(1)
    n_words, width, n = 60, 8, 3
    hidden = torch.randn(n, width, generator=generator)
    weight = torch.randn(n_words, width, generator=generator) * 0.2
    bias = torch.randn(n_words, generator=generator) * 0.5
    targets = torch.tensor([3, 12, 59])  # One is summed exactly, two are rare.
    q = torch.rand(n_words - n_exact, generator=generator) + 0.2
    q = q / q.sum()
    scores = hidden @ weight.T + bias
    true = torch.logsumexp(scores, -1)
    torch.manual_seed(3)
    ratios = []
    for row in range(n):
        # One row is taken at a time: the loss is a mean over rows, and exp(loss) must be that of
        # one.
        losses = torch.stack(
            [
                word_lstm.sampled_cross_entropy(
                    hidden[row : row + 1], weight, bias, targets[row : row + 1], q, samples
                )
                for _ in range(repeats)
            ]
        )
        ratios.append((losses + scores[row, targets[row]] - true[row]).exp())
    return torch.stack(ratios)


def test_the_sampled_softmax_sum_is_unbiased() -> None:
    """E[estimated sum] is the sum, for frequent and for rare targets."""
    for ratios in sampled(samples=100, repeats=1500, n_exact=10):

        def check(values: Tensor, of: Tensor = ratios) -> None:
            error = of.std().item() / math.sqrt(of.numel())
            assert abs(values.mean().item() - 1.0) < quantile() * error

        proven(check, ratios)


def test_the_sampled_loss_is_the_exact_one_where_all_words_are_summed() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 8, generator=generator)
    weight, bias = torch.randn(20, 8, generator=generator), torch.randn(20, generator=generator)
    targets = torch.tensor([0, 4, 18, 7, 7])
    q = torch.tensor([1.0])  # There is one rare word, always drawn.
    estimated = word_lstm.sampled_cross_entropy(hidden, weight, bias, targets, q, 1)
    exact = nn.functional.cross_entropy(hidden @ weight.T + bias, targets)
    assert estimated.item() == pytest.approx(exact.item(), rel=1e-5)


def test_the_decoders_bias_may_start_at_the_log_frequencies() -> None:
    task = language(frequency_bias=True)
    bias = task.build(0).decoder.bias.detach()
    counts = task.streams["train"].bincount(minlength=task.n_classes).clamp_min(1)
    assert torch.allclose(bias.exp(), counts / task.count("train"), rtol=1e-5)
    assert float(language(frequency_bias=False).build(0).decoder.bias.detach().abs().sum()) == 0.0


@pytest.mark.parametrize(("size", "width"), [("small", 200), ("paper", 650), (12, 12)])
def test_the_named_sizes(size, width) -> None:
    words = {split: list("abcdefgh") * 60 for split in ("train", "validation", "test")}
    task = lstm.LanguageTask(words, "toy", size, RECIPE, tied=True, dropout=0.0)
    model = task.build(0)
    assert model.lstm.hidden_size == model.lstm.input_size == width
    assert model.lstm.num_layers == 2
    assert model.decoder.weight is model.embedding.weight


# --- the real data, if they are there -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*articles of WikiText-2 in another order")
def test_real_wikitext2_task(real_data) -> None:
    task = tasks.get("lstm", "real", real_data)
    assert (task.model_name, task.n_classes) == ("LSTM 2x200 tied", 33_278)
    assert task.count("test") == 245_569
    assert not bool((task.streams["train"] == task.vocabulary["rare"]).all())
