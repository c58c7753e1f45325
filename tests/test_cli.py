import io
import json
import os
import subprocess
import sys

import pytest

from rerankx import __version__
from rerankx.cli import main

TEXTS = "The refund takes ten days\n\nCats sleep all day\n"


@pytest.fixture
def stdin(monkeypatch):
    def give(text):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return give


def rows(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_lines_come_back_ranked_as_json_with_their_line_number_and_none_is_lost(stdin, capsys):
    stdin(TEXTS)
    assert main(["rerank", "how long until my money is back"]) == 0
    got = rows(capsys)
    assert [(r["rank"], r["index"], r["document"]) for r in got] == [
        (1, 0, "The refund takes ten days"),
        (2, 2, "Cats sleep all day"),
        (3, 1, ""),
    ]
    assert got[2]["raw_score"] is None
    assert 0 <= got[1]["score"] < got[0]["score"] <= 1


def test_json_lines_may_be_objects_or_strings_and_come_back_whole(stdin, capsys):
    stdin('{"id": 7, "body": "refunds"}\n"cats"\n')
    assert main(["rerank", "refund", "--jsonl", "--field", "body"]) == 0
    assert [r["document"] for r in rows(capsys)] == [{"id": 7, "body": "refunds"}, "cats"]


def test_texts_are_read_from_a_file(tmp_path, capsys):
    (tmp_path / "texts").write_text("naïve café\nplain\n", encoding="utf-8")
    assert main(["rerank", "café", "--file", str(tmp_path / "texts"), "--top-n", "1"]) == 0
    assert [r["document"] for r in rows(capsys)] == ["naïve café"]


def test_min_score_filters(stdin, capsys):
    stdin("refund\nzebra\n")
    assert main(["rerank", "refund", "--min-score", "0.5"]) == 0
    assert [r["document"] for r in rows(capsys)] == ["refund"]


def test_no_text_is_no_output(stdin, capsys):
    stdin("")
    assert main(["rerank", "refund"]) == 0
    assert capsys.readouterr().out == ""


def test_a_cut_text_is_said_on_standard_error(stdin, capsys):
    stdin("word " * 1000)
    assert main(["rerank", "word", "--option", "max_tokens=32"]) == 0
    assert "1 of 1 texts were cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text", "message"),
    [
        (["rerank", " "], "a\n", "query is blank"),
        (["rerank", "q", "--top-n", "0"], "a\n", "top_n must be at least 1"),
        (["rerank", "q", "--backend", "embeded"], "a\n", "did you mean 'embedded'?"),
        (["rerank", "q", "--option", "max_token=9"], "a\n", "did you mean 'max_tokens'?"),
        (["rerank", "q", "--option", "max_tokens"], "a\n", "--option takes NAME=VALUE"),
        (["rerank", "q", "--jsonl"], '{"text": "a"}\nnot json\n', "line 2 is not JSON"),
        (
            ["rerank", "q", "--jsonl"],
            '{"txt": "a"}\n',
            "line 1 is neither a string nor an object with a string in 'text'",
        ),
        (["rerank", "q", "--file", "missing-file"], "", "missing-file"),
    ],
)
def test_wrong_input_is_named_and_exits_with_2(argv, text, message, stdin, capsys):
    stdin(text)
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_model_that_is_not_there_exits_with_1(stdin, capsys):
    stdin("a\n")
    assert main(["rerank", "q", "--backend", "embedded:other"]) == 1
    assert "no 'other'" in capsys.readouterr().err


def test_an_unknown_command_exits_with_2():
    with pytest.raises(SystemExit) as exit_:
        main(["frobnicate"])
    assert exit_.value.code == 2


@pytest.mark.parametrize("argv", [[], ["demo"], ["rerank"], ["backends"]])
def test_every_command_has_help(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*argv, "--help"])
    assert exit_.value.code == 0
    assert "usage: rerankx" in capsys.readouterr().out


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"rerankx {__version__}"


