"""A page on which one plays with the levels of a trained model, which runs in it as a small program."""
