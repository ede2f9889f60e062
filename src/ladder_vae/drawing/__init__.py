"""Arrays in, files out: grids of images, charts, pages."""
