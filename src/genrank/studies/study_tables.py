"""The tables and sentences of a study's page."""

from collections.abc import Mapping, Sequence
from typing import Any

from genrank.studies.code import code_digest
from genrank.studies.study import AS_TRAINED, RANKING, RETRIEVAL
from genrank.studies.tuning import short
from genrank.text_table import TextTable

METRIC_NAMES = {
    "auc": "AUC", "gauc": "GAUC", "neg_logloss": "-log loss", "recall@500": "Recall@500", "recall@50": "Recall@50",
    "ndcg@10": "NDCG@10", "hr@10": "HR@10", "mrr": "MRR",
}  # fmt: skip
Result = Mapping[str, Any]


def metrics_of(result: Result) -> Sequence[str]:
    """The figures of the study, the main one first."""
    metrics: Sequence[str] = result.get("metrics", RANKING)
    return metrics


def of_retrieval(result: Result) -> bool:
    """Whether the study compares retrievers."""
    return tuple(metrics_of(result)) == RETRIEVAL


def about(result: Result) -> str:
    """Data, seeds and machine in a few sentences."""
    data, machine, options = result["data"], result["machine"], result["options"]
    targets = f"task {data['task']}" if data["task"] else "every event"
    return (
        f"{data['name']}: {data['exposures']:,} exposures, {data['users']:,} users, {data['items']:,} items; evaluated "
        f"on the {data['test_exposures']:,} exposures of the test part, {targets}. Up to {options['seeds']} "
        f"seeds, size {options['size']}. {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}."
    )


def is_older(result: Result) -> bool:
    """Whether its figures were computed by other code than the current code."""
    made: Mapping[str, Any] = result.get("made", {})
    return made.get("code") != code_digest()


def age(result: Result) -> str:
    """A warning if the figures are of earlier code, else empty."""
    if not is_older(result):
        return ""
    made = result.get("made")
    of = f"code {made['code']}, genrank {made['versions']['genrank']}" if made else "code that was not recorded"
    return f"Of earlier code: these figures were computed with {of}; run the study again to update them."


def table(result: Result) -> TextTable:
    """A row per variant: how accurate it is."""
    main, second, *others = metrics_of(result)
    header = ["variant", METRIC_NAMES[main], "difference (95 %)", "p", METRIC_NAMES[second], "difference (95 %)"]
    head = [*header, *(METRIC_NAMES[name].removeprefix("-") for name in others), "seeds"]
    rows = []
    for row in result["rows"]:
        whole = row["parts"].get("all", {})
        difference = whole.get(main, {}).get("difference")
        rows.append(
            [
                row["variant"] + (" (baseline)" if row["variant"] == result["baseline"] else ""),
                _mean(whole.get(main)),
                _difference(difference),
                _p_value(difference),
                _mean(whole.get(second)),
                _difference(whole.get(second, {}).get("difference")),
                *("–" if name not in whole else f"{abs(whole[name]['mean']):.4f}" for name in others),
                str(row["seeds"]),
            ]
        )
    return TextTable(head=head, rows=rows)


def cost_table(result: Result) -> TextTable:
    """A row per trained variant: what it costs."""
    others = [regime for regime in result["speed"] if regime != AS_TRAINED]
    header = ["variant", "parameters", "MFLOP an exposure", "exposures a second", "speed"]
    head = [*header, *(f"speed, {regime}" for regime in others), "seconds a run"]
    rows = []
    for row in result["rows"]:
        if row["parameters"] is None:
            continue
        speed = row["speed"].get(AS_TRAINED, {})
        rate = speed.get("exposures_per_second")
        rows.append(
            [
                row["variant"],
                f"{row['parameters']:,}",
                "–" if not speed else f"{speed['flops_per_exposure'] / 1e6:.2f}",
                "–" if rate is None else f"{rate['value']:,.0f}",
                *(_times(row["speed"].get(regime, {}).get("over_baseline")) for regime in (AS_TRAINED, *others)),
                _number(row["seconds"], 0),
            ]
        )
    return TextTable(head=head, rows=rows)


