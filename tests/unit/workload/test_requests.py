"""Requests of a run: how many, when, how long, and what they share."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from clustersim.errors import SpecError
from clustersim.spec.workload import Workload
from clustersim.workload.requests import Requests, build_requests

LENGTHS = Path(__file__).parents[3] / ".." / "shared" / "traces" / "lengths"
FIXED = {"input": 100, "output": 10}


def workload(kind: str, lengths: dict[str, Any] | None = None, **fields: Any) -> Workload:
    more = {name: fields.pop(name) for name in ("requests", "prefixes") if name in fields}
    return Workload.model_validate(
        {"arrivals": {"kind": kind, **fields}, "lengths": lengths or FIXED, **more}
    )


def offline(lengths: dict[str, Any], count: int = 20_000, base: Path | None = None) -> Requests:
    return build_requests(workload("offline", lengths, requests=count), 3, base)


@pytest.mark.parametrize(
    ("asked", "count", "concurrency"),
    [
        (workload("poisson", rate=1.0), 2_000, 0),
        (workload("gamma", rate=100.0, variation=2.0), 6_000, 0),
        (workload("diurnal", rate=100.0), 6_000, 0),
        (workload("poisson", rate=100.0, requests=7), 7, 0),
        (workload("closed_loop", concurrency=8), 80, 8),
        (workload("saturated", concurrency=8), 160, 8),
        (workload("saturated"), 640, 32),
        (workload("offline"), 1_000, 0),
        (workload("static", requests=5), 5, 0),
    ],
)
def test_each_kind_has_its_number_of_requests(
    asked: Workload, count: int, concurrency: int
) -> None:
    requests = build_requests(asked, 0, closed_concurrency=32)
    assert requests.count == count
    assert requests.concurrency == concurrency
    assert requests.prefix_start.tolist() == [0] * (count + 1)
    assert requests.after.tolist() == [-1] * count


@pytest.mark.parametrize("kind", ["static", "offline", "closed_loop"])
def test_what_does_not_arrive_by_a_clock_is_there_at_once(kind: str) -> None:
    more = {"concurrency": 4} if kind == "closed_loop" else {}
    assert not build_requests(workload(kind, requests=9, **more), 0).arrival_s.any()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (workload("static"), "workload.requests: a static batch needs its size"),
        (workload("saturated"), "workload.arrivals.concurrency: a saturated loop needs a conc"),
        (workload("poisson", rate=1e30), "workload.requests: 60,000,000,000,000 requests are more"),
        (
            workload("offline", prefixes={"shared": 10**9}, requests=1_000),
            "workload.prefixes: prompts share 62,500,000,000 blocks of 16 tokens in all",
        ),
    ],
)
def test_what_cannot_be_built_is_said(asked: Workload, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_requests(asked, 0)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "closed_loop", "concurrency": 4, "rate": 1.0}, "has no rate; leave it out"),
        ({"kind": "poisson", "rate": 1.0, "variation": 2.0}, "has no variation; leave it out"),
        ({"kind": "offline", "concurrency": 2}, "use kind closed_loop or saturated"),
        ({"kind": "offline", "speed_up": 2.0}, "has no speed_up"),
    ],
)
def test_fields_that_a_kind_does_not_use_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        workload(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": FIXED}, "a trace has lengths of its own"),
        ({"prefixes": {"shared": 10}}, "a trace has prefixes of its own"),
    ],
)
def test_a_trace_states_everything(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Workload.model_validate({"arrivals": {"kind": "trace"}, "trace": "x.csv", **fields})


def test_a_format_needs_a_trace() -> None:
    with pytest.raises(ValidationError, match="a format without a trace"):
        Workload.model_validate(
            {"arrivals": {"kind": "offline"}, "lengths": FIXED, "format": "azure"}
        )


@pytest.mark.parametrize(
    ("spread", "message"),
    [
        ({"mean": 10, "variation": 0.5}, "fixed lengths do not vary"),
        ({"kind": "uniform", "mean": 10, "variation": 0.6}, "would be negative"),
    ],
)
def test_spreads_that_make_no_sense_are_refused(spread: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        workload("offline", {"input": spread, "output": 1})


def test_a_trace_runs_as_fast_as_asked(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens\n10,1,2\n14,3,4\n20,5,6\n"
    (tmp_path / "mine.csv").write_text(text)
    asked = {"arrivals": {"kind": "trace", "speed_up": 2.0}, "trace": "mine.csv", "requests": 2}
    requests = build_requests(Workload.model_validate(asked), 0, tmp_path)
    assert requests.arrival_s.tolist() == [0.0, 2.0]
    assert requests.output_tokens.tolist() == [2, 4]


def test_fixed_lengths_are_rounded_and_at_least_one() -> None:
    requests = offline({"input": 99.6, "output": 0.2}, 4)
    assert requests.input_tokens.tolist() == [100] * 4
    assert requests.output_tokens.tolist() == [1] * 4


@pytest.mark.parametrize("kind", ["uniform", "lognormal"])
def test_drawn_lengths_have_the_mean_and_variation_asked_for(kind: str) -> None:
    spread = {"kind": kind, "mean": 500, "variation": 0.5}
    lengths = offline({"input": spread, "output": spread}, 100_000)
    for side in (lengths.input_tokens, lengths.output_tokens):
        assert side.mean() == pytest.approx(500, rel=0.01)
        assert side.std() / side.mean() == pytest.approx(0.5, rel=0.02)
        assert side.min() >= 1


def test_prompts_and_answers_are_drawn_apart() -> None:
    spread = {"kind": "lognormal", "mean": 500, "variation": 1.0}
    both = offline({"input": spread, "output": spread})
    other = offline({"input": 7, "output": spread})
    assert both.output_tokens.tolist() == other.output_tokens.tolist()
    assert abs(np.corrcoef(both.input_tokens, both.output_tokens)[0, 1]) < 0.05


def test_long_ones_are_cut() -> None:
    spread = {"kind": "lognormal", "mean": 500, "variation": 2.0, "most": 600}
    assert offline({"input": spread, "output": 1}).input_tokens.max() == 600


@pytest.mark.parametrize(
    "header",
    [
        "ContextTokens,GeneratedTokens",
        "num_prefill_tokens,num_decode_tokens",
        "prefill,decode",
        "input_toks,output_toks",
        "Request tokens,Response tokens",
    ],
)
def test_pairs_of_a_file_stay_together(tmp_path: Path, header: str) -> None:
    (tmp_path / "pairs.csv").write_text(f"{header}\n10,1\n20,2\n30,3\n")
    requests = offline({"file": "pairs.csv"}, base=tmp_path)
    assert np.array_equal(requests.input_tokens, 10 * requests.output_tokens)
    assert np.bincount(requests.output_tokens)[1:] / requests.count == pytest.approx(
        1 / 3, abs=0.02
    )


def test_lengths_may_come_from_a_trace_of_json_lines(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 5, "output_length": 6}\n')
    assert offline({"file": "t.jsonl"}, 2, tmp_path).output_tokens.tolist() == [6, 6]


def test_lengths_of_a_file_are_scaled_by_the_mean_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("input_tokens,output_tokens\n100,10\n300,20\n")
    lengths = {"file": "pairs.csv", "input_mean": 400.0, "output_mean": 5.0}
    requests = offline(lengths, base=tmp_path)
    assert set(requests.input_tokens.tolist()) == {200, 600}
    assert set(requests.output_tokens.tolist()) == {3, 7}  # 3.33 and 6.67


def test_bins_of_a_histogram_are_drawn_by_their_count(tmp_path: Path) -> None:
    text = "input_lo,input_hi,output_lo,output_hi,count\n1,2,8,16,3\n4,8,1,2,1\n16,32,1,2,0\n"
    (tmp_path / "bins.csv").write_text(text)
    requests = offline({"file": "bins.csv"}, 40_000, tmp_path)
    first = requests.input_tokens == 1
    assert first.mean() == pytest.approx(0.75, abs=0.01)
    assert set(requests.output_tokens[first].tolist()) == set(range(8, 16))
    assert set(requests.input_tokens[~first].tolist()) == {4, 5, 6, 7}
    share_of_four = (requests.input_tokens[~first] == 4).mean()
    assert share_of_four == pytest.approx(np.log(5 / 4) / np.log(2), abs=0.02)


def test_a_histogram_is_scaled_to_a_mean(tmp_path: Path) -> None:
    text = "input_lo,input_hi,output_lo,output_hi,count\n0,1,64,128,3\n4,4096,1,2,1\n"
    (tmp_path / "bins.csv").write_text(text)
    requests = offline({"file": "bins.csv", "input_mean": 5_000.0}, 200_000, tmp_path)
    assert requests.input_tokens.mean() == pytest.approx(5_000, rel=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "the columns hold no lengths: a, b"),
        ("prefill,decode\n", "the file has no rows"),
        ("prefill,decode\n1,0\n2,x\n", "3: decode: saw 'x', expected a whole number of tokens"),
        ("input_lo,input_hi,output_lo,output_hi,count\n2,1,1,2,3\n", "expected upper edges above"),
        ("input_lo,input_hi,output_lo,output_hi,count\n1,2,1,2,0\n", "the file has no rows"),
    ],
)
def test_wrong_files_of_lengths_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lengths.csv").write_text(text)
    with pytest.raises(SpecError) as caught:
        offline({"file": "lengths.csv"}, base=tmp_path)
    assert message in str(caught.value)


def test_bad_lines_of_a_file_of_lengths_are_counted(tmp_path: Path) -> None:
    (tmp_path / "lengths.csv").write_text("prefill,decode\n1,0\n2,3\n")
    asked = workload("offline", {"file": "lengths.csv"})
    requests = build_requests(asked, 0, tmp_path, skip_bad=True)
    assert requests.skipped == 1
    assert set(requests.input_tokens.tolist()) == {2}


def test_a_shared_beginning_is_counted_to_the_prompt_and_listed_in_full_blocks() -> None:
    asked = workload("offline", requests=200, prefixes={"shared": 40, "groups": 3})
    requests = build_requests(asked, 0)
    assert requests.prefix_block_tokens == 16
    assert set(requests.input_tokens.tolist()) == {140}
    rows = requests.prefix_block.reshape(200, 2)
    assert set(map(tuple, rows.tolist())) == {(0, 1), (2, 3), (4, 5)}


def test_turns_begin_with_all_that_was_said() -> None:
    prefixes = {"shared": 32, "turns": 3, "think": 2.0}
    asked = workload("poisson", rate=3.0, requests=7, prefixes=prefixes)
    requests = build_requests(asked, 0, block_tokens=32)
    first, said = 132, 110  # tokens of a first prompt; of a later turn and the answer before it
    assert requests.input_tokens.tolist() == [first + said * t for t in (0, 1, 2, 0, 1, 2, 0)]
    assert requests.after.tolist() == [-1, 0, 1, -1, 3, 4, -1]
    assert requests.think_s.tolist() == [0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0]
    assert requests.arrival_s[:3].tolist() == [requests.arrival_s[0]] * 3
    starts = requests.prefix_start
    rows = [requests.prefix_block[a:b].tolist() for a, b in pairwise(starts)]
    assert rows[0] == [0, 1, 2, 3]  # 142 tokens of prompt and answer: four full blocks
    assert rows[1] == [0, 1, 2, 3, 4, 5, 6]  # 252 tokens
    assert rows[2] == rows[1]  # the last turn shares what was there before it
    assert rows[3] == [0, 7, 8, 9]
    assert rows[6] == [0]


def test_the_rate_counts_all_turns() -> None:
    asked = workload("poisson", rate=10.0, requests=40_000, prefixes={"turns": 4})
    requests = build_requests(asked, 0)
    assert requests.count / requests.arrival_s[-1] == pytest.approx(10.0, rel=0.03)


def test_lengths_of_lmsys_have_the_mean_of_the_histogram() -> None:
    if not LENGTHS.exists():
        pytest.skip("../shared/traces is not beside the repository")
    lengths = {"file": str(LENGTHS / "lmsys_chat_length_hist2d.csv"), "output_mean": 300.0}
    requests = offline(lengths, 200_000)
    assert requests.input_tokens.mean() == pytest.approx(92.2, rel=0.06)  # of the pairs themselves
    assert requests.output_tokens.mean() == pytest.approx(300.0, rel=0.01)


def test_the_examples_of_the_how_to_are_valid() -> None:
    text = (Path(__file__).parents[3] / "docs" / "howto" / "workloads.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 10
    for block in blocks:
        data = YAML(typ="safe").load(block)["workload"]
        Workload.model_validate(data, context={"document": True})
