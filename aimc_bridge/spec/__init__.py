"""Frozen specs of a device, a crossbar, drift compensation and training.

Every value carries its source (`aimc_bridge.spec.base`). The unit of a field is in its name: `_us`
for microsiemens, `_s` for seconds. A field without a suffix is a ratio, a count or a word.
"""

from aimc_bridge.spec.base import Source, Spec, Table, V, cite
from aimc_bridge.spec.crossbar import CompensationSpec, CrossbarSpec
from aimc_bridge.spec.device import (
    AfmPcmSpec,
    DeviceSpec,
    HermesSpec,
    IdealSpec,
    PcmSpec,
    ScalarDriftSpec,
    SignedPcmSpec,
    StateIndependentSpec,
    StatisticalSpec,
)
from aimc_bridge.spec.faults import Faults
from aimc_bridge.spec.own import OwnDevice
from aimc_bridge.spec.preset import Change, Preset
from aimc_bridge.spec.reram import ReramCmoSpec, ReramWanSpec
from aimc_bridge.spec.table import TableDevice
from aimc_bridge.spec.training import TrainingSpec

__all__ = [
    "AfmPcmSpec",
    "Change",
    "CompensationSpec",
    "CrossbarSpec",
    "DeviceSpec",
    "Faults",
    "HermesSpec",
    "IdealSpec",
    "OwnDevice",
    "PcmSpec",
    "Preset",
    "ReramCmoSpec",
    "ReramWanSpec",
    "ScalarDriftSpec",
    "SignedPcmSpec",
    "Source",
    "Spec",
    "StateIndependentSpec",
    "StatisticalSpec",
    "Table",
    "TableDevice",
    "TrainingSpec",
    "V",
    "cite",
]
