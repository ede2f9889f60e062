"""Drawing takes arrays and writes files: grids of images, charts, pages."""
