"""Hypothesis without deadlines: nothing in the tests asserts a time."""

from hypothesis import settings

settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")
