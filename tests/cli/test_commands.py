"""Commands as people type them: answers on stdout, the rest on stderr, exit codes that mean it."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from clustersim.cli.app import app
from clustersim.cli.console import BUG
from clustersim.cli.tables import text_of, words

runner = CliRunner()


def invoke(*words: str, code: int = 0):
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, result.stderr or result.stdout
    return result


def test_run_answers_in_the_first_line():
    first = invoke("run", "smallest").stdout.splitlines()[0]
    assert "a step" in first
    assert "MFU" in first


def test_json_is_one_document_and_its_breakdown_sums_to_the_step():
    document = json.loads(invoke("run", "smallest", "--json").stdout)
    assert document["kind"] == "training"
    assert sum(document["breakdown_s"].values()) == pytest.approx(document["step_time_s"])
    terms = dict(document["memory_bytes_per_gpu"])
    assert terms.pop("total") == pytest.approx(sum(terms.values()))


def test_seed_and_engine_write_into_the_scenario():
    words = ("run", "smallest", "--json", "--seed", "7", "--engine", "event")
    document = json.loads(invoke(*words).stdout)
    assert document["seed"] == 7
    assert document["engine"] == "event"


def test_definitions_explain_the_terms():
    assert "Definitions" in invoke("run", "smallest", "--definitions").stdout


def test_out_holds_a_scenario_that_gives_the_same_answer(tmp_path):
    out = tmp_path / "out"
    result = invoke("run", "smallest", "--out", str(out), "--set", "training.global_batch=16")
    assert f"wrote {out}" in result.stderr
    again = json.loads(invoke("run", str(out / "scenario.yaml"), "--json").stdout)
    saved = json.loads((out / "result.json").read_text())
    assert again["result_digest"] == saved["result_digest"]


def test_out_that_is_a_file_is_bad_input(tmp_path):
    path = tmp_path / "taken"
    path.write_text("x")
    assert "is a file" in invoke("run", "smallest", "--out", str(path), code=2).stderr


SMALL = "extends: smallest\n"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of the user's, with a scenario of theirs in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenario.yaml").write_text(SMALL)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (("scenario.yaml", "--out", "."), {}),
        (("top.yaml", "--out", "."), {"top.yaml": "extends: ./scenario.yaml\n"}),
        (("scenario.yaml", "--out", "link"), {}),
    ],
    ids=["itself", "extended", "linked"],
)
def test_out_never_replaces_what_the_run_reads(small, monkeypatch, words, others):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("refused too late")

    monkeypatch.setattr("clustersim.run.simulate", never)
    (small / "link").symlink_to(".")
    for name, text in others.items():
        (small / name).write_text(text)
    said = invoke("run", *words, code=2).stderr
    assert "would replace" in said
    assert "  fix: name another folder" in said
    assert (small / "scenario.yaml").read_text() == SMALL


def test_out_beside_the_scenario_leaves_it_alone(small):
    invoke("run", "scenario.yaml", "--out", "answer")
    assert (small / "scenario.yaml").read_text() == SMALL
    invoke("run", "smallest", "--out", "answer")


@pytest.mark.parametrize("command", [("run", "smallest"), ("validate",)])
def test_empty_out_is_bad_input(small, command):
    assert "--out" in invoke(*command, "--out", "", code=2).stderr
    assert [path.name for path in small.iterdir()] == ["scenario.yaml"]


def test_out_that_cannot_be_written_is_told_before_the_run(monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("refused too late")

    monkeypatch.setattr("clustersim.run.simulate", never)
    said = invoke("run", "smallest", "--out", "/proc/out", code=2).stderr
    assert "--out /proc/out: cannot be written" in said
    assert "  fix: " in said


def test_answer_is_printed_although_its_files_cannot_be_written(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no room")

    monkeypatch.setattr("clustersim.analysis.export.write_trace", full)
    result = invoke("run", "smallest", "--out", str(tmp_path / "out"), code=2)
    assert "a step" in result.stdout.splitlines()[0]
    assert f"--out {tmp_path / 'out'}: cannot be written: No space left" in result.stderr


def test_job_that_does_not_fit_is_a_no_with_terms_and_knobs():
    words = ("run", "smallest", "--set", "training.micro_batch=512")
    result = invoke(*words, "--set", "training.global_batch=512", "--json", code=1)
    assert json.loads(result.stdout)["fits"] is False
    assert "does not fit" in result.stderr
    assert "training.micro_batch: 256" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "no_such_scenario"), "no_such_scenario"),
        (("run", "smallest", "--set", "training.micro_batsh=4"), "did you mean"),
        (("run", "smallest", "--set", "training.micro_batch=four"), "four"),
        (("run", "smallest", "--engine", "fast"), "fast"),
        (("run", "smallest", "--seed", "-1"), "--seed"),
        (("run",), "SCENARIO"),
        (("walk",), "walk"),
        (("show", "smallest", "--stage", "dreams"), "dreams"),
        (("list", "dragons"), "dragons"),
        (("validate", "no/such/file.yaml"), "no such file"),
        (("validate", "--jobs", "0"), "--jobs"),
    ],
)
def test_wrong_input_is_exit_code_2_and_names_what_is_wrong(words, said):
    result = invoke(*words, code=2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_our_bug_is_exit_code_3_without_a_traceback(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("wheels came off")

    monkeypatch.setattr("clustersim.run.simulate", broken)
    monkeypatch.delenv("CLUSTERSIM_DEBUG", raising=False)
    result = invoke("run", "smallest", code=BUG)
    assert "bug in clustersim: RuntimeError: wheels came off" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("CLUSTERSIM_DEBUG", "1")
    assert "Traceback" in invoke("run", "smallest", code=BUG).stderr


@pytest.mark.parametrize("stage", ["spec", "cluster", "mesh", "memory", "program", "costs"])
def test_every_stage_can_be_shown_and_read(stage):
    assert invoke("show", "smallest", "--stage", stage).stdout.strip()
    document = json.loads(invoke("show", "smallest", "--stage", stage, "--json").stdout)
    assert document


def test_overrides_show_in_the_resolved_scenario():
    shown = invoke("show", "smallest", "--set", "training.micro_batch=4").stdout
    assert "micro_batch: 4" in shown


@pytest.mark.parametrize(
    "kind",
    ["devices", "models", "topologies", "scenarios", "software", "fleets", "links", "profiles"],
)
def test_every_kind_of_file_can_be_listed(kind):
    rows = json.loads(invoke("list", kind, "--json").stdout)[kind]
    assert rows
    assert all(row["name"] for row in rows)


def test_list_prints_one_line_a_name():
    lines = invoke("list", "fleets").stdout.splitlines()
    assert any(line.startswith("uniform") for line in lines)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("devices", ("memory", "memory bandwidth", "peak 16 bit")),
        ("topologies", ("scale up per gpu", "nics per node")),
        ("links", ("kind", "base latency", "simple efficiency", "basis")),
    ],
)
def test_columns_of_a_list_say_of_what(kind, heads):
    first = invoke("list", kind).stdout.splitlines()[0]
    columns = re.split(r"\s{2,}", first.strip())
    assert set(heads) <= set(columns)
    assert len(columns) == len(set(columns))


@pytest.mark.parametrize(("stage", "figure"), [("costs", "alone"), ("program", "flop")])
def test_joined_templates_say_sum_or_mean(stage, figure):
    text = invoke("show", "smallest", "--stage", stage).stdout
    assert f"sum {figure}" in text
    assert f"mean {figure}" in text
    assert "a row is all templates of one name" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("kind", ["scenario", "topology", "device", "model", "software", "fleet"])
def test_every_kind_of_file_has_a_schema(kind):
    assert json.loads(invoke("schema", kind).stdout)["title"] == f"clustersim {kind}"


def test_version_is_that_of_the_package():
    from clustersim import __version__

    assert invoke("version").stdout.strip() == f"clustersim {__version__}"
    assert invoke("--version").stdout == invoke("version").stdout
    assert json.loads(invoke("version", "--json").stdout) == {"version": __version__}


CASE = """\
cases:
  - id: serving_only
    source: {title: Nobody et al. 2024}
    measured: {}
