"""Files of published cases: what is read, and how a wrong file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustersim.errors import SpecError
from clustersim.validate.cases import read_case_file, short_name

MINIMAL = 'version: 1\ncases:\n- id: "a"\n  gpus: 8\n  batch: {micro: 1, global: 8}\n'


def write(tmp_path: Path, text: str, name: str = "cases.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_case_file(path)
    return str(caught.value)


def test_a_row_with_blanks_only_is_read(tmp_path):
    (case,) = read_case_file(write(tmp_path, MINIMAL)).cases
    assert (case.id, case.gpus, case.batch.global_, case.line) == ("a", 8, 8, 3)
    assert case.recompute.kind == "unknown"


def test_unknown_keys_are_ignored(tmp_path):
    assert read_case_file(write(tmp_path, MINIMAL + "  novel: {x: 1}\n")).cases[0].id == "a"


def test_a_wrong_type_names_its_line_and_field(tmp_path):
    text = MINIMAL + '- id: "b"\n  gpus: "many"\n  batch: {micro: 1.5}\n'
    message = refusal(write(tmp_path, text))
    assert "cases.yaml:7: b: gpus" in message
    assert "cases.yaml:8: b: batch.micro" in message


def test_a_duplicate_key_is_refused_with_its_line(tmp_path):
    assert "cases.yaml:6" in refusal(write(tmp_path, MINIMAL + "  gpus: 9\n"))


def test_a_duplicate_id_is_refused(tmp_path):
    message = refusal(write(tmp_path, MINIMAL + '- id: "a"\n'))
    assert "used twice, first on line 3" in message


def test_broken_yaml_is_refused_with_its_line(tmp_path):
    assert "cases.yaml:2" in refusal(write(tmp_path, "cases: [1\nb: 2"))


@pytest.mark.parametrize("text", ["", "a: 1\n", "- 1\n", "cases: 3\n"])
def test_another_schema_is_refused(tmp_path, text):
    assert "holds no published cases" in refusal(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "none.yaml")


def test_serving_rows_are_named(tmp_path):
    text = (
        'rows:\n- id: "s"\n  device: "H100"\n  source: {key: "k"}\n  scored: {ttft_s_mean: 1.0}\n'
    )
    (row,) = read_case_file(write(tmp_path, text)).serving
    assert (row.id, row.source, row.scored) == ("s", "k", {"ttft_s_mean": 1.0})
    assert not row.is_point


def test_serving_points_are_named(tmp_path):
    path = write(tmp_path, "id,system,ttft_ms,tpot_ms\np,h100,1,2\n", "silicon_e2e.csv")
    (row,) = read_case_file(path).serving
    assert row.scored == {"ttft_s_mean": 1e-3, "tpot_s_mean": 2e-3}
    assert row.is_point


def test_another_csv_is_refused(tmp_path):
    assert "columns id, tpot_ms, ttft_ms are missing" in refusal(
        write(tmp_path, "a,b\n1,2\n", "x.csv")
    )


def test_merged_tokens_are_written_out(case):
    row = case({"optimisations": ["efficient_operators", "overlap_dp", "lamb"]})
    assert row.tokens == {"flash_attention_2", "fused_kernels", "dp_overlap", "lamb"}


def test_unknown_sources_get_the_head_of_their_title():
    assert short_name("Foo: Bar and Baz (2030)") == "Foo"
    assert short_name("MegaScale: Scaling Large Language Models") == "MegaScale"
    assert short_name("") == "unnamed source"


def test_shipped_cases_are_readable_and_state_their_claim():
    folder = Path(__file__).parents[3] / "validation" / "cases"
    files = sorted(folder.glob("*.yaml"))
    cases = [case for file in files for case in read_case_file(file).cases]
    assert len({case.id for case in cases}) == len(cases) > 100
    assert all(case.tolerance and case.evidence and case.source.url for case in cases)
    assert sum(file.stat().st_size for file in files) < 150_000


def test_shipped_cases_agree_with_the_published_rows(published):
    folder = Path(__file__).parents[3] / "validation" / "cases"
    rows = {row.id: row for row in published.cases}
    ours = {
        "file",
        "line",
        "notes",
        "confidence",
        "tolerance",
        "evidence",
        "expect_fits",
        "known_miss",
    }
    for file in sorted(folder.glob("*.yaml")):
        for case in read_case_file(file).cases:
            printed = rows[case.id]
            assert case.measured.items() <= printed.measured.items()
            left_out = ours | {"measured"}
            assert case.model_dump(exclude=left_out) == printed.model_dump(exclude=left_out)
