from agent.workers.overview import merge_metrics, merge_status

PATH = {
    "path_name": "ip-1->mx",
    "queued": 1,
    "connections": 2,
    "connection_limit": 5,
    "delivered": 3,
    "transient": 4,
    "bounced": 0,
    "suspended_until": None,
}
LIMIT = {"limit": "mx", "units": 2, "of": 5, "floor": 1, "in_use": 1, "wants": 2}


def status(age: float | None, **more: object) -> dict[str, object]:
    return {
        "agent": "mta-1",
        "queues": {"scheduled": 1, "due": 0},
        "held": {},
        "held_queues": [],
        "paths": [],
        "policy": {"age_seconds": age},
        "leases": {"connected": age is not None, "limits": []},
        **more,
    }


def test_samples_of_one_family_stand_together_and_name_their_worker():
    one = '# HELP a A.\n# TYPE a gauge\na{x="1 {2}"} 1.0\n# HELP b B.\n# TYPE b counter\nb 2.0\n'
    other = one.replace("1.0", "3.0") + "# HELP c C.\n# TYPE c gauge\nc 1.0\n"

    assert merge_metrics({"0": one, "1": other}).splitlines() == [
        "# HELP a A.",
        "# TYPE a gauge",
        'a{worker="0",x="1 {2}"} 1.0',
        'a{worker="1",x="1 {2}"} 3.0',
        "# HELP b B.",
        "# TYPE b counter",
        'b{worker="0"} 2.0',
        'b{worker="1"} 2.0',
        "# HELP c C.",
        "# TYPE c gauge",
        'c{worker="1"} 1.0',
    ]


def test_queues_and_paths_are_added_up():
    until = "2026-01-01T00:00:00Z"
    other = {**PATH, "queued": 10, "suspended_until": until}
    merged = merge_status(
        [{"worker": 0}, {"worker": 1}],
        {
            0: status(1.0, paths=[PATH], held={"tenant": 2}),
            1: status(2.0, paths=[other, {**PATH, "path_name": "a"}], held={"tenant": 1}),
        },
    )

    assert merged["queues"] == {"scheduled": 2, "due": 0}
    assert merged["held"] == {"tenant": 3}
    assert [path["path_name"] for path in merged["paths"]] == ["a", "ip-1->mx"]
    path = merged["paths"][1]
    assert (path["queued"], path["connections"], path["connection_limit"]) == (11, 4, 5)
    assert path["suspended_until"] == until
    assert merged["workers"] == [{"worker": 0}, {"worker": 1}]


def test_policy_is_that_of_the_worker_that_heard_of_it_the_longest_ago():
    first, second = status(1.0), status(None)
    first["leases"] = second["leases"] = {"connected": True, "limits": [LIMIT]}

    merged = merge_status([], {0: first, 1: second})

    assert merged["policy"] == {"age_seconds": None}
    (limit,) = merged["leases"]["limits"]
    assert (limit["units"], limit["of"], limit["in_use"], limit["wants"]) == (4, 5, 2, 4)


def test_an_agent_none_of_whose_workers_answers_says_so():
    merged = merge_status([{"worker": 0, "state": "ended"}], {})

    assert merged["paths"] == []
    assert merged["workers"] == [{"worker": 0, "state": "ended"}]
