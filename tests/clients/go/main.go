// The tour that every language takes: says what it did as lines of JSON, which tests/clients/scenario.rs checks.
//
//	go run . <host:port> <service config>
//
// A line {"step": "please", "do": …} asks for something to be done to the server, and waits for a line that it is done.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	onairv1 "onair.example/tour/stubs/onair/v1"
)

type facts map[string]any

func say(step string, told facts) {
	line := facts{"step": step}
	for key, value := range told {
		line[key] = value
	}
	text := must(json.Marshal(line))
	fmt.Println(string(text))
}

var answers = bufio.NewReader(os.Stdin)

func please(do string) {
	say("please", facts{"do": do})
	must(answers.ReadString('\n'))
}

// must ends the tour at a failure that is not part of it.
func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// name is that of an enum's value without the enum's prefix, also of one that this code does not know.
func name(value protoreflect.Enum) string {
	values := value.Descriptor().Values()
	prefix := strings.TrimSuffix(string(values.ByNumber(0).Name()), "UNSPECIFIED")
	known := values.ByNumber(value.Number())
	if known == nil {
		return fmt.Sprintf("UNKNOWN_%d", value.Number())
	}
	return strings.TrimPrefix(string(known.Name()), prefix)
}

func show(events []*onairv1.Event) []string {
	shown := []string{}
	for _, event := range events {
		what := event.Instance
		shown = append(shown, fmt.Sprintf("%s %s %s/%s", name(event.Type), name(event.Cause), what.Service, what.Id))
	}
	return shown
}

// failed is an error as a program sees it.
func failed(err error) facts {
	told := facts{"code": codeName(status.Code(err))}
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			told["domain"], told["reason"], told["metadata"] = detail.Domain, detail.Reason, detail.Metadata
			if detail.Metadata == nil {
				told["metadata"] = facts{}
			}
		case *errdetails.BadRequest:
			fields := []string{}
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
			told["violations"] = fields
		case *errdetails.ResourceInfo:
			told["resource"] = detail.ResourceName
		case *errdetails.RetryInfo:
			told["retry_ms"] = detail.RetryDelay.AsDuration().Milliseconds()
		}
	}
	return told
}

// codeName is the code as the specification writes it.
func codeName(code codes.Code) string {
	names := map[codes.Code]string{
		codes.OK: "OK", codes.Aborted: "ABORTED", codes.InvalidArgument: "INVALID_ARGUMENT", codes.NotFound: "NOT_FOUND",
		codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Unimplemented: "UNIMPLEMENTED",
		codes.Unavailable: "UNAVAILABLE",
	}
	if known, ok := names[code]; ok {
		return known
	}
	return code.String()
}

// Tape is a raw watch, message by message.
type Tape struct {
	stream   onairv1.Registry_WatchClient
	cancel   context.CancelFunc
	token    string
	revision uint64
}

func (t *Tour) tape(selector *onairv1.Selector, token string) *Tape {
	ctx, cancel := context.WithCancel(t.ctx)
	request := &onairv1.WatchRequest{Selectors: []*onairv1.Selector{selector}, ResumeToken: token}
	return &Tape{stream: must(t.stub.Watch(ctx, request)), cancel: cancel}
}

func (t *Tape) recv() (facts, error) {
	message, err := t.stream.Recv()
	if err != nil {
		return nil, err
	}
	if message.ResumeToken != "" {
		t.token = message.ResumeToken
	}
	t.revision = message.Revision
	told := facts{"events": show(message.Events)}
	if message.SnapshotEnd {
		told["snapshot_end"] = true
	}
	if message.Reset_ != nil {
		told["reset"] = name(message.Reset_.Reason)
	}
	if !message.More && message.ResumeToken == "" {
		told["fault"] = "a whole revision without a resume token"
	}
	return told, nil
}

func (t *Tape) next() facts { return must(t.recv()) }

// end reads to the end; whether the last message was a bookmark, and the error.
func (t *Tape) end() facts {
	bookmark := false
	for {
		message, err := t.stream.Recv()
		if err != nil {
			told := failed(err)
			told["bookmark"] = bookmark
			return told
		}
		bookmark = len(message.Events) == 0 && message.ResumeToken != ""
	}
}

var web = &onairv1.Selector{Service: "web"}

// Tour is taken step by step, each in a file with its kin.
type Tour struct {
	ctx    context.Context
	stub   onairv1.RegistryClient
	health healthv1.HealthClient
	watch  *Tape
	// Lease tokens.
	a, b string
}

func (t *Tour) info() {
	info := must(t.stub.GetServerInfo(t.ctx, &onairv1.GetServerInfoRequest{}))
	say("info", facts{
		"default_ttl_ms": ms(info.Intervals.DefaultTtl),
		"min_ttl_ms":     ms(info.Intervals.MinTtl),
		"max_ttl_ms":     ms(info.Intervals.MaxTtl),
		"bookmark_ms":    ms(info.Intervals.BookmarkInterval),
		"max_beats":      info.Limits.MaxBeats,
		"max_name_bytes": info.Limits.MaxNameBytes,
		"durable":        info.Durable,
	})
}

