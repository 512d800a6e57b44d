"""Keys, teams, limits and budgets: who may do how much."""
