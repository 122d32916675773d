"""What happens between the two sides: one run's log, fed by an upstream call, read by any number of cursors."""
