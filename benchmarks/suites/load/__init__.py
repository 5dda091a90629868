"""Load on a server: when requests come and how long they are, one client for each, and the figures of their answers."""
