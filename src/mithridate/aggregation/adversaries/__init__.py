"""Row adversaries: what hostile workers submit, one public file an attack. Nothing is imported here."""
