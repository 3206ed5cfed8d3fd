"""Several hosts on one machine, each with a card of its own: namespaces, processes, folders.

    with Lab.up(directory, LabPlan(cards=3, store="etcd")) as lab:
        lab.run("a", "vhostnvme", "cluster", "status")
        lab.partition("b")
        lab.heal()

All that a lab makes bears its name, so that `Lab.down` finds it whatever became of its maker.
"""

from vhostnvme.lab.lab import Lab
from vhostnvme.lab.plan import LabPlan

__all__ = ["Lab", "LabPlan"]
