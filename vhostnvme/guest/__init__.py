"""Guests: where QEMU, the kernel and the image come from, and how a guest is started and used.

Kept free of imports: some parts need only the standard library and run before all is installed.
"""
