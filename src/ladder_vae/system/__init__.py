"""The machine, from streams, signals, files and locks, to devices and compilation; it knows no model."""
