"""What Python and the operating system give: files, memory, cores, forks, signals."""
