"""One pure builder per object the operator makes."""
