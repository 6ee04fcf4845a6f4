"""
A fleet on a virtual clock that shares limits: the real book, the real holders, a bad network.

`scenario` says what happens and `world` runs it; `agent`, `server` and `network` are its parts,
`faults` what goes wrong with them. `checks` holds what was promised against what is, after every
event; `findings` says what came of it. Everything is drawn from one seed, so a run is repeated by
its seed. Only the standard library is needed, and the pure parts of the agent and of the server.
"""
