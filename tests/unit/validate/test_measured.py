"""Measured kernels and collectives, and another simulator's collectives, against the models."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from clustersim.cli.app import app
from clustersim.cost.collectives import collective_s
from clustersim.cost.measured.catalogue import STEMS, families
from clustersim.cost.measured.fabrics import Place, path_of, shipped_link
from clustersim.cost.measured.rows import known_device, read_rows
from clustersim.errors import SpecError
from clustersim.spec.resolve import load_device
from clustersim.validate import measured
from clustersim.validate.measured import statistics, validate_measured
from clustersim.validate.reference import (
    REQUIRED,
    read_reference,
    reference_s,
    validate_reference,
)
from clustersim.validate.summary import error_statistics
from tests.measured_rows import gemm_rows, with_small_gemm, write_parquet

runner = CliRunner()
COLLECTIVES = "device,collective,dtype,bytes,ranks,nodes,library,topology,latency_s"
H100 = load_device("h100_sxm")


def invoke(*words: object, code: int = 0):
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.stderr or result.stdout
    return result


def collective_rows(factor: float = 1.0) -> list[str]:
    """Rows of 8 H100 that are `factor` times as slow as predicted, and three outside."""
    path = path_of(Place("nvswitch", 8, 1), H100)
    sizes = [2**power for power in range(10, 30, 2)]
    times = collective_s("all_reduce", sizes, path, {"nvlink4": shipped_link("nvlink4")})
    rows = [
        f"h100_sxm,all_reduce,fp16,{size},8,1,nccl,nvswitch,{factor * time:.9g}"
        for size, time in zip(sizes, times, strict=True)
    ]
    return [
        *rows,
        "h100_sxm,all_reduce,fp16,1024,8,1,sglang_custom_all_reduce,nvswitch,1e-5",
        "h100_sxm,all_reduce,fp16,1024,16,2,nccl,nvswitch+carrier_pigeon,1e-3",
        "h100_nvlink_pair,all_reduce,fp16,1024,8,1,nccl,xgmi_mesh,1e-5",
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory of two small files."""
    monkeypatch.setattr(measured, "families", with_small_gemm(measured.families))
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data / "collective.parquet", collective_rows(1.25), COLLECTIVES)
    write_parquet(data / "gemm.parquet", gemm_rows())
    return data


def test_groups_have_the_keys_and_counts_of_the_contract(folder):
    groups = validate_measured(folder).document()["measured"]
    assert [(group["op"], group["device"]) for group in groups] == [
        ("gemm", "h100_sxm"),
        ("collective", "h100_nvlink_pair"),
        ("collective", "h100_sxm"),
    ]
    assert list(groups[2]) == list(measured.COLUMNS)
    assert (groups[2]["variant"], groups[2]["dtype"]) == ("all_reduce", "fp16")
    assert (groups[2]["rows"], groups[2]["skipped"]) == (12, 2)
    for name in ("median_ape", "mape", "p90_ape"):
        assert groups[2][name] == pytest.approx(0.2, abs=1e-6)
    assert groups[2]["bias"] == pytest.approx(-0.2, abs=1e-6)
    assert (groups[1]["rows"], groups[1]["skipped"], groups[1]["mape"]) == (1, 1, None)


def test_skipped_rows_have_reasons(folder):
    reasons = {(device, why): count for device, _, why, count in validate_measured(folder).reasons}
    assert reasons == {
        ("h100_sxm", "outside the domain of the model"): 2,
        ("h100_nvlink_pair", "device h100_nvlink_pair is in no catalogue"): 1,
    }


def test_file_of_unknown_family_is_counted_and_not_refused(folder):
    frame = pd.DataFrame({"device": ["h100_sxm"], "op": ["spin"], "latency_s": [1e-3]})
    frame.to_parquet(folder / "gyroscope.parquet")
    last = validate_measured(folder).groups[-1]
    assert (last["op"], last["variant"], last["rows"], last["skipped"]) == (
        "gyroscope",
        "spin",
        1,
        1,
    )


def test_missing_columns_of_all_files_are_refused_together(folder):
    for name in ("gemm", "collective"):
        frame = pd.read_parquet(folder / f"{name}.parquet").drop(columns="latency_s")
        frame.to_parquet(folder / f"{name}.parquet")
    with pytest.raises(SpecError) as caught:
        validate_measured(folder)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("count", [1, 9, 10, 11, 200])
def test_percentiles_are_those_of_cases(count):
    errors = np.random.default_rng(count).normal(size=count)
    assert statistics(errors) == pytest.approx(error_statistics(errors.tolist()))