func ms(d *durationpb.Duration) int64 { return d.AsDuration().Milliseconds() }

// bookmark tells how a watch of what never changes goes on.
func (t *Tour) bookmark() <-chan facts {
	told := make(chan facts, 1)
	go func() {
		tape := t.tape(&onairv1.Selector{Service: "quiet"}, "")
		defer tape.cancel()
		first := tape.next()
		start, revision := time.Now(), tape.revision
		second := tape.next()
		// Its revision has gone on with the registry's, so that resuming from it stays cheap.
		quiet, moved := time.Since(start).Milliseconds(), tape.revision > revision
		told <- facts{"first": first, "second": second, "quiet_ms": quiet, "moved": moved}
	}()
	return told
}

func (t *Tour) register() {
	t.watch = t.tape(web, "")
	say("snapshot", t.watch.next())

	metadata := must(structpb.NewValue(map[string]any{"team": "red", "canary": true}))
	wanted := &onairv1.Instance{Service: "web", Id: "a", Port: 8001, Version: "1.2.3", Zone: "eu", Metadata: metadata}
	request := &onairv1.RegisterRequest{Instance: wanted, RequestId: "one"}
	first := must(t.stub.Register(t.ctx, request))
	instance := first.Instance
	say("registered", facts{
		"key":                     []string{instance.Namespace, instance.Service, instance.Id},
		"url":                     instance.Url,
		"status":                  name(instance.Status),
		"weight":                  []any{instance.Weight != nil, instance.GetWeight()},
		"ttl_ms":                  ms(first.Lease.Ttl),
		"interval_ms":             ms(first.Lease.HeartbeatInterval),
		"incarnation_is_revision": instance.Incarnation == instance.Revision && instance.Revision == first.Revision,
		"online_since_today":      time.Since(instance.OnlineSince.AsTime()).Abs() < 24*time.Hour,
		"metadata":                instance.Metadata.GetStructValue().Fields["team"].GetStringValue(),
	})
	say("seen", t.watch.next())

	again := must(t.stub.Register(t.ctx, request))
	say("repeated", facts{
		"same":      again.Instance.Incarnation == instance.Incarnation,
		"new_token": again.Lease.Token != first.Lease.Token,
	})

	wanted.Version, wanted.Weight = "1.3.0", proto.Uint32(0)
	updated := must(t.stub.Register(t.ctx, &onairv1.RegisterRequest{
		Instance: wanted, LeaseToken: again.Lease.Token, Ttl: long,
	}))
	say("updated", facts{
		"same":   updated.Instance.Incarnation == instance.Incarnation,
		"weight": []any{updated.Instance.Weight != nil, updated.Instance.GetWeight()},
		"ttl_ms": ms(updated.Lease.Ttl),
	})
	say("seen", t.watch.next())
	t.a = updated.Lease.Token

	wanted = &onairv1.Instance{Service: "web", Url: "http://127.0.0.1:8002", Version: "2.0.0", Zone: "us"}
	t.b = must(t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: wanted, Ttl: long})).Lease.Token
	say("seen", t.watch.next())
}

var long = durationpb.New(10 * time.Minute)

func beats(tokens ...string) *onairv1.HeartbeatRequest {
	request := &onairv1.HeartbeatRequest{}
	for _, token := range tokens {
		request.Beats = append(request.Beats, &onairv1.Beat{LeaseToken: token})
	}
	return request
}

func states(reply *onairv1.HeartbeatResponse) []string {
	states := []string{}
	for _, result := range reply.Results {
		states = append(states, name(result.State))
	}
	return states
}

func (t *Tour) beat() {
	reply := must(t.stub.Heartbeat(t.ctx, beats(t.a, "garbage", "", t.b)))
	ttls := []int64{}
	for _, result := range reply.Results {
		if result.Ttl != nil {
			ttls = append(ttls, ms(result.Ttl))
		}
	}
	say("beats", facts{"states": states(reply), "ttls_ms": ttls})

	stream := must(t.stub.HeartbeatStream(t.ctx))
	check(stream.Send(beats(t.b)))
	check(stream.Send(beats("garbage", t.a)))
	check(stream.CloseSend())
	answered := [][]string{}
	for {
		reply, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		answered = append(answered, states(must(reply, err)))
	}
	say("beat_stream", facts{"states": answered})

	for _, state := range []onairv1.Status{onairv1.Status_STATUS_DRAINING, onairv1.Status_STATUS_SERVING} {
		t.set(state)
		say("seen", t.watch.next())
	}
}

