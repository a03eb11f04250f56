"""The files of tests/spec are the definition of the format: what loads, and what is refused how."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clustersim.errors import SpecError
from clustersim.spec.documents import read_document
from clustersim.spec.resolve import dump_scenario, load_scenario

FOLDER = Path(__file__).parents[2] / "spec"
VALID = sorted((FOLDER / "valid").glob("*.yaml"))
INVALID = sorted((FOLDER / "invalid").glob("*.yaml"))


def expected(path: Path, word: str) -> list[str]:
    """Return the messages that the leading comment of a file promises."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_file_loads_and_its_resolved_text_loads_to_the_same_record(path, tmp_path):
    scenario = load_scenario(path)
    text = dump_scenario(scenario)
    copy = tmp_path / "resolved.yaml"
    copy.write_text(text, encoding="utf-8")
    again = load_scenario(copy)
    assert again == scenario
    assert dump_scenario(again) == text


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_file_is_refused_with_the_place_and_the_fix(path):
    begin = time.perf_counter()
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    elapsed_s = time.perf_counter() - begin
    text = str(caught.value)
    messages = expected(path, "# expect:")
    assert messages
    for message in messages:
        assert message in text
    for fix in expected(path, "# fix:"):
        assert fix in text
    assert all(problem.fix for problem in caught.value.problems)
    assert elapsed_s < 1.0


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_the_quoted_line_is_the_line_named(path):
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    for problem in caught.value.problems:
        lines = Path(problem.file).read_text(encoding="utf-8").splitlines()
        assert problem.source_line == lines[problem.line - 1].strip()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"---\n...\n", "the file is empty"),
        (b"kind: training\0\n", "is a binary file: it holds a NUL byte at byte 14"),
        (b"\x89PNG\r\n\x1a\n", "is a binary file: byte 0 (0x89) is not UTF-8"),
        (b"name: a\n\tb: 1\n", "is not YAML"),
        (b"name: [1, 2\n", "is not YAML"),
        (b"just words\n", "the file holds the value 'just words', not a mapping"),
        (b"a: 1\n---\nb: 2\n", "a second document begins here"),
        (b"%YAML 1.1\n---\na: yes\n", "is not YAML 1.2"),
        (b"a: !!int 5\n", "the YAML tag !!int is not allowed"),
        (b"a: !mine 5\n", "the YAML tag !mine is not allowed"),
        (b"!!map {a: 5}\n", "the YAML tag !!map is not allowed"),
        (b"!!str a: 5\n", "the YAML tag !!str is not allowed"),
        (b"a: *nothing\n", "the alias *nothing repeats no complete value"),
        (b"? [a, b]\n: 5\n", "a key must be a word"),
        (b"a: " + b"[" * 500 + b"]" * 500, "is nested more than 40 deep"),
        (b"a: [" + b"1, " * 30_000 + b"]", "holds more than 20,000 values"),
        (b"a: " + b"x" * 2**20, "is too large for a file of this kind"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_once(content, message, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].file == str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: .nan\n", ".nan is not a number that fits"),
        (b"a: 1e999\n", "1e999 is not a number that fits"),
        (b"a: 99999999999999999999\n", "99999999999999999999 is not a number that fits"),
        (b"a: " + b"9" * 10_000, "is not a number that fits"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(content, message, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_document(path)
    assert message in str(caught.value)
    assert read_document(path, lenient=True).broken[0][0] == ("a",)


def test_a_tag_runs_nothing(tmp_path):
    witness = tmp_path / "witness"
    path = tmp_path / "x.yaml"
    path.write_text(f"a: !!python/object/apply:os.system ['touch {witness}']\n")
    with pytest.raises(SpecError, match="is not allowed"):
        load_scenario(path)
    assert not witness.exists()


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(SpecError, match="is a folder"):
        load_scenario(tmp_path)
    with pytest.raises(SpecError, match="there is no file"):
        load_scenario(tmp_path / "nothing.yaml")