def test_command_prints_tables_and_writes_its_files(folder, tmp_path):
    out = tmp_path / "out"
    result = invoke("validate", "--measured", folder, "--out", out)
    assert "all datatypes" in result.stdout
    assert "carrier" not in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "measured.csv",
        "measured.html",
        "measured.json",
    ]
    assert len(pd.read_csv(out / "measured.csv")) == 3


def test_page_of_plots_needs_nothing_else(folder, tmp_path):
    invoke("validate", "--measured", folder, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "measured.html").read_text()
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(page)
    assert tags.count("svg") == 2
    assert not {"script", "link", "img"} & set(tags)
    assert "http" not in page
    assert "nan" not in page


def test_two_processes_give_the_same_document(tmp_path):
    write_parquet(tmp_path / "collective.parquet", collective_rows(), COLLECTIVES)
    frame = pd.DataFrame({"device": ["h100_sxm"], "op": ["spin"], "latency_s": [1e-3]})
    frame.to_parquet(tmp_path / "gyroscope.parquet")
    words = ("validate", "--measured", tmp_path, "--json")
    one, two = invoke(*words).stdout, invoke(*words, "--jobs", 2).stdout
    assert one == two
    assert [group["op"] for group in json.loads(one)["measured"]][-1] == "gyroscope"


def test_nothing_comparable_is_a_no(tmp_path):
    rows = ["h100_nvlink_pair,all_reduce,fp16,1024,8,1,nccl,xgmi_mesh,1e-5"]
    write_parquet(tmp_path / "collective.parquet", rows, COLLECTIVES)
    assert "the answer is no" in invoke("validate", "--measured", tmp_path, code=1).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--measured", "no/such/folder"), "no/such/folder"),
        (("--reference", "no/such/file.csv"), "no/such/file.csv"),
        (("--measured", ".", "--reference", "x.csv"), "cannot be given together"),
    ],
)
def test_wrong_words_are_bad_input(words, said):
    assert said in invoke("validate", *words, code=2).stderr


def test_folder_without_parquet_is_bad_input(tmp_path):
    assert "holds no Parquet" in invoke("validate", "--measured", tmp_path, code=2).stderr


RING = {
    "backend": "congestion_unaware",
    "topology": "Ring8",
    "npus": "8",
    "link_bandwidth_GBps": "50",
    "link_latency_ns": "500",
    "collective": "all_reduce",
    "algorithm": "ring",
    "bytes": "1048576",
    "chunks": "1",
    "endpoint_delay_ns": "0",
    "local_mem_bw_GBps": "1000000000",
    "collective_optimization": "localBWAware",
    "physical": "True",
}


def write_reference(path, *changes):
    rows = []
    for change in changes:
        row = {**RING, **change}
        rows.append({"time_ns": f"{reference_s({**RING}) * 1e9 * 1.25:.6f}", **row})
    pd.DataFrame(rows)[list(REQUIRED)].to_csv(path, index=False)
    return path


def test_reference_rows_are_grouped_and_unknown_algorithms_skipped(tmp_path):
    path = write_reference(tmp_path / "r.csv", {}, {}, {"algorithm": "doubleBinaryTree"})
    report = validate_reference(path)
    tree, ring = report.document()["reference"]
    assert (ring["rows"], ring["skipped"], ring["physical"]) == (2, 0, True)
    assert ring["median_ape"] == pytest.approx(0.2, rel=1e-4)
    assert ring["max_ape"] == pytest.approx(0.2, rel=1e-4)
    assert (tree["rows"], tree["skipped"], tree["max_ape"]) == (1, 1, None)
    found = json.loads(invoke("validate", "--reference", path, "--json").stdout)
    assert found["reference"] == [tree, ring]


def test_wrong_times_of_a_reference_are_all_named(tmp_path):
    path = write_reference(tmp_path / "r.csv", {"time_ns": "0"}, {}, {"time_ns": "soon"})
    result = invoke("validate", "--reference", path, code=2)
    assert f"{path}:2: time_ns" in result.stderr
    assert f"{path}:4: time_ns" in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chunks": "0"}, "chunks: '0' is not a whole number above 0"),
        ({"link_bandwidth_GBps": "0"}, "link_bandwidth_GBps: '0' is not a positive number"),
        ({"link_bandwidth_GBps": "50;25"}, "link_bandwidth_GBps: '50;25' is 2 values for 1"),
        ({"link_latency_ns": "-1"}, "link_latency_ns: '-1' is not a number of at least 0"),
        ({"local_mem_bw_GBps": "inf"}, "local_mem_bw_GBps: 'inf' is not a positive number"),
        ({"npus": "eight"}, "npus: 'eight' is not a whole number above 0"),
        ({"topology": "Ring"}, "topology: 'Ring' is no dimension"),
        ({"topology": "Ring0"}, "topology: 'Ring0' is no dimension"),
    ],
)
def test_what_a_reference_cannot_be_read_by_is_named_with_its_line(tmp_path, change, said):
    path = write_reference(tmp_path / "r.csv", {}, change, {"bytes": "many"})
    with pytest.raises(SpecError) as caught:
        read_reference(path)
    first, last = caught.value.problems
    assert str(first).startswith(f"{path}:3: {said}")
    assert str(last).startswith(f"{path}:4: bytes: 'many' is not a positive number")
    assert first.fix
    assert last.fix


