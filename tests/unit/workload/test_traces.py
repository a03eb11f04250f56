"""Reading traces: every format, its order and its clock, and what is said of bad lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from clustersim.errors import SpecError
from clustersim.workload import files
from clustersim.workload.expert_counts import read_expert_counts
from clustersim.workload.traces import Trace, read_trace

TRACES = Path(__file__).parents[3] / ".." / "shared" / "traces"

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
2024-05-10 02:00:02.5+02:00,7,7
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,"Conversation, log"
60,GPT-4,0,0,0,API log
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [46, 47]}
{"timestamp": 1500, "input_length": 1024, "output_length": 7, "hash_ids": [46, 99]}
{"timestamp": 1600, "input_length": 1, "output_length": 1}
"""
OURS = "arrival_s,input_tokens,output_tokens\n1.5,10,20\n1.0,30,40\n"
VLLM = "request_id,arrival_s,input_toks,output_toks,queued_s\nb-0,9,10,20,0.5\nb-1,1,30,40,0.75\n"


@pytest.fixture
def read(tmp_path: Path):
    def reader(text: str, *args: object, name: str = "trace.txt", **options: object) -> Trace:
        (tmp_path / name).write_text(text)
        return read_trace(tmp_path / name, *args, **options)  # type: ignore[arg-type]

    return reader


@pytest.fixture
def problems(read):
    def messages(text: str, *args: object, **options: object) -> list[str]:
        with pytest.raises(SpecError) as caught:
            read(text, *args, **options)
        return [str(problem).partition("trace.txt")[2] for problem in caught.value.problems]

    return messages


def test_azure_stamps_keep_their_seventh_digit(read) -> None:
    trace = read(AZURE)
    assert trace.arrival_s.tolist() == [0.0, 0.052]
    assert trace.input_tokens.tolist() == [4808, 3180]
    assert trace.output_tokens.tolist() == [10, 8]
    assert trace.block.size == 0
    assert trace.block_tokens == 0


def test_azure_zones_are_taken_into_account(read) -> None:
    assert read(AZURE_2024).arrival_s == pytest.approx([0.0, 0.99007, 2.49007], abs=1e-12)


def test_a_failed_request_of_burstgpt_is_counted_and_left_out(read) -> None:
    trace = read(BURSTGPT)
    assert trace.arrival_s.tolist() == [0.0, 40.0]
    assert trace.skipped == 1


def test_mooncake_is_put_in_order_and_its_blocks_are_numbered_from_zero(read) -> None:
    trace = read(MOONCAKE)
    assert trace.arrival_s == pytest.approx([0.0, 0.1, 1.5])
    assert trace.input_tokens.tolist() == [1024, 1, 600]
    assert trace.block_start.tolist() == [0, 2, 2, 4]
    assert trace.block.tolist() == [0, 1, 0, 2]
    assert trace.block_tokens == 512


def test_our_own_columns_are_read_back(read) -> None:
    trace = read(OURS)
    assert trace.arrival_s.tolist() == [0.0, 0.5]
    assert trace.input_tokens.tolist() == [30, 10]


def test_the_time_of_queueing_wins_over_the_time_of_the_client(read) -> None:
    assert read(VLLM).input_tokens.tolist() == [10, 30]


@pytest.mark.parametrize("text", [AZURE, BURSTGPT, MOONCAKE, OURS])
def test_a_gzipped_file_reads_the_same(read, tmp_path: Path, text: str) -> None:
    (tmp_path / "zipped").write_bytes(gzip.compress(text.encode()))
    plain, zipped = read(text), read_trace(tmp_path / "zipped")
    assert plain.arrival_s.tolist() == zipped.arrival_s.tolist()


def test_blank_lines_carriage_returns_and_a_mark_of_order_do_not_matter(read) -> None:
    other = "\ufeff" + AZURE.replace("\n", "\r\n\r\n")
    assert read(other).arrival_s.tolist() == read(AZURE).arrival_s.tolist()


@pytest.mark.parametrize("text", [AZURE_2024, MOONCAKE, BURSTGPT])
def test_a_trace_is_read_only_as_far_as_asked(read, text: str) -> None:
    assert read(text + "nonsense\n", most=2).arrival_s.size == 2


def test_failed_requests_do_not_count_to_the_number_asked_for(read) -> None:
    text = BURSTGPT.replace("472,18", "472,0")
    assert read(text + "70,GPT-4,1,2,3,API log\n", most=2).arrival_s.tolist() == [0.0, 25.0]


