"""The status page: one read-only page from the operator's caches, for a tab that stays open as long as a training."""
