package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"time"
)

// A socket stays in the network namespace it was made in. The launcher makes the listening socket in the host's
// namespace and this process, living in the cluster's, inherits it: the one door between the two networks.

func closeWrite(connection net.Conn) {
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // the other side may be gone already
	}
}

func relay(client net.Conn, target string) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", target, 10*time.Second)
	if err != nil {
		log.Printf("forward: %v", err)
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			// An error ends this direction only; which side broke first is of no interest here.
			_, _ = io.Copy(pair[1], pair[0])
			closeWrite(pair[1])
		})
	}
	both.Wait()
}

// runForward accepts on an inherited listening socket and relays every connection to a TCP address.
func runForward() {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	descriptor := flags.Uint("listen-fd", 3, "inherited descriptor of the listening socket")
	target := flags.String("to", "", "address to relay to, as HOST:PORT")
	_ = flags.Parse(os.Args[1:]) // ExitOnError: it never returns one
	listener, err := net.FileListener(os.NewFile(uintptr(*descriptor), "listener"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "forward: descriptor %d is no listening socket: %v\n", *descriptor, err)
		os.Exit(1)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatalf("forward: %v", err)
		}
		go relay(client, *target)
	}
}
