"""Forms data sets, trains, evaluates, exports and publishes: one command for each stage of a TrainingRun."""