def test_small_blocks_of_lines_read_the_same(read, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [read(text) for text in (AZURE_2024, MOONCAKE)]
    monkeypatch.setattr(files, "BLOCK_LINES", 1)
    monkeypatch.setattr("clustersim.workload.traces.BLOCK_LINES", 1)
    for one, other in zip(whole, [read(AZURE_2024), read(MOONCAKE)], strict=True):
        assert one.arrival_s.tolist() == other.arrival_s.tolist()
        assert one.block.tolist() == other.block.tolist()


def test_quotes_change_nothing(read) -> None:
    plain = "arrival_s,input_tokens,output_tokens,note\n" + "".join(
        f"{0.1 * i},{i + 1},{2 * i + 1},x\n" for i in range(50)
    )
    quoted = plain.replace("x\n", '"x"\n')
    one, other = read(plain), read(quoted)
    assert one.arrival_s.tolist() == other.arrival_s.tolist()
    assert one.input_tokens.tolist() == other.input_tokens.tolist()


def test_every_bad_line_of_a_csv_is_reported_with_its_place(problems) -> None:
    text = "arrival_s,input_tokens,output_tokens\n1,10,0\n\n-1,10,1\n1,x,1\n1,2\n1,2.5,1\n1,2,3\n"
    assert problems(text) == [
        ":2: output_tokens: saw '0', expected a whole number of tokens, at least 1",
        ":4: arrival_s: saw '-1', expected a number of seconds, at least 0",
        ":5: input_tokens: saw 'x', expected a whole number of tokens, at least 1",
        ":6: saw 2 cells, expected 3, as in the header",
        ":7: input_tokens: saw '2.5', expected a whole number of tokens, at least 1\n"
        f"  fix: {files.SKIP_FIX}",
    ]


@pytest.mark.parametrize("cell", ["nan", "inf", "1e300", "", "0x10", "1,5", '"5'])
def test_what_is_no_count_is_bad(problems, cell: str) -> None:
    assert len(problems(f"arrival_s,input_tokens,output_tokens\n1,{cell},1\n1,1,1\n")) == 1


@pytest.mark.parametrize(
    "stamp", ["now", "NaT", "2023-13-01 00:00:00", "5", "", "9999-01-01 00:00"]
)
def test_what_is_no_date_is_bad(problems, stamp: str) -> None:
    (message,) = problems(AZURE + f"{stamp},1,1\n")
    assert message.startswith(f":4: TIMESTAMP: saw '{stamp}', expected a date and time")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"timestamp": 1', "saw '{\"timestamp\": 1', expected a JSON object on a line of its own"),
        ("[1, 2]", "saw '[1, 2]', expected a JSON object with the keys timestamp, input_length,"),
        ('{"timestamp": 1}', "input_length: saw no such key, expected a whole number of tokens"),
        ('{"timestamp": -1, "input_length": 1, "output_length": 1}', "timestamp: saw -1, expected"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 1}', "input_length: saw 0, expec"),
        ('{"timestamp": 1, "input_length": 1, "output_length": true}', "output_length: saw True"),
        (
            '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": ["a"]}',
            "hash_ids: saw ['a'], expected a list of whole numbers",
        ),
        (
            '{"timestamp": 1, "input_length": 512, "output_length": 1, "hash_ids": [1, 2]}',
            "hash_ids: saw 2 ids, expected at most one for each 512 of 512 tokens",
        ),
    ],
)
def test_every_bad_line_of_json_is_reported(problems, line: str, message: str) -> None:
    (seen,) = problems(MOONCAKE + line + "\n")
    assert seen.startswith(f":4: {message}")


def test_the_list_of_bad_lines_is_capped_and_says_how_many_more(problems) -> None:
    found = problems("arrival_s,input_tokens,output_tokens\n" + "1,1,0\n" * 1234)
    assert len(found) == files.SHOWN + 1
    assert found[-1].startswith(": 1,224 more bad lines\n  fix: correct the line, or skip bad")


def test_bad_lines_can_be_skipped_and_are_counted(read) -> None:
    trace = read(AZURE + "nonsense\n2023-11-16 18:17:05,1,0\n", skip_bad=True)
    assert trace.arrival_s.size == 2
    assert trace.skipped == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the file is empty"),
        ("\n \n", ": the file is empty"),
        ("arrival_s,input_tokens,output_tokens\n", ": the file has no requests"),
        ("time,in,out\n1,2,3\n", ":1: the columns are of no known trace: time, in, out"),
    ],
)
def test_a_file_without_requests_is_refused(problems, text: str, message: str) -> None:
    assert problems(text)[0].startswith(message)