// set has b say of itself that it is in another state.
func (t *Tour) set(state onairv1.Status) {
	request := beats(t.b)
	request.Beats[0].Status = state
	must(t.stub.Heartbeat(t.ctx, request))
}

// takeOver is what happens when another process comes with the same key and without our token.
func (t *Tour) takeOver() {
	wanted := &onairv1.Instance{Service: "web", Id: "a", Port: 8001, Version: "1.4.0", Zone: "eu"}
	taken := must(t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: wanted, Ttl: long}))
	say("seen", t.watch.next())
	reply := must(t.stub.Heartbeat(t.ctx, beats(t.a)))
	say("superseded", facts{"state": name(reply.Results[0].State)})
	_, err := t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: wanted, LeaseToken: t.a})
	say("refused", failed(err))
	_, err = t.stub.Deregister(t.ctx, &onairv1.DeregisterRequest{LeaseToken: t.a})
	say("refused", failed(err))
	t.a = taken.Lease.Token
}

func ids(instances []*onairv1.Instance) []string {
	ids := []string{}
	for _, instance := range instances {
		ids = append(ids, instance.Id)
	}
	return ids
}

func (t *Tour) lookUp() {
	for _, query := range []*onairv1.LookupRequest{
		{Service: "web"},
		{Service: "web", Version: "^1.2"},
		{Service: "web", Version: ">=1, <3", Selector: "zone in (us, asia)"},
		{Service: "web", Selector: "status=*", Limit: 1},
		{Service: "web", Pick: onairv1.Pick_PICK_WEIGHTED, Limit: 5, PreferZone: "us"},
		{Service: "web", Version: "^9"},
		{Service: "nobody"},
	} {
		reply := must(t.stub.Lookup(t.ctx, query))
		told := facts{"ids": ids(reply.Instances)}
		if reply.Emptiness != onairv1.Emptiness_EMPTINESS_UNSPECIFIED {
			told["emptiness"] = name(reply.Emptiness)
		}
		say("found", told)
	}
	same := map[string]bool{}
	for range 5 {
		keyed := &onairv1.LookupRequest{Service: "web", Pick: onairv1.Pick_PICK_RENDEZVOUS, PickKey: "user-7"}
		same[must(t.stub.Lookup(t.ctx, keyed)).Instances[0].Id] = true
	}
	say("rendezvous", facts{"distinct": len(same)})
	page := must(t.stub.Lookup(t.ctx, &onairv1.LookupRequest{Service: "web", Limit: 1}))
	rest := must(t.stub.Lookup(t.ctx, &onairv1.LookupRequest{Service: "web", Limit: 1, PageToken: page.NextPageToken}))
	both := append(ids(page.Instances), ids(rest.Instances)...)
	say("pages", facts{"ids": both, "more": rest.NextPageToken != ""})
	listed := []any{}
	for _, s := range must(t.stub.ListServices(t.ctx, &onairv1.ListServicesRequest{})).Services {
		listed = append(listed, []any{s.Namespace, s.Service, s.Instances, s.Routable})
	}
	say("listed", facts{"services": listed})
}

func (t *Tour) beRefused() {
	bad := &onairv1.Instance{Id: "x/y", Port: 70_000, Status: onairv1.Status_STATUS_SUSPECT}
	_, err := t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: bad, Ttl: durationpb.New(-time.Second)})
	say("refused", failed(err))
	good := &onairv1.Instance{Service: "web"}
	_, err = t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: good, Dependencies: map[string]string{"nobody": "^9"}})
	say("refused", failed(err))
	_, err = t.stub.Lookup(t.ctx, &onairv1.LookupRequest{Service: "web", Selector: "zone ~ eu"})
	say("refused", failed(err))
	soon := durationpb.New(time.Millisecond)
	_, err = t.stub.Lookup(t.ctx, &onairv1.LookupRequest{Service: "web", MinRevision: 1 << 60, Wait: soon})
	say("refused", failed(err))
	_, err = t.stub.Heartbeat(t.ctx, beats(make([]string, 10_001)...))
	say("refused", failed(err))
	_, err = t.stub.Deregister(t.ctx, &onairv1.DeregisterRequest{})
	say("refused", failed(err))
	_, err = t.tape(&onairv1.Selector{Service: "web", Frontend: "web", Version: "^"}, "").recv()
	say("refused", failed(err))
}

func main() {
	conn := must(dial(os.Args[1], string(must(os.ReadFile(os.Args[2])))))
	tour := &Tour{
		ctx:    context.Background(),
		stub:   onairv1.NewRegistryClient(conn),
		health: healthv1.NewHealthClient(conn),
	}
	tour.info()
	bookmark := tour.bookmark()
	tour.register()
	tour.beat()
	tour.takeOver()
	tour.lookUp()
	tour.beRefused()
	tour.subscribe()
	tour.checkHealth()
	tour.resume()
	tour.expire()
	say("bookmark", <-bookmark)
	tour.survive()
	tour.stop()
}
