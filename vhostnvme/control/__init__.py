"""The control socket: how a person or another program talks to one of ours while it runs."""
