"""Frozen descriptions of a device, a crossbar, its drift compensation and a training recipe.

Every value carries its source (`aimc_bridge.spec.base`). A unit is in the name (`_us` microsiemens,
`_s` seconds); no suffix is a ratio.
"""

from aimc_bridge.spec.base import Source, Spec, Table, V, cite
from aimc_bridge.spec.crossbar import CompensationSpec, CrossbarSpec
from aimc_bridge.spec.device import (
    DeviceSpec,
    HermesSpec,
    IdealSpec,
    PcmSpec,
    ScalarDriftSpec,
    SignedPcmSpec,
    StatisticalSpec,
)
from aimc_bridge.spec.preset import Change, Preset
from aimc_bridge.spec.training import TrainingSpec

__all__ = [
    "Change",
    "CompensationSpec",
    "CrossbarSpec",
    "DeviceSpec",
    "HermesSpec",
    "IdealSpec",
    "PcmSpec",
    "Preset",
    "ScalarDriftSpec",
    "SignedPcmSpec",
    "Source",
    "Spec",
    "StatisticalSpec",
    "Table",
    "TrainingSpec",
    "V",
    "cite",
]
