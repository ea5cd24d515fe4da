"""Numbers for names."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.inference import names
from genrank.inference.names import NameNumbers


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=3)), max_size=200))
@settings(deadline=None)
def test_it_numbers_names_as_a_mapping_would(actions: list[tuple[bool, str]]) -> None:
    kept, model = NameNumbers(7), dict[str, int]()
    before, names.RECENT = names.RECENT, 3
    try:
        for adding, name in actions:
            if adding:
                assert kept.add(name) == model.setdefault(name, 7 + len(model))
            assert kept.find(name) == model.get(name, 0)
        assert [kept.find(name) for name in model] == list(model.values())
    finally:
        names.RECENT = before


def test_a_name_takes_a_dozen_bytes_however_long_it_is() -> None:
    kept = NameNumbers(1)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(12 * names.RECENT):
        kept.add(f"{number:0256d}")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken - before < 20 * 12 * names.RECENT
    assert [kept.find(f"{number:0256d}") for number in (0, 4095, 4096, 40_000)] == [1, 4096, 4097, 40_001]
