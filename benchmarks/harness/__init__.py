"""The harness: work with its right answers, timing in turns, limits of the machine, reports and pictures."""