@pytest.mark.parametrize("cut", [slice(None, -2), slice(0, 3)])
def test_a_short_row_of_a_reference_is_named_with_its_line(tmp_path, cut):
    path = write_reference(tmp_path / "r.csv", {}, {})
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first, "", ",".join(second.split(",")[cut])]))
    with pytest.raises(SpecError, match=rf"{path}:4: has not one value for each column"):
        validate_reference(path)


def test_a_reference_that_cannot_be_opened_is_bad_input(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SpecError, match=rf"{path}: cannot be read: .*\n  fix: name a CSV"):
            read_reference(path)


def test_reference_rows_of_unknown_topologies_are_skipped(tmp_path):
    path = write_reference(tmp_path / "r.csv", {}, {"topology": "Torus8"})
    report = validate_reference(path)
    assert report.compared == 1
    assert report.reasons == {"topology Torus has no textbook form here": 1}


def test_reference_without_its_columns_is_bad_input(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("a,b\n1,2\n")
    assert "column backend is missing" in invoke("validate", "--reference", path, code=2).stderr


@pytest.mark.parametrize(
    ("word", "ranks", "nodes", "link", "nic", "rate"),
    [
        ("nvswitch", 8, 1, "nvlink4", "", 0.0),
        ("nvswitch+infiniband_8x400g", 16, 2, "nvlink4", "infiniband", 50e9),
        ("nvswitch+gpudirect_tcpx_4x200g", 16, 2, "nvlink4", "ethernet", 12.5e9),
        ("pcie5", 4, 1, "pcie5", "", 0.0),
        ("nvl72_rack", 8, 2, "nvlink4", "", 0.0),
    ],
)
def test_words_of_fabrics_are_paths(word, ranks, nodes, link, nic, rate):
    path = path_of(Place(word, ranks, nodes), H100)
    assert (path.scale_up_link, path.nic_link) == (link, nic)
    assert path.nic_bytes_per_s == pytest.approx(rate)


@pytest.mark.parametrize("word", ["nvswitch+nic", "inter_node", "unstated", "", "xgmi_mesh"])
def test_words_that_say_too_little_are_no_path(word):
    assert path_of(Place(word, 16, 2), H100) is None


@pytest.mark.parametrize(
    ("device", "word", "ranks", "link"),
    [
        ("l40s", "pcie4", 2, "pcie4"),
        ("l40s", "pcie4", 4, "pcie4_host"),
        ("rtx_pro_6000_server_96gb", "pcie5", 8, "pcie5_host"),
        ("a40", "nvlink_pair+pcie", 2, "pcie4_host"),
        ("a100_pcie_80gb", "nvlink_pair+pcie", 2, "nvlink3"),
        ("a100_pcie_80gb", "nvlink_pair+pcie", 4, "pcie4"),
    ],
)
def test_pcie_of_a_host_is_direct_within_a_switch_and_else_through_the_host(
    device, word, ranks, link
):
    path = path_of(Place(word, ranks, 1), load_device(device))
    assert (path.scale_up_link, path.scale_up_kind == "pcie") == (link, True)


def test_stated_rate_of_adapters_goes_before_the_word():
    path = path_of(Place("nvswitch+roce_8x400g", 16, 2, 200e9), H100)
    assert path.nic_bytes_per_s == pytest.approx(25e9)


def test_every_module_of_a_family_exports_it_under_its_own_name():
    found, missing = families()
    assert set(found) | set(missing) == set(STEMS)
    assert all(family.stem == stem for stem, family in found.items())
    assert "gyroscope" in families(["gyroscope"])[1]


def test_missing_values_of_a_file_are_empty_text_and_nan(tmp_path):
    frame = pd.DataFrame(
        {"device": ["a40", "h100_sxm"], "layout": [None, "NT"], "m": [1.0, None], "source": "x"}
    )
    frame.to_parquet(tmp_path / "gemm.parquet")
    rows = read_rows(tmp_path / "gemm.parquet", "gemm")
    assert rows.columns["layout"].tolist() == ["", "NT"]
    assert np.isnan(rows.columns["m"]).tolist() == [False, True]
    assert "source" not in rows.columns
    only = read_rows(tmp_path / "gemm.parquet", "gemm", "a40")
    assert (only.count, only.columns["device"].tolist()) == (1, ["a40"])
    assert known_device("h100_nvlink_pair") is None
