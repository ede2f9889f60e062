"""A bundle of a run, which opens with nothing of this package: graphs, weights, a card, a page."""
