"""The nouns of the system as plain values, and the one shape of everything that answers; standard library only."""
