from policy_server.services.announced_sources import AnnouncedSources


def test_sources_of_one_agent_are_not_shared_however_often_it_connects():
    announced = AnnouncedSources()

    assert announced.add("mta-1", ["ip-1"]) == {}
    assert announced.add("mta-1", ["ip-1"]) == {}

    assert announced.count_shared() == 0


def test_a_source_is_shared_as_long_as_two_agents_have_it():
    announced = AnnouncedSources()
    announced.add("mta-1", ["ip-1", "ip-2"])
    announced.add("mta-2", ["ip-2", "ip-3"])

    assert announced.add("mta-3", ["ip-2"]) == {"ip-2": ("mta-1", "mta-2")}
    announced.remove("mta-1", ["ip-1", "ip-2"])
    assert announced.count_shared() == 1
    announced.remove("mta-3", ["ip-2"])
    assert announced.count_shared() == 0