def test_a_file_of_bad_lines_alone_is_refused_even_when_they_are_skipped(problems) -> None:
    (message,) = problems(AZURE.replace(",", ",-").replace("-Con", "Con"), skip_bad=True)
    assert message.startswith(":")


def test_a_stated_format_is_held_to(problems) -> None:
    (message,) = problems(AZURE, "burstgpt")
    assert message.startswith(":1: the columns are not of a trace of format burstgpt: TIMESTAMP")
    assert "timestamp, request_tokens, response_tokens" in message


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(AZURE.encode() * 100)
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SpecError, match="cannot be read"):
        read_trace(tmp_path / "cut.gz")


def test_a_missing_file_says_where_it_was_looked_for_and_what_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "azure_conv.csv").write_text(AZURE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = files.find_file("azure_conv.csv", tmp_path, "workload.trace")
    assert found == tmp_path / "azure_conv.csv"
    with pytest.raises(SpecError) as caught:
        files.find_file("azure_con.csv", tmp_path, "workload.trace")
    text = str(caught.value)
    assert text.startswith("workload.trace: no such file: azure_con.csv (looked in ")
    assert f"did you mean `{found}`?" in text
    with pytest.raises(SpecError, match="elsewhere is a folder"):
        files.find_file("elsewhere", tmp_path, "workload.trace")
    with pytest.raises(SpecError, match="cannot be looked for"):
        files.find_file("x" * 5000, tmp_path, "workload.trace")


@pytest.mark.parametrize(
    ("name", "requests", "span_s", "inputs"),
    [
        ("azure2023/AzureLLMInferenceTrace_code.csv", 8_819, 3435.948056, 2047.848),
        ("azure2023/AzureLLMInferenceTrace_conv.csv", 19_366, 3501.721937, 1154.697),
        ("mooncake/conversation_trace.jsonl.gz", 12_031, 3536.999, 12035.061),
        ("mooncake/synthetic_trace.jsonl.gz", 3_993, 1022.025, 15325.477),
        ("vllm_runs/rtx4090_llama-3.1-8b.csv", 300, 29.120628, 857.463),
    ],
)
def test_real_traces_are_read_whole(name: str, requests: int, span_s: float, inputs: float) -> None:
    if not (TRACES / name).exists():
        pytest.skip("../shared/traces is not beside the repository")
    trace = read_trace(TRACES / name)
    assert trace.arrival_s.size == requests
    assert trace.arrival_s[0] == 0.0
    assert trace.arrival_s[-1] == pytest.approx(span_s)
    assert trace.input_tokens.mean() == pytest.approx(inputs, abs=1e-3)
    assert trace.skipped == 0


def test_counts_of_experts_are_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("expert,count\n2,5\n0,7\n1,0\n")
    assert read_expert_counts(path, 3).tolist() == [7.0, 0.0, 5.0]
    path.write_text("count\n3\n4\n")
    assert read_expert_counts(path).tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no column count, but: nothing"),
        ("expert,hits\n0,1\n", "there is no column count, but: expert, hits"),
        ("expert,count\n0,-1\n1,x\n", "2: count: saw '-1', expected a number, at least 0"),
        ("expert,count\n0,1\n0,2\n", "expert 0 has 2 rows"),
        ("expert,count\n0,1\n3,2\n", "2 experts have no row: 1, 2"),
        ("expert,count\n0,0\n1,0\n", "no expert was ever chosen"),
        ("expert,count\n0,1\n1,1\n", "2 experts are counted, and the model has 8"),
    ],
)
def test_wrong_counts_of_experts_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_expert_counts(path, 8)
    assert message in str(caught.value)


@pytest.mark.parametrize("stem", ["olmoe-1b-7b-0924", "qwen1.5-moe-a2.7b-chat"])
def test_measured_counts_of_experts_are_read(stem: str) -> None:
    path = TRACES / "expert_load" / f"{stem}_layer0_gsm8k.csv"
    if not path.exists():
        pytest.skip("../shared/traces is not beside the repository")
    counts = read_expert_counts(path)
    assert counts.size in (60, 64)
    assert np.all(counts >= 0)
