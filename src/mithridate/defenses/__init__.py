"""Defenses: one public file a defense, each an arrow from plans to plans. Nothing is imported here."""
