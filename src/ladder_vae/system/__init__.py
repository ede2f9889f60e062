"""The machine: errors, randomness, devices, memory, compilation, files. Knows nothing of models."""
