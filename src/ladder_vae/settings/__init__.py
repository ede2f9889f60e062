"""Settings: their schema, the command line, the composition of a configuration."""
