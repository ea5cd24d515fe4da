"""Results of ranking, retrieval and replay as tables for the terminal."""

from genrank.inference.gen_ranker import Ranking
from genrank.inference.gen_retriever import RetrievalResult
from genrank.inference.replay import Replayed
from genrank.text_table import TextTable

NUM_SHOWN = 20  # retrieved items in the terminal


def ranking_table(ranking: Ranking) -> TextTable:
    """A ranking: a row per candidate, the best first."""
    user = ranking.user if ranking.user_known else f"{ranking.user} (unknown: ranked with an empty history)"
    missing = f"features that were not given, so unknown to the model: {', '.join(ranking.missing_context)}"
    tasks = list(ranking.places[0].scores)
    rows = []
    for number, place in enumerate(ranking.places, 1):
        item = place.item if place.known else f"{place.item} (unknown)"
        rows.append([str(number), item, f"{place.value:.4f}", *(f"{place.scores[task]:.4f}" for task in tasks)])
    return TextTable(
        title=f"user {user}, {ranking.num_history} past exposures seen, model {ranking.model_version}",
        head=["", "item", "value", *tasks],
        rows=rows,
        caption=missing if ranking.missing_context else "",
        numeric=(0, *range(2, 3 + len(tasks))),
    )


def found_table(found: RetrievalResult) -> TextTable:
    """The best retrieved items, at most NUM_SHOWN, the best first."""
    user = found.user if found.user_known else f"{found.user} (unknown: retrieved with an empty history)"
    took = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in found.seconds.items())
    more = len(found.items) - NUM_SHOWN
    best = zip(found.items[:NUM_SHOWN], found.scores, strict=False)
    return TextTable(
        title=f"user {user}, {found.num_history} past events seen, model {found.model_version}",
        head=["", "item", "score"],
        rows=[[str(number), item, f"{score:.4f}"] for number, (item, score) in enumerate(best, 1)],
        caption=f"{took}; {more} more with --json" if more > 0 else took,
        numeric=(0, 2),
    )


def replay_table(found: Replayed) -> TextTable:
    """Served against recomputed scores."""
    rows = [
        ["rankings", f"{found.rankings:,}"],
        ["scores", f"{found.scores:,}"],
        ["largest difference", f"{found.largest:.2g}"],
        ["mean difference", f"{found.mean:.2g}"],
        [f"rankings with a difference above {found.tolerance:g}", f"{found.different:,}"],
    ]
    for reason, count in found.reasons.items():
        rows.append([f"  where {reason}" if reason != "unknown" else "  for no known reason", f"{count:,}"])
    if found.unreadable:
        rows.append(["lines that can't be read", f"{found.unreadable:,}"])
        rows += [[f"  {place}", ""] for place in found.unreadable_at]
    if found.worst is not None:
        rows.append(["ranking with the largest difference", f"user {found.worst['user']} at {found.worst['time']}"])
    return TextTable(title="served against recomputed", head=["", ""], rows=rows, numeric=[1])
