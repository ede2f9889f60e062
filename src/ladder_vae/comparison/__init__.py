"""Groups of runs: tables, charts, a report."""
