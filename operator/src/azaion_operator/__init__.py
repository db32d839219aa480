"""The operator: observe, plan, apply, publish."""
