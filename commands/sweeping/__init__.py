"""What the sweep mode is made of: its trials, its workers and its record."""
