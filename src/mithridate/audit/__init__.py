"""The grid of attacks, defenses and victims, and its engine. `config` and `names` need no torch."""
