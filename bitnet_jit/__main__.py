"""`python -m bitnet_jit`: the command `bitnet-jit`."""

from bitnet_jit.cli import main

if __name__ == "__main__":
    main()
