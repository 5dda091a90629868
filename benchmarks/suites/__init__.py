"""Suites: one module per benchmark, whose `run` takes a command line, prints a table and returns the figures."""
