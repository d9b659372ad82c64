"""Results that others have published for the models of the tasks."""

from benchmarks.tasks.published import (
    DAY,
    HOUR,
    PAPER,
    RASCH2023,
    REPLICATION,
    YEAR,
    Published,
    direct,
)

_WRN = Published(
    by=PAPER,
    model="WideResNet-16",
    data="CIFAR-100",
    metric="accuracy",
    digital=0.8000,
    at={DAY: 0.7994},
    chance=0.99,
    source=f"{RASCH2023}; 1 day: a variant, SI Table 5",
    about=(DAY,),
)
WRN = (
    _WRN,
    direct(_WRN, "tile", {1.0: 0.2573, HOUR: 0.2802, DAY: 0.3232, YEAR: 0.6393}),
    Published(
        by=REPLICATION,
        model="WideResNet-16-4",
        data="CIFAR-100",
        metric="accuracy",
        digital=0.7850,
        at={1.0: 0.7695, YEAR: 0.7694},
        chance=0.99,
        source="its README",
    ),
)
_RESNET32 = Published(
    by=PAPER,
    model="ResNet-32",
    data="CIFAR-10",
    metric="accuracy",
    digital=0.9420,
    at={1.0: 0.9321, HOUR: 0.9292, DAY: 0.9250, YEAR: 0.9164},
    chance=0.90,
    source=RASCH2023,
)
RESNET32 = (
    _RESNET32,
    direct(_RESNET32, "tile", {1.0: 0.1335, HOUR: 0.1589, DAY: 0.1754, YEAR: 0.3000}),
    direct(_RESNET32, "column", {1.0: 0.1003, HOUR: 0.1194, DAY: 0.1427, YEAR: 0.2263}),
)
_MRPC = Published(
    by=PAPER,
    model="BERT-base",
    data="MRPC, dev",
    metric="accuracy",
    digital=1 - 0.1460,
    at={1.0: 1 - 0.1395, HOUR: 1 - 0.1415, DAY: 1 - 0.1447, YEAR: 1 - 0.1540},
    chance=0.5,
    source=RASCH2023,
)
BERT = (
    Published(
        by=PAPER,
        model="BERT-base",
        data="GLUE, mean of 8",
        metric="accuracy",
        digital=1 - 0.1747,
        at={HOUR: 1 - 0.1755},
        chance=None,
        source=RASCH2023,
        stars={HOUR: 0.998},
    ),
    _MRPC,
    direct(_MRPC, "column", {HOUR: 0.2287}),
    Published(
        by=REPLICATION,
        model="BERT-base",
        data="SST-2",
        metric="accuracy",
        digital=0.9037,
        at={1.0: 0.9037, YEAR: 0.9037},
        chance=0.5,
        source="its README",
        note="evaluated without noise",
    ),
)
_LSTM = Published(
    by=PAPER,
    model="LSTM 2x650",
    data="Penn Treebank",
    metric="error",
    digital=0.7290,
    at={HOUR: 0.7300, DAY: 0.7295},
    chance=1 - 1 / 10_000,
    source=RASCH2023,
    about=(DAY,),
)
LSTM = (
    _LSTM,
    direct(_LSTM, "tile", {1.0: 0.7394, HOUR: 0.7482, DAY: 0.7649, YEAR: 0.8211}),
    Published(
        by=REPLICATION,
        model="LSTM 2x200",
        data="WikiText-2",
        metric="perplexity",
        digital=330.96,
        at={1.0: 259.05, YEAR: 259.09},
        chance=None,
        source="its README",
        note="five epochs more than its digital model",
    ),
)
