"""The machine: errors, randomness, devices, memory, compilation, files. Nothing here knows a model."""
