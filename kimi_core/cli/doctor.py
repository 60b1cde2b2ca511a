"""``kimi-mitm doctor``: what is wrong on this machine, in plain words, and the command that mends it."""
