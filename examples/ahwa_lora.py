"""Bring the accuracy of a drifted chip back with LoRA adapters, trained while the chip is frozen.

MEASURED
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.integrations.peft import for_analog
from benchmarks.tasks.bert import packaged_minilm, silence
from benchmarks.tasks.text import help_sentences
from presets import rasch2023

Data = list[tuple[dict[str, Tensor], Tensor]]


def fit(model: nn.Module, data: Data, rate: float, steps: int) -> None:
    """Train all parameters that are not frozen."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
    for inputs, targets in (data * steps)[:steps]:
        cross_entropy(model.train()(**inputs).logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def right(model: nn.Module, data: Data) -> float:
    """Return the share of right answers."""
    hits = [model.eval()(**inputs).logits.argmax(1) == targets for inputs, targets in data]
    return torch.cat(hits).float().mean().item()


def main(train: int = 1000, test: int = 800, steps: int = 150, chips: int = 2) -> dict[str, float]:
    """Return the share of right answers by case."""
    silence()
    torch.manual_seed(0)
    words, labels = help_sentences()  # which of four chapters of Python's help is a sentence from?
    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())
    shape = {"padding": True, "truncation": True, "max_length": 24, "return_tensors": "pt"}
    data: Data = [
        (dict(tokenizer([" ".join(words[i]) for i in part], **shape)), torch.tensor(labels)[part])
        for part in torch.randperm(len(labels))[: test + train].split(20)
    ]
    tests, trains = data[: test // 20], data[test // 20 :]
    folder = packaged_minilm()
    digital = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=4)
    fit(digital, trains, rate=1e-4, steps=steps)
    found = {"digital": right(digital, tests)}

    analog = convert(digital, rasch2023, exclude=["*pooler*", "classifier"])
    calibrate(analog, [inputs for inputs, _ in trains[::4]], "percentile")
    program(analog, seed=0)
    drift(analog, "1y")
    found["chip 0 after 1y"] = right(analog, tests)
    with torch.no_grad():  # the adapters learn what the digital model says, not the labels
        goals = [(inputs, digital(**inputs).logits.softmax(1)) for inputs, _ in trains]
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value", "output.dense"])
    adapted = get_peft_model(analog, for_analog(config))  # all but the adapters is frozen now
    fit(adapted, goals, rate=1e-3, steps=steps)
    for chip, time in [(0, "1y"), (0, "1d"), *((i, "1y") for i in range(1, chips))]:
        program(analog, seed=chip)
        drift(analog, time)
        found[f"chip {chip} after {time}, adapters of chip 0"] = right(analog, tests)
    return found


if __name__ == "__main__":
    for case, accuracy in main(*map(int, sys.argv[1:])).items():
        print(f"{case:34} {accuracy:.3f}")
