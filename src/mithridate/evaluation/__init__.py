"""What a trained network does: attack success, clean accuracy, alignment."""
