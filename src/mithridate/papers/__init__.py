"""Published systems, each reproduced by one command; one file a system."""
