"""What is asked of a network for one image, and what its answer says; a module a kind of task, found by `table`."""
