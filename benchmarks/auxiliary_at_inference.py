"""What would GRank's auxiliary bring if it were used at inference too, as in the paper's ablation?

    genrank train DATA --recipe grank-small --set model.ranker=0 --out runs/auxiliary
    python benchmarks/auxiliary_at_inference.py runs/auxiliary

The generator's best (`model.num_candidates`) at every target of the test part are ordered by the auxiliary's scores,
and by the sum of both; figures over the full catalogue, beside those of the generator's order.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrank.artifacts.bundle import load_bundle
from genrank.data.pools import StoredData
from genrank.evaluation.retrieval_metrics import request_metrics
from genrank.retrieval.retriever import Retriever
from genrank.runs.evaluate_retrieval import located
from genrank.runs.train import configure_torch, load_run

FIGURES = ("recall@500", "recall@50", "hr@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    for folder in parser.parse_args().runs:
        config, data = load_run(folder)
        model = load_bundle(folder).retriever(configure_torch(config))
        if model.auxiliary is None or model.ranker is not None:
            parser.error(f"{folder}: train it with an auxiliary and without a ranker")
        stored = StoredData.open(data, days=config.days)
        for share, name in ((0.0, "auxiliary"), (1.0, "sum of both")):
            # in the ranker's place
            model.ranker = nn.Identity()  # type: ignore[assignment]
            model.rank_scores = _auxiliary(model, share)  # type: ignore[method-assign]
            found, _ = located(model, stored, config, "test")
            for stage in ("ranker",) if share else ("generator", "ranker"):
                figures = request_metrics(found.request, found.ranks[stage])
                said = (f"{key} {figures[key].mean():.4f}" for key in FIGURES)
                print(folder, name if stage == "ranker" else stage, *said, flush=True)


def _auxiliary(model: Retriever, share: float) -> Any:
    def scores(encoded: Any, batch: Any, places_P: Tensor, *, query_PW: Tensor, items_PMW: Tensor) -> Tensor:
        with torch.no_grad():
            generated = torch.einsum("pw,pmw->pm", query_PW, model.vectors(items_PMW)) * model.scale
            return model.auxiliary_scores(encoded, batch, places_P, items_PMW) + share * generated

    return scores


if __name__ == "__main__":
    main()
