// Command node-tools is what the test cluster needs beside Kubernetes: certificates, a door to the machine's network,
// and a GPU that is not there. It is a binary of its own because every process of the Kubernetes one costs 100 MB.
package main

import (
	"fmt"
	"os"
)

var tools = map[string]func(){
	"pki":               runPKI,
	"forward":           runForward,
	"gpu-device-plugin": runGPU,
}

func main() {
	if len(os.Args) > 1 {
		if run, ok := tools[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			run()
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: node-tools pki|forward|gpu-device-plugin FLAGS")
	os.Exit(2)
}
