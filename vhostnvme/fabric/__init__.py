"""NVMe/TCP: what a target shall be, and running it."""
