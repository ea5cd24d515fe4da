import itertools

from genrank.server.rarely import LONGEST, Rarely


def test_a_trouble_that_lasts_is_said_at_once_and_then_more_and_more_rarely() -> None:
    now, lines = [0.0], []
    rarely = Rarely(now=lambda: now[0])
    said = []
    for second in range(4 * 3600):
        now[0] = float(second)
        if rarely.say(lines.append, "it is away"):
            said.append(second)
    assert said[:5] == [0, 60, 180, 420, 900]
    assert max(after - before for before, after in itertools.pairwise(said)) == LONGEST
    assert len(said) < 12
    assert set(lines) == {"it is away"}


def test_another_trouble_and_one_after_the_first_is_over_are_said_at_once() -> None:
    lines: list[str] = []
    rarely = Rarely(now=lambda: 0.0)
    for trouble in ("one", "one", "other"):
        rarely.say(lines.append, trouble)
    rarely.over()
    rarely.say(lines.append, "one")
    assert lines == ["one", "other", "one"]


def test_troubles_that_change_all_the_time_are_not_kept_for_ever() -> None:
    rarely = Rarely(now=lambda: 0.0)
    for number in range(1000):
        rarely.say(lambda _: None, f"trouble {number}")
    assert len(rarely._said) <= 16
