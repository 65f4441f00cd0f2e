"""Processes, devices and run folders; of this project it knows `core` alone."""
