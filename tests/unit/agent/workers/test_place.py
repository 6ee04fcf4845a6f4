"""Where a process stands among those of its agent."""

from pathlib import Path

import pytest

from agent.workers.place import Place, shard_dir


def test_leases_and_the_file_that_counts_starts_are_of_the_same_process_whatever_workers_is():
    several = [Place(number=number, workers=4, has_parent=True) for number in range(4)]
    places = [Place(), Place(has_parent=True), *several]

    by_name: dict[str, set[Path]] = {}
    for place in places:
        by_name.setdefault(place.lease_name, set()).add(shard_dir(Path("data"), place.number))

    assert by_name == {
        "": {Path("data")},
        "worker-1": {Path("data/worker-1")},
        "worker-2": {Path("data/worker-2")},
        "worker-3": {Path("data/worker-3")},
    }


@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param(Place(), "", id="the only process"),
        pytest.param(Place(workers=2, has_parent=True), "worker-0", id="the first of two"),
        pytest.param(Place(number=1, has_parent=True, is_draining=True), "worker-1", id="draining"),
    ],
)
def test_each_process_is_known_for_itself_where_there_are_several(place: Place, name: str):
    assert place.name == name
