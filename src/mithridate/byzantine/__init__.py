"""Training among nodes of which some lie: messages, transports, broadcast layers, agreement, protocols, processes."""
