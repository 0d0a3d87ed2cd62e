"""The command line: one file a verb, nothing but parsing and printing."""
