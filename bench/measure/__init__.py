"""Latency, memory and energy of one model in a fresh process; load scenarios; what the machine is."""
