// Command manifestcheck reads Kubernetes objects as one version of Kubernetes would, and refuses what it does not know:
//
//	helm template azaion charts/azaion | manifestcheck
//
// It is built against the k8s.io modules of the oldest and of the newest Kubernetes the chart is for, so that a kind or
// a field that one of them lacks is found without a cluster of that version. It prints one line for each object that is
// wrong and then exits 1; at the end, how many objects it read and with which version's types.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	kyaml "sigs.k8s.io/yaml"
)

// Objects of these groups are described by definitions of their own, not by Kubernetes.
var foreign = map[string]bool{
	"azaion.com":            true,
	"monitoring.coreos.com": true,
}

type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, module := range info.Deps {
		if module.Path == "k8s.io/api" {
			if module.Replace != nil {
				return module.Replace.Version
			}
			return module.Version
		}
	}
	return "unknown"
}

func main() {
	if err := apiextensions.AddToScheme(scheme.Scheme); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	strict := json.NewSerializerWithOptions(
		json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true},
	)
	documents := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	read, skipped, wrong := 0, 0, 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		var about head
		if err := kyaml.Unmarshal(document, &about); err != nil {
			fmt.Printf("not YAML: %v\n", err)
			wrong++
			continue
		}
		if about.Kind == "" && about.APIVersion == "" {
			continue // a comment between two lines of dashes
		}
		group, err := schema.ParseGroupVersion(about.APIVersion)
		if err == nil && foreign[group.Group] {
			skipped++
			continue
		}
		read++
		if _, _, err := strict.Decode(document, nil, nil); err != nil {
			fmt.Printf("%s %s/%s: %v\n", about.APIVersion, about.Kind, about.Metadata.Name, err)
			wrong++
		}
	}
	fmt.Printf("k8s.io/api %s: %d objects read, %d of other groups skipped, %d wrong\n", version(), read, skipped, wrong)
	if wrong > 0 || read == 0 {
		os.Exit(1)
	}
}
