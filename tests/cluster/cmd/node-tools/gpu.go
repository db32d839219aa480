package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	devices "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	resources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

const (
	gpuSocket          = "azaion-test-gpu.sock"
	podResourcesSocket = "unix:///var/lib/kubelet/pod-resources/kubelet.sock"
	// How often the kubelet is asked who holds the device, and whether it was restarted.
	gpuPollInterval = 250 * time.Millisecond
)

// gpuPlugin offers devices that do not exist, so that pods can ask for nvidia.com/gpu on a machine without one.
// What it sees goes to a log of JSON lines, which lets tests judge exclusiveness without asking the operator:
//
//	{"time", "event": "Started"}                                        the plugin begins; whoever holds a device is Held anew
//	{"time", "event": "Allocated", "devices"}                           the kubelet hands devices to a container
//	{"time", "event": "Held", "device", "namespace", "pod", "container"}     a pod is first seen holding a device
//	{"time", "event": "Released", "device", "namespace", "pod", "container"} it is no longer seen
type gpuPlugin struct {
	devices.UnimplementedDevicePluginServer
	resource string
	names    []string
	log      *json.Encoder
}

type gpuEvent struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	Devices   []string  `json:"devices,omitempty"`
	Device    string    `json:"device,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Container string    `json:"container,omitempty"`
}

type gpuHolder struct{ device, namespace, pod, container string }

func (p *gpuPlugin) record(event gpuEvent) {
	event.Time = time.Now().UTC()
	if err := p.log.Encode(event); err != nil {
		log.Printf("gpu: cannot write the event log: %v", err)
	}
}

func (p *gpuPlugin) GetDevicePluginOptions(context.Context, *devices.Empty) (*devices.DevicePluginOptions, error) {
	return &devices.DevicePluginOptions{}, nil
}

func (p *gpuPlugin) ListAndWatch(_ *devices.Empty, stream grpc.ServerStreamingServer[devices.ListAndWatchResponse]) error {
	response := &devices.ListAndWatchResponse{}
	for _, name := range p.names {
		response.Devices = append(response.Devices, &devices.Device{ID: name, Health: devices.Healthy})
	}
	if err := stream.Send(response); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *gpuPlugin) Allocate(_ context.Context, request *devices.AllocateRequest) (*devices.AllocateResponse, error) {
	response := &devices.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		p.record(gpuEvent{Event: "Allocated", Devices: container.DevicesIds})
		response.ContainerResponses = append(response.ContainerResponses, &devices.ContainerAllocateResponse{})
	}
	return response, nil
}

// serve registers with the kubelet, if it is there, and serves until the kubelet, having restarted, has removed our socket.
func (p *gpuPlugin) serve(ctx context.Context) error {
	path := filepath.Join(devices.DevicePluginPath, gpuSocket)
	if _, err := os.Stat(devices.KubeletSocket); err != nil {
		return nil // the kubelet is not there yet; the caller tries again
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	devices.RegisterDevicePluginServer(server, p)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	defer server.Stop()

	connection, err := grpc.NewClient("unix://"+devices.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = devices.NewRegistrationClient(connection).Register(limited, &devices.RegisterRequest{
		Version: devices.Version, Endpoint: gpuSocket, ResourceName: p.resource,
		Options: &devices.DevicePluginOptions{},
	})
	if err != nil {
		return fmt.Errorf("registering %s: %w", p.resource, err)
	}
	log.Printf("gpu: registered %d x %s", len(p.names), p.resource)
	poll := time.NewTicker(gpuPollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-poll.C:
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("the kubelet removed our socket, so it was restarted: %w", err)
			}
		}
	}
}

func (p *gpuPlugin) holders(ctx context.Context, client resources.PodResourcesListerClient) ([]gpuHolder, error) {
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := client.List(limited, &resources.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	var found []gpuHolder
	for _, pod := range answer.PodResources {
		for _, container := range pod.Containers {
			for _, held := range container.Devices {
				if held.ResourceName != p.resource {
					continue
				}
				for _, device := range held.DeviceIds {
					found = append(found, gpuHolder{device, pod.Namespace, pod.Name, container.Name})
				}
			}
		}
	}
	return found, nil
}

// observe records who starts and stops holding a device, as the kubelet's own pod resources say it.
func (p *gpuPlugin) observe(ctx context.Context) {
	connection, err := grpc.NewClient(podResourcesSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatalf("gpu: %v", err)
	}
	defer connection.Close()
	client := resources.NewPodResourcesListerClient(connection)
	var before []gpuHolder
	poll := time.NewTicker(gpuPollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
		now, err := p.holders(ctx, client)
		if err != nil {
			continue // the kubelet is away; its pods go on holding what they have
		}
		for _, change := range []struct {
			event     string
			from, not []gpuHolder
		}{{"Released", before, now}, {"Held", now, before}} {
			for _, holder := range change.from {
				if !slices.Contains(change.not, holder) {
					p.record(gpuEvent{Event: change.event, Device: holder.device, Namespace: holder.namespace,
						Pod: holder.pod, Container: holder.container})
				}
			}
		}
		before = now
	}
}

// runGPU is the device plugin: it survives the kubelet's restarts by registering again.
func runGPU() {
	flags := flag.NewFlagSet("gpu-device-plugin", flag.ExitOnError)
	resource := flags.String("resource", "nvidia.com/gpu", "extended resource to offer")
	count := flags.Int("count", 1, "number of devices")
	path := flags.String("log", "", "file the events are appended to, one JSON object a line")
	_ = flags.Parse(os.Args[1:]) // ExitOnError: it never returns one
	file, err := os.OpenFile(*path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gpu: cannot open the event log: %v\n", err)
		os.Exit(1)
	}
	plugin := &gpuPlugin{resource: *resource, log: json.NewEncoder(file)}
	for i := range *count {
		plugin.names = append(plugin.names, fmt.Sprintf("GPU-test-%d", i))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// What was held when the plugin was last killed may never be seen released.
	plugin.record(gpuEvent{Event: "Started"})
	go plugin.observe(ctx)
	for ctx.Err() == nil {
		if err := plugin.serve(ctx); err != nil {
			log.Printf("gpu: %v", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(gpuPollInterval):
		}
	}
}
