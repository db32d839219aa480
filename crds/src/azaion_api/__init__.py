"""What the operator and its pods agree on: resources, reports, names, directories, outcomes, logs."""
