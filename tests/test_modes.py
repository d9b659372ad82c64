"""Training modes are kept, module by module."""

from __future__ import annotations

import pytest
from torch import nn

from aimc_bridge.modes import modes_kept


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("error", [None, ValueError()])
def test_each_module_gets_its_own_mode_back(error: Exception | None) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout()))
    before = modes(model)
    assert sorted(set(before)) == [False, True]

    def change() -> None:
        with modes_kept(model):
            model.eval()
            model[0] = nn.ReLU()
            with modes_kept(model):
                model.train()
            assert not any(modes(model)[:1]) and model[0].training
            if error is not None:
                raise error

    if error is None:
        change()
    else:
        with pytest.raises(ValueError):
            change()
    assert modes(model) == before
