"""Where no section is found, the message shows what is there, and names the format or the folder that fits."""
import pandas as pd
import pytest
from raw_sections import convert, touch, write_section
from visium_folders import add_folder, own_config, two_sections

from common.config import load_config
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


@pytest.mark.parametrize("folder, name", [("Größe (1)", "Größe _1"), ("(neu)", "neu"),
                                          ("Ho\u0308he", "Höhe"), ("()", "sample")])
def test_a_folder_with_signs_that_a_name_has_not_is_a_sample(tmp_path, folder, name):
    add_folder(tmp_path / folder / "s1")
    assert convert("visium", tmp_path / folder, tmp_path / "root") == 0
    assert list(load_config(tmp_path / "root/dataset.yaml").samples) == [name]


def test_a_config_names_a_folder_of_macos(tmp_path):
    """A Mac writes 'ö' as two characters, a keyboard as one."""
    for name in ("Ho\u0308he1", "Ho\u0308he2"):
        add_folder(tmp_path / "raw" / name)
    config = own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "Höhe2", 2: "Höhe1"}}})
    assert convert("visium", tmp_path / "raw", tmp_path / "root", *config) == 0
    raw = load_config(tmp_path / "root/dataset.yaml").samples["b"].raw
    assert raw == {1: "Ho\u0308he2", 2: "Ho\u0308he1"}


def test_archives_that_windows_unpacked_into_folders_of_their_names(tmp_path):
    """V1_spatial.tar.gz becomes V1_spatial/spatial/."""
    section = tmp_path / "raw/s1"
    add_folder(section)
    (section / "V1_spatial").mkdir()
    (section / "spatial").rename(section / "V1_spatial/spatial")
    assert convert("visium", tmp_path / "raw", tmp_path / "root") == 0
    assert len(pd.read_csv(tmp_path / "root/location/raw/1.csv")) == 15
