"""Small whole runs, pinned: writes ``whole_runs.yaml`` anew.

``python -m tests.golden.whole_runs`` from the top of the repository; review the difference and
name its reason in CHANGELOG.md under Results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from clustersim.run.simulate import simulate
from clustersim.spec.resolve import load_scenario

FILE = Path(__file__).with_suffix(".yaml")
SCENARIOS = ("smallest", "gpt_22b_single_node", "175b_12k_gpus", "straggler_175b")
SERVED = ("serve_8b_small_gpu", "serve_mixtral_8xh100")
PINNED = ("step_time_s", "mfu", "hfu")
PINNED_SERVED = ("output_tokens_per_s", "requests_per_s", "makespan_s", "power_w", "engine_ops")
PINNED_MEANS = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
DIGITS = 8  # written; compared to six
HEADER = """\
# Whole runs as they are today, for tests/golden/test_whole_runs.py. Seconds, bytes and fractions.
# Written by `python -m tests.golden.whole_runs`; a change is reviewed and named in CHANGELOG.md.
"""


def rounded(value: float) -> float:
    """A number to the digits that are written."""
    return float(f"{value:.{DIGITS}g}")


def answer(name: str) -> dict[str, Any]:
    """What is pinned of one run."""
    document = simulate(load_scenario(name), what_ifs=False).document
    if document["kind"] == "serving":
        return served(document)
    parts = {key: rounded(value) for key, value in document["breakdown_s"].items() if value}
    return {
        **{key: rounded(document[key]) for key in PINNED},
        "memory_total_bytes": round(document["memory_bytes_per_gpu"]["total"]),
        "breakdown_s": parts,
    }


def served(document: dict[str, Any]) -> dict[str, Any]:
    """What is pinned of a serving run."""
    parts = {key: rounded(value) for key, value in document["breakdown_s"].items() if value}
    return {
        **{key: rounded(document[key]) for key in PINNED_SERVED},
        **{f"mean_{key}": rounded(document[key]["mean"]) for key in PINNED_MEANS},
        "kv_blocks_total": document["kv_blocks"]["total"],
        "memory_total_bytes": round(document["memory_bytes_per_gpu"]["total"]),
        "breakdown_s": parts,
    }


def pinned() -> dict[str, dict[str, Any]]:
    """The answers in the file, by scenario."""
    answers: dict[str, dict[str, Any]] = YAML(typ="safe").load(FILE.read_text())
    return answers


def main() -> int:
    """Write the file."""
    with FILE.open("w") as file:
        file.write(HEADER)
        writer = YAML()
        writer.dump({name: answer(name) for name in (*SCENARIOS, *SERVED)}, file)
    print(f"wrote {FILE.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
