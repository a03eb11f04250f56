"""The shipped files load, agree with each other and say where every figure comes from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from clustersim.spec import resolve
from clustersim.spec.device import Device
from clustersim.spec.names import Kind
from clustersim.units import GIB

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / ".." / "shared" / "published" / "README.md"
SERVING = PUBLISHED.with_name("README_serving.md")
LOADERS: dict[Kind, Callable[[str], Any]] = {
    "device": resolve.load_device,
    "model": resolve.load_model,
    "software": resolve.load_software,
    "engine": resolve.load_engine,
    "fleet": resolve.load_fleet,
    "topology": resolve.load_topology,
    "scenario": resolve.load_scenario,
}
FILES = [(kind, name) for kind in LOADERS for name in resolve.list_names(kind)]
NOT_FIGURES = {"aliases", "sources", "name", "title"}


def devices() -> dict[str, Device]:
    return {name: resolve.load_device(name) for name in resolve.list_names("device")}


def figures(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every number below a mapping."""
    for key, value in data.items():
        path = f"{prefix}{key}"
        if key in NOT_FIGURES or value is None or isinstance(value, bool | str):
            continue
        if isinstance(value, Mapping):
            yield from figures(value, f"{path}.")
        else:
            yield path


def without_source(data: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    """Return the figures that no source covers; a source covers all that is below its key."""
    return [
        path
        for path in figures(data)
        if not any(path == key or path.startswith(f"{key}.") for key in sources)
    ]


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_shipped_file_loads_and_is_named_like_its_file(kind: Kind, name: str) -> None:
    assert LOADERS[kind](name).name == name


def test_every_kind_ships_something() -> None:
    assert {kind for kind, _ in FILES} == set(LOADERS)


def test_a_device_name_means_one_device() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for name, device in devices().items():
        for word in (name, device.title, *device.aliases):
            owners[re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")].add(name)
    shared = {word: names for word, names in owners.items() if len(names) > 1}
    assert not shared


def test_every_alias_finds_its_device() -> None:
    for name, device in devices().items():
        for alias in device.aliases:
            assert resolve.load_device(alias).name == name


@pytest.mark.skipif(not SERVING.exists(), reason="needs ../shared/published, not shipped")
def test_each_device_of_the_serving_data_is_in_the_catalogue() -> None:
    section = SERVING.read_text(encoding="utf-8").split("## Devices")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) >= 20
    for ids, words in rows:
        groups = words.split(";")
        for name, group in zip(re.findall(r"`([^`]+)`", ids), groups, strict=False):
            wanted = [re.sub(r" \(.*", "", word).strip() for word in group.split(", ")]
            wanted = [word for word in wanted if re.fullmatch(r"[A-Za-z0-9-]+", word)]
            assert {resolve.load_device(word).name for word in (name, *wanted)} == {
                resolve.load_device(name).name
            }


@pytest.mark.parametrize("name", resolve.list_names("device"))
def test_the_profile_of_a_device_can_price_serving(name: str) -> None:
    profile = resolve.load_profile(resolve.load_device(name).profile)
    if profile.name != "b60":  # attention of another library; expert layers not fitted
        assert profile.prefill
        assert profile.decode
        assert profile.moe


@pytest.mark.parametrize("name", resolve.list_names("device"))
def test_every_figure_of_a_device_has_a_source(name: str) -> None:
    device = resolve.load_device(name)
    assert without_source(device.model_dump(), device.sources) == []
    assert set(device.sources) <= set(device.model_dump())


@pytest.mark.parametrize("name", resolve.list_names("engine"))
def test_every_figure_of_an_engine_has_a_source(name: str) -> None:
    engine = resolve.load_engine(name)
    data = {key: value for key, value in engine.model_dump().items() if value != ()}
    assert without_source(data, engine.sources) == []
    assert set(engine.sources) <= set(engine.model_dump())


@pytest.mark.parametrize("name", resolve.list_names("engine"))
def test_an_engine_is_dated_and_its_graphs_rise(name: str) -> None:
    engine = resolve.load_engine(name)
    assert date.fromisoformat(engine.released) >= date(2022, 1, 1)
    assert name.startswith(engine.family.replace("_mii", "-mii")) or engine.family == "other"
    assert list(engine.graph_sizes) == sorted(set(engine.graph_sizes))
    floors = [defaults.memory for defaults in engine.by_memory]
    assert floors == sorted(set(floors))


def test_defaults_of_an_engine_follow_the_memory_of_the_device() -> None:
    vllm, sglang = resolve.load_engine("vllm-0.19"), resolve.load_engine("sglang-0.5")
    budgets = {}
    for name in ("rtx4090_24gb", "a100_sxm_80gb", "h100_sxm_80gb", "b200_sxm_180gb"):
        device = resolve.load_device(name)
        found = [engine.on_device(name, device.memory) for engine in (vllm, sglang)]
        budgets[name] = [engine.token_budget for engine in found]
        assert not any(engine.by_memory for engine in found)
    assert budgets == {
        "rtx4090_24gb": [2048, 2048],
        "a100_sxm_80gb": [2048, 8192],
        "h100_sxm_80gb": [8192, 8192],
        "b200_sxm_180gb": [8192, 16384],
    }
    assert sglang.on_device("rtx4090_24gb", 24 * GIB).graph_sizes[-1] == 24


@pytest.mark.parametrize("name", resolve.list_names("topology"))
def test_every_figure_of_a_topology_has_a_source(name: str) -> None:
    topology = resolve.load_topology(name)
    data = topology.model_dump()
    data["node"].pop("device")
    if topology.fabric.kind == "single_node":
        data.pop("fabric")
    assert without_source(data, topology.sources) == []


@pytest.mark.parametrize("name", resolve.list_names("fleet"))
def test_every_figure_of_a_fleet_has_a_source(name: str) -> None:
    fleet = resolve.load_fleet(name)
    assert without_source(fleet.model_dump(), fleet.sources) == []


@pytest.mark.parametrize(
    ("kind", "name"), [entry for entry in FILES if entry[0] in ("model", "software")]
)
def test_a_model_or_software_generation_names_its_source(kind: Kind, name: str) -> None:
    assert LOADERS[kind](name).source


@pytest.mark.parametrize("name", resolve.list_names("scenario"))
def test_a_scenario_opens_with_what_it_asks(name: str) -> None:
    assert (ROOT / "scenarios" / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", resolve.list_names("scenario"))
def test_a_shipped_scenario_uses_no_more_gpus_than_its_cluster_has(name: str) -> None:
    scenario = resolve.load_scenario(name)
    assert scenario.gpus <= scenario.cluster.nodes * scenario.cluster.node.gpus


def test_the_largest_scenario_fills_a_cluster_of_100_000_gpus() -> None:
    scenario = resolve.load_scenario("175b_100k_gpus")
    assert scenario.cluster.nodes * scenario.cluster.node.gpus == 100_000
    assert scenario.gpus == 99_968
    assert scenario.micro_batches % scenario.parallelism.pipeline_parallel == 0


def test_a_scale_up_domain_is_as_fast_as_its_devices_link() -> None:
    for name in resolve.list_names("topology"):
        node = resolve.load_topology(name).node
        if node.scale_up.kind != "none":
            assert node.scale_up.bandwidth == node.device.scale_up_bandwidth, name
            assert node.scale_up.link == node.device.scale_up_link, name


def test_fp16_peaks_rise_with_the_generations() -> None:
    found = devices()
    order = ("v100_sxm2_32gb", "a100_sxm_80gb", "h100_sxm_80gb", "b200_sxm_180gb", "gb200_186gb")
    peaks = [found[name].matrix_peak["fp16"] for name in order]
    assert peaks == sorted(set(peaks))


def test_peaks_of_a_device_rise_as_the_datatype_narrows() -> None:
    for name, device in devices().items():
        peak = device.matrix_peak
        assert device.vector_peak < peak["fp16"], name
        assert peak.get("bf16", peak["fp16"]) == peak["fp16"], name
        assert peak.get("tf32", 0.0) < peak["fp16"], name
        for wide, narrow in (("fp16", "fp8"), ("fp8", "nvfp4")):
            if narrow in peak:
                # four times where a board accumulates 8 bits at half rate
                assert 1.99 * peak[wide] <= peak[narrow] <= 4.01 * peak[wide], name


def published_peaks() -> dict[str, tuple[str, tuple[float | None, ...]]]:
    """Read the table of devices: name in the data, catalogue id, fp16, fp8 and nvfp4 peaks."""
    table = {}
    for line in PUBLISHED.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| `([^`]+)` \| `([a-z0-9_]+)` \|.*\| ([0-9][^|]*) \|$", line)
        if match:
            words = match[3].split(" (")[0].split(" / ")
            peaks = tuple(None if word == "-" else float(word) * 1e12 for word in words)
            table[match[1]] = (match[2], (*peaks, None, None)[:3])
    return table


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/published, not shipped")
def test_names_and_peaks_are_those_of_the_published_data() -> None:
    table = published_peaks()
    assert len(table) >= 16
    for title, (name, peaks) in table.items():
        device = resolve.load_device(title)
        assert device.name == name
        found = tuple(device.matrix_peak.get(dtype) for dtype in ("fp16", "fp8", "nvfp4"))
        assert found == pytest.approx(peaks), title


def test_a_published_run_keeps_its_layout() -> None:
    scenario = resolve.load_scenario("175b_12k_gpus")
    assert (scenario.gpus, scenario.data_parallel, scenario.micro_batches) == (12_288, 192, 32)
    assert scenario.training.token_budget == 300e9
    bloom = resolve.load_scenario("bloom_176b")
    assert sum(bloom.parallelism.layers_per_chunk or ()) == bloom.model.layers
    assert bloom.model.padded_vocab == 250_880


@pytest.mark.parametrize("kind", ["device", "topology", "model", "software", "engine", "fleet"])
def test_the_catalogue_page_names_what_ships(kind: Kind) -> None:
    page = (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")
    assert [name for name in resolve.list_names(kind) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", resolve.list_names("engine"))
def test_the_catalogue_page_says_what_an_engine_does(name: str) -> None:
    engine = resolve.load_engine(name)
    cells = [f"`{name}`", engine.released, engine.policy]
    devices = [resolve.load_device(device) for device in ("rtx4090_24gb", "h100_sxm_80gb")]
    on = [engine.on_device(device.name, device.memory) for device in devices]
    for values in (
        [f"{one.token_budget:,}" for one in on],
        [f"{one.max_sequences:,}" for one in on],
        [str(one.block_tokens) for one in on],
        [str(max(one.graph_sizes, default="-")) for one in on],
    ):
        cells.append(" / ".join(dict.fromkeys(values)))
    row = " | ".join([*cells, "yes" if engine.async_scheduling else "no"])
    assert f"| {row} |\n" in (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")
