"""Load on vfio-user NVMe servers: `load` runs it, `report` says how it went. The loop is C."""
