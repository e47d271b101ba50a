"""Structured pruning: groups that go together, what each costs, where to cut, and the plan that rebuilds the result."""
