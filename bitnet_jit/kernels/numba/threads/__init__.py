"""Run one jitted function on several threads, and share the work among them."""
