// A program that is on the air: registered while it runs, and following a service.
//
// What happens it says as lines of JSON. Ends with 0 when it was asked to (SIGTERM, SIGINT), with 3 when another process
// took its key.
package main

//go:generate buf generate ../../proto --path ../../proto/onair/v1

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	onairv1 "onair.example/go/stubs/onair/v1"
)

const exitSuperseded = 3

type facts map[string]any

// Say is told what happens.
type Say func(event string, told facts)

var output sync.Mutex

// say writes a line: messages as JSON has them, 64-bit numbers as text, since JSON's end at 2^53.
func say(event string, told facts) {
	line := map[string]any{"event": event, "at": time.Now().UnixMilli()}
	for name, value := range told {
		line[name] = plain(value)
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // of values that this program chose
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(text))
}

func plain(value any) any {
	switch value := value.(type) {
	case uint64:
		return strconv.FormatUint(value, 10)
	case proto.Message:
		text, err := protojson.Marshal(value)
		if err != nil {
			panic(err) // what was received can be written
		}
		return json.RawMessage(text)
	}
	return value
}

type program struct {
	registry, service, id, watch string
	port                         uint
	ttl, drain                   float64

	line   *Line
	keeper *Keeper
	// The last revision that was seen, if nobody took it yet.
	changed chan uint64
}

func main() {
	p := program{changed: make(chan uint64, 1)}
	flag.StringVar(&p.registry, "registry", "127.0.0.1:6624", "host:port")
	flag.StringVar(&p.service, "service", "", "what to register")
	flag.StringVar(&p.id, "id", "", "which copy of it; made up by the registry if left out")
	flag.UintVar(&p.port, "port", 8080, "where it would listen")
	flag.Float64Var(&p.ttl, "ttl", 10, "seconds that it lives without a beat")
	flag.StringVar(&p.watch, "watch", "", "the service to follow; its own if left out")
	flag.Float64Var(&p.drain, "drain", 5, "seconds that clients have to hear that it leaves")
	flag.Parse()
	if p.watch == "" {
		p.watch = p.service
	}
	err := p.run()
	if superseded := (*SupersededError)(nil); errors.As(err, &superseded) {
		say("superseded", facts{"holder": superseded.Holder})
		os.Exit(exitSuperseded)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }

func (p *program) run() error {
	// A line of its own for the lease: whatever else there is to read, beats do not wait behind it.
	leaseLine, err := NewLine(p.registry)
	if err != nil {
		return err
	}
	if p.line, err = NewLine(p.registry); err != nil {
		return err
	}
	metadata, err := structpb.NewValue(map[string]any{"language": "go"})
	if err != nil {
		return err
	}
	instance := &onairv1.Instance{Service: p.service, Id: p.id, Port: uint32(p.port), Version: "1.0.0", Metadata: metadata}
	p.keeper = NewKeeper(leaseLine, instance, seconds(p.ttl), say)

	toldToStop, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	working, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 3)
	for _, work := range []func(context.Context) error{p.keeper.Run, p.follow, p.ask} {
		go func() { ended <- work(working) }()
	}
	select {
	case <-toldToStop.Done():
		stop() // whoever asks twice does not want to wait
		return p.leave(cancel, ended)
	case err := <-ended:
		return err
	}
}

// leave takes the instance out of traffic, then away, unless another process has its key: then nothing of it is ours.
func (p *program) leave(stopWorking func(), ended chan error) error {
	drained := make(chan error, 1)
	go func() { drained <- p.keeper.Drain(context.Background(), seconds(p.drain)) }()
	select {
	case err := <-drained:
		if err != nil {
			return err
		}
	case err := <-ended:
		return err
	}
	stopWorking()
	for range cap(ended) {
		if err := <-ended; errors.As(err, new(*SupersededError)) {
			return err
		}
	}
	p.keeper.Leave(context.Background())
	return nil
}

// follow says what comes, changes and goes.
func (p *program) follow(ctx context.Context) error {
	watcher := NewWatcher(p.line, []*onairv1.Selector{{Service: p.watch}}, say)
	return watcher.Run(ctx, func(revision *Revision) {
		for _, event := range revision.Events {
			kind := strings.ToLower(strings.TrimPrefix(event.Type.String(), "EVENT_TYPE_"))
			say(kind, facts{"cause": event.Cause.String(), "revision": revision.Number, "instance": event.Instance})
		}
		ids := []string{}
		for key := range maps.Keys(watcher.Instances) {
			ids = append(ids, key.ID)
		}
		slices.Sort(ids)
		told := facts{"revision": revision.Number, "token": revision.Token, "snapshotEnd": revision.Snapshot, "ids": ids}
		if len(revision.Events) == 0 && !revision.Snapshot {
			say("bookmark", told)
			return
		}
		say("set", told)
		select {
		case <-p.changed: // an older one, which nobody took
		default:
		}
		p.changed <- revision.Number
	})
}

// ask looks up what there is after each change, no older than what the watch has shown, and asks whether it is well.
func (p *program) ask(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case revision := <-p.changed:
			if err := p.askOnce(ctx, revision); err != nil {
				// What is known stays good; the next change asks again.
				say("failed", facts{"code": codeOf(err)})
			}
		}
	}
}

func (p *program) askOnce(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	asked := time.Now().UnixMilli()
	found, err := p.line.Registry().Lookup(ctx, &onairv1.LookupRequest{Service: p.watch, MinRevision: revision})
	if err != nil {
		return err
	}
	instances := []any{}
	for _, instance := range found.Instances {
		instances = append(instances, plain(instance))
	}
	say("looked-up", facts{"asked": asked, "minRevision": revision, "revision": found.Revision,
		"emptiness": found.Emptiness.String(), "instances": instances})
	reply, err := healthv1.NewHealthClient(p.line.Conn()).Check(ctx, &healthv1.HealthCheckRequest{Service: p.watch})
	if err != nil {
		return err
	}
	say("health", facts{"service": p.watch, "status": reply.Status.String()})
	return nil
}
