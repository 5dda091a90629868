"""The targets of the engine, a file each: what each asks for, how it is measured here, and whether it is met."""
