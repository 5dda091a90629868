"""What kernels are compiled for, how they are launched, and the steps that they share."""
