"""Fit the skew of ranks at collectives, and idle gaps of engines, to measured times per token.

    python validation/fit_skew.py ../shared/published/silicon_e2e.csv validation.json

The JSON is what ``clustersim validate CSV --out DIR`` left in DIR. A time per token is linear in
both: so many collectives a step, and one gap, which is never negative. Errors are clipped at 30 %,
so that runs with another configuration than their row says do not decide. Printed: the fit to all
points, and for each model the fit without it and its own errors, with and without a skew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from clustersim.cost.serving.prices import SKEW_S
from clustersim.parallel.speeds import largest_of_normals
from clustersim.spec.serving import ServingScenario
from clustersim.validate.serving_csv import read_points
from clustersim.validate.serving_points import convert_point
from clustersim.validate.serving_stack import shipped_stock
from clustersim.workload.iteration import iteration_of

CLIP = 0.3
SKEWS_S = np.arange(0.0, 12.1e-6, 1e-6)
GAPS_S = np.arange(-1e-3, 1.01e-3, 5e-5)  # beside those of the engine tables


def waits(scenario: ServingScenario) -> float:
    """Seconds that a step waits for a skew of one second."""
    iteration = iteration_of(scenario)
    ranks = {"tp": iteration.shards.tensor_parallel, "stage": iteration.shards.width}
    return sum(
        exchange.count * largest_of_normals(ranks[exchange.group])[0]
        for exchange in iteration.exchanges
        if exchange.group in ranks
    )


def main(points: Path, found: Path) -> None:
    """Print the fits."""
    stock = shipped_stock()
    scenarios = {}
    answers = {
        case["id"]: case
        for case in json.loads(found.read_text())["cases"]
        if case["metric"] == "tpot_s_mean" and case["status"] == "ok"
    }
    rows = [row for row in read_points(points.read_text(), points, "a CSV") if row.id in answers]
    for row in rows:
        scenarios[row.id] = convert_point(row, stock).scenario
    predicted, measured = (
        np.array([answers[row.id][key] for row in rows]) for key in ("predicted", "measured")
    )
    wait = np.array([waits(scenarios[row.id]) for row in rows])
    families = np.array([scenarios[row.id].engine.family for row in rows])
    own_gap_s = np.array([scenarios[row.id].engine.host.gap for row in rows])
    models = np.array([row.data["model"].split("/")[-1] for row in rows])

    def errors(of: np.ndarray, skew_s: float, gap_s: float) -> np.ndarray:
        moved = predicted[of] + (skew_s - SKEW_S) * wait[of] + np.maximum(gap_s, -own_gap_s[of])
        return np.abs(moved / measured[of] - 1.0)

    def best(of: np.ndarray, skews_s: np.ndarray) -> tuple[float, dict[str, float]]:
        tried = []
        for skew_s in skews_s:
            gaps, loss = {}, 0.0
            for family in np.unique(families):
                own = of & (families == family)
                losses = [np.minimum(errors(own, skew_s, gap_s), CLIP).sum() for gap_s in GAPS_S]
                gaps[str(family)] = float(GAPS_S[np.argmin(losses)])
                loss += min(losses)
            tried.append((loss, skew_s, gaps))
        _, skew_s, gaps = min(tried, key=lambda one: one[0])
        return float(skew_s), gaps

    def left(of: np.ndarray, skew_s: float, gaps: dict[str, float]) -> np.ndarray:
        return np.concatenate(
            [errors(of & (families == family), skew_s, gap_s) for family, gap_s in gaps.items()]
        )

    everything = np.ones(len(rows), dtype=bool)
    skew_s, gaps = best(everything, SKEWS_S)
    for family, gap_s in gaps.items():
        mean_s = np.maximum(gap_s + own_gap_s[families == family], 0.0).mean()
        print(f"{family}: gap {mean_s * 1e3:.2f} ms")
    print(f"all {len(rows)} points: skew {skew_s * 1e6:.0f} us")
    pooled: dict[str, list[np.ndarray]] = {"with": [], "without": []}
    for model in np.unique(models):
        own = models == model
        line = []
        for name, tried in (("with", SKEWS_S), ("without", SKEWS_S[:1])):
            skew_s, gaps = best(~own, tried)
            error = left(own, skew_s, gaps)
            pooled[name].append(error)
            line.append(
                f"skew {skew_s * 1e6:.0f} us, median {np.median(error):.1%} of {error.size}"
            )
        print(f"without {model}:", "; ".join(line))
    for name, parts in pooled.items():
        print(f"left out, {name} skew: median {np.median(np.concatenate(parts)):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