def slice_heading(result: Result) -> str:
    """The heading of the table of slices."""
    main = METRIC_NAMES[metrics_of(result)[0]]
    return f"{main} by slice" if of_retrieval(result) else f"{main} by the item's age"


def slice_table(result: Result) -> TextTable:
    """The main figure per variant and slice."""
    parts, main = result["slices"], metrics_of(result)[0]
    sizes: Mapping[str, Any] = next((row["parts"] for row in result["rows"] if row["parts"].get(parts[0])), {})
    total = sizes.get("all", {}).get("num_exposures") or 1
    names = [f"{part} ({sizes.get(part, {}).get('num_exposures', 0) / total:.0%})" for part in parts]
    rows = [
        [row["variant"], *(_mean(row["parts"].get(part, {}).get(main)) for part in parts)] for row in result["rows"]
    ]
    return TextTable(head=["variant", *names], rows=rows)


def findings(result: Result) -> TextTable:
    """A row per finding: claim, the paper's effect, the condition, the measured figures, seeds, verdict, why."""
    tested = list(metrics_of(result)[:2])
    figures = [f"{METRIC_NAMES[m]} (95 %)" for m in tested]
    rows = []
    for finding in result["findings"]:
        if finding["kind"] == "faster":
            paper = f"{finding['size']:.2f}×" if finding["paper"] else "ours"
            measured, seeds = [_times(finding["ratio"]), *["–"] * (len(tested) - 1)], "–"
        else:
            paper, seeds = _claimed(finding), str(finding["seeds"])
            measured = [_difference(finding["contrasts"][metric], percent=finding["relative"]) for metric in tested]
        where = f" ({finding['slice']})" if finding["slice"] and finding["slice"] not in finding["claim"] else ""
        about = [finding["claim"] + where, paper, _condition(finding)]
        rows.append([*about, *measured, seeds, finding["verdict"], _reasons(finding)])
    return TextTable(head=["claim", "paper", "confirmed if", *figures, "seeds", "verdict", "why"], rows=rows)


def _condition(finding: Mapping[str, Any]) -> str:
    """Where the intervals of both figures must lie."""
    if finding["kind"] == "faster":
        return "> 1"
    margin = f"{100 * finding['margin']:.1f} %" if finding["relative"] else f"{finding['margin']:.4f}"
    return {"above": "> 0", "parity": f"within ±{margin}", "not_below": f"> -{margin}", "at_most": f"< {margin}"}[
        finding["kind"]
    ]


def _reasons(finding: Mapping[str, Any]) -> str:
    """Why a verdict is not "confirmed", and what could not be checked for a confirmed one."""
    said = [finding["why"]] if finding["why"] else []
    verdicts: Mapping[str, str] = finding.get("verdicts", {})
    if len(set(verdicts.values())) > 1 and finding["verdict"] != "not comparable":
        said += [f"{METRIC_NAMES[m]} {verdict}" for m, verdict in verdicts.items() if verdict != "confirmed"]
    if finding["verdict"] == "confirmed" and finding.get("unchecked"):
        said.append(f"unchecked: {', '.join(finding['unchecked'])}")
    return "; ".join(said)


def standing(result: Result) -> list[str]:
    """Which variants can't be compared, and what could not be checked."""
    rows = [row for row in result["rows"] if row["seeds"]]
    said = [f"Not comparable: {row['not_comparable']}." for row in rows if row["not_comparable"]]
    weak = {row["weakness"]: [r["variant"] for r in rows if r["weakness"] == row["weakness"]] for row in rows}
    said += [f"No win over {', '.join(names)} is confirmed: {why}." for why, names in weak.items() if why]
    unchecked = [row["variant"] for row in rows if "no validation curve" in row["unchecked"]]
    if unchecked:
        who = "all variants" if len(unchecked) == len(rows) else ", ".join(unchecked)
        said.append(
            f"The cells of {who} have no validation curve, so whether validation AUC was still rising was not checked."
        )
    if any("no count-based baseline" in row["unchecked"] for row in rows):
        said.append("There is no cell of a count-based baseline, so the distance to it was not checked.")
    elif result["counting"] is not None:
        said.append(f"The count-based baseline has AUC {result['counting']:.4f}.")
    return said


