"""Services of Python and the operating system: files, memory, cores, forks, signals."""
