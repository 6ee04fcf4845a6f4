import pytest

from examples.demo.layout import DemoError, claim


def test_a_directory_is_emptied_of_an_earlier_run(tmp_path):
    place = tmp_path / "demo"
    with claim(place):
        (place / "server").mkdir()
        (place / "server" / "penstock.db").write_text("x")
        (place / "sink.out").write_text("x")

    with claim(place):
        assert [path.name for path in place.iterdir()] == [".penstock-demo"]


def test_two_runs_at_once_in_one_directory_are_refused_in_words(tmp_path):
    with claim(tmp_path / "demo"):
        (tmp_path / "demo" / "sink.out").write_text("x")

        with pytest.raises(DemoError, match="another demo is running in"), claim(tmp_path / "demo"):
            pass

        assert (tmp_path / "demo" / "sink.out").exists()


def test_files_that_are_not_the_demos_stay(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")

    with pytest.raises(DemoError, match="name another one"), claim(tmp_path):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
