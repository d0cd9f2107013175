"""Where no section is found, the message shows what is there, and names the format or the folder that fits."""
import pytest
from raw_sections import convert, touch, write_section
from visium_folders import two_sections

from data_preprocessing.readers import shown


def test_the_names_that_are_there_are_shown(tmp_path, capsys):
    touch(*(tmp_path / "raw" / f"P2_ST_rep{k}_x_stdata.tsv" for k in range(14)), tmp_path / "raw" / "._hidden.h5ad")
    assert convert("visium", tmp_path / "raw", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert "P2_ST_rep0_x_stdata.tsv" in error and "4 more" in error and "._hidden" not in error
    assert error.count("\n") == 1 and "correct --raw_path" in error


def test_of_folders_alone_the_first_is_opened(tmp_path, capsys):
    touch(tmp_path / "raw" / "s1" / "x.loom", tmp_path / "raw" / "s2" / "x.loom")
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert "s1/, s2/" in error and "x.loom" in error


@pytest.mark.parametrize("form", ["h5ad", "her2st", "stnet", "asign"])
def test_another_format_is_named(tmp_path, capsys, form):
    raw = two_sections(tmp_path / "block")
    assert convert(form, raw, tmp_path / "root") == 2
    assert "--format visium" in capsys.readouterr().err


def test_an_anndata_folder_given_as_visium(tmp_path, capsys):
    write_section(tmp_path / "raw" / "A_rep01.h5ad")
    assert convert("visium", tmp_path / "raw", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert "AnnData" in error and "--format h5ad" in error and "stnet" not in error


def test_a_folder_too_high_or_too_low(tmp_path, capsys):
    write_section(tmp_path / "study" / "tables" / "A_rep01.h5ad")
    assert convert("h5ad", tmp_path / "study", tmp_path / "root") == 2
    assert f"--raw_path {tmp_path / 'study' / 'tables'};" in capsys.readouterr().err.replace("\n", ";")
    raw = two_sections(tmp_path / "block")
    assert convert("visium", raw / "section2" / "spatial", tmp_path / "root") == 2
    assert f"--raw_path {raw / 'section2'};" in capsys.readouterr().err.replace("\n", ";")


def test_shown():
    assert shown([]) == "nothing" and shown(["a", "b"]) == "a, b" and shown(list("abcd"), 2) == "a, b and 2 more"
