"""Benchmarks: the harness times contenders, providers build them, suites say what is measured; bench_*.py start suites.

Imports go down only: bench_*.py, suites, providers, harness. README.md has the protocol.
"""
