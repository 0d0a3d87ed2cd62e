"""How frames travel: a deterministic simulator with an adversary in charge of delivery, and gRPC over mutual TLS."""
