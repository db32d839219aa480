"""One command per stage of a training run: prepare, train, evaluate, publish."""
