"""What everything stands on, without torch: errors, units, checked parameters, artefacts, the ledger, statistics."""
