"""What each level of a run encodes: probes, influence, manipulations, sentences, a page."""
