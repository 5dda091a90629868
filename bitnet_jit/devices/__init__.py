"""Where tensors live: what a device is, and how calls are timed there."""
