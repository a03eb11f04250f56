"""Names, references, `extends`, overrides and the reports about them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clustersim.errors import ClusterSimError, SpecError
from clustersim.spec.documents import read_document
from clustersim.spec.names import list_names, locate
from clustersim.spec.resolve import (
    load_checked_scenario,
    load_device,
    load_model,
    load_scenario,
    load_topology,
)
from clustersim.spec.suggest import did_you_mean, nearest

SPEC = Path(__file__).parents[2] / "spec"
BASE = SPEC / "valid" / "base.yaml"


def refusal(source, *overrides):
    with pytest.raises(SpecError) as caught:
        load_scenario(source, overrides)
    return caught.value


def test_a_reference_is_resolved_against_the_file_it_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenario = load_scenario(BASE)
    assert scenario.cluster.name == "test_cluster"
    assert scenario.cluster.node.nics.bandwidth == 25e9


def test_mappings_merge_and_a_mapping_over_a_word_starts_from_what_it_names():
    scenario = load_scenario(SPEC / "valid" / "extends.yaml")
    device = scenario.cluster.node.device
    assert scenario.cluster.nodes == 16
    assert scenario.cluster.node.nics.count == 8
    assert device.memory == 40 * 2**30
    assert device.matrix_peak == {"fp16": 300e12, "bf16": 312e12}
    assert scenario.training.micro_batch == 1
    assert scenario.training.token_budget == 300e9
    assert scenario.training.recompute.kind == "full"


def test_lists_replace(tmp_path):
    path = tmp_path / "x.yaml"
    chunks = [12, 12, 12, 12, 12, 12, 12, 12]
    uneven = SPEC / "valid" / "uneven.yaml"
    path.write_text(
        f"extends: {uneven}\ncluster: {{nodes: 8}}\n"
        f"parallelism: {{pipeline_parallel: 8, layers_per_chunk: {chunks}}}\n"
    )
    assert load_scenario(path).parallelism.layers_per_chunk == tuple(chunks)


def test_a_mapping_with_its_own_extends_does_not_mix_with_the_one_below(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        "name: other\nlayers: 8\nhidden: 64\nffn: 256\nattention_heads: 8\nvocab: 80\n"
    )
    path = tmp_path / "x.yaml"
    path.write_text(f"extends: {BASE}\nmodel: {{extends: ./other.yaml, layers: 16}}\n")
    model = load_scenario(path).model
    assert (model.layers, model.hidden, model.vocab) == (16, 64, 80)


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("parallelism.tensor_parallel=4", lambda s: s.parallelism.tensor_parallel, 4),
        ("run.seed=7", lambda s: s.run.seed, 7),
        ("run={seed: 7, engine: event}", lambda s: s.run.engine, "event"),
        ("cluster.nodes=8", lambda s: s.cluster.nodes, 8),
        ("cluster.node.device.memory=40 GiB", lambda s: s.cluster.node.device.memory, 40 * 2**30),
        ("cluster.node.nics.bandwidth= 400 Gb/s", lambda s: s.cluster.node.nics.bandwidth, 50e9),
        ("fleet.slowdowns.3=0.1", lambda s: s.fleet.slowdowns, {3: 0.1}),
        ("training.recompute=selective", lambda s: s.training.recompute.kind, "selective"),
        ("training.recompute={kind: full, layers: 2}", lambda s: s.training.recompute.layers, 2),
        ("model.max_positions=4096", lambda s: s.model.max_positions, 4096),
        ("name='a=b.c'", lambda s: s.name, "a=b.c"),
    ],
)
def test_an_override_sets_a_field(override, read, value):
    assert read(load_scenario(BASE, [override])) == value


def test_later_overrides_win_and_a_word_can_be_refined():
    gpu = SPEC / "parts" / "gpu_fp16.yaml"
    overrides = [f"cluster.node.device={gpu}", "cluster.node.device.sms=40", "training.dtype=fp16"]
    device = load_scenario(BASE, [*overrides, "cluster.node.device.sms=41"]).cluster.node.device
    assert (device.name, device.sms) == ("test_old_gpu", 41)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "parallelism.tensor_parallel=10",
            "--set parallelism.tensor_parallel=10: parallelism.tensor_parallel: "
            "10 does not divide attention_heads (96, ",
        ),
        (
            "parallelism.tensor_paralel=8",
            "--set parallelism.tensor_paralel=8: parallelism.tensor_paralel: unknown key",
        ),
        ("paralelism.tensor_parallel=8", "unknown key `paralelism`"),
        ("training.global_batch=many", "'many' is not a whole number"),
        ("training.global_batch=", "null is not a whole number"),
        ("name.first=x", "`name` is 'base', which has no field `first`"),
        ("training.global_batch", "is not an assignment"),
        (".a=1", "is not an assignment"),
        ("name=[1", "is not YAML"),
        ("name=!!python/name:os.system x", "the YAML tag"),
        ("cluster=nowhere", "unknown topology `nowhere`"),
        ("cluster.node.nics.bandwidth=400", "'400' has no unit"),
    ],
)
def test_a_wrong_override_is_refused_with_the_place(override, says):
    error = refusal(BASE, override)
    assert says in str(error)
    assert f"--set {override}" in str(error)


def test_all_mistakes_are_in_one_report():
    error = refusal(BASE, "training.micro_bach=2", "parallelism.zero_stage=7", "run.engine=fast")
    assert len(error.problems) == 3


def test_a_check_that_rests_on_a_misspelt_key_is_left_out():
    error = refusal(BASE, "parallelism.tensor_paralel=4", "model.max_positions=1024")
    fields = [problem.field for problem in error.problems]
    assert fields == ["parallelism.tensor_paralel", "training.sequence_length"]
    error = refusal(BASE, "training.micro_bach=4", "training.global_batch=1537")
    assert [problem.field for problem in error.problems] == ["training.micro_bach"]


def test_extends_in_a_circle_is_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: ./{other}.yaml\n")
    error = refusal(tmp_path / "a.yaml")
    assert "the files extend each other" in str(error)
    assert len(error.problems) == 1


def test_a_mistake_in_a_file_referred_to_points_there(tmp_path):
    (tmp_path / "model.yaml").write_text("name: m\nlayrs: 8\n")
    path = tmp_path / "x.yaml"
    path.write_text(f"extends: {BASE}\nmodel: ./model.yaml\n")
    places = [(Path(p.file).name, p.line, p.field) for p in refusal(path).problems]
    assert ("model.yaml", 2, "model.layrs") in places


def test_names_ignore_case_and_hyphens_and_an_ending():
    first = list_names("model")[0]
    expected = load_model(first)
    assert load_model(first.upper().replace("_", "-")) == expected
    assert load_model(f"{first}.yaml") == expected


def test_an_unknown_name_is_refused_as_we_refuse():
    with pytest.raises(ClusterSimError, match="unknown model `gpt9`"):
        locate("model", "gpt9")


def test_a_device_is_found_by_an_alias():
    for name in list_names("device"):
        device = load_device(name)
        for alias in device.aliases:
            assert load_device(alias.lower()) == device


@pytest.mark.parametrize("name", list_names("scenario"))
def test_a_shipped_training_scenario_loads_quickly(name, tmp_path):
    kind = read_document(Path(__file__).parents[3] / "scenarios" / f"{name}.yaml").get(("kind",))
    if kind != "training":
        pytest.skip(f"{name} is of kind {kind}")
    load_scenario(name)
    begin = time.perf_counter()
    load_scenario(name)
    assert time.perf_counter() - begin < 0.06


@pytest.mark.parametrize("name", list_names("topology"))
def test_a_shipped_topology_loads(name):
    assert load_topology(name).nodes > 0


def test_warnings_come_with_the_scenario():
    _, checked = load_checked_scenario(BASE, ["parallelism.data_parallel=4"])
    assert not checked.problems
    assert any("256 stay idle" in str(warning) for warning in checked.warnings)


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"extends: {BASE}\nname: first\n")
    assert load_scenario(path).name == "first"
    path.write_text(f"extends: {BASE}\nname: second one\n")
    assert load_scenario(path).name == "second one"


def test_suggestions():
    assert nearest("h10_0", ["h100", "a100"]) == "h100"
    assert nearest("Micro-Batch", ["micro_batch"]) == "micro_batch"
    assert nearest("zzz", ["micro_batch"]) is None
    assert did_you_mean("zzz", ["a", "b"]) == "known: a, b"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", [f"n{i}" for i in range(20)]).endswith("and 8 more")
