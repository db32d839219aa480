// An assembly file, even an empty one, allows functions without a body: see the go:linkname lines in main.go.