def test_backends_lists_what_is_installed(capsys):
    assert main(["backends"]) == 0
    first = capsys.readouterr().out.splitlines()[0].split()
    assert first[:2] == ["embedded", "installed"]


def test_backends_says_what_is_missing_and_what_installs_it(monkeypatch, capsys):
    from rerankx import registry

    entry = registry.Entry("nowhere:None", "a test", requires=("no_such_package",), extra="testing")
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "absent": entry})
    assert main(["backends"]) == 0
    assert "missing no_such_package: pip install 'rerankx[testing]'" in capsys.readouterr().out
    assert main(["rerank", "q", "--backend", "absent"]) == 1
    assert "pip install 'rerankx[testing]'" in capsys.readouterr().err


def test_the_demo_shows_both_orders_and_no_bar_without_a_terminal(capsys):
    assert main(["demo"]) == 0
    printed = capsys.readouterr()
    assert "40 questions:" in printed.out
    assert "keyword search" in printed.out
    assert printed.err == ""


def test_the_demo_draws_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["demo"]) == 0
    assert "] 40/40" in capsys.readouterr().err


def test_the_demo_takes_a_question_of_your_own(capsys):
    assert main(["demo", "pause my plan", "--top-n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pause my plan"
    assert len(lines) == 5


def test_a_reader_that_stops_early_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "rerankx.cli", "rerank", "q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, err = process.communicate("some text\n" * 3000, timeout=120)
    assert err == ""
    assert process.returncode == 0


def test_half_a_surrogate_pair_survives_as_its_escape(tmp_path):
    (tmp_path / "texts").write_text('"half \\ud83d"\n"\u9000\u6b3e"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "rerankx.cli", "rerank", "half", "--jsonl", "--file", str(tmp_path / "texts")],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert {json.loads(line)["document"] for line in done.stdout.splitlines()} == {"half \ud83d", "\u9000\u6b3e"}


def test_text_that_is_not_utf_8_is_named(tmp_path, capsys):
    (tmp_path / "texts").write_bytes(b"caf\xe9\n")
    assert main(["rerank", "q", "--file", str(tmp_path / "texts")]) == 2
    assert "utf-8" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["demo"], ["demo", "pause my plan"], ["backends"]])
def test_a_terminal_that_has_no_arrows_is_no_obstacle(argv):
    env = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-m", "rerankx.cli", *argv], capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, capsys):
    (tmp_path / "texts").write_bytes(b'\xef\xbb\xbf"a cat"\n\n"a dog"\n')
    assert main(["rerank", "cat", "--jsonl", "--file", str(tmp_path / "texts")]) == 0
    assert [(r["index"], r["document"]) for r in rows(capsys)] == [(0, "a cat"), (1, "a dog")]


def test_json_too_deep_to_read_is_named(stdin, capsys):
    stdin("[" * 200_000 + "\n")
    assert main(["rerank", "q", "--jsonl"]) == 2
    assert "line 1 is not JSON" in capsys.readouterr().err


def test_control_characters_of_a_text_do_not_reach_the_terminal(stdin, capsys):
    stdin("a\x9b31m b\x7f\n")
    assert main(["rerank", "q"]) == 0
    out = capsys.readouterr().out
    assert not {"\x9b", "\x7f"} & set(out)
    assert json.loads(out)["document"] == "a\x9b31m b\x7f"


@pytest.mark.parametrize("option", ["--top-n", "--candidates"])
def test_the_demo_needs_at_least_one(option, capsys):
    assert main(["demo", "q", option, "0"]) == 2
    assert f"{option} must be at least 1" in capsys.readouterr().err


def test_an_option_without_a_value_is_not_repeated(stdin, capsys):
    stdin("a\n")
    assert main(["rerank", "q", "--option", "sk-secret"]) == 2
    assert "sk-secret" not in capsys.readouterr().err
