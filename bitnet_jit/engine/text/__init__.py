"""Text for many requests at once: scheduler, worker, cache of prefixes, and the handles that callers get."""
