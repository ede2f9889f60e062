"""How fast ladder_vae is, against the usual way and against what it could be: `make bench`."""
