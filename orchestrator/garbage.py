"""How often a serving process looks for garbage that refers to itself: its own code makes next to none."""

import gc

THRESHOLDS = (100_000, 50, 100)  # Python's own, made for small programs, would look hundreds of times a second


def expect_little() -> None:
    """Never look again at what is loaded by now, and seldom at what is made from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
