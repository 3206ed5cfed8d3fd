"""The pool that many cards make together: who is there, who offers space, who holds which."""