def _claimed(finding: Mapping[str, Any]) -> str:
    if not finding["paper"]:
        return "ours"
    if finding["size"] is not None:
        return f"{finding['size']:+.4f}"
    return {"above": "> 0", "parity": "= 0", "not_below": "≥ 0", "at_most": "≈ 0"}[finding["kind"]]


def tuning(result: Result) -> TextTable:
    """A row per tuned variant: the number of trials, the best settings by validation, and every trial's figure."""
    main = metrics_of(result)[0]
    name = METRIC_NAMES[main]
    head = ["tuned, seed 0", "trials", "chosen", f"validation {name}", "optimum", f"{name} of the trials"]
    rows = []
    for choice in result["tuning"]:
        tried = {tuple(trial["settings"]): trial[f"valid_{main}"] for trial in choice["tried"]}
        if len(tried) < 2:
            continue
        edges = choice["edges"]
        rows.append(
            [
                choice["variant"],
                str(len(tried)),
                " ".join(map(short, choice["best"])),
                _number(tried[tuple(choice["best"])], 4),
                f"at the edge: {', '.join(edges)}" if edges else "interior",
                "; ".join(f"{' '.join(map(short, point))}: {_number(value, 4)}" for point, value in tried.items()),
            ]
        )
    return TextTable(head=head, rows=rows)


def fits(result: Result) -> list[str]:
    """A sentence per fitted power law."""
    said = []
    for fit in result.get("fits", ()):
        law, losses = fit["fit"], fit["logloss"]
        span = f"log loss {losses[0]:.4f} at {fit['x'][0]:,.4g}, {losses[-1]:.4f} at {fit['x'][-1]:,.4g}"
        if law is None:
            said.append(f"{fit['axis']}: {span}; no power law is determined by these {len(fit['x'])} points.")
            continue
        bounds = law["exponent_interval"]
        sure = f" (95 %: {bounds[0]:.2f} to {bounds[1]:.2f}, seeds resampled)" if bounds else ""
        said.append(
            f"{fit['axis']}: {span}; fitted {law['floor']:.4f} + {law['scale']:.4g} · x^-{law['exponent']:.2f}{sure}."
        )
    return said


def sanity(result: Result) -> list[str]:
    """What the A/A study found."""
    found = result.get("sanity")
    if not found:
        return []
    said = [
        f"{found['comparisons']} comparisons of {found['seeds_a_side']} against {found['seeds_a_side']} runs, drawn "
        f"from {found['runs']}; deviation of a paired difference {found['deviation_of_a_difference']:.5f} AUC."
    ]
    for row in found["rows"]:
        what = "no effect" if row["effect"] == 0 else f"an effect of {row['effect']:.3f} AUC"
        said.append(
            f"With {what}, the test over seeds finds a difference in {row['test']:.1%} (expected "
            f"{row['expected']:.1%}), the interval of seeds and users in {row['verdict']:.1%}."
        )
    return said


def failures(result: Result) -> list[str]:
    """Which cells are missing, and why."""
    said = []
    for row in result["rows"]:
        said += [f"{row['variant']} failed: {error}" for error in row["errors"]]
        if not row["seeds"] and not row["errors"]:
            said.append(f"{row['variant']}: not computed; the budget ended before it.")
    return said


def _mean(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return "–"
    spread = figures["deviation"]
    return f"{figures['mean']:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _difference(found: Mapping[str, Any] | None, *, percent: bool = False) -> str:
    if not found:
        return "–"
    bounds = found["interval"] or found["user_interval"]
    sure = "" if bounds is None else f" ({_signed(bounds[0], percent)} to {_signed(bounds[1], percent)})"
    return f"{_signed(found['mean'], percent)}{sure}" + ("" if found["interval"] else " [users only]" if bounds else "")


def _signed(value: float, percent: bool) -> str:
    return f"{100 * value:+.2f} %" if percent else f"{value:+.4f}"


def _times(ratio: Mapping[str, float] | None) -> str:
    return "–" if ratio is None else f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _p_value(found: Mapping[str, Any] | None) -> str:
    if not found or found["p_value"] is None:
        return "–"
    return "< 0.001" if found["p_value"] < 0.001 else f"{found['p_value']:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
