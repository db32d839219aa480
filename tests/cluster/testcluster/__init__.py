"""A real single-node Kubernetes for the tests: build it, start it, break it, leave nothing behind.

The way through the modules: `binaries` and `standin` make what a node needs, `components` says how each process is
started, `supervisor` is the first process of a cluster, `objects` what its API server is given, `lifecycle` ties them.
"""
