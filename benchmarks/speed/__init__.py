"""The speed benchmark: digital, native and aihwkit side by side.

`python -m benchmarks.speed` runs it; benchmarks/report/speed*.py make its records and tables.

    timing.py          sides, alternated repeats, medians
    memory.py          bytes that a model holds, peak bytes of a run
    works.py           models and inputs
    sides.py           a work on an engine
    groups.py          the sides of a work, measured together
    forwards.py        forward passes
    training_steps.py  training steps
    chips.py           program, drift, sweep
    goals.py           whole studies, meant for a GPU
    growth.py          cost against size
    targets.py         the results that are promised
"""
