"""A whole cluster in one process: seeded histories of the real managers over a simulated world.

::

    plan.py     cards and events, drawn from a seed       events.py    what can happen
    engine.py   virtual time, clocks, the record          history.py   runs a plan to its end
    world.py    cards, network, guests                    rules.py     checked at every step
    card.py     one card and its managers                 settled.py   checked in the end
    link.py     its way to the store   store.py           orders.py    commands and their promises
    medium.py   its SSDs   target.py   catalog.py         story.py     the end, for people
    shrink.py   makes a failure small  bugs.py            the checker, checked
    big.py      a large cluster, and what it costs the store

The same plan gives the same history, to the byte, in every process.
"""

from vhostnvme.testing.simulator.history import Outcome, run_plan
from vhostnvme.testing.simulator.plan import Plan, make_plan

__all__ = ["Outcome", "Plan", "make_plan", "run_plan"]
