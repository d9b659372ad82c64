"""The speed benchmark: digital, native and aihwkit side by side. `python -m benchmarks.speed`.

timing.py    sides, alternated repeats, medians       memory.py    bytes held, peak bytes
works.py     models and inputs                        sides.py     a work on an engine
groups.py    forward passes and training steps        chips.py     program, drift, sweep
targets.py   what must come out                       holding.py   what a model adds to its weights
goals.py     whole studies, meant for a GPU           growth.py    cost against size
record.py    JSON, tables, docs/speed.md              machine.py   versions, hardware, threads
"""
