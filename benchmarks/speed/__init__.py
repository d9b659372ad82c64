"""The speed benchmark: digital, native and aihwkit side by side. `python -m benchmarks.speed`.

timing.py    sides, alternated repeats, medians       memory.py    bytes held, peak bytes
works.py     models and inputs                        sides.py     a work on an engine
groups.py    forward passes and training steps        chips.py     program, drift, sweep
goals.py     whole studies, meant for a GPU           growth.py    cost against size
targets.py   what must come out

benchmarks/report/speed.py makes records and tables of it.
"""
