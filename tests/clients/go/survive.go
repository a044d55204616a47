// The part of the tour that is about streams, and about what becomes of them.

package main

import (
	"context"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	onairv1 "onair.example/tour/stubs/onair/v1"
)

// subscribe shows several watches on one stream; one of them is bad, and the others go on.
func (t *Tour) subscribe() {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	stream := must(t.stub.Subscribe(ctx))
	add := func(id, selector string) {
		command := &onairv1.AddSubscription{Id: id, Selectors: []*onairv1.Selector{{Service: "web", Selector: selector}}}
		check(stream.Send(&onairv1.SubscribeRequest{Command: &onairv1.SubscribeRequest_Add{Add: command}}))
	}
	group := func(wanted string) {
		for {
			for _, group := range must(stream.Recv()).Groups {
				if group.Id != wanted {
					continue
				}
				told := facts{"id": wanted, "events": show(group.Events), "token": group.ResumeToken != ""}
				if group.SnapshotEnd {
					told["snapshot_end"] = true
				}
				if group.Dropped {
					told["dropped"] = true
				}
				if group.Error != nil {
					told["error"] = failed(status.FromProto(group.Error).Err())
				}
				say("group", told)
				return
			}
		}
	}
	add("us", "zone=us")
	group("us")
	add("bad", "?")
	group("bad")
	for _, state := range []onairv1.Status{onairv1.Status_STATUS_STARTING, onairv1.Status_STATUS_SERVING} {
		t.set(state)
		group("us")
		say("seen", t.watch.next())
	}
	drop := &onairv1.DropSubscription{Id: "us"}
	check(stream.Send(&onairv1.SubscribeRequest{Command: &onairv1.SubscribeRequest_Drop{Drop: drop}}))
	group("us")
}

func (t *Tour) checkHealth() {
	checks := []string{}
	for _, service := range []string{"", "onair.v1.Registry", "web", "default/web", "nobody"} {
		reply, err := t.health.Check(t.ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			checks = append(checks, codeName(status.Code(err)))
		} else {
			checks = append(checks, reply.Status.String())
		}
	}
	say("health", facts{"checks": checks})

	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	watch := must(t.health.Watch(ctx, &healthv1.HealthCheckRequest{Service: "later"}))
	statuses := []string{must(watch.Recv()).Status.String()}
	later := &onairv1.Instance{Service: "later", Port: 1}
	reply := must(t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: later}))
	statuses = append(statuses, must(watch.Recv()).Status.String())
	must(t.stub.Deregister(t.ctx, &onairv1.DeregisterRequest{LeaseToken: reply.Lease.Token}))
	statuses = append(statuses, must(watch.Recv()).Status.String())
	say("health_watch", facts{"statuses": statuses})
}

// resume gets what happened while nobody looked.
func (t *Tour) resume() {
	t.watch.cancel()
	c := t.add("web", "c", 8003)
	t.add("other", "o", 9000)
	removed := []uint64{}
	for range 2 {
		reply := must(t.stub.Deregister(t.ctx, &onairv1.DeregisterRequest{LeaseToken: c}))
		removed = append(removed, reply.Removed)
	}
	say("removed", facts{"removed": removed})

	tape := t.tape(web, t.watch.token)
	events := []any{}
	for len(events) < 2 {
		told := tape.next()
		for _, event := range told["events"].([]string) {
			events = append(events, event)
		}
		if delete(told, "events"); len(told) > 0 {
			events = append(events, told)
		}
	}
	say("missed", facts{"events": events})
	tape.cancel()

	tape = t.tape(&onairv1.Selector{Service: "web", Version: "^1"}, tape.token)
	say("reset", tape.next())
	tape.cancel()
	tape = t.tape(web, "garbage")
	say("reset", tape.next())
	tape.cancel()
}

// add registers without further ado, and gives the token.
func (t *Tour) add(service, id string, port uint32) string {
	instance := &onairv1.Instance{Service: service, Id: id, Port: port}
	return must(t.stub.Register(t.ctx, &onairv1.RegisterRequest{Instance: instance})).Lease.Token
}

func (t *Tour) expire() {
	tape := t.tape(&onairv1.Selector{Service: "short"}, "")
	defer tape.cancel()
	tape.next()
	instance := &onairv1.Instance{Service: "short", Id: "s", Port: 8004}
	request := &onairv1.RegisterRequest{Instance: instance, Ttl: durationpb.New(2 * time.Second)}
	first := must(t.stub.Register(t.ctx, request))
	tape.next()
	beat := beats(first.Lease.Token)
	var last time.Time
	for range 2 {
		time.Sleep(first.Lease.HeartbeatInterval.AsDuration())
		last = time.Now()
		if state := states(must(t.stub.Heartbeat(t.ctx, beat)))[0]; state != "RENEWED" {
			panic(state)
		}
	}
	told := tape.next()
	told["after_ms"] = time.Since(last).Milliseconds()
	say("expired", told)
	reply := must(t.stub.Heartbeat(t.ctx, beat))
	request.LeaseToken = first.Lease.Token
	second := must(t.stub.Register(t.ctx, request))
	say("healed", facts{
		"state": name(reply.Results[0].State),
		"newer": second.Instance.Incarnation > first.Instance.Incarnation,
	})
	say("seen", tape.next())
	must(t.stub.Deregister(t.ctx, &onairv1.DeregisterRequest{LeaseToken: second.Lease.Token}))
}

// patience is the longest that anything awaited here may take.
const patience = 20 * time.Second

func await[T any](from <-chan T) T {
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		panic("nothing came")
	}
}

// survive has the server killed and come back with its data.
func (t *Tour) survive() {
	// In flight when the server dies: the service config has it tried again.
	awaited := make(chan []string, 1)
	go func() {
		request := &onairv1.LookupRequest{Service: "awaited", Wait: durationpb.New(patience)}
		awaited <- ids(must(t.stub.Lookup(t.ctx, request)).Instances)
	}()
	before := must(t.stub.GetServerInfo(t.ctx, &onairv1.GetServerInfoRequest{}))
	please("kill")
	please("start")
	// Waits for the connection: the service config says so.
	after := must(t.stub.GetServerInfo(t.ctx, &onairv1.GetServerInfoRequest{}))
	t.add("awaited", "m", 8007)
	say("survived", facts{
		"same_registry": after.RegistryId == before.RegistryId,
		"new_epoch":     after.Epoch != before.Epoch,
		"awaited":       await(awaited),
	})
}

// stop shows how everything open ends when the server is told to stop.
func (t *Tour) stop() {
	tape := t.tape(web, "")
	tape.next()
	health := must(t.health.Watch(t.ctx, &healthv1.HealthCheckRequest{}))
	must(health.Recv())
	beating := must(t.stub.HeartbeatStream(t.ctx))
	check(beating.Send(beats("")))
	must(beating.Recv())
	please("stop")
	say("watch_ended", tape.end())
	said := must(health.Recv()).Status.String()
	_, err := health.Recv()
	told := failed(err)
	told["said"] = said
	say("health_ended", told)
	_, err = beating.Recv()
	say("beats_ended", failed(err))
}
