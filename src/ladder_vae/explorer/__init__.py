"""A page on which one plays with the levels of a trained model: the model as a small program, and the page."""
