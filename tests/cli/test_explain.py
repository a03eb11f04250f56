"""``clustersim explain op``: answers, files, and input that is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from clustersim.analysis.explanation import print_explanation
from clustersim.cli.app import app
from clustersim.cli.explain import KINDS
from clustersim.cost.explain.table import EXPLAINERS

runner = CliRunner()
GEMM = ("gemm", "--device", "h100_sxm", "--m", "4096", "--n", "12288", "--k", "4608")
CORE = ("attention", "--device", "a100", "--batch", "2", "--q-len", "4096", "--heads", "32")
PASS = ("elementwise", "--device", "b200", "--bytes", "64 MiB", "--class", "rms_norm")
REDUCE = ("collective", "--collective", "all_reduce", "--bytes", "64 MiB", "--ranks", "64")
CLUSTER = ("--topology", "dgx_h100")
HEADS = ("--device", "h100_sxm", "--heads", "32", "--kv-heads", "8")
PROMPT = ("prefill", *HEADS, "--batch", "4", "--q-len", "8192")
DECODE = ("decode", *HEADS, "--batch", "64", "--context", "8192")
ROUTED = ("--experts", "256", "--top-k", "8", "--hidden", "7168")
LAYER = ("moe", "--device", "h100_sxm", "--tokens", "4096", *ROUTED, "--expert-ffn", "2048")
LATENT = ("mla", "--device", "h100_sxm", "--heads", "16", "--phase", "decode", "--kv-len", "8192")
DISPATCH = ("all_to_all", "--phase", "dispatch", "--tokens", "4096", *ROUTED, "--ranks", "32")
COPY = ("transfer", "--device", "a100_pcie", "--direction", "nvme_to_device", "--bytes", "1 GiB")
SERVING = (PROMPT, DECODE, (*LATENT, "--whole"), LAYER, (*DISPATCH, *CLUSTER), COPY)
EACH = (GEMM, (*CORE, "--kv-heads", "8", "--causal"), PASS, (*REDUCE, *CLUSTER), *SERVING)


def explain(*words: str, code: int = 0):
    result = runner.invoke(app, ["explain", "op", *words])
    assert result.exit_code == code, result.stderr or result.stdout
    return result


def test_the_example_of_the_manual():
    text = explain(*GEMM, "--dtype", "bf16").stdout
    for words in (
        *("alone, bound by", "of the dense bf16 peak", "in a training step", "the ridge at 295"),
        *("padding and idle SMs", "tile ", "waves ", "power limit", "kernel floor"),
        *("What would help", "Roofline", "How far to trust it", "held out"),
    ):
        assert words in text


@pytest.mark.parametrize("words", EACH, ids=lambda words: words[0])
def test_every_kind_answers_with_a_picture_in_a_hundred_columns(words):
    text = explain(*words).stdout
    assert "How far to trust it" in text
    picture = text[text.index("Roofline") :]
    assert "X " in picture
    assert "Traceback" not in text


@pytest.mark.parametrize("words", EACH, ids=lambda words: words[0])
def test_json_holds_what_the_report_says(words):
    document = json.loads(explain(*words, "--json").stdout)
    assert sum(term["seconds"] for term in document["terms"]) == pytest.approx(document["time_s"])
    text = io.StringIO()
    print_explanation(document, Console(width=100, file=text))
    assert document["title"] in text.getvalue()


@pytest.mark.parametrize("words", EACH, ids=lambda words: words[0])
def test_out_holds_a_picture_and_the_document(words, tmp_path):
    out = tmp_path / "new" / "out"
    result = explain(*words, "--out", str(out), "--json")
    assert json.loads((out / "explanation.json").read_text()) == json.loads(result.stdout)
    ElementTree.parse(out / "roofline.svg")
    assert sorted(path.name for path in out.iterdir()) == ["explanation.json", "roofline.svg"]
    assert f"wrote {out}" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*GEMM, "--dtype", "bf61"), "did you mean"),
        ((*GEMM, "--layout", "sideways"), "--layout: `sideways`"),
        ((*GEMM, "--m", "0"), "--m"),
        ((*GEMM, "--m", "many"), "--m"),
        ((*GEMM, "--device", "h100_sxmm"), "did you mean `h100_sxm`?"),
        ((*GEMM, "--device", ""), "names no device"),
        (GEMM[:-2], "--k"),
        ((*CORE, "--kv-heads", "5"), "--kv-heads 5 does not divide --heads 32"),
        ((*CORE, "--generation", "flash_9"), "flash_2"),
        ((*PASS, "--bytes", "64"), "has no unit"),
        ((*PASS, "--bytes", "64 mb"), "case matters"),
        ((*PASS, "--class", "dance"), "rms_norm"),
        ((*REDUCE, *CLUSTER, "--ranks", "100000"), "use at most 1024 ranks"),
        ((*REDUCE, *CLUSTER, "--per-node", "9"), "--per-node 9"),
        ((*REDUCE, *CLUSTER, "--device", "a100"), "h100_sxm_80gb"),
        ((*REDUCE, "--topology", "dgx_h1000"), "did you mean `dgx_h100`?"),
        (REDUCE, "--topology"),
        ((*PROMPT, "--kv-len", "8"), "--kv-len 8 is below --q-len 8192"),
        ((*PROMPT, "--dtype", "int8"), "compute in bf16, fp16, fp8"),
        ((*DECODE, "--kv-dtype", "fp7"), "--kv-dtype: `fp7`"),
        ((*DECODE, "--window", "-1"), "--window"),
        ((*DECODE, "--dtype", "bf16"), "--dtype"),
        ((*LATENT, "--phase", "train"), "--phase: `train`"),
        ((*LATENT, "--phase", "prefill"), "give --q-len"),
        ((*LATENT, "--device", "a100", "--whole"), "no coefficients of blocks"),
        (DISPATCH, "--topology"),
        ((*COPY, "--bytes", "1"), "has no unit"),
        ((*COPY, "--direction", "nvme_to_devic"), "did you mean `nvme_to_device`?"),
        ((*COPY, "--device", "h100_sxm"), "no coefficients of copies to host and drives"),
        ((*DISPATCH, *CLUSTER, "--ranks", "12"), "use a multiple of 8 ranks"),
        ((*DISPATCH, *CLUSTER, "--mode", "fast"), "--mode: `fast`"),
        ((*DISPATCH, "--topology", "dgx_a100"), "no coefficients of an exchange"),
        ((*LAYER, "--expert-parallel", "7"), "use a divisor of 256"),
        ((*LAYER, "--exponent", "nan"), "--exponent"),
        ((*LAYER, "--format", "fp8_blok"), "did you mean `fp8_block`?"),
        ((*DECODE, "--device", "b60"), "of this one there are coefficients of gemm"),
        (("fly",), "fly"),
    ],
)
def test_wrong_input_is_said_without_a_traceback(words, said):
    result = explain(*words, code=2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_out_that_is_a_file_is_bad_input(tmp_path):
    path = tmp_path / "taken"
    path.write_text("x")
    assert "is a file" in explain(*GEMM, "--out", str(path), code=2).stderr


def test_every_kind_of_the_command_can_be_explained():
    assert {kind.name for kind in KINDS} == set(EXPLAINERS)
    assert [words[0] for words in EACH] == [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_help_names_every_flag(kind):
    text = explain(kind.name, "--help").stdout
    assert all(flag.word in text for flag in kind.flags)


def test_help_loads_nothing_heavy():
    code = (
        "import sys, clustersim.cli.explain; "
        "print([m for m in ('numpy', 'numba', 'pydantic', 'rich.table') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
