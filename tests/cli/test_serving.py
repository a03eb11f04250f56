"""Serving scenarios from the command line: answers, files, refusals and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clustersim
from clustersim.analysis.serving_export import SERVING_FILES
from clustersim.spec.resolve import load_scenario
from tests.cli.test_commands import invoke

SMALL = "serve_8b_small_gpu"
FEW = ("--set", "workload.requests=60")
TRACE = "arrival_s,input_tokens,output_tokens\n0.0,100,20\n0.5,300,5\n1.5,80,1\n"
STATS = {"mean", "p50", "p90", "p95", "p99"}
KEYS = {
    "output_tokens_per_s",
    "input_tokens_per_s",
    "requests_per_s",
    "requests",
    "preemptions",
    "kv_blocks",
    "goodput",
    "expert_imbalance",
    "breakdown_s",
    "bound",
    "power_w",
    "fits",
    "interval",
    "engine",
    "result_digest",
    "vllm_bench",
}


@pytest.fixture
def traced(tmp_path):
    """A folder with a scenario that names a trace beside it."""
    (tmp_path / "three.csv").write_text(TRACE)
    (tmp_path / "traced.yaml").write_text(
        f"extends: {SMALL}\n"
        "name: traced\n"
        "workload: {arrivals: {kind: trace}, trace: three.csv}\n"
        "slo: null\n"
    )
    return tmp_path


def answer(*words: str, code: int = 0) -> dict:
    return json.loads(invoke("run", *words, "--json", code=code).stdout)


def test_the_first_lines_answer():
    lines = invoke("run", SMALL, *FEW).stdout.splitlines()
    assert "output tokens/s" in lines[0]
    assert "TTFT" in lines[1]
    assert "bound by" in lines[2]
    assert "of capacity" in lines[3]
    assert max(map(len, lines)) <= 100


def test_json_has_the_keys_of_serving():
    document = answer(SMALL, *FEW)
    assert (document["kind"], document["schema_version"]) == ("serving", 1)
    assert set(document) >= KEYS
    for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        assert set(document[key]) == STATS
    assert document["requests"]["offered"] == 60
    terms = dict(document["memory_bytes_per_gpu"])
    assert terms.pop("total") == pytest.approx(sum(terms.values()))


def test_the_same_seed_gives_the_same_digest_and_another_one_does_not():
    digests = [answer(SMALL, *FEW, "--seed", seed)["result_digest"] for seed in "778"]
    assert digests[0] == digests[1] != digests[2]


def test_python_answers_both_kinds():
    few = ("workload.requests=20",)
    served = clustersim.simulate(clustersim.load_scenario(SMALL, few))
    assert isinstance(served, clustersim.ServingResult)
    assert served.answered.finished.all()
    trained = clustersim.simulate(clustersim.load_scenario("smallest"), what_ifs=False)
    assert isinstance(trained, clustersim.Result)


def test_out_holds_a_scenario_that_gives_the_same_bytes(traced, monkeypatch):
    first, again = traced / "first", traced / "again"
    said = invoke("run", str(traced / "traced.yaml"), "--out", str(first)).stderr
    assert f"wrote {first}" in said
    assert sorted(path.name for path in first.iterdir()) == sorted(SERVING_FILES)
    monkeypatch.chdir("/")
    invoke("run", str(first / "scenario.yaml"), "--out", str(again))
    for name in SERVING_FILES:
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_files_hold_every_request(traced):
    out = traced / "out"
    document = answer(str(traced / "traced.yaml"), "--out", str(out))
    assert json.loads((out / "metrics.json").read_text()) == document
    rows = pq.read_table(out / "requests.parquet").to_pylist()
    assert [row["output_tokens"] for row in rows] == [20, 5, 1]
    assert [row["queued_s"] for row in rows] == pytest.approx([0.0, 0.5, 1.5])
    for row in rows:
        assert row["queued_s"] <= row["scheduled_s"] <= row["first_token_s"] <= row["last_token_s"]
        assert row["ttft_s"] == pytest.approx(row["first_token_s"] - row["queued_s"])
    assert rows[2]["tpot_s"] is None
    assert pq.read_table(out / "series.parquet").num_rows > 0
    trace = json.loads((out / "trace.json").read_text())
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "C", "b", "e"}


def test_out_never_replaces_a_trace_that_has_the_name_of_one_of_its_files(traced):
    out = traced / "out"
    out.mkdir()
    taken = out / "trace.json"
    taken.write_text('{"timestamp": 0, "input_length": 9, "output_length": 2}\n')
    kept = taken.read_text()
    words = ("--set", f"workload.trace={taken}", "--set", "workload.format=mooncake")
    said = invoke("run", str(traced / "traced.yaml"), *words, "--out", str(out), code=2).stderr
    assert "would replace" in said
    assert taken.read_text() == kept


def test_a_trace_takes_the_place_of_random_requests(traced):
    trace = ("--set", f"workload.trace={traced / 'three.csv'}")
    document = answer(SMALL, *trace, "--set", "workload.arrivals.kind=trace")
    assert document["requests"]["offered"] == 3


def test_a_closed_loop_takes_the_place_of_a_rate():
    words = ("--set", "workload.arrivals.kind=closed_loop")
    document = answer(SMALL, *words, "--set", "workload.arrivals.concurrency=4")
    assert document["requests"]["offered"] == 40
    assert document["bound"]["load"] is None


def test_what_is_set_together_has_to_fit_together():
    sets = [
        "workload.arrivals.kind=closed_loop",
        "workload.arrivals.rate=2/s",
        "workload.arrivals.concurrency=4",
    ]
    for order in (sets, sets[::-1]):
        words = [word for text in order for word in ("--set", text)]
        assert "closed_loop has no rate" in invoke("run", SMALL, *words, code=2).stderr


def test_paths_are_looked_for_beside_the_file_that_states_them(traced):
    (traced / "deep").mkdir()
    top = traced / "deep" / "top.yaml"
    top.write_text("extends: ../traced.yaml\n")
    scenario = load_scenario(top)
    assert Path(scenario.workload.trace) == traced / "three.csv"


def test_a_model_that_does_not_fit_is_a_no_with_terms_and_knobs():
    result = invoke("run", SMALL, "--set", "model=llama2_13b", "--json", code=1)
    document = json.loads(result.stdout)
    assert document["fits"] is False
    assert "no room for a KV cache" in result.stderr
    assert "weights 24.2 GiB" in result.stderr
    assert "precision.weights: fp8" in result.stderr
    assert "  fix: " in result.stderr
    text = invoke("run", SMALL, "--set", "model=llama2_13b", code=1).stdout
    assert "does not fit" in text.splitlines()[0]


def test_a_request_that_can_never_run_is_a_no():
    words = ("--set", "workload.lengths={input: 100000, output: 10}")
    said = invoke("run", SMALL, *FEW, *words, code=1).stderr
    assert "the shortest request has 100,010 tokens" in said
    assert "  fix: " in said


def test_a_missed_slo_is_a_no_and_the_answer_is_printed():
    result = invoke("run", SMALL, *FEW, "--set", "slo={ttft: 1 ms}", code=1)
    assert "SLO missed: 0.0 % of the requests keep it" in result.stderr
    assert "output tokens/s" in result.stdout


def test_overload_is_warned_of_first():
    words = (SMALL, "--set", "workload.arrivals.rate=50/s", "--set", "slo=null")
    result = invoke("run", *words, "--set", "workload.requests=400")
    assert "warning: the offered load is" in result.stderr
    assert "the queue grows" in result.stdout


def test_a_time_limit_counts_what_it_leaves():
    document = answer(SMALL, *FEW, "--set", "run.time_limit=5 s", "--set", "slo=null")
    requests = document["requests"]
    assert requests["unfinished"] > 0
    assert requests["finished"] + requests["unfinished"] == requests["offered"] == 60


def test_a_time_limit_before_any_token_is_an_answer(tmp_path):
    words = ("--set", "run.time_limit=1 ms", "--set", "slo=null", "--out", str(tmp_path))
    document = answer(SMALL, *FEW, *words)
    assert document["output_tokens_per_s"] == 0.0
    assert document["ttft_s"]["mean"] is None
    assert document["bound"]["load"] == answer(SMALL, *FEW)["bound"]["load"]


def test_the_load_of_one_request_is_unknown():
    document = answer(SMALL, "--set", "workload.requests=1")
    assert document["bound"]["load"] is None
    assert document["warnings"] == []


def test_definitions_explain_the_terms():
    text = invoke("run", SMALL, *FEW, "--definitions").stdout
    for term in ("TTFT", "goodput", "load", "imbalance", "interval"):
        assert f"\n{term} " in text


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("engine=vllm-0.99",), "`vllm-0.19` is the nearest before it"),
        (("engine=vlm-0.1",), "did you mean"),
        (("workload.arrivals.kind=poison",), "poison"),
        (("workload.arrivals.kind=trace", "workload.trace=no.csv"), "no such file: no.csv"),
        (("workload.arrivals.rate=-1/s",), "workload.arrivals.rate"),
        (("engine.policy=fast",), "engine.policy"),
        (("parallelism.tensor_parallel=3",), "does not divide"),
        (("run.engine=event",), "use auto or compiled"),
        (("parallelism.replicas=2",), "cluster single_rtx4090 has 1"),
        (("run.time_limit=-1 s",), "run.time_limit"),
    ],
)
def test_wrong_input_is_exit_code_2_and_names_what_is_wrong(sets, said):
    words = [word for text in sets for word in ("--set", text)]
    result = invoke("run", SMALL, *words, code=2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival_s,input_tokens,output_tokens\n", "the file has no requests"),
        (TRACE + "2.0,-5,3\n", "three.csv:5: input_tokens: saw '-5'"),
        (TRACE + "-2.0,5,3\n", "three.csv:5: arrival_s"),
    ],
)
def test_a_bad_trace_is_told_by_line(traced, text, said):
    (traced / "three.csv").write_text(text)
    result = invoke("run", str(traced / "traced.yaml"), code=2)
    assert said in result.stderr


@pytest.mark.parametrize("stage", ["spec", "cluster", "memory", "costs"])
def test_every_stage_of_serving_can_be_shown_and_read(stage):
    text = invoke("show", SMALL, "--stage", stage).stdout
    assert text.strip()
    assert json.loads(invoke("show", SMALL, "--stage", stage, "--json").stdout)


def test_prices_of_an_iteration_sum_to_its_step():
    batches = json.loads(invoke("show", SMALL, "--stage", "costs", "--json").stdout)["batches"]
    steps = [row["step_s"] for row in batches if row["batch"].startswith("decode")]
    assert steps == sorted(steps)
    for row in batches:
        parts = [value for key, value in row.items() if key.endswith("_s") and key != "step_s"]
        assert sum(parts) == pytest.approx(row["step_s"])


@pytest.mark.parametrize("stage", ["mesh", "program"])
def test_stages_of_training_alone_are_refused(stage):
    said = invoke("show", SMALL, "--stage", stage, code=2).stderr
    assert f"has no stage {stage}" in said
    assert "  fix: " in said


def test_shown_memory_is_that_of_the_run():
    shown = json.loads(invoke("show", SMALL, "--stage", "memory", "--json").stdout)
    assert shown["kv_blocks"] == answer(SMALL, *FEW)["kv_blocks"]["total"]


@pytest.mark.parametrize("kind", ["serving", "engine"])
def test_serving_files_have_a_schema(kind):
    assert json.loads(invoke("schema", kind).stdout)["title"] == f"clustersim {kind}"


def test_engines_can_be_listed():
    rows = json.loads(invoke("list", "engines", "--json").stdout)["engines"]
    assert "vllm-0.19" in {row["name"] for row in rows}
