"""What to have looked at before, during and after a training; checked by the program where it can be."""
