"""A real Kubernetes of one node or several for the tests: build it, start it, break it, leave nothing behind.

The way through the modules: `binaries` and `standin` make what a node needs, `pki` its certificates, `components` says
how each process is started, `supervisor` is the first process of a node, `objects` what its API server is given,
`lifecycle` ties them.
"""
