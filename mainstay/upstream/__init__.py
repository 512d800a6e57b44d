"""Answers from outside: providers, pooled HTTP, health, the simulator."""
