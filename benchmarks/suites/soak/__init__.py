"""Minutes of mixed load on a server on loopback: answers, streams, clients that leave, and what the server holds."""