"""


def test_validate_reports_what_it_skips(tmp_path):
    path = tmp_path / "cases.yaml"
    path.write_text(CASE)
    document = json.loads(invoke("validate", str(path), "--json").stdout)
    assert [case["status"] for case in document["cases"]] == ["skipped"]


def test_validate_writes_its_report(tmp_path):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "cases.yaml").write_text(CASE)
    out = tmp_path / "out"
    invoke("validate", str(tmp_path / "cases"), "--out", str(out))
    assert sorted(path.name for path in out.iterdir()) == ["validation.json", "validation.md"]


def test_folder_without_cases_is_bad_input(tmp_path):
    assert "holds no cases" in invoke("validate", str(tmp_path), code=2).stderr


@pytest.mark.parametrize(
    ("name", "value", "title", "text"),
    [
        ("output_tokens_per_s", 1234.0, "output tokens/s", "1,234"),
        ("requests_per_s", 0.5, "requests/s", "0.500"),
        ("nic_bytes_per_s", 25e9, "nic", "25.0 GB/s"),
        ("step_time_s", 1.5, "step time", "1.50 s"),
    ],
)
def test_a_field_is_named_by_its_value_or_its_title_with_a_unit(name, value, title, text):
    assert (words(name), text_of(name, value)) == (title, text)


def test_bad_lines_of_a_trace_are_skipped_when_asked(tmp_path):
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,50,6\n1,x,7\n2,40,5\n")
    sets = ["workload.arrivals.kind=trace", f"workload.trace={trace}", "workload.requests=null"]
    words = ["run", "serve_8b_small_gpu", *(word for one in sets for word in ("--set", one))]
    assert "requests.csv:3: input_tokens: saw 'x'" in invoke(*words, code=2).stderr
    found = invoke(*words, "--skip-bad", "--json")
    assert json.loads(found.stdout)["requests"]["skipped"] == 1
    assert "1 line of the trace" in found.stderr
