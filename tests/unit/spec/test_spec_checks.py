"""Cross checks: what does not fit together, and what is merely odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustersim.errors import SpecError
from clustersim.spec.checks import check_scenario
from clustersim.spec.resolve import load_checked_scenario, load_scenario

BASE = Path(__file__).parents[2] / "spec" / "valid" / "base.yaml"
TP = "parallelism.tensor_parallel"
PP = "parallelism.pipeline_parallel"
CHUNKS = "parallelism.layers_per_chunk"
INTERLEAVED = ("parallelism.schedule=interleaved", "parallelism.virtual_stages=2")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.kv_heads=7"], "model.kv_heads: 7 does not divide attention_heads (96"),
        (["model.kv_heads=12"], "8 does not divide kv_heads (12"),
        (["model.ffn=49156"], "8 does not divide ffn (49156"),
        (["model.vocab=50257"], "8 does not divide the padded vocabulary 50257"),
        ([f"{PP}=5"], "5 does not divide layers (96"),
        ([*INTERLEAVED, "parallelism.virtual_stages=5"], "5 does not divide the 12 layers"),
        ([f"{CHUNKS}=[48, 48]"], "has 2 entries for 8 chunks: pipeline_parallel (8"),
        ([f"{CHUNKS}=[12, 12, 12, 12, 12, 12, 12, 11]"], "sums to 95, which is not layers (96"),
        ([f"{CHUNKS}=[12, 12, 12, 12, 12, 12, -1, 25]"], "-1 layers are less than none"),
        (["parallelism.schedule=interleaved"], "interleaved needs 2 chunks a rank or more"),
        ([*INTERLEAVED, f"{PP}=1"], "interleaved needs 2 stages or more"),
        (["parallelism.virtual_stages=2"], "2 chunks a rank need schedule interleaved"),
        ([*INTERLEAVED, "training.global_batch=72"], "does not divide 9 micro-batches"),
        (["training.global_batch=1001"], "1001 is not a multiple of micro_batch (1"),
        (["cluster.nodes=7"], "8 tp x 8 pp x 1 dp needs 64 GPUs, the cluster has 56"),
        (["parallelism.data_parallel=9"], "needs 576 GPUs, the cluster has 512"),
        (
            ["parallelism.zero_stage=1", "parallelism.optimizer_shard_group=3"],
            "3 does not divide data_parallel (8)",
        ),
        (["model.max_positions=1024"], "2048 is more than max_positions (1024"),
        (
            ["parallelism.sequence_parallel=true", "training.sequence_length=2001"],
            "2001 cannot be split over tensor_parallel (8",
        ),
        (["training.recompute={kind: full, layers: 13}"], "13 is more than the 12 layers"),
        (["fleet.slowdowns={-1: 0.1}"], "rank -1 is not one of the 512 ranks"),
        (["fleet.slowdowns={0: -0.1}"], "-0.1 would make rank 0 faster"),
        (["cluster.fabric.kind=single_node"], "64 nodes have no network"),
        (["cluster.fabric.switch=null"], "fat_tree needs a switch"),
        (["cluster.node.nics.count=0"], "64 nodes cannot be joined"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(overrides, says):
    with pytest.raises(SpecError) as caught:
        load_scenario(BASE, overrides)
    assert says in str(caught.value)
    assert all(problem.fix for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.kv_heads=4"], "8 is more than kv_heads (4"),
        (["parallelism.data_parallel=4"], "uses 256 GPUs, the cluster has 512"),
        ([f"{TP}=16"], "16 is more than domain_gpus (8"),
        ([f"{TP}=1", f"{PP}=8", "parallelism.sequence_parallel=true"], "has no effect with tensor"),
        (["cluster.nodes=8", "parallelism.zero_stage=1"], "1 shards the optimizer over data_par"),
        (["parallelism.optimizer_shard_group=2"], "has no effect with zero_stage (0)"),
        (["training.recompute={kind: selective, layers: 2}"], "2 has no effect with recompute"),
    ],
)
def test_what_is_odd_but_legal_is_a_warning(overrides, says):
    _, checked = load_checked_scenario(BASE, overrides)
    assert any(says in str(warning) for warning in checked.warnings)
    assert all(warning.fix for warning in checked.warnings)


def test_the_base_has_nothing_to_say():
    scenario, checked = load_checked_scenario(BASE)
    assert checked.warnings == ()
    assert check_scenario(scenario) == checked


def test_without_a_document_fields_are_named_without_lines():
    scenario = load_scenario(BASE)
    degrees = scenario.parallelism.model_copy(update={"tensor_parallel": 10})
    wrong = scenario.model_copy(update={"parallelism": degrees})
    first = check_scenario(wrong).problems[0]
    text = "parallelism.tensor_parallel: 10 does not divide attention_heads (96)"
    assert str(first).splitlines()[0] == text


def test_one_wrong_degree_does_not_blame_the_batch():
    with pytest.raises(SpecError) as caught:
        load_scenario(BASE, [f"{TP}=9"])
    assert {problem.field for problem in caught.value.problems} == {TP}


def test_the_fix_of_a_pipeline_works():
    with pytest.raises(SpecError, match="use 4 or 6"):
        load_scenario(BASE, [f"{PP}=5"])
    load_scenario(BASE, [f"{PP}=4"])
