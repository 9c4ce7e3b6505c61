"""A plugin of pytest runs within tests: what runs beside them is no disturbance, and speeds are measured for less long.

The models are tiny: no speed of theirs gets as precise as that of a real model within any budget, so that every
approval would spend all of it.
"""

from fixtures.latency import disturbance, speed

disturbance._other_processes_s = lambda: 0.0
speed.BLOCK_S = 0.1
speed.SPEED_BUDGET_S["quick"] = 4.0
