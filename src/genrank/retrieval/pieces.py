"""Large products computed in pieces, so that memory holds only one piece."""


def pieces(count: int, at_once: int) -> list[slice]:
    """Slices of at most `at_once` (at least 1) that cover `count`."""
    step = max(at_once, 1)
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]
