"""The bibliography: works that a preset may name, and what was read of them."""

SOURCES = {
    "rasch2023": (
        "Rasch et al. 2023, Hardware-aware training for large-scale and diverse deep learning "
        "inference workloads using in-memory computing-based accelerators, Nature Communications "
        "14:5282, arXiv:2302.08469. Read: Supplementary Information of 2 August 2023."
    ),
    "nandakumar2019": (
        "Nandakumar et al. 2019, Phase-change memory models for deep learning training and "
        "inference, ICECS. Read: as cited and coded in aihwkit 1.1.0, inference/noise/pcm.py."
    ),
    "legallo2023": (
        "Le Gallo et al. 2023, A 64-core mixed-signal in-memory compute chip based on "
        "phase-change memory for deep neural network inference, Nature Electronics. Read: as cited "
        "and coded in aihwkit 1.1.0, inference/noise/hermes.py."
    ),
    "aihwkit": "IBM Analog Hardware Acceleration Kit 1.1.0. Read: its Python source.",
    "wan2022": (
        "Wan et al. 2022, A compute-in-memory chip based on resistive random-access memory, "
        "Nature. Read: as fitted from its figures and coded in aihwkit 1.1.0, "
        "inference/noise/reram.py."
    ),
    "falcone_cmo": (
        "Falcone et al., statistics of analog filamentary CMO/HfOx ReRAM, IBM Research Europe - "
        "Zurich. Read: as cited and coded in aihwkit 1.1.0, inference/noise/reram.py."
    ),
    "afm2025": (
        "IBM/analog-foundation-models, the code of IBM's analog foundation models, 30 May 2025. "
        "Read: the coefficients in apply_noise_model.py of commit 4f4c505."
    ),
    "replication": (
        "A public PyTorch replication of rasch2023 with a physics of its own. Read: a description "
        "of its physics, training and claims."
    ),
    "definition": "Follows from what the preset is; not a measured number.",
    "choice": "Chosen by this project where no source gives a value; says what is left open.",
    "measured": "Measured by a user; says where and when.",
    "device": "A device that a user brought; says why.",
    "changed": "Changed by a user, with the reason.",
}
