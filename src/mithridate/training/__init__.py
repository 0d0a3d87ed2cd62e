"""Training: a plan in phases, a step of seven stages, one loop. Nothing is imported here."""
