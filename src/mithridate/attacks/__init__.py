"""Attacks, one file each: from what the attacker has and wants to a poison pack."""
