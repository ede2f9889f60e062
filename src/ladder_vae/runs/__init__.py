"""The run directory: its record, names of metrics, checkpoints, releases. The first two need no PyTorch."""
