// Command kindcheck reads a kind configuration exactly as `kind create cluster` would, without needing Docker:
//
//	kindcheck kind-config.yaml
//
// It prints one line about the cluster the file describes, or the first error kind itself would report, and then exits 1.
package main

import (
	"fmt"
	"os"
	"unsafe" // also allows go:linkname

	_ "sigs.k8s.io/kind/pkg/cluster" // links the functions named below
)

// kind keeps its loader and its validation in internal packages. They are called by their link names, so that this is
// kind's own strict decoding, defaulting and judgement and not a copy of them. A kind version that renames them fails
// to link, which a build notices.

//go:linkname kindLoad sigs.k8s.io/kind/pkg/internal/apis/config/encoding.Load
func kindLoad(path string) (unsafe.Pointer, error)

//go:linkname kindDefault sigs.k8s.io/kind/pkg/internal/apis/config.SetDefaultsCluster
func kindDefault(cluster unsafe.Pointer)

//go:linkname kindValidate sigs.k8s.io/kind/pkg/internal/apis/config.(*Cluster).Validate
func kindValidate(cluster unsafe.Pointer) error

// header mirrors the first fields of kind's internal Cluster; see pkg/internal/apis/config/types.go.
type header struct {
	Name  string
	Nodes []struct{}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kindcheck FILE")
		os.Exit(2)
	}
	path := os.Args[1]
	cluster, err := kindLoad(path)
	if err == nil {
		kindDefault(cluster) // as kind does once the command line has been applied
		err = kindValidate(cluster)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
		os.Exit(1)
	}
	read := (*header)(cluster)
	fmt.Printf("%s: cluster %q, %d node(s)\n", path, read.Name, len(read.Nodes))
}
