"""A whole cluster in one process: seeded histories of the real managers over a simulated world.

::

    plan.py draw.py draw_mirrors.py          cards and events, drawn from a seed
    events.py                                what can happen
    engine.py                                virtual time, clocks, the record
    history.py                               runs a plan to its end
    world.py                                 cards, network, guests
    card.py devices.py                       one card, its devices
    mirror.py legs.py path.py                their copies, and the way to each
    link.py store.py                         its way to the store
    medium.py target.py catalog.py           its SSDs, its exports, what it remembers
    orders.py move_orders.py                 commands and their promises
    rules.py ledger.py                       checked at every step: space, what guests were told
    settled.py settled_mirrors.py            checked in the end
    story.py                                 the end, for people
    shrink.py                                makes a failure small
    bugs.py bugs_inside.py bugs_mirrors.py   the checker, checked
    big.py                                   a large cluster, and what it costs the store

The same plan gives the same history, to the byte, in every process.
"""

from vhostnvme.testing.simulator.history import Outcome, run_plan
from vhostnvme.testing.simulator.plan import Plan, make_plan

__all__ = ["Outcome", "Plan", "make_plan", "run_plan"]
