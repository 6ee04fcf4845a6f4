"""Orders: what an operator has ordered for the queues of this agent, in memory and on disk."""
