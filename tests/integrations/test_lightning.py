"""The callback for Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aimc_bridge import convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import UsageError
from aimc_bridge.integrations.lightning import HardwareAwareCallback
from aimc_bridge.training.weights import clip_and_remap
from presets import rasch2023
from tests.integrations.laws import Seen, noisy_recipe
from tests.integrations.test_transformers import EVERYTHING, assert_same
from tests.models import DEVICES, RANGED, linear, random
from tests.training.test_training import STILL, recipe

DATA = [random(8, 64, seed=seed) for seed in range(6)]


class Net(LightningModule):
    """A network with dropout, trained by automatic optimization."""

    def __init__(self, preset: Any, engine: str, lr: float = 0.01) -> None:
        super().__init__()
        digital = nn.Sequential(
            linear(64, 128), nn.ReLU(), nn.Dropout(0.2), linear(128, 32, seed=2)
        )
        self.net = convert(digital, preset, engine=engine).train()
        self.lr = lr
        self.seen: Any = None
        self.outputs: list[Tensor] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        if self.seen is not None:
            self.seen(self.net)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.outputs.append(self.net(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class TwoOptimizers(Net):
    """The same network; each layer has its own optimizer, and they take turns."""

    def __init__(self, preset: Any, engine: str, lr: float = 0.01) -> None:
        super().__init__(preset, engine, lr)
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = super().training_step(batch, index)
            self.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=self.lr) for i in (0, 3)]  # type: ignore[index,union-attr]


def trainer_of(how: Any, folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "default_root_dir": folder,
        "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": bool(callbacks), "num_sanity_val_steps": 0,
    }  # fmt: skip
    callbacks = (HardwareAwareCallback(how, seed=3), *callbacks)
    return Trainer(callbacks=list(callbacks), **{**arguments, **options})


def loader(data: list[Tensor] = DATA) -> DataLoader[Tensor]:
    return DataLoader(torch.cat(data), batch_size=8)  # type: ignore[arg-type]


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def test_every_layer_has_the_noise_of_the_law_from_the_first_batch_on(
    engine: str, tmp_path: Path
) -> None:
    """Validation in between is clean; two mini-batches make a step."""
    module = Net(DEVICES, engine, lr=STILL)
    seen = Seen()
    module.seen = seen.watch
    clean = module.net.eval()(DATA[0])
    module.net.train()
    trainer = trainer_of(
        noisy_recipe(), tmp_path, accumulate_grad_batches=2, val_check_interval=2,
        num_sanity_val_steps=1, gradient_clip_val=0.1,
    )  # fmt: skip
    trainer.fit(module, loader(), loader(DATA[:1]))
    seen.check(passes=6)
    assert len(module.outputs) == 4 and all(torch.equal(y, clean) for y in module.outputs)
    assert not any(len(m._forward_pre_hooks) for m in module.modules())


def test_a_training_goes_on_from_lightnings_checkpoint(engine: str, tmp_path: Path) -> None:
    """The weights are those of a training without a stop, bit for bit."""
    how = recipe(**EVERYTHING)
    preset = rasch2023 if engine == "native" else RANGED
    modules = []
    for stops in ((2,), (1, 2)):
        for resume, epochs in enumerate(stops):
            torch.manual_seed(len(stops) + resume)
            module = Net(preset, engine)
            keeping = ModelCheckpoint(tmp_path / str(len(stops)), save_last=True)
            trainer = trainer_of(how, tmp_path, keeping, max_epochs=epochs)
            path = tmp_path / "2" / "last.ckpt" if resume else None
            trainer.fit(module, loader(DATA[:3]), ckpt_path=path)
        modules.append(module)
    assert_same(*modules)
    started = Net(preset, engine).state_dict()
    moved = [n for n, v in modules[0].state_dict().items() if not torch.equal(started[n], v)]
    assert any("input_range" in name for name in moved) and any("scal" in name for name in moved)


def test_two_optimizers_of_manual_optimization(engine: str, tmp_path: Path) -> None:
    """Each clips and remaps what it trains; every pass has noise of its own."""
    module, twin = TwoOptimizers(DEVICES, engine, STILL), TwoOptimizers(DEVICES, engine, STILL)
    how = noisy_recipe(clip_type="fixed", clip_value=0.6, remap_every=3)
    ranked: list[Tensor] = []
    module.seen = lambda net: ranked.append(matrices_of(net)["0"].effective_weight().clone())
    trainer_of(how, tmp_path).fit(module, loader(DATA[:2]))
    assert len(ranked) == 4
    matrices = matrices_of(twin.net)
    for name, steps in (("0", ((0, 1), (1, 3))), ("3", ((0, 2), (2, 4)))):
        for before, now in steps:
            clip_and_remap({name: matrices[name]}, how.spec, before, now)
    assert_same(twin.net, module.net)


def test_two_converted_models_have_noise_of_their_own(engine: str, tmp_path: Path) -> None:
    class Pair(Net):
        def __init__(self) -> None:
            super().__init__(DEVICES, engine, STILL)
            self.other = convert(linear(64, 128), DEVICES, engine=engine)
            self.first = convert(linear(64, 128), DEVICES, engine=engine)

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss: Tensor = (self.other(batch) * self.first(batch)).mean() + self.net(batch).mean()
            weights.extend(
                next(iter(matrices_of(m).values())).effective_weight().clone()
                for m in (self.other, self.first)
            )
            return loss

    weights: list[Tensor] = []
    trainer_of(noisy_recipe(), tmp_path).fit(Pair(), loader(DATA[:2]))
    assert len(weights) == 4
    clean = convert(linear(64, 128), DEVICES, engine=engine).train()
    errors = [w - next(iter(matrices_of(clean).values())).effective_weight() for w in weights]
    for index, error in enumerate(errors):
        for other in errors[:index]:
            correlation = torch.corrcoef(torch.stack([error.flatten(), other.flatten()]))[0, 1]
            assert abs(float(correlation)) < 6.0 / error.numel() ** 0.5


def test_an_error_in_a_training_leaves_no_hooks(tmp_path: Path) -> None:
    module = Net(DEVICES, "native")

    def fails(_: nn.Module) -> None:
        raise ZeroDivisionError

    module.seen = fails
    with pytest.raises(ZeroDivisionError):
        trainer_of(noisy_recipe(), tmp_path).fit(module, loader())
    assert not any(len(m._forward_pre_hooks) for m in module.modules())


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    module = Net(DEVICES, "native")
    module.net = linear(64, 32)
    with pytest.raises(UsageError, match="no converted model is in the Net"):
        trainer_of(noisy_recipe(), tmp_path).fit(module, loader())

    class Lbfgs(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(UsageError, match="LBFGS runs several forward"):
        trainer_of(noisy_recipe(), tmp_path).fit(Lbfgs(DEVICES, "native"), loader())


def test_bf16_and_the_older_package_of_lightning(tmp_path: Path) -> None:
    older = pytest.importorskip("pytorch_lightning")

    class Older(older.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = convert(linear(64, 128), DEVICES).train()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss: Tensor = self.net(batch).float().square().mean()
            seen.watch(self.net)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=STILL)

    seen = Seen()
    trainer = older.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, precision="bf16-mixed",
        default_root_dir=tmp_path, callbacks=[HardwareAwareCallback(noisy_recipe())],
    )  # fmt: skip
    trainer.fit(Older(), loader())
    seen.check(passes=12)
