package main

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	onairv1 "onair.example/go/stubs/onair/v1"
)

const (
	callTimeout  = 10 * time.Second
	leaveTimeout = 3 * time.Second
	longestPause = 2 * time.Second
	// Of a stream that has not said yet how often it speaks.
	firstSilence = 30 * time.Second
)

// Keeper keeps one instance registered while Run runs.
type Keeper struct {
	line     *Line
	say      Say
	interval time.Duration

	mu sync.Mutex
	// Holds the last token and, once known, the id.
	request *onairv1.RegisterRequest
}

// NewKeeper keeps instance, with the default TTL if ttl is 0.
func NewKeeper(line *Line, instance *onairv1.Instance, ttl time.Duration, say Say) *Keeper {
	return &Keeper{line: line, say: say, request: &onairv1.RegisterRequest{Instance: instance, Ttl: durationpb.New(ttl)}}
}

// Run registers, beats, and registers again whenever the lease is lost.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		if err := k.register(ctx); err != nil {
			return err
		}
		if err := k.beatUntilLost(ctx); err != nil {
			return err
		}
	}
}

func (k *Keeper) register(ctx context.Context) error {
	// One id for all attempts: however many of them arrive, one registration is made.
	id := rand.Text()
	pauses := pauses{longest: longestPause}
	for {
		k.mu.Lock()
		k.request.RequestId = id
		request := proto.CloneOf(k.request)
		k.mu.Unlock()
		reply, err := k.answered(ctx, request)
		if err == nil {
			k.accept(reply)
			return nil
		}
		if err := k.line.Failed(err); err != nil {
			return err
		}
		if err := pauses.pause(ctx, err); err != nil {
			return err
		}
	}
}

// answered waits for the answer of a registration, a while also when it is over: only who has the token can take the lease
// away.
func (k *Keeper) answered(ctx context.Context, request *onairv1.RegisterRequest) (*onairv1.RegisterResponse, error) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(leaveTimeout, cancel) })()
	return k.line.Registry().Register(call, request)
}

func (k *Keeper) accept(reply *onairv1.RegisterResponse) {
	k.mu.Lock()
	k.request.LeaseToken = reply.Lease.Token
	// An id that was made up for us is ours from now on.
	k.request.Instance.Id = reply.Instance.Id
	k.mu.Unlock()
	k.interval = reply.Lease.HeartbeatInterval.AsDuration()
	k.say("registered", facts{"instance": reply.Instance, "revision": reply.Revision})
}

// beatUntilLost returns nil when the lease is gone and its key is free.
func (k *Keeper) beatUntilLost(ctx context.Context) error {
	pauses := pauses{longest: k.interval}
	untilNext := func() error { return sleep(ctx, spread(k.interval, 0.9)) }
	for err := untilNext(); err == nil; {
		// A beat that hangs is worth less than the next one.
		result, failure := k.beat(ctx, max(k.interval, 500*time.Millisecond))
		if failure != nil {
			if err := k.line.Failed(failure); err != nil {
				return err
			}
			err = pauses.pause(ctx, failure)
			continue
		}
		k.say("beat", facts{"state": result.State.String()})
		switch result.State {
		case onairv1.BeatState_BEAT_STATE_RENEWED:
			pauses.reset()
			err = untilNext()
		case onairv1.BeatState_BEAT_STATE_SUPERSEDED:
			return &SupersededError{Holder: result.Holder}
		case onairv1.BeatState_BEAT_STATE_EXPIRED, onairv1.BeatState_BEAT_STATE_UNKNOWN, onairv1.BeatState_BEAT_STATE_DENIED:
			return nil
		default: // also what this code does not know: try again soon
			err = pauses.pause(ctx, nil)
		}
	}
	return ctx.Err()
}

func (k *Keeper) beat(ctx context.Context, timeout time.Duration) (*onairv1.BeatResult, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request := &onairv1.HeartbeatRequest{Beats: []*onairv1.Beat{{LeaseToken: k.token()}}}
	reply, err := k.line.Registry().Heartbeat(ctx, request)
	if err != nil {
		return nil, err
	}
	return reply.Results[0], nil
}

func (k *Keeper) token() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.request.LeaseToken
}

// Drain takes the instance out of traffic, and returns when its clients know. The lease has to be kept meanwhile. It fails if
// another process has our key; whatever else goes wrong is told, and nothing to stay for.
func (k *Keeper) Drain(ctx context.Context, wait time.Duration) error {
	k.mu.Lock()
	// Should it be lost, what is registered anew takes no traffic either.
	k.request.Instance.Status = onairv1.Status_STATUS_DRAINING
	k.mu.Unlock()
	if k.token() == "" {
		return nil // it never was registered
	}
	ctx, cancel := context.WithTimeout(ctx, wait+leaveTimeout)
	defer cancel()
	until, pauses := time.Now().Add(wait), pauses{longest: longestPause}
	for {
		left := durationpb.New(max(time.Until(until), 0))
		reply, err := k.line.Registry().Drain(ctx, &onairv1.DrainRequest{LeaseToken: k.token(), Wait: left})
		if err == nil {
			k.say("drained", facts{"pending": reply.Pending, "sent": reply.Sent, "acked": reply.Acked})
			return nil
		}
		failed := k.line.Failed(err)
		if errors.As(failed, new(*SupersededError)) {
			return failed
		}
		// A beat that hangs takes the channel from this call as well: it may be made again.
		if failed != nil || pauses.pause(ctx, err) != nil {
			k.say("failed", facts{"code": codeOf(err)}) // nobody hears of it, so there is nothing to wait for
			return nil
		}
	}
}

// Leave takes the instance away. Nothing may register it any more.
func (k *Keeper) Leave(ctx context.Context) {
	if k.token() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	reply, err := k.line.Registry().Deregister(ctx, &onairv1.DeregisterRequest{LeaseToken: k.token()})
	if err != nil {
		k.say("failed", facts{"code": codeOf(err)}) // the lease ends by itself
		return
	}
	k.say("deregistered", facts{"removed": reply.Removed})
}
