"""
The main job on loopback: a policy server, two agents, three simulated mailbox providers.

`rules.toml`, `sink.toml`, `agent.toml` and `server.toml` here are what an engineer would write;
`$names` in them are filled in for each run, because ports are chosen by the system.
"""
