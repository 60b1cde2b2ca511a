"""The checks of ``kimi-mitm doctor``: each asks this machine one question and judges the answer."""
