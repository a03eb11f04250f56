"""What `show --stage memory` prints: terms as rows, stages as columns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from clustersim.cli.app import app
from clustersim.cli.show import _by_term

DEEPSPEED = ("bloom_176b", "--set", "training.grad_dtype=fp16")  # flat copies leave cached blocks


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, ["show", *words, "--stage", "memory"])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def cells(*words: str) -> dict[str, str]:
    lines = [line.strip() for line in shown(*words).splitlines() if line.strip()]
    table = lines[lines.index("needed") + 1 :]
    return {line.split("  ")[0]: line for line in table}


def test_terms_are_rows_and_the_first_fullest_and_last_of_many_stages_are_columns() -> None:
    table = cells("gpt_1t_512")
    assert [word for word in table["term"].split("  ") if word] == ["term", " stage 0", "stage 63"]
    assert "total" in table


@pytest.mark.parametrize(("stages", "columns"), [(8, 8), (9, 3)])
def test_up_to_eight_stages_are_columns(stages: int, columns: int) -> None:
    rows: list[dict[str, Any]] = [{"stage": i, "total_bytes": 1.0} for i in range(stages)]
    (row,) = _by_term(rows, fullest=4)
    assert len(row) == 1 + columns
    assert {"stage_0_bytes", "stage_4_bytes", f"stage_{stages - 1}_bytes"} < set(row)


def test_a_term_that_is_zero_everywhere_is_no_row() -> None:
    assert "pipeline buffers" not in cells("gpt_1t_512")
    assert "logits" in cells("gpt_1t_512")  # zero on the first stage only


def test_cached_blocks_stand_apart_from_the_total() -> None:
    assert list(cells(*DEEPSPEED))[-2:] == ["total", "cached blocks, returned on demand"]
    for row in json.loads(shown(*DEEPSPEED, "--json"))["stages"]:
        cached, total = row.pop("cached_blocks_bytes"), row.pop("total_bytes")
        assert cached > 0
        del row["stage"]
        assert sum(row.values()) == pytest.approx(total)


def test_the_document_keeps_every_stage() -> None:
    assert len(json.loads(shown("gpt_1t_512", "--json"))["stages"]) == 64
