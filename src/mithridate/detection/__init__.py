"""Detection, one file each: scores that say which training examples may be poisoned, and votes over them."""
