"""A simulated disk for the real stores: it forgets, fills, fails and kills."""
