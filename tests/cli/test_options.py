import pytest

from trimtab.cli._options import flag, make_parser, show_warning, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [("", []), ("TT1", ["TT1"]), ("TT1, loss-spike ,,TT2", ["TT1", "loss-spike", "TT2"])],
)
def test_words_have_commas_between(text, words):
    assert split_words(text) == words


def test_a_warning_is_one_line_on_standard_error(capsys):
    show_warning(UserWarning("Look out."), UserWarning, "file.py", 1)
    assert capsys.readouterr() == ("", "warning: Look out.\n")


def test_options_are_not_abbreviated(capsys):
    parser = make_parser("look", "Look at it.")
    parser.add_argument("--format")
    with pytest.raises(SystemExit):
        parser.parse_args(["--form", "json"])
    assert capsys.readouterr().err.startswith("usage: trimtab look ")


def test_a_flag_has_no_opposite(capsys):
    import tyro

    def look(*, once: flag("Look, and stop.") = False):
        return once

    assert tyro.cli(look, args=["--once"]) is True
    assert tyro.cli(look, args=[]) is False
    with pytest.raises(SystemExit):
        tyro.cli(look, args=["--help"])
    told = capsys.readouterr().out
    assert "Look, and stop." in told
    assert "--no-once" not in told
